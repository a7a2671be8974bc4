"""Banks under fault: builds killed anywhere resume to the very same bank; damaged and foreign banks are refused.

Run as a script, this file is the build that gets killed: it forks one process a life, and each ends itself by SIGKILL
after a seeded number of steps, so that no clock decides where. A step is a line of the build or of its saving, so that
kills land between pictures, before, within and after a save; saving itself has three steps more, half a file each.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stub_features import StubFeatures

from covtoken.bank import tensor_file as bank_file
from covtoken.bank import token_bank as bank_module
from covtoken.bank.token_bank import build_bank, check_fits, load_bank
from covtoken.errors import CovtokenError

KILLS = 20
STEPPED = {"build_bank", "_resume", "write_tensors", "read_tensors", "write_then_rename", "save"}


def build(target: Path):
    """18 pictures, three between two saves."""
    bank_module.SAVE_EVERY, bank_module.CHUNK = 3, 2
    return build_bank(StubFeatures.of(), 2, size=50, pooled=True, target=target)


def identity(path: Path) -> list[str]:
    """What must not differ: content digest, bytes of tokens, bytes of the file."""
    bank = load_bank(path)
    parts = (bank.tokens.numpy().tobytes(), bank.units.tobytes(), path.read_bytes())
    return [bank.header["content_sha256"], *(hashlib.sha256(part).hexdigest() for part in parts)]


def a_life(target: Path, steps: int, only: str = "") -> tuple[bool, str]:
    """Build in a forked process that kills itself after some steps (of one place); (whether it was killed, where)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _die_after(steps, writer, only)
        build(target)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        where = stream.read()
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the build failed of itself"
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, where


def _die_after(steps: int, writer: int, only: str) -> None:
    left = steps

    def step(where: str) -> None:
        nonlocal left
        left -= not only or where == only
        if left == 0:
            os.write(writer, where.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def trace(frame, event, argument):
        if frame.f_code.co_name not in STEPPED:
            return None
        if event == "line":
            step(frame.f_code.co_name)
        return trace

    def half_a_file(tensors, path, metadata):
        save_file(tensors, path, metadata)
        whole = Path(path).read_bytes()
        for share in (0, 0.3, 0.9):
            Path(path).write_bytes(whole[: int(share * len(whole))])
            step("half a file")
        Path(path).write_bytes(whole)

    bank_file.save_file = half_a_file
    sys.settrace(trace)


def main(folder: Path) -> None:
    """Twenty kills over as many builds as they take; prints where they fell and what each finished bank was."""
    torch.set_num_threads(1)
    random, target = np.random.default_rng(0), folder / "bank.safetensors"
    killed, resumed, finished = [], 0, []
    while len(killed) < KILLS or not target.exists():
        resumed += target.with_name("bank.safetensors.partial").exists()
        only = "half a file" if len(killed) % 5 == 4 else ""  # few steps of many: left to chance they may be missed
        steps = int(random.integers(1, 6 if only else 160)) if len(killed) < KILLS else 10**9
        was_killed, where = a_life(target, steps, only)
        if was_killed:
            killed.append(where)
        else:
            finished.append(identity(target))
            left = sorted(path.name for path in folder.iterdir())
            assert left == ["bank.safetensors"], left
            if len(killed) < KILLS:
                target.unlink()
    print(json.dumps({"killed": killed, "resumed": resumed, "finished": finished}))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills need fork")
@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path):
    once = tmp_path / "once"
    once.mkdir()
    torch.set_num_threads(1)
    script = [sys.executable, __file__]
    how = {"capture_output": True, "text": True}
    how["env"] = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # the stubs lie in tests/
    honest = subprocess.run([*script, "whole", str(once / "bank.safetensors")], **how)
    assert honest.returncode == 0, honest.stderr
    many = tmp_path / "many"
    many.mkdir()
    run = subprocess.run([*script, "killed", str(many)], **how)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert len(report["killed"]) == KILLS
    assert {"build_bank", "write_then_rename", "half a file"} <= set(report["killed"]), report["killed"]
    assert report["resumed"] >= 5, "kills must leave something to resume from"
    assert report["finished"] and all(found == identity(once / "bank.safetensors") for found in report["finished"])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("bank") / "a.safetensors"
    build_bank(StubFeatures.of(), 2, size=50, target=path)
    return path.read_bytes()


@pytest.fixture
def bank(saved, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(saved)
    return path


def header_end(raw: bytes) -> int:
    return 8 + int.from_bytes(raw[:8], "little")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_bank_is_refused(bank, share):
    whole = bank.read_bytes()
    kept = int(share * len(whole))
    bank.write_bytes(whole[:kept])
    with pytest.raises(CovtokenError, match=rf"a\.safetensors: .*(came {kept}\b|damaged)"):
        load_bank(bank)


def test_a_lengthened_bank_is_refused(bank):
    whole = bank.read_bytes()
    bank.write_bytes(whole + b"\0")
    with pytest.raises(CovtokenError, match=f"expected {len(whole)} bytes, came {len(whole) + 1}"):
        load_bank(bank)


def test_any_flipped_byte_is_refused(bank):
    whole = bank.read_bytes()
    places = np.random.default_rng(0).integers(0, len(whole), 120)
    for place in [*range(8), *places.tolist(), header_end(whole), len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[place] ^= 1
        bank.write_bytes(flipped)
        with pytest.raises(CovtokenError, match=r"a\.safetensors"):
            load_bank(bank)


@pytest.mark.parametrize(
    ("field", "value"),
    [("block", 3), ("pooled", True), ("backbone", "other"), ("preprocessing", "x"), ("cohort_fingerprint", "0" * 64)],
)
def test_an_edited_header_is_refused(bank, field, value):
    honest = load_bank(bank)
    bank_file.write_tensors(
        bank, {"tokens": honest.tokens, "units": torch.as_tensor(honest.units)}, honest.header | {field: value}
    )
    with pytest.raises(CovtokenError, match=r"edited or damaged: content is .*, its header says"):
        load_bank(bank)


def test_tensors_of_another_shape_or_type_are_refused(bank):
    honest, units = load_bank(bank), torch.as_tensor(load_bank(bank).units)
    for tokens in (honest.tokens.reshape(25, 16), honest.tokens.view(torch.int32), honest.tokens.reshape(50, 2, 4)):
        bank_file.write_tensors(bank, {"tokens": tokens, "units": units}, honest.header)
        with pytest.raises(CovtokenError, match=r"expected tokens \[n, D\] float32"):
            load_bank(bank)
    bank_file.write_tensors(bank, {"tokens": honest.tokens, "units": units, "lesion": units.clone()}, honest.header)
    with pytest.raises(CovtokenError, match=r"expected the tensors tokens and units .*, came lesion, tokens, units"):
        load_bank(bank)


@pytest.mark.parametrize("field", ["backbone", "weights_sha256", "preprocessing", "precision"])
def test_a_bank_of_a_foreign_backbone_is_refused(bank, field):
    features = StubFeatures.of()
    setattr(features, field, "foreign")
    found = load_bank(bank)
    with pytest.raises(CovtokenError, match=f"{field}: expected 'foreign', the bank has '{found.header[field]}'"):
        check_fits(found, features)


def test_a_bank_of_a_foreign_block_pooling_or_cohort_is_refused(bank):
    found, features = load_bank(bank), StubFeatures.of()
    check_fits(found, features, block=2, pooled=False, pictures=features)
    with pytest.raises(CovtokenError, match="block: expected 3, the bank has 2"):
        check_fits(found, features, block=3)
    with pytest.raises(CovtokenError, match="pooled: expected True, the bank has False"):
        check_fits(found, features, pooled=True)
    with pytest.raises(CovtokenError, match=r"cohort_fingerprint: expected '[0-9a-f]{64}', the bank has"):
        check_fits(found, features, pictures=features.subset(range(5)))


def test_a_partial_bank_that_was_damaged_reordered_or_is_foreign_starts_anew(tmp_path, monkeypatch):
    """A flipped byte or another order of the same pictures would resume into a wrong bank: the seal covers both."""
    monkeypatch.setattr(bank_module, "SAVE_EVERY", 4)
    features, target = StubFeatures.of(), tmp_path / "a.safetensors"
    whole, partial = build_bank(features, 2, size=50), tmp_path / "a.safetensors.partial"

    def interrupted():
        honest, seen = StubFeatures.chunks, []

        def failing(self, block, size=64):
            seen.append(1)
            if len(seen) == 4:
                raise KeyboardInterrupt
            yield from honest(self, block, size)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(StubFeatures, "chunks", failing)
            build_bank(features, 2, size=50, target=target)
        assert {name: len(value) for name, value in load_file(partial).items()} == {"tokens": 50, "next": 1}

    raw_damage = [lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), lambda raw: raw[:-40], lambda raw: b""]
    middle = [lambda raw: raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :]]
    for damage in [*raw_damage, *middle]:
        interrupted()
        partial.write_bytes(damage(partial.read_bytes()))
        assert torch.equal(build_bank(features, 2, size=50, target=target).tokens, whole.tokens)
        target.unlink()
    interrupted()
    reordered = features.subset(range(len(features))[::-1])
    assert build_bank(reordered, 2, size=50, target=target).header == whole.header


if __name__ == "__main__":
    if sys.argv[1] == "whole":
        torch.set_num_threads(1)
        build(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[2]))


@pytest.mark.parametrize("where", ["header", "metadata"])
def test_a_deeply_nested_header_is_damage(tmp_path, where):
    path, nested = tmp_path / "a.safetensors", "[" * 100_000
    if where == "header":
        path.write_bytes(len(nested).to_bytes(8, "little") + nested.encode())
    else:
        save_file({"tokens": torch.zeros(1, 2)}, path, metadata={"covtoken_bank": nested})
    with pytest.raises(CovtokenError, match="damaged: expected a safetensors file"):
        load_bank(path)


def test_a_path_that_cannot_be_asked_for_is_refused_by_name(tmp_path):
    with pytest.raises(CovtokenError, match=r"x: cannot be read .File name too long"):
        load_bank(tmp_path / ("x" * 300))
