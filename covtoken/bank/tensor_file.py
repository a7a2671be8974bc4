"""Write and read files of banks, directions and exit maps: safetensors with a JSON header, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from covtoken.errors import CovtokenError
from covtoken.leak_guard import refuse_mask_file
from covtoken.paths import write_then_rename

_MAKES = {
    "bank": "`covtoken bank build PICTURES -o FILE` makes one",
    "direction": "`covtoken fit PICTURES -o FILE` makes one",
    "exit maps": "build them first",
}
LONGEST_HEADER = 100_000_000  # bytes, of safetensors itself: a file that claims more is of another format
_NAMES = {"bank": "token bank", "direction": "direction", "exit maps": "set of exit maps"}


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], header: dict, kind: str = "bank") -> None:
    """Write a bank or what else ``kind`` names to one safetensors file with a JSON header, or nothing."""
    metadata = {_key(kind): json.dumps(header)}
    with write_then_rename(path) as temporary:
        try:
            save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)
        except SafetensorError as error:  # a full disk shows up as this
            raise OSError(str(error)) from error


def read_tensors(path: Path, kind: str = "bank") -> tuple[dict[str, torch.Tensor], dict]:
    """Read tensors and header. Raises CovtokenError, with the path, if missing, truncated, damaged or another kind."""
    try:
        came = path.stat().st_size if path.is_file() else None
    except OSError as error:  # a folder that may not be entered, a name too long
        raise CovtokenError(f"{path}: cannot be read ({error.strerror})") from error
    if came is None:
        raise CovtokenError(f"{path}: no such {kind}; {_MAKES[kind]}")
    refuse_mask_file(path)
    expected = _length(path)
    if expected > 8 + LONGEST_HEADER and expected > came:
        raise CovtokenError(f"{path} is no safetensors file: expected a {_NAMES[kind]} of covtoken; give another file")
    if expected >= 0 and came != expected:
        raise CovtokenError(f"{path}: truncated or damaged: expected {expected} bytes, came {came}; build it again")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        header = json.loads(metadata[_key(kind)])
    except KeyError as error:
        raise CovtokenError(f"{path}: a safetensors file, but not a {_NAMES[kind]} of covtoken") from error
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CovtokenError(f"{path}: damaged: expected a safetensors file, came {error}; build it again") from error
    except OSError as error:
        raise CovtokenError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not isinstance(header, dict):
        raise CovtokenError(f"{path}: damaged: expected a header of fields, came {header!r}; build it again")
    return tensors, header


def content_digest(tokens: torch.Tensor, units: np.ndarray, header: dict) -> str:
    """Compute the sha256 over the header and the bytes of tokens [n, D] and of an int64 array beside them."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    digest.update(tokens.contiguous().numpy().tobytes())
    digest.update(np.ascontiguousarray(units, dtype=np.int64).tobytes())
    return digest.hexdigest()


def _key(kind: str) -> str:
    return f"covtoken_{kind.replace(' ', '_')}"


def _length(path: Path) -> int:
    """Count the bytes that a safetensors file should have, by its own header; −1 where that is unreadable."""
    try:
        with path.open("rb") as stream:
            n_header = int.from_bytes(stream.read(8), "little")
            if n_header > path.stat().st_size - 8:
                return 8 + n_header  # cut within the header
            fields = json.loads(stream.read(n_header))
        return 8 + n_header + max((f["data_offsets"][1] for k, f in fields.items() if k != "__metadata__"), default=0)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return -1
