"""Windows of large pictures: every pixel is covered, maps land where they were cut, and banks are cut alike."""

import hashlib
import json
from dataclasses import replace
from itertools import pairwise

import jsonschema
import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from stub_scorer import VIT, BrightScorer, mapped
from stub_vit import lively
from timm.models.vision_transformer import VisionTransformer
from typer.testing import CliRunner

import covtoken
from covtoken.backbone.vit import FrozenViT
from covtoken.cli.app import app
from covtoken.data.case import Case
from covtoken.errors import CovtokenError
from covtoken.keys import hash_unit
from covtoken.maps import banks, fast, prepare, record, run
from covtoken.maps.inputs.grey import Grey
from covtoken.maps.inputs.listing import list_inputs
from covtoken.maps.inputs.planes import picture_grid
from covtoken.maps.inputs.tiles import pieces, windows
from covtoken.maps.lesion_map import fill


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    model = lively(VisionTransformer(64, 16, embed_dim=48, depth=4, num_heads=3, num_classes=0))
    return FrozenViT(model, "stub", 64, "0" * 64, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirteen large pictures, each of another patient, and one that no window of 48 cuts."""
    root = tmp_path_factory.mktemp("large")
    for seed in range(14):
        rng, size = np.random.default_rng(seed), (90, 130) if seed else (48, 40)
        waves = np.sin(np.arange(size[0])[:, None] * rng.uniform(0.1, 1) + np.arange(size[1]) * rng.uniform(0.1, 1))
        pixels = (120 + 60 * waves + 15 * rng.standard_normal(size)).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"c{seed:02}.png")
    return root


def _bytes(out, but=()):
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.parent != out and path.name not in but
    }


sides = st.integers(1, 300)


@settings(deadline=None)
@given(sides, sides, st.integers(1, 320))
def test_windows_cover_every_pixel_and_overlap_by_half(height, width, tile):
    found, count = windows((height, width), tile), np.zeros((height, width), int)
    for row, column, high, wide in found:
        assert (high, wide) == (min(height, tile), min(width, tile)) and row + high <= height and column + wide <= width
        count[row : row + high, column : column + wide] += 1
    assert count.min() >= 1 and len(set(found)) == len(found)
    assert (len(found) == 1) == (max(height, width) <= tile)
    for axis in (0, 1):
        starts = sorted({window[axis] for window in found})
        assert all(b - a <= max(1, tile // 2) for a, b in pairwise(starts))


@pytest.mark.parametrize("at", [(0, 0), (90, 201), (127, 128), (255, 319)])
def test_a_spot_is_found_where_it_lies(tmp_path, at):
    pixels = np.full((256, 320), 40, np.uint8)
    pixels[max(0, at[0] - 3) : at[0] + 4, max(0, at[1] - 3) : at[1] + 4] = 255
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in/p.png")
    (outcome,) = mapped(tmp_path / "in", tmp_path / "out", tile=64).outcomes
    found = np.load(tmp_path / "out/p/map.npy")
    token = 64 / 16
    spot = np.argwhere(found > 0.5).mean(0)
    assert found.shape == (256, 320) and np.abs(spot - at).max() <= token
    place = outcome.content["regions"][0]["centre"]["px"]
    assert abs(place["row"] - at[0]) <= token and abs(place["column"] - at[1]) <= token
    assert outcome.content["tile"] == 64 and outcome.content["windows_a_slice"] == 7 * 9


def test_a_map_has_no_seams_and_moves_with_its_picture():
    """A ramp comes back as a ramp; a picture that moves by half a window moves its map by as much."""
    down, right = np.mgrid[0:200, 0:240].astype(np.float32)

    def map_of(pixels):
        out = np.empty(pixels.shape, np.float32)
        fill(out, picture_grid(out.shape), [Case("p", "p", "ct8", lambda: pixels)], BrightScorer(), VIT, tile=64)
        return out

    ramp = (down + right) / 2
    assert np.abs(map_of(ramp) * 255 - ramp).max() <= 2  # half a token, at the outer edge
    noise = np.random.default_rng(0).integers(0, 255, (232, 240)).astype(np.float32)
    first, moved = map_of(noise[:192]), map_of(noise[32:224])
    np.testing.assert_allclose(first[64:160], moved[32:128], atol=1e-6)


def test_a_slice_is_read_once_for_all_its_windows():
    reads = []

    def load():
        reads.append(1)
        return np.add.outer(np.arange(128.0), np.arange(128.0)).clip(0, 255)

    out, case = np.empty((128, 128), np.float32), Case("p", "p", "ct8", load)
    fill(out, picture_grid(out.shape), [case], BrightScorer(), VIT, tile=32)
    assert len(reads) == 1


def test_a_volume_keeps_its_place(tmp_path):
    values = np.full((80, 100, 4), -900, np.int16)
    values[60:66, 20:26, 2] = 900
    affine = np.array([[0, -0.7, 0, 9.0], [0.8, 0, 0, -5], [0, 0, -2.5, 3], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "v.nii.gz")
    mapped(tmp_path / "v.nii.gz", tmp_path / "out", modality="ct", window=(-1000.0, 1000.0), tile=40)
    found = nibabel.load(tmp_path / "out/v/map.nii")
    assert found.shape == values.shape and np.allclose(found.affine, affine)
    scores = np.asarray(found.dataobj)
    assert np.abs(np.argwhere(scores > 0.5).mean(0) - [62.5, 22.5, 2]).max() < 2.5
    top = json.loads((tmp_path / "out/v/case.json").read_text())["regions"][0]
    assert np.linalg.norm(np.array(top["centre"]["mm"]) - (affine @ [62.5, 22.5, 2, 1])[:3]) < 2.5


def test_constant_pictures_flag_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (80, 90), 255).save(tmp_path / "in/white.png")
    (outcome,) = mapped(tmp_path / "in", tmp_path / "out", tile=32).outcomes
    assert outcome.content["flagged"]["pixels"] == 0 and outcome.content["regions"] == []


@pytest.fixture(scope="module")
def tiled(folder, vit, tmp_path_factory):
    out = tmp_path_factory.mktemp("tiled")
    with run.planned(run.Options(folder, out, tile=48)) as plan:
        return out, run.run(plan, vit=vit)


def test_shards_together_are_the_whole(folder, vit, tiled, tmp_path):
    for i in (1, 2):
        with run.planned(run.Options(folder, tmp_path, tile=48, shard=f"{i}/2")) as plan:
            run.run(plan, vit=vit)
    assert _bytes(tmp_path) == _bytes(tiled[0]) and len(_bytes(tmp_path)) == 14 * 4


def test_the_record_names_the_tile_and_another_one_maps_anew(folder, tiled, tmp_path):
    out, finished = tiled
    content = json.loads(finished.path.read_text())
    jsonschema.Draft202012Validator(json.loads(record.SCHEMA.read_text())).validate(content)
    assert content["settings"]["tile"] == 48 and "windows overlap" in content["threshold"]["meaning"]
    for tile, pending in ((48, 0), (40, 14), (None, 14)):
        with run.planned(run.Options(folder, out, tile=tile)) as plan:
            assert len(plan.pending) == pending


@pytest.mark.parametrize("tile", [130, 500])
def test_a_tile_no_smaller_than_the_pictures_changes_no_byte(folder, vit, tmp_path, tile):
    for name, px in (("whole", None), ("tile", tile)):
        with run.planned(run.Options(folder, tmp_path / name, tile=px)) as plan:
            run.run(plan, vit=vit)
    made = [_bytes(tmp_path / name, but=("case.json",)) for name in ("whole", "tile")]
    assert made[0] == made[1] and len(made[0]) == 14 * 3


@pytest.mark.parametrize("tile", [None, 48])
def test_a_name_that_the_bank_has_too_is_still_another_picture(folder, vit, tmp_path, tile):
    (tmp_path / "in").mkdir()
    for name in ("c03", "other"):
        Image.open(folder / "c05.png").rotate(180).save(tmp_path / f"in/{name}.png")
    with run.planned(run.Options(tmp_path / "in", tmp_path / "out", bank=folder, tile=tile)) as plan:
        run.run(plan, vit=vit)
    named, other = (np.load(tmp_path / f"out/{name}/map.npy") for name in ("c03", "other"))
    np.testing.assert_array_equal(named, other)


def test_a_picture_named_as_a_window_is_not_taken_for_it(folder, vit, tmp_path):
    prepared = _prepared(folder)
    cases = prepare.bank_of(prepared, {name: "c01" if name == "c02" else name for name in prepared.opened}, 48)
    first, second = (next(c for c in cases if c.name == name) for name in ("c01@0,0", "c02@0,0"))
    twin = replace(second, name=first.name)
    scorer = banks.fit_bank([twin if case is second else case for case in cases], vit, {})
    alone = replace(scorer, held=None)
    for case in (first, twin):
        np.testing.assert_allclose(scorer.maps([case], vit), alone.maps([case], vit), atol=1e-6)


def _prepared(root):
    return prepare.prepare(list_inputs(root), Grey())


def test_no_window_meets_a_token_of_its_own_picture(folder, vit):
    prepared = _prepared(folder)
    source = prepare.choose(prepared, None, None, 48)
    scorer = source.fit(vit, False)
    cut = {name.partition("@")[0] for name in scorer.held.names if "@" in name}
    assert cut == set(prepared.opened) - {"c00"} and "c00" in scorer.held.names
    for name, opened in prepared.opened.items():
        unit = source.units[name]
        for part in pieces(prepare.as_unit(opened, unit)[0], opened.grid.size, 48):
            direction = scorer.directions[scorer.fold_of[part.unit]]
            assert part.unit == unit and hash_unit(unit) not in direction.header["units"]


def test_a_bank_meets_windows_of_every_place(tmp_path):
    """Even steps through rows of windows would take a single column of a volume whose rows hold as many windows."""
    for unit in range(12):
        np.save(
            tmp_path / f"v{unit:02}.npy", np.random.default_rng(unit).integers(0, 255, (20, 64, 64)).astype(np.uint8)
        )
    prepared = _prepared(tmp_path)
    cases = prepare.bank_of(prepared, {name: name for name in prepared.opened}, 16)
    places = {case.name.partition("@")[2] for case in cases}
    assert 12 * 20 <= len(cases) <= banks.BANK_SLICES and len(places) > 40  # of 49


def test_a_direction_serves_the_tile_that_it_was_fitted_with(folder, vit, tmp_path):
    cases = prepare.bank_of(_prepared(folder), prepare.units_of(_prepared(folder)), 48)
    scorer = banks.fit_bank(cases, vit, {}, whole=True)
    own = banks.with_scores(scorer, fitted_on="large", grey=Grey().to_json(), tile=48)
    own.save(tmp_path / "d.safetensors")
    assert prepare.of_file(str(tmp_path / "d.safetensors"), 48).fit(vit, False).scores.n == scorer.scores.n
    with pytest.raises(CovtokenError, match=r"windows of 48 pixels, and here they are whole: expected the same; fit"):
        prepare.of_file(str(tmp_path / "d.safetensors")).fit(vit, False)
    whole = banks.with_scores(scorer, fitted_on="large", grey=Grey().to_json())
    with pytest.raises(CovtokenError, match="were whole, and here they are cut into windows of 48 pixels"):
        banks.of_direction(whole, vit, {}, "d", 48)
    banks.of_direction(covtoken.shipped_direction("ct"), covtoken.load_backbone("embedded"), {}, "ct", 48)


def test_in_python(folder, vit, monkeypatch):
    cases = prepare.bank_of(_prepared(folder), prepare.units_of(_prepared(folder)), 48)
    direction = banks.with_scores(banks.fit_bank(cases, vit, {}, whole=True), tile=48)
    pixels = np.asarray(Image.open(folder / "c03.png"))
    found = covtoken.lesion_map(pixels, vit, direction, tile=48)
    alone = covtoken.lesion_map(pixels[:24, :24], vit, direction, tile=48)
    assert found.shape == pixels.shape and alone.shape == (24, 24)
    for tile in (3, 0, -5, True, 7.5):
        with pytest.raises(CovtokenError, match="expected the side of a window, a whole number of 8"):
            covtoken.lesion_map(pixels, vit, direction, tile=tile)
    large = _of_grid(vit, 20)
    with pytest.raises(CovtokenError, match=r"20 pixels or more.*20 tokens a side"):
        covtoken.lesion_map(pixels, large, direction, tile=12)


def _of_grid(vit, side):
    torch.manual_seed(0)
    model = VisionTransformer(16 * side, 16, embed_dim=12, depth=1, num_heads=3, num_classes=0)
    return replace(vit, model=model, picture_size=16 * side)


@pytest.mark.parametrize(("tile", "expected"), [(0, "expected the side"), (-4, "expected the side"), (7, "8 pixels")])
def test_a_tile_that_is_none_is_refused_before_anything_is_read(folder, tmp_path, tile, expected):
    with pytest.raises(CovtokenError, match=expected):
        mapped(folder, tmp_path / "out", tile=tile)
    assert not (tmp_path / "out").exists()


def test_fast_without_such_a_processor_is_the_same(folder, vit, tiled, tmp_path, monkeypatch):
    monkeypatch.setattr(fast, "_flags", lambda: {"avx2", "avx512f"})
    with run.planned(run.Options(folder, tmp_path, tile=48, fast=True, device="cpu")) as plan:
        content = run.run(plan, vit=vit).record
    assert _bytes(tmp_path) == _bytes(tiled[0])
    assert content["fast"]["precision"] == "fp32" and content["fast"]["pictures"] is None
    assert fast.words(content["fast"]) == "--fast: this processor has no faster path; going on in fp32"


@pytest.mark.parametrize("flag", ["amx_bf16", "avx512_bf16"])
def test_fast_is_priced_on_the_pictures_of_the_run(folder, vit, tiled, tmp_path, monkeypatch, flag):
    monkeypatch.setattr(fast, "_flags", lambda: {flag})
    with run.planned(run.Options(folder, tmp_path, tile=48, fast=True, device="cpu")) as plan:
        content = json.loads(run.run(plan, vit=vit).path.read_text())
    jsonschema.Draft202012Validator(json.loads(record.SCHEMA.read_text())).validate(content)
    found = content["fast"]
    assert content["settings"]["precision"] == found["precision"] == "bf16" and found["pictures"] == fast.PRICED
    assert found["seconds_fast"] > 0 < found["seconds_fp32"] and found["unknown_reason"] is None
    assert 0.9 < found["rank_correlation"] < 1 and found["largest_difference"] > 0
    slow, quick = (np.load(root / "c03/map.npy") for root in (tiled[0], tmp_path))
    assert not np.array_equal(slow, quick)
    with run.planned(run.Options(folder, tmp_path, tile=48)) as plan:
        assert len(plan.pending) == 14  # fp32 maps are other maps


def test_a_picture_that_cannot_be_read_is_not_priced(folder, vit):
    def broken():
        raise OSError("gone")

    prepared = _prepared(folder)
    scorer = prepare.choose(prepared, folder, None).fit(vit, False)
    cases = [Case("a", "a", "ultrasound", broken), Case("b", "b", "ultrasound", lambda: np.full((9, 9), 300.0))]
    found = fast.price([*cases, *prepared.opened["c01"].cases], scorer, vit, "bf16")
    assert found["pictures"] == 1
    found = fast.price(cases, scorer, vit, "bf16")
    assert found["pictures"] is None and found["unknown_reason"] == "no picture was left to be scored"


def test_a_direction_of_either_precision_scores_in_either(folder, vit):
    prepared = _prepared(folder)
    cases = prepare.bank_of(prepared, prepare.units_of(prepared))
    for precision in ("fp32", "bf16"):
        scorer = replace(banks.fit_bank(cases, vit, {}, whole=True, precision=precision), held=None)
        assert scorer.directions[None].header["precision"] == precision
        maps = [scorer.maps(cases[:1], vit, way) for way in ("fp32", "bf16")]
        assert not np.array_equal(*maps) and np.corrcoef(*(m.ravel() for m in maps))[0, 1] > 0.9


@pytest.mark.parametrize(("side", "tile", "hinted"), [(256, None, True), (255, None, False), (256, 128, False)])
def test_large_slices_by_the_direction_of_ct_get_a_hint(tmp_path, side, tile, hinted):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, 90)).astype(np.uint8)).save(tmp_path / "p.png")
    options = {"tile": tile, "modality": "ct", "direction": "ct"}
    with run.planned(run.Options(tmp_path / "p.png", tmp_path / "out", **options)) as plan:
        assert ("--tile 128" in plan.hint) == hinted


def test_the_commands(folder, vit, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "loaded", lambda *_: vit)
    monkeypatch.setattr(fast, "_flags", set)
    file = str(tmp_path / "d.safetensors")

    def said(*arguments):
        done = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
        return done.exit_code, done.stderr + str(done.exception or "")

    code, words = said("fit", str(folder), "-o", file, "--tile", "48", "--fast")
    assert code == 0 and "--fast: this processor has no faster path; going on in fp32" in words, words
    assert covtoken.load_direction(file).header["tile"] == 48
    line = ("map", "-i", str(folder), "-o", str(tmp_path / "out"), "--limit", "1", "--direction", file)
    code, words = said(*line)
    assert code and "windows of 48 pixels, and here they are whole" in words
    code, words = said(*line, "--tile", "48", "--fast")
    assert code == 0 and "going on in fp32" in words, words
    code, words = said("fit", "busi", "-o", file, "--tile", "48")
    assert code and "pictures of the cohort busi go whole" in words
