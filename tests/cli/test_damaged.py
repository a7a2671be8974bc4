"""Damaged, cut and planted files: a command refuses them by name, or reads what they hold; it never falls over."""

from __future__ import annotations

import json
import os
import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from covtoken.bank.tensor_file import content_digest
from covtoken.bank.token_bank import TokenBank
from covtoken.cli.app import app
from covtoken.cli.commands.bank import about_file
from covtoken.cli.commands.reports import differences
from covtoken.economy.certificate import Certificate, MadeBy, load_certificate
from covtoken.errors import CovtokenError
from covtoken.protocol.report import GateReport, read_report, write_report
from covtoken.subspace.direction import Direction

FLIPS = 60


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "80"})


def bank(path):
    tokens, units, header = torch.arange(12.0).reshape(4, 3), np.arange(4), {"units": ["a"], "block": 6, "pooled": True}
    TokenBank(tokens, units, header | {"content_sha256": content_digest(tokens, units, header)}).save(path)


def direction(path):
    one = Direction(torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), {"units": [], "block": 6})
    one.replaced(one.weight).save(path)


def certificate(path):
    made_by = MadeBy("score", "vit", "ab", "squash", "fp32", 6, "cd")
    Certificate(0.1, 30, "rank", 256, 60, None, (), made_by, "ef").save(path)


def report(path):
    entry = {"value": 0.5, "ci95": [0.4, 0.6], "n_units": 9, "n_images": 9, "n_tokens": 9}
    made = {"data_fingerprint": "ab", "weights_sha256": "cd"}
    write_report(
        GateReport(1, "t", "q", "c", "test", "vit", {}, {"a": 0.1}, {"m": entry}, {"k": True}, "GO", {}, made), path
    )


SEALED = {bank: about_file, direction: about_file, certificate: lambda path: load_certificate(path).content}


@pytest.mark.parametrize("write", SEALED, ids=lambda write: write.__name__)
def test_a_sealed_file_with_any_bit_flipped_is_refused_or_says_the_same(write, tmp_path):
    path = tmp_path / "file"
    write(path)
    sound, said = path.read_bytes(), SEALED[write](path)
    rng, refused = np.random.default_rng(0), 0
    for place in rng.integers(0, 8 * len(sound), FLIPS):
        damaged = bytearray(sound)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            assert SEALED[write](path) == said, f"bit {place} changed the content unnoticed"
        except CovtokenError as error:
            assert str(path) in str(error)
            refused += 1
    for length in rng.integers(0, len(sound), 10):
        path.write_bytes(sound[:length])
        with pytest.raises(CovtokenError, match="file"):
            SEALED[write](path)
    assert refused >= FLIPS * 0.9


def test_a_report_is_read_or_refused_whatever_is_in_it(tmp_path):
    path, sound = tmp_path / "r.json", tmp_path / "sound.json"
    report(sound)
    content = json.loads(sound.read_text())
    planted = [content | {name: value} for name in content for value in (None, 3, [], {}, "x", {"m": {"value": "x"}})]
    texts = [json.dumps(each) for each in planted] + ["[" * 20000, "\ud800".encode("utf-8", "surrogatepass"), "", "{}"]
    rng = np.random.default_rng(1)
    for place in rng.integers(0, 8 * sound.stat().st_size, FLIPS):
        damaged = bytearray(sound.read_bytes())
        damaged[place // 8] ^= 1 << (place % 8)
        texts.append(bytes(damaged))
    outcomes = []
    for text in texts:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            json.dumps(differences(read_report(sound), read_report(path)))
            outcomes.append(True)
        except CovtokenError as error:
            assert str(path) in str(error)
            outcomes.append(False)
    assert any(outcomes) and not all(outcomes)
    assert isinstance(run("diff", sound, path).exception, CovtokenError) != outcomes[-1]
    with pytest.raises(CovtokenError, match="not readable"):
        path.write_text("[" * 20000)
        read_report(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("../out.png,m0.png", "leads out of the folder"),
        ("/etc/passwd,m0.png", "absolute path"),
        ("C:\\x.png,m0.png", "absolute path"),
        ("i0.png,../../m.png", "leads out of the folder"),
        ("i0.png,/etc/passwd", "absolute path"),
        ("loop/i0.png,m0.png", "cannot be opened|does not exist"),
        ("i0.png,i0.png", "one file"),
        ("\x00.png,m0.png", "control character"),
        ("nothing.png,m0.png", "does not exist"),
        (f"{'x' * 300}.png,m0.png", "cannot be opened"),
        (",m0.png", "no image"),
    ],
)
def test_check_names_a_line_that_leads_astray(line, said, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)
    for name in ("i0", "m0", "i1"):
        values = noise if name[0] == "i" else np.uint8(255) * (noise > 250)
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    os.symlink("loop", tmp_path / "loop")
    (tmp_path / "index.csv").write_text(f"image,mask,patient\n{line},p0\ni1.png,,p1\n")
    done = run("check", tmp_path, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1 and any(re.search(said, each["what"]) for each in found["findings"]), found["findings"]


def test_a_folder_in_a_loop_of_links_ends(tmp_path):
    (tmp_path / "a").mkdir()
    os.symlink(tmp_path, tmp_path / "a" / "up")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a" / "p.png")
    assert json.loads(run("check", tmp_path, "--json").stdout)["numbers"]["pictures or volumes"] == 1
    assert "no mask matches" in str(run("index", tmp_path, tmp_path).exception)


def test_a_picture_that_would_fill_the_memory_costs_a_line(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"0" * 999)))
    np.save(tmp_path / "fine.npy", np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8))
    claims = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2000000, 1000000), }"
    claims += b" " * (118 - len(claims) - 1) + b"\n"
    (tmp_path / "claims.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(claims)) + claims)
    done = run("check", tmp_path, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 1 and {each["file"] for each in found["problems"]} == {"bomb", "claims"}
