"""Define the exception that users see: it names the thing, the expected and the given, and the way out."""

from __future__ import annotations

from difflib import get_close_matches


class CovtokenError(Exception):
    """A mistake in input, files or arguments. The command line prints it as one line and exits with code 2."""


def unknown(kind: str, name: str, known: list[str]) -> CovtokenError:
    """Make the error for a name that does not exist, with the closest names that do.

    >>> str(unknown("cohort", "bussi", ["busi", "phantom"]))
    "unknown cohort 'bussi': did you mean busi? Known: busi, phantom"
    """
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(close)}?" if close else "."
    return CovtokenError(f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}")
