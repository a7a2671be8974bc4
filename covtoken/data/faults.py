"""Note a faulty file and go on, where a caller collects faults; stop at the first one everywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak


@contextmanager
def noting(faults: list[tuple[str, str]] | None, file: str | Path) -> Iterator[None]:
    """Append (file, reason) for a CovtokenError in the block to ``faults``; let it pass where that is None."""
    try:
        yield
    except LabelLeak:
        raise
    except CovtokenError as error:
        if faults is None:
            raise
        faults.append((str(file), str(error)))
