"""Read weights files as named tensors, without running code, and compare them with the model before loading."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from covtoken.errors import CovtokenError


def read_checkpoint(file: Path, expected: str) -> object:
    """Read safetensors or a PyTorch checkpoint: tensors in plain containers, never code.

    Args:
        file: told apart by its first bytes, not by its name.
        expected: the content that belongs there and how to get it; ends every error.

    Raises:
        CovtokenError: the file cannot be opened, has another format, is truncated or damaged, or asks to run code.
    """
    try:
        with file.open("rb") as handle:
            head = handle.read(9)
            handle.seek(0)
            if head[8:] == b"{":  # a header of JSON after the eight bytes of its length
                return load_file(file)
            if head.startswith((b"PK\x03\x04", b"\x80")):  # torch.save's zip archive, or its older bare pickle
                with torch.serialization.safe_globals([argparse.Namespace]):  # options in timm's training checkpoints
                    return torch.load(handle, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CovtokenError(
            f"{file} cannot be read ({error.strerror or error}): give it read permission; expected {expected}"
        ) from None
    except Exception as error:  # damaged bytes raise a dozen kinds
        raise _not_loaded(file, error, expected) from None
    raise _other_format(file, f"begins with {repr(head)[1:]}" if head else "is empty", expected)


def named_tensors(content: object, file: Path) -> dict[str, Tensor]:
    """Refuse anything but a dictionary of named tensors."""
    if not isinstance(content, dict):
        raise CovtokenError(f"{file} holds a {type(content).__name__}: expected a dictionary of named tensors")
    strange = [
        str(key)
        for key, value in content.items()
        if not (isinstance(key, str) and isinstance(value, Tensor) and not value.is_meta)
    ]
    if strange:
        raise CovtokenError(
            f"{file} holds more than named tensors: {some(strange)}; save the model's state_dict() alone"
        )
    return content


def misfit(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Say which tensors are missing, unknown, or differ in shape or kind from the model's; empty where all fit."""
    kinds = [
        f"{name} {_kind(found[name])} instead of {_kind(value)}"
        for name, value in expected.items()
        if name in found and _kind(found[name]) != _kind(value)
    ]
    parts = {
        "lacks": [name for name in expected if name not in found],
        "holds unknown": [name for name in found if name not in expected],
        "has other shapes:": kinds,
    }
    return ", it ".join(
        f"{what} {some(names)} ({len(names)} of {len(expected)} tensors)" for what, names in parts.items() if names
    )


def check_finite(state: Mapping[str, Tensor], file: Path, how_to_get: str) -> None:
    """Refuse weights that are NaN or infinite, as float32, by name."""
    broken = [name for name, value in state.items() if not torch.isfinite(value.float()).all()]
    if broken:
        raise CovtokenError(f"{file}: NaN or infinite weights in {some(broken)}; get the file again: {how_to_get}")


def some(names: Iterable[str]) -> str:
    """Name the first three, and count the rest.

    >>> some("abcde")
    'a, b, c and 2 more'
    """
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _kind(tensor: Tensor) -> str:
    """Name a tensor's shape, after the type and layout where it is no plain floating-point tensor."""
    plain = tensor.is_floating_point() and tensor.layout is torch.strided
    return ("" if plain else f"{tensor.dtype}, {tensor.layout} ") + str(list(tensor.shape))


def _not_loaded(file: Path, error: Exception, expected: str) -> CovtokenError:
    """Explain why a file of the right format did not load; torch's own text advises to load with code."""
    if code := re.search(r"unsupported (?:global|class)\W+(?:GLOBAL )?(\S+)", str(error), re.IGNORECASE):
        return CovtokenError(
            f"{file} is refused: it asks to run code ({code[1][:80]}), and weights need tensors only; nothing was "
            f"run. Expected {expected}"
        )
    members = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else []
    parts = {name.rpartition("/")[2] for name in members}
    if members and ("data.pkl" not in parts or "constants.pkl" in parts):  # NumPy's .npz and the like; TorchScript
        return _other_format(file, f"is a zip archive of {some(members)}", expected)
    first = " ".join(str(error).split("WeightsUnpickler error:")[-1].split())[:120] or type(error).__name__
    return CovtokenError(f"{file} is truncated or damaged ({first}): get it again; expected {expected}")


def _other_format(file: Path, found: str, expected: str) -> CovtokenError:
    return CovtokenError(
        f"{file} has another format: it {found}, and is neither safetensors nor a PyTorch checkpoint; expected "
        f"{expected}"
    )
