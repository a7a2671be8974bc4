"""Keep shards: a safetensors file and a manifest each, whole or absent; the manifest says what the file was made of."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_mask_file
from covtoken.paths import write_then_rename

SCHEMA = 1
_NAME = re.compile(r"\.(\d{5})-of-(\d{5})\.json$")


def shard_of(text: str | None) -> tuple[int, int]:
    """Read ``i/N``, the i-th of N parts; (1, 1) where there is none.

    >>> shard_of("2/4")
    (2, 4)
    """
    if text is None:
        return 1, 1
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or not 1 <= int(parts[0]) <= int(parts[1]):
        raise CovtokenError(f"shard {text!r}: expected i/N with 1 ≤ i ≤ N, such as 1/4")
    return int(parts[0]), int(parts[1])


def shard_path(folder: Path, kind: str, i: int, n: int) -> Path:
    """Name the file of the i-th of n shards."""
    return Path(folder) / f"{kind}.{i:05d}-of-{n:05d}.safetensors"


def write_shard(
    path: Path, key: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], more: Mapping[str, Any] | None = None
) -> None:
    """Write a shard, then its manifest; each takes its name when it is whole, and what lacks either is no shard.

    Args:
        path: as ``shard_path`` gives it.
        key: everything that decides the content beside the shard's number; JSON.
        tensors: the content. Equal tensors give equal bytes.
        more: what else the manifest keeps; JSON.

    Raises:
        CovtokenError: the disk is full or closed.
    """
    with write_then_rename(path) as temporary:
        try:
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
        except SafetensorError as error:  # a full disk shows up as this
            raise CovtokenError(f"could not write {path}: {error}; free some space, run again: it resumes") from error
        told = {"schema": SCHEMA, "key": dict(key), "bytes": temporary.stat().st_size, "sha256": _sha256(temporary)}
    manifest = path.with_suffix(".json")
    with write_then_rename(manifest) as temporary:
        temporary.write_text(json.dumps(told | dict(more or {}), indent=1, sort_keys=True, allow_nan=False) + "\n")
    for name in (path.name, manifest.name):
        for left in path.parent.glob(f".{glob.escape(name)}.*"):  # of runs that were killed while they wrote
            with suppress(OSError):
                left.unlink()


def read_manifest(path: Path, key: Mapping[str, Any] | None = None, verify: bool = False) -> dict[str, Any] | None:
    """Read a shard's manifest; None where there is no whole shard.

    Args:
        key: what the shard must have been made of; fields that are not named here are not compared.
        verify: read the file for its digest, and take a damaged shard for none.

    Raises:
        CovtokenError: the shard was made of something else, which the message names.
    """
    manifest = Path(path).with_suffix(".json")
    try:
        told = json.loads(manifest.read_text(encoding="utf-8"))
        made, size, sha256 = told["key"], told["bytes"], told["sha256"]
        sound = told["schema"] == SCHEMA and isinstance(made, dict) and path.stat().st_size == size
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not sound:
        return None
    refuse_foreign(path, made, key or {})
    return None if verify and _sha256(path) != sha256 else told


def read_shard(path: Path, key: Mapping[str, Any] | None = None) -> dict[str, torch.Tensor] | None:
    """Read a shard's tensors; None where there is no whole shard, or a damaged one. Errors as ``read_manifest``."""
    refuse_mask_file(path)
    return None if read_manifest(path, key, verify=True) is None else load_file(path)


def whole(folder: Path, kind: str) -> list[tuple[Path, dict[str, Any]]]:
    """List all shards of a folder in order, each with its manifest.

    Raises:
        CovtokenError: none is there, some are missing, two ways of sharding lie in one folder, or shards were made of
            different things; the message says which.
    """
    folder = Path(folder)
    found = [_NAME.search(path.name) for path in folder.glob(f"{glob.escape(kind)}.*.json")]
    numbers = sorted({int(match[2]) for match in found if match})
    if len(numbers) != 1:
        came = "none" if not numbers else f"shards of {' and of '.join(map(str, numbers))}"
        raise CovtokenError(f"{folder}: expected {kind} shards of one number, found {came}; make them, one way, first")
    n = numbers[0]
    paths = [shard_path(folder, kind, i, n) for i in range(1, n + 1)]
    told = [read_manifest(path) for path in paths]
    missing = [i for i, each in enumerate(told, 1) if each is None]
    if missing:
        names = ", ".join(f"{i}/{n}" for i in missing[:5]) + (" …" if len(missing) > 5 else "")
        raise CovtokenError(f"{folder}: {kind} shards {names} are missing or cut short: run those with --shard")
    for path in paths[1:]:
        read_manifest(path, told[0]["key"])
    return list(zip(paths, told, strict=True))


def refuse_foreign(path: Path, found: Mapping[str, Any], key: Mapping[str, Any]) -> None:
    """Refuse a file that was made of something else than ``key`` says, naming each field that differs."""
    wrong = [
        f"{name}: expected {_short(value)}, it has {_short(found.get(name))}"
        for name, value in json.loads(json.dumps(dict(key))).items()
        if found.get(name) != value
    ]
    if wrong:
        raise CovtokenError(
            f"{path} was made of something else ({'; '.join(wrong)}): give another folder, or remove this one"
        )


def digest_of(content: Any) -> str:
    """Hash anything that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
