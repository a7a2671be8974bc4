"""``covtoken certify``, ``prune``, ``route`` and ``bank`` on folders of one's own, with a tiny random backbone."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from covtoken.cli.app import app
from covtoken.data.masks import read_mask
from covtoken.data.readers import phantom
from covtoken.economy.certificate import load_certificate
from covtoken.errors import CovtokenError
from covtoken.maps.kept import timed

TINY = ("--backbone", "random:vit_tiny_patch16_224", "--size", "96")  # 6 × 6 tokens
N = 12


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "80"})


def fails(*arguments):
    """Run a command that must refuse; give what it says."""
    done = run(*arguments)
    assert isinstance(done.exception, CovtokenError), (done.exception, done.stdout, done.stderr)
    return str(done.exception)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Two folders of other patients with index.csv, ``bank`` and ``own``, and a direction fitted to the first."""
    root = tmp_path_factory.mktemp("kept")
    cohort = phantom.read(n=64)
    cases = [
        case for case in cohort.cases if case.modality == "ultrasound" and read_mask(cohort.masks[case.name]).any()
    ]
    for folder, some in (("bank", cases[:N]), ("own", cases[N : 2 * N])):
        (root / folder).mkdir()
        rows = ["image,mask,patient"]
        for case in some:
            Image.fromarray(np.clip(case.pixels(), 0, 255).astype(np.uint8)).save(root / folder / f"{case.name}.png")
            mask = read_mask(cohort.masks[case.name]).astype(np.uint8) * 255
            Image.fromarray(mask).save(root / folder / f"{case.name}_mask.png")
            rows.append(f"{case.name}.png,{case.name}_mask.png,{case.name}")
        (root / folder / "index.csv").write_text("\n".join(rows) + "\n")
    done = run("fit", root / "bank", "-o", root / "mine.safetensors", *TINY)
    assert done.exit_code == 0, done.exception
    return root


def certified(own, out, *more):
    done = run(
        "certify", own / "own", "--direction", own / "mine.safetensors", "--alpha", ".2", "-o", out, *TINY, *more
    )
    assert done.exit_code == 0, done.exception
    return done


def test_a_certificate_prunes_later_pictures_and_no_others(own, tmp_path):
    done = certified(own, tmp_path / "c.json")
    certificate = load_certificate(tmp_path / "c.json")
    assert (certificate.n, certificate.n_tokens, certificate.form) == (N, 36, "rank")
    assert done.stdout.startswith(f"{certificate.k} of 36 tokens kept; every lesion retained with probability ≥ 0.8")
    direction = ("--direction", own / "mine.safetensors")
    done = run("prune", own / "own", "-o", tmp_path / "out", *direction, "--certificate", tmp_path / "c.json", *TINY)
    assert done.exit_code == 0 and f"{N * certificate.k} of {N * 36} tokens stay" in done.stderr
    # The promise is kept on the calibration units themselves: at most ⌊(n+1)α⌋ − 1 of them lose a lesion.
    lost = 0
    with (own / "own" / "index.csv").open() as stream:
        for row in csv.DictReader(stream):
            stem = row["patient"]
            kept = np.load(tmp_path / "out" / f"{stem}.kept.npy")
            assert kept.shape == (6, 6) and kept.sum() == certificate.k
            assert (tmp_path / "out" / f"{stem}.kept.png").is_file()
            mask = np.asarray(Image.open(own / "own" / row["mask"])) > 0
            share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize((6, 6), Image.Resampling.BOX))
            lost += not (kept & (share > 0)).any()
    assert lost <= int((N + 1) * 0.2) - 1
    with (tmp_path / "out" / "tokens.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == N * certificate.k
    kept = np.load(tmp_path / "out" / f"{rows[0]['case']}.kept.npy")
    assert kept[int(rows[0]["row"]), int(rows[0]["col"])]
    assert int(rows[0]["token"]) == 6 * int(rows[0]["row"]) + int(rows[0]["col"])

    by = ("prune", own / "own", "-o", tmp_path / "x", "--certificate", tmp_path / "c.json", *TINY)
    said = fails(*by)
    assert "add --direction" in said and not (tmp_path / "x").exists()
    other = tmp_path / "other.safetensors"
    assert run("fit", own / "own", "-o", other, *TINY).exit_code == 0
    said = fails(
        "prune", own / "own", "-o", tmp_path / "x", "--direction", other, "--certificate", tmp_path / "c.json", *TINY
    )
    assert "this certificate does not fit (bank" in said
    assert "fed the direction" in fails("certify", own / "own", "--direction", other, "-o", tmp_path / "d.json", *TINY)
    assert not (tmp_path / "d.json").exists()


def test_prune_by_the_folder_itself_and_a_broken_case_costs_one_line(own, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(own / "own", folder, ignore=shutil.ignore_patterns("index.csv", "*_mask.png"))
    first = sorted(folder.glob("*.png"))[0]
    (folder / "torn.png").write_bytes(first.read_bytes()[:80])
    done = run("prune", folder, "-o", tmp_path / "out", "--keep", ".25", "--json", *TINY)
    assert done.exit_code == 1 and done.stderr.count("covtoken: torn: ") == 1
    cases = {case["name"]: case for case in json.loads(done.stdout)["cases"]}
    assert cases["torn"]["fault"] and cases[first.stem] == {
        "name": first.stem,
        "n_kept": 9,
        "n_tokens": 36,
        "fault": "",
    }
    assert len(list((tmp_path / "out").glob("*.kept.npy"))) == N


def test_route_counts_and_times_on_own_pictures(own):
    direction = ("--direction", own / "mine.safetensors")
    done = run("route", own / "own", "--keep", ".25", "--repeats", "1", "--json", *direction, *TINY)
    assert done.exit_code == 0, done.exception
    found = json.loads(done.stdout)
    plain, route = found["passes"]
    assert found["tokens"] == {"of": 36, "kept": 9.0} and found["block"] == 6 and not found["exit_maps"]
    assert found["speedup_flops"] == pytest.approx(plain["gflops"] / route["gflops"]) and found["speedup_flops"] > 1.2
    assert found["pictures"] == {"timed": N, "fitted": 0} and plain["ms"] > 0 and route["ms"] > 0
    assert 0 < found["similarity"]["kept"] <= 1
    whole = run("route", own / "own", "--keep", "1", "--repeats", "1", "--limit", "2", "--json", *direction, *TINY)
    found = json.loads(whole.stdout)  # nothing is dropped: the route is the plain pass
    assert found["similarity"]["dropped"] is None and found["similarity"]["kept"] == pytest.approx(1, abs=1e-5)
    assert found["pictures"]["timed"] == 2


def test_exit_maps_bring_the_routes_output_nearer_to_the_whole_pass(own, monkeypatch):
    by = ("route", own / "own", "--keep", ".25", "--repeats", "1", "--json", "--direction", own / "mine.safetensors")
    alike = []
    for fewest in (7, 6):
        monkeypatch.setattr(timed, "FEWEST_FITTED", fewest)
        found = json.loads(run(*by, *TINY).stdout)
        assert found["exit_maps"] == (fewest == 6)
        alike.append(found["similarity"]["dropped"])
    assert found["pictures"] == {"timed": 6, "fitted": 6} and alike[1] > alike[0] + 0.1


def test_bank_build_and_info(own, tmp_path, monkeypatch):
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "bank.safetensors"
    assert run("bank", "build", own / "bank", "-o", file, "--tokens", "100", *TINY).exit_code == 0
    about = json.loads(run("bank", "info", file, "--json").stdout)
    assert (about["kind"], about["tokens"], about["width"], about["units"], about["block"]) == ("bank", 100, 192, N, 9)
    about = json.loads(run("bank", "info", own / "mine.safetensors", "--json").stdout)
    assert (about["kind"], about["block"], about["units"]) == ("direction", 6, N)
    file.write_bytes(file.read_bytes()[:-1])
    assert "truncated or damaged" in fails("bank", "info", file)
    assert "no such bank" in fails("bank", "info", tmp_path / "nothing")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("prune", "own", "-o", "x"), "either --keep"),
        (("prune", "own", "-o", "x", "--keep", "1.5"), "keep ratio 1.5"),
        (("prune", "own", "-o", "x", "--keep", ".5", "--certificate", "c.json"), "either --keep"),
        (("prune", "own", "-o", "x", "--certificate", "c.json"), "c.json: no such certificate"),
        (("prune", "nowhere", "-o", "x", "--keep", ".5"), "nowhere does not exist"),
        (("prune", "own", "-o", "x", "--keep", ".5", "--direction", "mri"), "direction 'mri': expected"),
        (("route", "own", "--keep", "0"), "keep ratio 0.0"),
        (("certify", "own", "--direction", "mine.safetensors", "--alpha", ".05", "-o", "d.json"), "at least 19 units"),
        (("certify", "own", "--direction", "ultrasound", "-o", "d.json"), "does not fit"),
        (("certify", "own", "--direction", "mine.safetensors", "-o", "own"), "own is a folder"),
        (("certify", "own", "--direction", "mine.safetensors", "-o", "mine.safetensors"), "is there already"),
        (("bank", "build", "own", "-o", "own"), "own is a folder"),
    ],
)
def test_what_is_refused_and_how(arguments, said, own, monkeypatch):
    monkeypatch.chdir(own)
    assert said in fails(*arguments, *TINY)
    assert not (own / "x").exists() and not (own / "d.json").exists()
