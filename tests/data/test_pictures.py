"""Picture files: no decoder's own error reaches the user, and permission, wrong format and damage are told apart."""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from covtoken.data.case import MaskRef
from covtoken.data.masks import read_mask
from covtoken.data.pictures import read_picture, size_of
from covtoken.errors import CovtokenError

PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)


def saved(pixels, form: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def empty_png(side: int) -> bytes:
    """A sound PNG of ``side`` × ``side`` black pixels of one bit, small as a file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side + 7) // 8 + 1) * side, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def npy(values) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=True)
    return stream.getvalue()


def npy_that_promises(shape: tuple) -> bytes:
    """The values of a [20, 30] array under the header of a larger one."""
    stated, true = (f"'shape': {shown}, }}".ljust(60).encode() for shown in (shape, (20, 30)))
    return npy(np.zeros((20, 30))).replace(true, stated)


def nifti(shape=(20, 30, 1)) -> bytes:
    return nibabel.Nifti1Image(np.random.default_rng(0).normal(size=shape), np.eye(4)).to_bytes()


FRAMES = {"save_all": True, "append_images": [Image.fromarray(PIXELS // 2)]}
DEEP = b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 8999 + b"\n"
KNOWN = "pictures and masks are PNG, JPEG, TIFF, BMP, .npy or 2-D NIfTI: convert it"
BROKEN = {
    "zero bytes": ("f.png", b"", r"f\.png is empty \(0 bytes\)"),
    "cut": ("f.png", saved(PIXELS, "PNG")[:300], r"f\.png cannot be read .*truncated or damaged"),
    "cut in the header": ("f.png", saved(PIXELS, "PNG")[:12], r"f\.png cannot be read .*truncated or damaged"),
    "cut jpeg": ("f.jpg", saved(PIXELS, "JPEG")[:400], r"f\.jpg cannot be read .*truncated or damaged"),
    "text": ("f.png", b"root:x:0:0:root", rf"f\.png is of no known format, and {KNOWN}"),
    "gif": ("f.gif", saved(PIXELS, "GIF"), r"f\.gif looks like GIF, and"),
    "gif by another name": ("f.png", saved(PIXELS, "GIF", **FRAMES), r"f\.png looks like GIF, and"),
    "eps": ("f.eps", saved(PIXELS, "EPS"), r"f\.eps looks like EPS, and"),
    "webp": ("f.webp", b"RIFF\0\0\0\0WEBP", r"f\.webp looks like WebP, and"),
    "npz": ("f.npz", b"PK\3\4" + bytes(40), r"f\.npz looks like a zip archive"),
    "pages": ("f.tif", saved(PIXELS, "TIFF", **FRAMES), r"f\.tif holds 2 pages or frames"),
    "animated png": ("f.png", saved(PIXELS, "PNG", **FRAMES), r"f\.png holds 2 pages or frames"),
    "bomb": ("f.png", empty_png(20_000), r"f\.png is 20000×20000 pixels, and 169000000 are the most"),
    "16 TB promised": ("f.npy", npy_that_promises((2_000_000, 1_000_000)), r"f\.npy cannot be read .*promises"),
    "cut array": ("f.npy", npy(np.zeros((20, 30)))[:999], r"f\.npy cannot be read .*promises 4800 bytes"),
    "strings": ("f.npy", npy(np.full((20, 30), "abc")), r"f\.npy cannot be read as numbers: .*<U3"),
    "complex": ("f.npy", npy(np.ones((20, 30), complex)), r"f\.npy cannot be read as numbers: .*complex128"),
    "pickle": ("f.npy", npy(np.array([{"a": 1}], dtype=object)), r"f\.npy cannot be read as numbers: .*object"),
    "named fields": ("f.npy", npy(np.zeros((20, 30), [("a", "f4")])), r"f\.npy cannot be read as numbers"),
    "deep header": ("f.npy", DEEP, r"f\.npy cannot be read .*truncated or damaged"),
    "one dimension": ("f.npy", npy(np.zeros(600)), r"f\.npy: expected one slice \[H, W\], got shape \(600,\)"),
    "volume": ("f.nii.gz", gzip.compress(nifti((9, 9, 9))), r"got shape \(9, 9, 9\); cut volumes first"),
    "cut nifti": ("f.nii.gz", gzip.compress(nifti())[:-900], r"f\.nii\.gz cannot be read .*truncated or damaged"),
    "cut plain nifti": ("f.nii", nifti()[:900], r"f\.nii cannot be read .*truncated or damaged"),
    "png called npy": ("f.npy", saved(PIXELS, "PNG"), r"f\.npy holds PNG, which its name does not say: rename it"),
    "npy called png": ("f.png", npy(PIXELS), r"f\.png holds NumPy, which its name does not say"),
    "dicom": ("f.png", bytes(128) + b"DICM" + bytes(400), r"f\.png is DICOM, .*Hounsfield units to \.npy or NIfTI"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_file_that_is_no_picture_is_refused_in_words(broken, tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("started Ghostscript"))
    name, content, message = BROKEN[broken]
    (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error", category=np.exceptions.ComplexWarning)
        with pytest.raises(CovtokenError, match=rf"^picture .*{message}"):
            read_picture(tmp_path / name)
        with pytest.raises(CovtokenError, match=rf"^mask file .*{message}"):
            read_mask(MaskRef("png", (tmp_path / name,)))


def test_what_may_not_be_opened_is_not_called_damaged(tmp_path, monkeypatch):
    Image.fromarray(PIXELS).save(tmp_path / "f.png")
    for read in (read_picture, size_of, lambda file: read_mask(MaskRef("png", (file,)))):
        for name, message in (("no.png", r"no\.png is missing"), ("x" * 300, r"cannot be opened \(File name too long")):
            with pytest.raises(CovtokenError, match=message):
                read(tmp_path / name)
        with pytest.raises(CovtokenError, match=r"cannot be opened \(Is a directory"):
            read(tmp_path)

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    for name in ("f.png", "f.npy"):
        with pytest.raises(CovtokenError, match=r"may not be read \(permission denied\)"):
            read_picture(tmp_path / name)


def test_memory_that_a_header_asks_for_in_vain(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise MemoryError

    nibabel.save(nibabel.Nifti1Image(PIXELS, np.eye(4)), tmp_path / "f.nii")
    monkeypatch.setattr(nibabel, "load", refuse)
    with pytest.raises(CovtokenError, match=r"f\.nii cannot be read \(its header asks for more memory than there is"):
        read_picture(tmp_path / "f.nii")


def test_a_large_picture_is_read_without_a_word(tmp_path, recwarn):
    (tmp_path / "f.png").write_bytes(empty_png(12_000))
    assert size_of(tmp_path / "f.png") == (12_000, 12_000)
    assert not recwarn.list


def test_capital_suffixes(tmp_path):
    np.save(tmp_path / "f.npy", PIXELS)
    (tmp_path / "f.npy").rename(tmp_path / "F.NPY")
    nibabel.save(nibabel.Nifti1Image(PIXELS, np.eye(4)), tmp_path / "f.nii.gz")
    (tmp_path / "f.nii.gz").rename(tmp_path / "F.NII.GZ")
    Image.fromarray(PIXELS).save(tmp_path / "F.PNG")
    for name in ("F.NPY", "F.NII.GZ", "F.PNG"):
        np.testing.assert_array_equal(read_picture(tmp_path / name), PIXELS)
        assert size_of(tmp_path / name) == (20, 30)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP"])
def test_the_formats_that_are_read(form, tmp_path):
    (tmp_path / "f").write_bytes(saved(PIXELS, form))
    np.testing.assert_array_equal(read_picture(tmp_path / "f"), PIXELS)
