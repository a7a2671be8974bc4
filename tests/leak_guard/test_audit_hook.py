"""What Python's audit hook sees of the readers people use: the table that ``covtoken.leak_guard`` states, measured.

A reader that moves from one column to the other (a new version, opening files in C) fails here, and the guard's
docstring and doors are then to be changed.
"""

from __future__ import annotations

import gzip
import mmap
import os
import shutil
import sys

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from covtoken.leak_guard import guard as leak_guard
from covtoken.paths import project_root

_opened: list[object] = []
_listening = False


def _listen(event: str, arguments: tuple) -> None:
    if _listening and event == "open":
        _opened.append(arguments[0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sys.addaudithook(_listen)  # stays for the process, silent unless a test listens
    folder = tmp_path_factory.mktemp("readers")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4] = 255
    for name in ("m.png", "m.tif", "m.jpg"):
        Image.fromarray(mask).save(folder / name)
    for name in ("m.nii", "m.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), folder / name)
    np.save(folder / "m.npy", mask)
    np.savez(folder / "m.npz", m=mask)
    np.savetxt(folder / "m.txt", mask)
    mask.tofile(folder / "m.raw")
    save_file({"m": mask}, folder / "m.safetensors")
    torch.save(torch.tensor(mask), folder / "m.pt")
    return folder


def _mapped(path):
    handle = os.open(path, os.O_RDONLY)
    with mmap.mmap(handle, 0, prot=mmap.PROT_READ) as view:
        view.read(1)
    os.close(handle)


def _dicom(path):
    """Written and read by pydicom: an 8 × 8 picture."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    written = pydicom.dataset.FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    written.Rows = written.Columns = written.BitsAllocated = written.BitsStored = 8
    written.HighBit, written.PixelRepresentation, written.SamplesPerPixel = 7, 0, 1
    written.PhotometricInterpretation, written.PixelData = "MONOCHROME2", bytes(64)
    written.SOPClassUID = SecondaryCaptureImageStorage
    written.save_as(path, enforce_file_format=True)
    _opened.clear()  # the file was just opened to be written
    return pydicom.dcmread(path).pixel_array


SEEN = {
    "PIL png": ("m.png", lambda p: np.asarray(Image.open(p))),
    "PIL tif": ("m.tif", lambda p: np.asarray(Image.open(p))),
    "PIL jpg": ("m.jpg", lambda p: np.asarray(Image.open(p))),
    "nibabel .nii": ("m.nii", lambda p: np.asarray(nibabel.load(p).dataobj)),
    "nibabel .nii.gz": ("m.nii.gz", lambda p: np.asarray(nibabel.load(p).dataobj)),
    "pydicom": ("m.dcm", _dicom),
    "np.load": ("m.npy", np.load),
    "np.load mapped": ("m.npy", lambda p: np.load(p, mmap_mode="r")),
    "np.load npz": ("m.npz", lambda p: np.load(p)["m"]),
    "np.fromfile": ("m.raw", lambda p: np.fromfile(p, np.uint8)),
    "np.memmap": ("m.raw", lambda p: np.memmap(p, np.uint8, "r")),
    "np.loadtxt": ("m.txt", np.loadtxt),
    "pandas": ("m.txt", lambda p: pytest.importorskip("pandas").read_csv(p)),
    "torch.load": ("m.pt", lambda p: torch.load(p, weights_only=True)),
    "torch.load mapped": ("m.pt", lambda p: torch.load(p, weights_only=True, mmap=True)),
    "os.open": ("m.raw", lambda p: os.close(os.open(p, os.O_RDONLY))),
    "mmap": ("m.raw", _mapped),
    "gzip": ("m.nii.gz", lambda p: gzip.open(p).close()),
    "pathlib": ("m.raw", lambda p: p.read_bytes()),
    "shutil": ("m.raw", lambda p: shutil.copyfile(p, p.with_name("copy.raw"))),
}

NOT_SEEN = {
    "safe_open": ("m.safetensors", lambda p: safe_open(p, "np").get_tensor("m")),
    "load_file": ("m.safetensors", load_file),
    "torch.from_file": ("m.raw", lambda p: torch.from_file(str(p), size=64, dtype=torch.uint8)),
    "torchvision.io.read_file": ("m.raw", lambda p: pytest.importorskip("torchvision").io.read_file(str(p))),
}


def _sees(path, read) -> bool:
    global _listening
    _opened.clear()
    _listening = True
    try:
        read(path)
    finally:
        _listening = False
    return any(isinstance(name, (str, bytes, os.PathLike)) and os.fsdecode(name) == str(path) for name in _opened)


@pytest.mark.parametrize("reader", SEEN)
def test_the_hook_sees(folder, reader):
    name, read = SEEN[reader]
    assert _sees(folder / name, read)


@pytest.mark.parametrize("reader", NOT_SEEN)
def test_the_hook_does_not_see(folder, reader):
    name, read = NOT_SEEN[reader]
    assert not _sees(folder / name, read)


def test_the_guard_states_every_reader():
    seen, _, unseen = leak_guard.__doc__.partition("not seen")
    for reader in SEEN:
        assert reader.split()[0] in seen.replace("``", ""), f"{reader} is missing from the guard's table"
    for reader in NOT_SEEN:
        assert reader in unseen, f"{reader} is missing from the guard's table"


def test_the_limitations_page_names_what_no_door_of_ours_catches():
    page = (project_root() / "book" / "limitations.md").read_text()
    for reader in ("torch.from_file", "torchvision.io"):  # safetensors stands behind doors
        assert f"`{reader}`" in page and any(name.startswith(reader) for name in NOT_SEEN)
