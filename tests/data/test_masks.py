"""What a mask file means, whatever format holds it: black and one other value, or refused with the way out."""

from __future__ import annotations

import hashlib
import warnings

import nibabel
import numpy as np
import pytest
from PIL import Image

from covtoken.data.case import MaskRef
from covtoken.data.cohorts import open_cohort
from covtoken.data.masks import read_mask
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import token_labels

BOX = np.zeros((20, 30), bool)
BOX[4:9, 6:16] = True
RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def grey(lesion: int, background: int = 0) -> Image.Image:
    return Image.fromarray(np.where(BOX, lesion, background).astype(np.uint8))


def coloured(lesion, background=(0, 0, 0)) -> Image.Image:
    return Image.fromarray(np.where(BOX[..., None], lesion, background).astype(np.uint8))


def palette(lesion: tuple, background: tuple, lesion_index: int) -> Image.Image:
    """An indexed picture, of which either index may be the lesion."""
    image = Image.fromarray(np.where(BOX, lesion_index, 1 - lesion_index).astype(np.uint8), mode="P")
    image.putpalette([*background, *lesion] if lesion_index else [*lesion, *background])
    return image


def with_alpha(colour, inside: int, outside: int) -> Image.Image:
    image = colour.convert("RGBA")
    image.putalpha(Image.fromarray(np.where(BOX, inside, outside).astype(np.uint8)))
    return image


def ref(file, **how) -> MaskRef:
    return MaskRef("png", (file,), **how)


@pytest.mark.parametrize(
    "image",
    [
        grey(255),
        grey(1),
        Image.fromarray(BOX),
        Image.fromarray(np.where(BOX, 65535, 0).astype(np.uint16)),
        palette(WHITE, (0, 0, 0), 1),
        palette(WHITE, (0, 0, 0), 0),  # the lesion's index is 0: read by index it would come out inverted
        palette(RED, (0, 0, 0), 0),
        grey(255).convert("RGB").quantize(2),
        coloured(RED),
        with_alpha(grey(255), 255, 255),
        with_alpha(coloured(RED), 255, 0),  # what is transparent is black: nothing is hidden
        grey(255).convert("LA"),
    ],
    ids=[
        "255",
        "1",
        "bit",
        "16-bit",
        "palette",
        "palette-0",
        "palette-red",
        "quantized",
        "red",
        "opaque",
        "transparent-black",
        "LA",
    ],
)
def test_a_mask_is_read_by_its_colour(image, tmp_path):
    image.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(ref(tmp_path / "m.png")), BOX)


def test_pixels_are_true_bools(tmp_path):
    """PIL's 1-bit pictures come as bytes of 255, which sum and compare as no bool does."""
    Image.fromarray(BOX).save(tmp_path / "m.png")
    assert read_mask(ref(tmp_path / "m.png")).view(np.uint8).max() == 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (grey(2, background=1), r"holds the values 1, 2: a mask is black \(0\) with one other value"),
        (Image.fromarray(np.where(BOX, 255, 128 * np.eye(20, 30)).astype(np.uint8)), r"holds the values 0, 128, 255"),
        (Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)), r"values 0, 1, 2, 3, …, 255 \(256 in all\)"),
        (coloured(RED, GREEN), r"holds the colours \(0, 255, 0\), \(255, 0, 0\) beside black: .*mask_at_least"),
        (palette(RED, GREEN, 1), r"holds the colours \(0, 255, 0\), \(255, 0, 0\) beside black"),
        (with_alpha(Image.new("L", (30, 20), 255), 255, 0), "drawn in its alpha channel"),
        (with_alpha(Image.new("L", (30, 20), 0), 255, 0), "drawn in its alpha channel"),
        (with_alpha(coloured(RED, GREEN), 255, 0), "drawn in its alpha channel"),
    ],
    ids=[
        "background-1",
        "grey-edge",
        "ringing",
        "two-colours",
        "two-palette-colours",
        "alpha-white",
        "alpha-black",
        "alpha-colours",
    ],
)
def test_other_masks_are_refused_with_what_they_hold(image, message, tmp_path):
    image.save(tmp_path / "m.png")
    with pytest.raises(CovtokenError, match=rf"m\.png .*{message}"):
        read_mask(ref(tmp_path / "m.png"))


def test_the_ways_out(tmp_path):
    grey(2, background=1).save(tmp_path / "organ_1.png")
    np.testing.assert_array_equal(read_mask(ref(tmp_path / "organ_1.png", lesion_value=2)), BOX)
    np.testing.assert_array_equal(read_mask(ref(tmp_path / "organ_1.png", at_least=2)), BOX)
    for name, image in (("inverted", grey(0, background=255)), ("inverted_bit", Image.fromarray(~BOX))):
        image.save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_mask(ref(tmp_path / f"{name}.png", lesion_value=0)), BOX)
    Image.fromarray(BOX).save(tmp_path / "bit.png")  # one bit has no value: a threshold takes what is white
    np.testing.assert_array_equal(read_mask(ref(tmp_path / "bit.png", at_least=128)), BOX)
    coloured((200, 10, 10), (9, 3, 0)).save(tmp_path / "shades.png")
    np.testing.assert_array_equal(read_mask(ref(tmp_path / "shades.png", at_least=128)), BOX)


def test_float_masks(tmp_path):
    for lesion, background, holds in ((1.0, 0.0, None), (0.5, 0.0, None), (0.7, 0.3, "0.3, 0.7"), (np.nan, 0, "NaN")):
        values = np.where(BOX, lesion, background).astype(np.float32)
        np.save(tmp_path / "m.npy", values)
        nibabel.save(nibabel.Nifti1Image(values[..., None], np.eye(4)), tmp_path / "m.nii.gz")
        Image.fromarray(values).save(tmp_path / "m.tiff")
        for name in ("m.npy", "m.nii.gz", "m.tiff"):
            if holds is None:
                np.testing.assert_array_equal(read_mask(ref(tmp_path / name)), BOX)
            else:
                with pytest.raises(CovtokenError, match=f"{name} holds .*{holds}"):
                    read_mask(ref(tmp_path / name))
    np.save(tmp_path / "m.npy", np.where(BOX, 0.7, 0.3).astype(np.float32))
    np.testing.assert_array_equal(read_mask(ref(tmp_path / "m.npy", at_least=0.5)), BOX)
    np.save(tmp_path / "m.npy", np.where(BOX, -1, 0))  # "ignore" in some label maps
    with pytest.raises(CovtokenError, match="holds the values -1, 0"):
        read_mask(ref(tmp_path / "m.npy"))


def test_jpeg_is_lesion_from_128_on_whatever_the_file_is_called(tmp_path):
    grey(255).save(tmp_path / "m.jpg", quality=40)
    held = np.unique(np.asarray(Image.open(tmp_path / "m.jpg")))
    assert len(held) > 10, "compression leaves ghosts"
    (tmp_path / "m.png").write_bytes((tmp_path / "m.jpg").read_bytes())
    for name in ("m.jpg", "m.png"):
        np.testing.assert_array_equal(read_mask(ref(tmp_path / name)), BOX)
    with pytest.raises(CovtokenError, match=r"m\.jpg is a JPEG, which blurs values"):
        read_mask(ref(tmp_path / "m.jpg", lesion_value=255))


def test_files_of_one_mask_hold_one_value(tmp_path):
    grey(1).save(tmp_path / "a.png")
    grey(255).save(tmp_path / "b.png")
    coloured(RED).save(tmp_path / "c.png")
    Image.fromarray(BOX).save(tmp_path / "d.png")
    for second, holds in (("b.png", "255"), ("c.png", r"\(255, 0, 0\)")):
        with pytest.raises(CovtokenError, match=rf"a\.png holds 1 beside 0, and .*{second} holds {holds}: "):
            read_mask(MaskRef("png", (tmp_path / "a.png", tmp_path / second)))
    assert read_mask(MaskRef("png", (tmp_path / "a.png", tmp_path / "d.png"))).any()


@pytest.mark.parametrize("cast", [bool, np.uint8, np.int16, np.float32, lambda mask: mask * 255, lambda mask: mask / 2])
def test_arrays_are_read_by_the_same_rule(cast):
    mask = BOX.astype(cast) if isinstance(cast, type) else cast(BOX)
    np.testing.assert_array_equal(token_labels(mask, 2, 3).lesion, token_labels(BOX, 2, 3).lesion)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.where(BOX, 2, 1), "the mask holds the values 1, 2: .*mask == value"),
        (np.where(BOX, 0.7, 0.3), "the mask holds the values 0.3, 0.7"),
        (np.where(BOX, np.nan, 0), "the mask holds NaN"),
        (np.where(BOX, 1j, 0), "the mask holds values of type complex128"),
        (BOX[..., None], r"the mask: expected a mask \[H, W\], got shape \(20, 30, 1\)"),
    ],
)
def test_other_arrays_are_refused(mask, message):
    with pytest.raises(CovtokenError, match=message):
        token_labels(mask, 2, 3)


def test_an_array_that_covers_nearly_everything_is_a_warning():
    with pytest.warns(UserWarning, match="more than nine tenths of its picture"):
        assert token_labels(np.ones((20, 30)), 2, 3).lesion.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token_labels(BOX, 2, 3)
        token_labels(np.zeros((20, 30)), 2, 3)


@pytest.mark.parametrize(("name", "digest"), [("kits19", "89c655aa"), ("lidc-crops", "848e2cfa")])
def test_masks_of_committed_cohorts_stay_what_they_were(covtoken_data, name, digest):
    """The digest of all lesion and organ masks, as they were read when locks and reports were made."""
    try:
        cohort = open_cohort(name)
    except CovtokenError as error:
        pytest.skip(str(error))
    total = hashlib.sha256()
    for refs in (cohort.masks, cohort.organs):
        for case in sorted(refs):
            mask = read_mask(refs[case])
            total.update(case.encode() + repr(mask.shape).encode() + str(mask.dtype).encode() + mask.tobytes())
    assert total.hexdigest()[:8] == digest
