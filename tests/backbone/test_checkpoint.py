"""Weights files that hold code, another format or half of their bytes: four messages, and nothing is run."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from covtoken.backbone.weights import load_backbone
from covtoken.errors import CovtokenError

LOADERS = ("meddinov3", "vit_tiny_patch16_224")


def refused(file: Path, message: str) -> None:
    """Both loaders refuse the file by its name."""
    for name in LOADERS:
        with pytest.raises(CovtokenError, match=f"{file.name} {message}"):
            load_backbone(name, weights_file=file)


class Trap:
    """Pickles as a call that makes a file or folder: the mark that code has run."""

    def __init__(self, call, mark: Path):
        self.call, self.mark = call, mark

    def __reduce__(self):
        return self.call, (self.mark,)


@pytest.mark.parametrize("call", [Path.touch, os.mkdir])  # not allowed by torch; in a module that torch blocks
@pytest.mark.parametrize("form", ["zip", "old", "bare pickle", "named safetensors"])
def test_a_pickle_with_code_is_refused_and_does_not_run(call, form, tmp_path):
    mark, file = tmp_path / "ran", tmp_path / ("model.safetensors" if form == "named safetensors" else "model.pth")
    content = {"teacher": {"backbone.norm.bias": torch.ones(3)}, "model": {}, "args": Trap(call, mark)}
    if form == "bare pickle":
        file.write_bytes(pickle.dumps({"args": Trap(call, mark)}, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form != "old")
    refused(file, r"is refused: it asks to run code \(\S+\).*nothing was run")
    assert not mark.exists()
    data = file.read_bytes()
    pickle.loads(data) if form == "bare pickle" else torch.load(io.BytesIO(data), weights_only=False)
    assert mark.exists(), "the trap was none"


def weights(suffix: str) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"norm.bias": torch.ones(300)}}, buffer, _use_new_zipfile_serialization=suffix == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors", "deep header"])
def test_a_cut_file_is_called_truncated(kind, tmp_path):
    file = tmp_path / "model.pth"
    if kind == "deep header":
        header = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        file.write_bytes(struct.pack("<Q", len(header)) + header)
        return refused(file, "is truncated or damaged")
    if kind == "safetensors":
        save_file({"norm.bias": torch.ones(300)}, file)
        data = file.read_bytes()
    else:
        data = weights(kind)
    for cut in (len(data) - 30, len(data) // 2):
        file.write_bytes(data[:cut])
        refused(file, "is truncated or damaged")


def test_another_format_is_called_that(tmp_path):
    file = tmp_path / "model.bin"
    for content, found in [
        (b"", "is empty"),
        (b"version https://git-lfs", "begins with 'version h'"),
        (np.random.default_rng(0).bytes(5000), "begins with"),
        (b"cposix\nmkdir\n(S'x'\ntR.", "begins with"),  # a pickle of the oldest protocol: not even looked into
    ]:
        file.write_bytes(content)
        refused(file, f"has another format: it {found}.* neither safetensors nor a PyTorch checkpoint")
    np.savez(tmp_path / "jax.npz", **{"embedding/kernel": np.ones(3)})
    refused(tmp_path / "jax.npz", r"has another format: it is a zip archive of embedding/kernel\.npy")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl"):
            archive.writestr(f"archive/{name}", b"\x80\x02}.")
    refused(tmp_path / "script.pt", "has another format: it is a zip archive of archive/data.pkl")


def test_a_file_that_may_not_be_read_is_called_that(tmp_path, monkeypatch):
    file = tmp_path / "model.pth"
    file.write_bytes(weights("zip"))

    def forbidden(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    for owner, attribute in ((torch, "load"), (Path, "open")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, forbidden)
            refused(file, r"cannot be read \(Permission denied\): give it read permission")


def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path):
    file = tmp_path / "model.pth"
    looped = {}
    looped["model"] = looped
    for content, message in [
        ([torch.ones(1)], "holds a list"),
        ({"net": {"norm.bias": torch.ones(3)}}, "holds more than named tensors: net; save"),
        ({"model": {"norm.bias": torch.ones(3), "step": 3}}, "holds more than named tensors: step"),
        (looped, "holds more than named tensors: model"),
        ({"norm.bias": torch.ones(3, device="meta")}, "holds more than named tensors: norm.bias"),
    ]:
        torch.save(content, file)
        with pytest.raises(CovtokenError, match=f"model.pth {message}"):
            load_backbone("vit_tiny_patch16_224", weights_file=file)
