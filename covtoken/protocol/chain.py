"""Chain lines of a record, so that none can be removed or changed without its followers noticing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from covtoken.errors import CovtokenError

KEY = "chain"


def digest_of(content: Any) -> str:
    """Compute the sha256 of JSON content, the same for any order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def head_of(lines: Iterable[dict[str, Any]], where: str, linked_before: bool = False) -> str:
    """Walk along a record and check every line that carries its link; return the last link.

    Lines without a link, written before there was a chain, are held by the first line that has one; none may follow it.

    Args:
        where: names the file in the error.
        linked_before: whether the record was chained from its first line on.

    Raises:
        CovtokenError: a line was removed, added, moved or changed.
    """
    head = ""
    for number, line in enumerate(lines, start=1):
        head = _link(head, line)
        if line.get(KEY, "" if linked_before else head) != head:
            raise CovtokenError(
                f"{where}: line {number} does not follow from the {number - 1} before it, so one was removed, added or "
                f"changed; restore the file with `git checkout {where}`"
            )
        linked_before = linked_before or KEY in line
    return head


def linked(lines: list[dict[str, Any]], line: dict[str, Any], where: str) -> dict[str, Any]:
    """Copy a new line with its link to the lines before it, which are checked."""
    return line | {KEY: _link(head_of(lines, where), line)}


def _link(head: str, line: dict[str, Any]) -> str:
    return digest_of([head, {key: value for key, value in line.items() if key != KEY}])
