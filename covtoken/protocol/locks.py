"""Locks keep decisions made before a look at a test split, and headline numbers that must come out again.

``configs/thresholds.lock.json`` binds a gate's threshold and recipes to the data, the weights and the method's
parameters. ``configs/headline.lock.json`` binds the headline numbers to a tolerance, ``configs/confirmation.lock.json``
the comparison that an external cohort decides. All carry a digest, so that an edited file is refused; a change needs a
reason, which the changelog keeps. The changelog is chained, and the last change of an entry holds the entry's digest.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from covtoken.errors import CovtokenError
from covtoken.paths import project_root, write_then_rename
from covtoken.protocol.chain import KEY, digest_of, head_of, linked

THRESHOLDS = "thresholds.lock.json"
HEADLINE = "headline.lock.json"
CONFIRMATION = "confirmation.lock.json"
BINDING = ("data_fingerprint", "weights_sha256", "method")


def read_lock(name: str, root: Path | None = None) -> dict[str, Any]:
    """Read a lock file; give an empty lock where none was written yet.

    Raises:
        CovtokenError: the file was edited by hand: its digest, its changelog's chain or an entry's last change does
            not fit.
    """
    path = (root or project_root()) / "configs" / name
    if not path.exists():
        return {"entries": {}, "changelog": []}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise CovtokenError(f"{path}: not readable as JSON ({error}); restore it with `git checkout {path}`") from error
    claimed = content.pop("digest", None) if isinstance(content, dict) else None
    if claimed != _digest(content):
        raise CovtokenError(
            f"{path}: edited by hand (digest {str(claimed)[:12]}, content gives {_digest(content)[:12]}). "
            f"Restore it with `git checkout {path}`; only `covtoken lock … --reason '…'` changes a lock"
        )
    head_of(content["changelog"], str(path))
    last = {(line["cohort"], line["gate"]): line for line in content["changelog"]}
    if not any(KEY in line for line in last.values()):
        return content  # written before there was a chain
    held = {(cohort, gate.removeprefix("gate")) for cohort, each in content["entries"].items() for gate in each}
    for cohort, gate in sorted(held | last.keys()):
        line = last.get((cohort, gate), {"entry": "", "when": "no date"})
        if line.get("entry") != digest_of(content["entries"].get(cohort, {}).get(f"gate{gate}")):
            raise CovtokenError(
                f"{path}: the entry of {cohort} gate {gate} is not the one that its last change of {line['when']} "
                f"locked. Restore it with `git checkout {path}`"
            )
    return content


def entry(name: str, cohort: str, gate: int | str, root: Path | None = None) -> dict[str, Any] | None:
    """Read the locked entry of a cohort and gate, or None."""
    return read_lock(name, root)["entries"].get(cohort, {}).get(f"gate{gate}")


def write_entry(
    name: str, cohort: str, gate: int | str, new: dict[str, Any], *, reason: str = "", root: Path | None = None
) -> list[str]:
    """Lock an entry; return the changed lines old → new (all lines, for a first lock).

    Raises:
        CovtokenError: an entry exists, differs, and no reason was given.
    """
    content = read_lock(name, root)
    old = content["entries"].get(cohort, {}).get(f"gate{gate}")
    before = old or {}
    changes = [
        f"{key}: {_short(before.get(key, '(none)'))} → {_short(new.get(key, '(removed)'))}"
        for key in sorted({*before, *new})
        if before.get(key) != new.get(key)
    ]
    if not changes:
        return []
    if old is not None and not reason.strip():
        lines = "\n  ".join((f"{cohort} gate {gate} is locked already and would change:", *changes))
        raise CovtokenError(f"{lines}\nSay why with --reason")
    content["entries"].setdefault(cohort, {})[f"gate{gate}"] = new
    about = {"when": _now(), "cohort": cohort, "gate": str(gate), "reason": reason.strip() or "first lock"}
    line = about | {"changes": [] if old is None else changes, "entry": digest_of(new)}
    content["changelog"].append(linked(content["changelog"], line, f"configs/{name}"))
    content["digest"] = _digest(content)
    with write_then_rename((root or project_root()) / "configs" / name) as temporary:
        temporary.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return changes


def check_binding(locked: dict[str, Any], found: dict[str, Any], what: str) -> None:
    """Refuse to run under a lock made for other data, weights or method parameters; ``what`` names it in the error."""
    for key in BINDING:
        if locked.get(key) != found.get(key):
            raise CovtokenError(
                f"{what}: the lock binds {key} {_short(locked.get(key))}, this run has {_short(found.get(key))}. "
                "Use the locked data, weights and parameters, or lock anew with `covtoken lock thresholds --reason '…'`"
            )


def lock_digest(name: str, root: Path | None = None) -> str:
    """Compute the digest of a lock, which a log line quotes."""
    return _digest(read_lock(name, root))


def reproduction(cohort: str, gate: int | str, metrics: dict[str, dict[str, Any]], root: Path | None = None) -> str:
    """Write a notebook's locked cell: each headline number, its tolerance, and whether this run reproduces it.

    The measured value is printed only where it does *not* fit, so that the text is the same on every machine.
    """
    locked = entry(HEADLINE, cohort, gate, root)
    if locked is None:
        return f"{cohort}, {_words(gate)}: no headline is locked"
    lines = [f"{cohort}, {_words(gate)}"]
    for name, wanted in sorted(locked["headline"].items()):
        value = (metrics.get(name) or {}).get("value")
        fits = value is not None and abs(value - wanted["value"]) <= wanted["tolerance"]
        verdict = "reproduced" if fits else f"NOT REPRODUCED: this run gives {value}"
        lines.append(f"  {name:<42} {wanted['value']:+.4f} ± {wanted['tolerance']:.4f}  {verdict}")
    return "\n".join(lines)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _words(gate: int | str) -> str:
    return f"gate {gate}" if str(gate).isdigit() else str(gate).replace("_", " ")


def _digest(content: dict[str, Any]) -> str:
    body = {key: value for key, value in content.items() if key != "digest"} if isinstance(content, dict) else content
    return digest_of(body)


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True) if not isinstance(value, str) else value
    return text if len(text) <= 160 else f"{text[:120]}… ({len(text)} characters)"
