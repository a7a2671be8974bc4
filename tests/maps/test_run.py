"""Runs: resume, shards, broken cases, what is written and what is refused."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile

import jsonschema
import numpy as np
import pytest
from PIL import Image
from stub_scorer import VIT, BrightScorer, mapped, stubbed

from covtoken.cli import app as cli
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction
from covtoken.maps import record, run
from covtoken.paths import PACKAGE


def _picture(seed, size=(60, 80)):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 130, (6, 8)).astype(np.uint8))
    pixels = np.array(small.resize(size[::-1], Image.Resampling.BICUBIC))
    row, column = rng.integers(10, 40, 2)
    pixels[row : row + 12, column : column + 12] = 255
    return pixels


def _folder(root, n=7):
    root.mkdir()
    for i in range(n):
        Image.fromarray(_picture(i)).save(root / f"c{i}.png")
    return root


def _bytes(out):
    """Every file of the cases, by path; records of runs hold times and are left out."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.parent != out
    }


def test_what_is_written(tmp_path):
    _folder(tmp_path / "in", 2)
    (tmp_path / "in/notes.txt").write_text("x")
    finished = mapped(tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["c0", "c1", "cases.csv", "run.json"]
    written = sorted(path.name for path in (tmp_path / "out/c0").iterdir())
    assert written == ["case.json", "map.npy", "mask.npy", "overlay.png"]
    found = np.load(tmp_path / "out/c0/map.npy", allow_pickle=False)
    mask = np.load(tmp_path / "out/c0/mask.npy", allow_pickle=False)
    assert found.dtype == np.float32 and found.shape == mask.shape == (60, 80)
    content = json.loads((tmp_path / "out/c0/case.json").read_text())
    threshold = finished.record["threshold"]["score"]
    assert np.array_equal(mask, found > threshold) and content["flagged"]["pixels"] == mask.sum() > 0
    row, column = (content["regions"][0]["peak"]["px"][axis] for axis in ("row", "column"))
    assert found[round(row), round(column)] == pytest.approx(found.max(), abs=0.05)
    assert content["spacing_mm"] is None and content["spacing_mm_reason"]
    assert finished.record["left_out"] == [{"file": "notes.txt", "reason": "of no known format by its name"}]
    lines = (tmp_path / "out/cases.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[1].startswith("c0,c0.png,done,")


def test_the_record_keeps_to_its_schema(tmp_path):
    _folder(tmp_path / "in", 2)
    (tmp_path / "in/broken.png").write_bytes(b"\x89PNG nothing")
    schema = json.loads(record.SCHEMA.read_text())
    check = jsonschema.Draft202012Validator(schema)
    check.check_schema(schema)
    for _ in range(2):  # mapped, then kept
        finished = mapped(tmp_path / "in", tmp_path / "out")
        content = json.loads(finished.path.read_text())
        check.validate(content)
        assert content["status"] == "failed cases"
    assert [case["status"] for case in content["cases"]] == ["failed", "kept", "kept"]
    content["cases"][0]["reason"] = None
    assert not check.is_valid(content)  # a failure has its reason


def test_a_broken_case_costs_itself_alone(tmp_path, monkeypatch, capsys):
    _folder(tmp_path / "in", 3)
    (tmp_path / "in/c1.png").write_bytes((tmp_path / "in/c1.png").read_bytes()[:300])
    np.save(tmp_path / "in/nan.npy", np.full((20, 20), np.nan, np.float32))
    monkeypatch.setattr(run, "loaded", lambda *_: VIT)
    monkeypatch.setattr("covtoken.maps.prepare.of_direction", lambda *_: BrightScorer())
    code, _, said = _cli(monkeypatch, capsys, "map", "-i", tmp_path / "in", "-o", tmp_path / "out")
    assert code == 2 and "--modality" in said  # three pictures: which direction?
    code, _, said = _cli(
        monkeypatch, capsys, "map", "-i", tmp_path / "in", "-o", tmp_path / "out", "--modality", "ultrasound"
    )
    assert code == 1 and len([line for line in said.splitlines() if line.startswith("covtoken: ")]) == 2, said
    assert "c1.png" in said and "truncated" in said and "nan.npy" in said and "NaN" in said
    assert {"c0", "c2"} == {path.parent.name for path in (tmp_path / "out").rglob("case.json")}
    assert not list((tmp_path / "out").glob(".covtoken-*"))


def _cli(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["covtoken", *map(str, arguments)])
    capsys.readouterr()
    code = 0
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code
    told = capsys.readouterr()
    return code or 0, told.out, told.err


def test_finished_cases_are_kept_until_something_changes(tmp_path):
    _folder(tmp_path / "in", 3)
    mapped(tmp_path / "in", tmp_path / "out", limit=2)
    before = _bytes(tmp_path / "out")

    def statuses(**options):
        return [outcome.status for outcome in mapped(tmp_path / "in", tmp_path / "out", **options).outcomes]

    assert statuses() == ["kept", "kept", "done"]
    assert before.items() <= _bytes(tmp_path / "out").items()
    assert statuses() == ["kept"] * 3 and statuses(overwrite=True) == ["done"] * 3
    assert before.items() <= _bytes(tmp_path / "out").items()
    assert statuses(quantile=0.95) == ["done"] * 3
    Image.fromarray(_picture(9)).save(tmp_path / "in/c1.png")
    assert statuses(quantile=0.95) == ["kept", "done", "kept"]
    (tmp_path / "out/c0/mask.npy").unlink()
    assert statuses(quantile=0.95) == ["done", "kept", "kept"]


@pytest.mark.parametrize("n", [2, 3])
def test_shards_together_are_the_whole(tmp_path, n):
    _folder(tmp_path / "in")
    mapped(tmp_path / "in", tmp_path / "whole")
    for i in range(n):
        mapped(tmp_path / "in", tmp_path / "parts", shard=f"{i + 1}/{n}")
    assert _bytes(tmp_path / "whole") == _bytes(tmp_path / "parts") and len(_bytes(tmp_path / "whole")) == 28
    assert all((tmp_path / "parts" / f"run.shard-{i + 1}-of-{n}.json").is_file() for i in range(n))
    assert {outcome.status for outcome in mapped(tmp_path / "in", tmp_path / "parts").outcomes} == {"kept"}


def test_a_constant_picture_flags_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("L", (50, 40), 255).save(tmp_path / "in/white.png")  # as bright as can be, and nothing in it is rare
    (outcome,) = mapped(tmp_path / "in", tmp_path / "out").outcomes
    found = np.load(tmp_path / "out/white/map.npy")
    assert outcome.content["flagged"]["pixels"] == 0 and found.max() == BrightScorer().scores.scores[0]
    assert outcome.content["regions"] == [] and outcome.content["regions_reason"]


def test_constant_slices_do_not_shift_the_others(tmp_path):
    stack = np.zeros((5, 40, 40), np.uint8)
    stack[1, :20, :20], stack[3, 20:, 20:] = 200, 250
    np.save(tmp_path / "in.npy", stack)
    (outcome,) = mapped(tmp_path / "in.npy", tmp_path / "out").outcomes
    found = np.load(tmp_path / "out/in/map.npy")
    assert found[1, 5, 5] == pytest.approx(200 / 255) and found[3, 35, 35] == pytest.approx(250 / 255)
    assert not found[[0, 2, 4]].any() and outcome.content["constant_slices"] == 3


def test_interrupted_it_records_and_leaves_nothing_half_written(tmp_path):
    class Stopped(BrightScorer):
        def maps(self, cases, vit, precision="fp32"):
            if cases[0].name == "c1":
                raise KeyboardInterrupt
            return super().maps(cases, vit)

    _folder(tmp_path / "in", 3)
    with stubbed(tmp_path / "in", tmp_path / "out") as plan:
        object.__setattr__(plan.source, "fit", lambda vit, progress: Stopped())
        finished = run.run(plan, vit=VIT)
    assert finished.interrupted and finished.record["status"] == "interrupted"
    assert [outcome.status for outcome in finished.outcomes] == ["done", "not reached", "not reached"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["c0", "cases.csv", "run.json"]


def test_what_a_killed_run_left_of_a_case_goes_and_what_another_still_writes_stays(tmp_path):
    _folder(tmp_path / "in", 2)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    name = "c0"
    left = [tmp_path / "out" / f".covtoken-{name}-{end}" for end in (ended.pid, f"{ended.pid}-old", os.getpid())]
    stays = [tmp_path / "out" / f".covtoken-{end}" for end in (f"{name}-1", f"{name}-1-{ended.pid}")]
    for folder in left + stays:
        folder.mkdir(parents=True)
        (folder / "map.npy").write_bytes(b"half")
    mapped(tmp_path / "in", tmp_path / "out")
    assert sorted((tmp_path / "out").glob(".*")) == sorted(stays)


def test_the_command_says_how_it_ended(tmp_path, monkeypatch, capsys):
    class Stopped(BrightScorer):
        def maps(self, cases, vit, precision="fp32"):
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "loaded", lambda *_: VIT)
    line = ("map", "-i", _folder(tmp_path / "in", 2), "-o", tmp_path / "out", "--direction", "ultrasound")
    monkeypatch.setattr("covtoken.maps.prepare.of_direction", lambda *_: Stopped())
    assert _cli(monkeypatch, capsys, *line, "--quiet") == (130, "", "")
    monkeypatch.setattr("covtoken.maps.prepare.of_direction", lambda *_: BrightScorer())
    code, out, err = _cli(monkeypatch, capsys, *line, "--json")
    assert (code, err) == (0, "") and json.loads(out) == json.loads((tmp_path / "out/run.json").read_text())
    code, out, err = _cli(monkeypatch, capsys, *line)
    assert (code, out) == (0, "") and "2 kept from before" in err and "not a medical device" in err


def test_a_foreign_folder_is_not_overwritten(tmp_path):
    _folder(tmp_path / "in", 2)
    (tmp_path / "out/c0").mkdir(parents=True)
    (tmp_path / "out/c0/thesis.txt").write_text("mine")
    statuses = [outcome.status for outcome in mapped(tmp_path / "in", tmp_path / "out", overwrite=True).outcomes]
    assert statuses == ["failed", "done"] and (tmp_path / "out/c0/thesis.txt").read_text() == "mine"


def test_the_output_is_no_input(tmp_path):
    _folder(tmp_path / "in", 2)
    for _ in range(2):
        finished = mapped(tmp_path / "in", tmp_path / "in/maps")
        assert len(finished.outcomes) == 2
    with pytest.raises(CovtokenError, match="is the input folder itself"):
        mapped(tmp_path / "in", tmp_path / "in")


def test_masks_are_neither_mapped_nor_opened(tmp_path):
    _folder(tmp_path / "in", 2)
    masks = [tmp_path / "in/c0_mask.png", tmp_path / "in/c0_mask_1.png", tmp_path / "in/masks/c1.png"]
    (tmp_path / "in/masks").mkdir()
    for mask in masks:
        Image.fromarray((_picture(1) > 200).astype(np.uint8) * 255).save(mask)
    for mask in masks:
        mask.chmod(0)  # nobody but root may open them
    finished = mapped(tmp_path / "in", tmp_path / "out")
    assert [outcome.item.name for outcome in finished.outcomes] == ["c0", "c1"]
    assert len(finished.record["left_out"]) == 3
    (tmp_path / "in/c0_mask.png").chmod(0o600)
    with pytest.raises(CovtokenError, match="mask file"), construction("a test"):
        (tmp_path / "in/c0_mask.png").read_bytes()


def test_a_list_names_patients_and_spacing_and_its_masks_stay_shut(tmp_path):
    _folder(tmp_path / "in", 3)
    Image.fromarray((_picture(1) > 200).astype(np.uint8) * 255).save(tmp_path / "in/m.png")
    (tmp_path / "in/index.csv").write_text("image;mask;patient;spacing\nc0.png;m.png;p1;0.5\nc2.png;;p2;0.2 0.4\n")
    finished = mapped(tmp_path / "in", tmp_path / "out")
    assert [outcome.item.patient for outcome in finished.outcomes] == ["p1", "p2"]
    top = finished.outcomes[1].content["regions"][0]["peak"]
    assert top["mm"] == pytest.approx([0.2 * top["px"]["row"], 0.4 * top["px"]["column"]], abs=0.01)
    assert finished.outcomes[0].content["flagged"]["size_unit"] == "mm²"
    with pytest.raises(CovtokenError, match="mask file"), construction("a test"):
        (tmp_path / "in/m.png").read_bytes()


@pytest.mark.parametrize("top", [1000, 4000, 60_000])
def test_sixteen_bit_pictures_share_one_scale(tmp_path, top):
    (tmp_path / "in").mkdir()
    for name, value in (("dim", 200), ("bright", top)):
        pixels = np.zeros((40, 40), np.uint16)
        pixels[10:20, 10:20] = value
        Image.fromarray(pixels).save(tmp_path / f"in/{name}.png")
    finished = mapped(tmp_path / "in", tmp_path / "out")
    white = min(w for w in (1023, 4095, 16383, 65535) if w >= top)
    assert finished.record["settings"]["grey"]["tops"] == {"16 bit": white}
    for name, value in (("dim", 200), ("bright", top)):
        assert np.load(tmp_path / f"out/{name}/map.npy").max() == pytest.approx(value / white, abs=0.01)


def test_pictures_of_every_kind(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = _picture(3)
    for end in ("png", "jpg", "tif", "bmp"):
        Image.fromarray(pixels).save(tmp_path / f"in/{end}.{end}")
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "in/colour.png")
    np.save(tmp_path / "in/array.npy", pixels)
    np.save(tmp_path / "in/stack.npy", np.stack([pixels] * 3))
    finished = mapped(tmp_path / "in", tmp_path / "out")
    assert [outcome.status for outcome in finished.outcomes] == ["done"] * 7
    stack = np.load(tmp_path / "out/stack/map.npy")
    assert stack.shape == (3, 60, 80) and np.array_equal(stack[0], np.load(tmp_path / "out/array/map.npy"))


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (lambda p: None, {}, "does not exist"),
        (lambda p: p.mkdir(), {}, "holds nothing to map"),
        (lambda p: p.write_text("x"), {}, "of no known format"),
        (lambda p: _folder(p, 2), {"shard": "3/2"}, "expected i/N"),
        (lambda p: _folder(p, 2), {"shard": "x"}, "expected i/N"),
        (lambda p: _folder(p, 2), {"limit": 0}, "expected 1 case or more"),
        (lambda p: _folder(p, 2), {"quantile": 1.0}, "below 1"),
        (lambda p: _folder(p, 2), {"quantile": float("nan")}, "below 1"),
        (lambda p: _folder(p, 2), {"direction": None}, "--modality ultrasound or --modality ct"),
        (lambda p: _folder(p, 2), {"direction": "nothing"}, "expected ultrasound, ct or a file"),
        (lambda p: _folder(p, 2), {"direction": "./none.safetensors"}, "no such direction"),
        (lambda p: _folder(p, 2), {"direction": None, "bank": PACKAGE / "nowhere"}, "does not exist"),
        (lambda p: _folder(p, 2), {"modality": "mri"}, "unknown modality 'mri'"),
        (lambda p: _folder(p, 2), {"organ": "lungs"}, "did you mean lung"),
        (lambda p: _folder(p, 2), {"window": (5.0, 5.0)}, "black below white"),
        (lambda p: _folder(p, 2), {"backbone": "embeded"}, "unknown backbone"),
        (lambda p: (_folder(p, 2) / "index.csv").write_text("picture\nc0.png\n"), {}, "lacks the column 'image'"),
        (lambda p: (_folder(p, 2) / "index.csv").write_text("image\n../x.png\n"), {}, "leads out of the folder"),
        (lambda p: (_folder(p, 2) / "index.csv").write_text("image\nno.png\n"), {}, "does not exist"),
        (lambda p: (_folder(p, 2) / "index.csv").write_text("image\nc0.png\nc0.png\n"), {}, "twice"),
        (lambda p: (_folder(p, 2) / "index.csv").write_bytes(b"image\n\xff\xfe\n"), {}, "save it as UTF-8"),
        (lambda p: np.save(p.mkdir() or p / "o.npy", np.array([{}]), allow_pickle=True), {}, "never loaded"),
        (lambda p: np.save(p.mkdir() or p / "i.npy", np.zeros((20, 20), np.int32)), {}, "nothing says what its values"),
        (lambda p: np.save(p.mkdir() or p / "f.npy", np.full((20, 20), 300.0)), {}, "float pictures hold 300"),
        (lambda p: Image.new("L", (5, 5)).save(p.mkdir() or p / "tiny.png"), {}, "expected 8 a side"),
    ],
)
def test_one_clear_line_and_nothing_written(tmp_path, make, options, expected):
    make(tmp_path / "in")
    with pytest.raises(CovtokenError) as said:
        mapped(tmp_path / "in", tmp_path / "out", **options)
    assert expected in str(said.value) and "\n" not in str(said.value), said.value
    assert not (tmp_path / "out").exists()


def _zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"../../evil.png": b"x"}, "leads out of the archive"),
        ({"a/../../evil.png": b"x"}, "leads out of the archive"),
        ({"/etc/evil.png": b"x"}, "leads out of the archive"),
        ({"..\\evil.png": b"x"}, "leads out of the archive"),
        ({"bomb.png": bytes(40_000_000)}, "would unpack to 1 files of 40000000 bytes"),
        ({"readme.txt": b"x"}, "holds nothing to map"),
    ],
)
def test_archives_that_bite_are_refused(tmp_path, members, expected):
    with pytest.raises(CovtokenError, match=expected):
        mapped(_zip(tmp_path / "in.zip", members), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.zip"]


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "in.zip").write_bytes(b"PK nothing")
    with pytest.raises(CovtokenError, match=r"in\.zip"):
        mapped(tmp_path / "in.zip", tmp_path / "out")


def test_a_large_picture_says_what_a_token_covers(tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(_picture(1, (800, 640))).save(tmp_path / "in/large.png")
    (outcome,) = mapped(tmp_path / "in", tmp_path / "out").outcomes
    assert "a token covers 50 × 40 pixels" in outcome.content["notes"][0]


def test_names_stay_inside_the_output(tmp_path):
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/b").mkdir()
    for name in ("a/x.png", "b/x.png", "run.json.png", "n\tew.png", f"{'l' * 150}.png", "日本 é.png"):
        Image.fromarray(_picture(1)).save(tmp_path / "in" / name)
    names = [outcome.item.name for outcome in mapped(tmp_path / "in", tmp_path / "out").outcomes]
    assert sorted(names) == sorted(["a__x.png", "b__x.png", "case_run.json", "n_ew", "l" * 100, "日本 é"])


def test_external_data_stay_shut(tmp_path):
    shutil.copytree(_folder(tmp_path / "in", 2), tmp_path / ("busbra" + "_external"))
    with pytest.raises(CovtokenError, match="kept for one confirmation"):
        mapped(tmp_path / ("busbra" + "_external"), tmp_path / "out")


def test_a_dry_run_writes_nothing(tmp_path, monkeypatch, capsys):
    _folder(tmp_path / "in", 2)
    code, out, _ = _cli(
        monkeypatch,
        capsys,
        *("map", "-i", tmp_path / "in", "-o", tmp_path / "out", "--modality", "ultrasound", "--dry-run"),
    )
    assert code == 0 and "c0  would be mapped" in out and not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_closed_output_fails_in_one_line(tmp_path):
    _folder(tmp_path / "in", 1)
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(CovtokenError):
        mapped(tmp_path / "in", tmp_path / "out")
