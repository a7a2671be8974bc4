"""The feature cache: same numbers fresh, cached, merged, resumed; damage repaired; labels kept out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from covtoken.backbone.cache import ABANDONED, FeatureSet, cache_key, checksum, digest_key, digests_of, features
from covtoken.backbone.weights import load_backbone
from covtoken.data.case import Case, Cohort, MaskRef, picture_digest
from covtoken.data.cohorts import data_fingerprint
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, register_mask_files
from covtoken.protocol.setting import Setting


class Drawn:
    """A seeded 8-bit picture [40 + i, 50] or HU slice that counts how often it was read."""

    def __init__(self, seed: int, low: float = 0, high: float = 255):
        self.seed, self.low, self.high, self.reads = seed, low, high, 0

    def __call__(self) -> np.ndarray:
        self.reads += 1
        picture = np.random.default_rng(self.seed).random((40 + self.seed, 50)) * (self.high - self.low) + self.low
        return np.floor(picture).astype(np.float32)


def cohort(n=5):
    return [Case(f"case{i}", f"unit{i // 2}", "ultrasound", Drawn(i)) for i in range(n)]


@pytest.fixture(scope="module")
def vit():
    return load_backbone("random:vit_tiny_patch16_224", 32)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COVTOKEN_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def runs(vit, monkeypatch):
    """Records (pictures, blocks, attention) of every pass through the backbone."""
    seen = []
    inner = type(vit).extract

    def spy(self, images, blocks, attention=(), saliency=False, precision="fp32"):
        seen.append((len(images), sorted(blocks, key=str), list(attention)))
        return inner(self, images, blocks, attention, saliency, precision)

    monkeypatch.setattr(type(vit), "extract", spy)
    return seen


def files(folder):
    return sorted((folder / "features").rglob("*.safetensors"))


def test_cached_equals_fresh_equals_uncached(vit, runs):
    cases = cohort()
    fresh = features(cases, vit, [2, "norm"], attention=[2], batch=2)
    assert [n for n, _, _ in runs] == [2, 2, 1]
    again = features(cases, vit, [2, "norm"], attention=[2], batch=2)
    assert len(runs) == 3, "the second run must not touch the backbone"
    held = features(cases, vit, [2, "norm"], attention=[2], batch=2, cache=False)
    assert len(runs) == 6
    for other in (again, held):
        assert torch.equal(fresh.tokens(2), other.tokens(2))
        assert torch.equal(fresh.tokens("norm"), other.tokens("norm"))
        assert torch.equal(fresh.attention(2), other.attention(2))
        assert torch.equal(fresh.intensity(), other.intensity())
        assert torch.equal(fresh.variance(), other.variance())
        assert other.digests == fresh.digests == [picture_digest(case.pixels()) for case in cases]


def test_tokens_are_those_of_the_backbone(vit):
    cases = cohort(3)
    found = features(cases, vit, [5])
    images = torch.stack([vit.prepare(case.pixels() / 255) for case in cases])
    torch.testing.assert_close(found.tokens(5), vit.extract(images, [5]).tokens[5], rtol=1e-4, atol=1e-5)
    assert found.tokens(5).dtype == torch.float32
    assert (found.rows, found.cols, len(found)) == (2, 2, 3)
    assert found.units == ["unit0", "unit0", "unit1"] and found.names == ["case0", "case1", "case2"]
    assert found.weights_sha256 == vit.weights_sha256 and found.preprocessing == vit.preprocessing


def test_intensity_and_variance_of_each_patch(vit):
    cases = cohort(2)
    found = features(cases, vit, [1])
    squashed = vit.squash(cases[1].pixels() / 255).numpy()
    corner = squashed[:16, 16:]  # row 0, column 1: token 1 of the row-major grid
    assert found.intensity()[1, 1].item() == pytest.approx(corner.mean(), abs=1e-5)
    assert found.variance()[1, 1].item() == pytest.approx(corner.var(), abs=1e-5)


def test_only_what_is_missing_is_extracted_and_merged(vit, runs, cache_folder):
    cases = cohort(2)
    before = features(cases, vit, [1]).tokens(1)
    features(cases, vit, [1, 3], attention=[2])
    assert runs == [(2, [1], []), (2, [3], [2])]
    (first, _) = files(cache_folder)
    assert set(load_file(first)) == {"block1", "block3", "attention2", "intensity", "variance"}
    assert torch.equal(features(cases, vit, [1]).tokens(1), before)


def test_an_interrupted_run_resumes(vit, runs, cache_folder):
    cases = cohort(5)

    def broken():
        raise CovtokenError("case3.png: cannot be read")

    with pytest.raises(CovtokenError, match=r"case3\.png"):
        features([*cases[:3], Case("bad", "u", "ultrasound", broken), *cases[3:]], vit, [1], batch=2)
    assert len(files(cache_folder)) == 2
    features(cases, vit, [1], batch=2)
    assert [n for n, _, _ in runs] == [2, 2, 1]
    assert not [path for path in (cache_folder / "features").rglob("*") if path.name.startswith(".")]


def damaged(data: bytes, damage: str) -> bytes:
    """A feature file after an accident: zeros are what a power cut leaves, a flipped bit changes one token a little."""
    start = 8 + int.from_bytes(data[:8], "little")
    middle = (start + len(data)) // 2
    return {
        "truncate": data[:-40],
        "empty": b"",
        "noise": b"\xff" * len(data),
        "zeros": data[:start] + bytes(len(data) - start),
        "zeros at the end": data[:middle] + bytes(len(data) - middle),
        "bit": data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :],
    }[damage]


DAMAGE = ["truncate", "empty", "noise", "zeros", "zeros at the end", "bit"]


@pytest.mark.parametrize("damage", [*DAMAGE, "shape", "no checksum"])
def test_a_damaged_file_is_made_again(vit, runs, cache_folder, damage):
    cases = cohort(3)
    good = features(cases, vit, [1]).tokens(1)
    victim = files(cache_folder)[0]
    if damage in DAMAGE:
        victim.write_bytes(damaged(victim.read_bytes(), damage))
    else:
        tensors = load_file(victim) | ({"block1": torch.zeros(3, 7)} if damage == "shape" else {})
        sums = {name: checksum(name, tensor) for name, tensor in tensors.items()}
        save_file(tensors, victim, metadata=sums if damage == "shape" else {})
    again = features(cases, vit, [1]).tokens(1)
    assert [n for n, _, _ in runs] == [3, 1]
    torch.testing.assert_close(again, good, rtol=1e-4, atol=1e-5)


def test_damage_is_not_carried_along_when_other_blocks_are_added(vit, runs, cache_folder):
    cases = cohort(1)
    good = features(cases, vit, [1]).tokens(1)
    (victim,) = files(cache_folder)
    victim.write_bytes(damaged(victim.read_bytes(), "bit"))
    features(cases, vit, [3])
    assert "block1" not in load_file(victim)
    torch.testing.assert_close(features(cases, vit, [1]).tokens(1), good, rtol=1e-4, atol=1e-5)
    assert [blocks for _, blocks, _ in runs] == [[1], [3], [1]]


def test_a_tensor_under_anothers_name_is_made_again(vit, runs, cache_folder):
    cases = cohort(1)
    features(cases, vit, [1, 3])
    (victim,) = files(cache_folder)
    tensors = load_file(victim)
    sums = {name: checksum(name, tensor) for name, tensor in tensors.items()}
    save_file(tensors | {"block1": tensors["block3"].clone()}, victim, metadata=sums | {"block1": sums["block3"]})
    features(cases, vit, [1, 3])
    assert [blocks for _, blocks, _ in runs] == [[1, 3], [1]]


def test_temporaries_of_killed_runs_go_when_their_picture_is_made_again(vit, cache_folder):
    cases = cohort(1)
    features(cases, vit, [1])
    (path,) = files(cache_folder)
    killed, running = (path.with_name(f".{path.name}.{name}") for name in ("killed", "running"))
    for left in (killed, running):
        left.write_bytes(b"half")
    os.utime(killed, (killed.stat().st_mtime - 2 * ABANDONED,) * 2)
    features(cases, vit, [1])
    assert killed.exists(), "nothing is written, so nothing is looked at"
    features(cases, vit, [2])
    assert not killed.exists() and running.exists(), "another run may be writing now"


def test_labels_cannot_hide_in_a_feature_file(vit, cache_folder):
    cases = cohort(1)
    features(cases, vit, [1])
    (path,) = files(cache_folder)
    save_file({**load_file(path), "lesion": torch.ones(4)}, path)
    with pytest.raises(CovtokenError, match="tensor 'lesion'"):
        features(cases, vit, [1])
    with pytest.raises(CovtokenError, match="blockmask"):
        FeatureSet.from_arrays({"mask": torch.zeros(1, 4, 3)}, 2, 2, ["u"])


def test_a_cached_file_that_is_registered_as_a_mask_is_not_read(vit, cache_folder):
    cases = [Case("alone", "unit0", "ultrasound", Drawn(97))]  # no other test's: a registered file stays registered
    features(cases, vit, [1])
    register_mask_files(files(cache_folder))
    with pytest.raises(LabelLeak, match="the mask file"):
        features(cases, vit, [1])


def test_the_key_covers_all_that_decides_a_feature(vit):
    other_size = load_backbone("random:vit_tiny_patch16_224", 48)
    other_weights = load_backbone("random:deit_tiny_patch16_224", 32)
    keys = {cache_key(vit, "fp32"), cache_key(vit, "bf16"), cache_key(other_size, "fp32")}
    keys.add(cache_key(other_weights, "fp32"))
    assert len(keys) == 4


def test_one_slice_under_two_windows_is_two_pictures(vit, cache_folder):
    slice_hu = Drawn(1, -200, 300)
    cases = [Case(organ, "p", "ct", slice_hu, organ=organ) for organ in ("liver", "lung")]
    found = features(cases, vit, [1])
    assert found.digests[0] == found.digests[1]
    assert len(files(cache_folder)) == 2
    assert not torch.allclose(found.tokens(1)[0], found.tokens(1)[1])


def test_subset_and_chunks_keep_the_order(vit):
    found = features(cohort(5), vit, [1])
    part = found.subset([4, 0, 2])
    assert part.names == ["case4", "case0", "case2"] and part.units == ["unit2", "unit0", "unit1"]
    assert torch.equal(part.tokens(1), found.tokens(1)[[4, 0, 2]])
    assert torch.equal(part.subset([1]).intensity(), found.intensity()[[0]])
    assert found.subset(np.array([True, False, False, True, False])).names == ["case0", "case3"]
    pieces = list(part.chunks(1, size=2))
    assert [(piece.start, piece.stop) for piece, _ in pieces] == [(0, 2), (2, 3)]
    assert torch.equal(torch.cat([tokens for _, tokens in pieces]), part.tokens(1))
    with pytest.raises(CovtokenError, match="index 5 is out of range"):
        found.subset([5])


def test_arrays_give_the_same_face():
    tokens, attention = torch.randn(3, 4, 8), torch.rand(3, 4)
    held = FeatureSet.from_arrays({6: tokens, "norm": tokens}, 2, 2, ["a", "a", "b"], attention={12: attention})
    assert held.blocks == [6, "norm"] and len(held) == 3
    assert torch.equal(held.subset([2]).attention(12), attention[[2]])
    with pytest.raises(CovtokenError, match="hold no 'saliency'"):
        held.saliency()
    with pytest.raises(CovtokenError, match=r"block6: expected \[2, 4, D\], got \[3, 4, 8\]"):
        FeatureSet.from_arrays({6: tokens}, 2, 2, ["a", "b"])


def test_requests_are_checked_before_a_picture_is_read(vit):
    cases = cohort(1)
    for request, message in [
        ({"blocks": [13]}, "block 13 is out of range"),
        ({"blocks": [1], "saliency": True}, "no saliency head"),
        ({"blocks": [1], "batch": 0}, "batch 0"),
    ]:
        with pytest.raises(CovtokenError, match=message):
            features(cases, vit, **request)
    assert cases[0].load.reads == 0
    with pytest.raises(CovtokenError, match="no cases"):
        features([], vit, [1])


def test_what_is_no_case_block_or_backbone_is_refused_by_what_it_is(vit):
    cases = cohort(1)
    whole = Cohort("mine", "ultrasound", tuple(cases), {})
    for arguments, message in [
        ((whole, vit, [1]), "got the cohort 'mine': give its .cases"),
        ((["a.png"], vit, [1]), "list of Cases, .*got str 'a.png'"),
        (("a.png", vit, [1]), "list of Cases, .*got str 'a'"),
        ((3, vit, [1]), "list of Cases, .*got int 3"),
        ((cases, "embedded", [1]), "a backbone as load_backbone or from_module give it, got 'embedded'"),
        ((cases, vit, 6), r"blocks=6: expected a list of blocks, such as \[6\]"),
        ((cases, vit, "6"), "blocks='6': expected a list"),
        ((cases, vit, "norm"), "blocks='norm': expected a list"),
        ((cases, vit, ["6"]), "blocks: '6' names no block"),
        ((cases, vit, [[6]]), r"blocks: \[6\] names no block"),
        ((cases, vit, [True]), "blocks: True names no block"),
        ((cases, vit, [1], 3), "attention=3: expected a list"),
    ]:
        with pytest.raises(CovtokenError, match=message):
            features(*arguments)
    for batch in ("8", 2.5):
        with pytest.raises(CovtokenError, match="batch"):
            features(cases, vit, [1], batch=batch)
    assert features(cases, vit, np.array([1, 3])).blocks == [1, 3] and cases[0].load.reads == 1
    with pytest.raises(CovtokenError, match="block1: expected an array of numbers, got 'tokens'"):
        FeatureSet.from_arrays({1: "tokens"}, 2, 2, ["u"])


def test_embedded_saliency_on_real_pictures(covtoken_data):
    """Middle blocks of a real picture are stored and the head's logits come along."""
    busi = pytest.importorskip("covtoken.data.cohorts").open_cohort("busi")
    backbone = load_backbone()
    found = features(busi.cases[:2], backbone, [9], attention=[12], saliency=True)
    assert found.tokens(9).shape == (2, 256, 384)
    assert found.saliency().shape == found.attention(12).shape == found.intensity().shape == (2, 256)
    assert found.saliency().std() > 0.1
    assert found.intensity().min() >= 0 and found.intensity().max() <= 1


def test_keys_of_stored_features_do_not_move(vit):
    """Recorded scores bind to features that lie in caches under these strings."""
    assert vit.preprocessing == "squash-bicubic;size=32;mean=0.5,0.5,0.5;std=0.5,0.5,0.5"
    embedded_like = replace(vit, weights_sha256="0" * 64)
    assert (
        cache_key(embedded_like, "fp32")
        == hashlib.sha256(('["' + "0" * 64 + '", 32, "' + vit.preprocessing + '", "fp32", "2"]').encode()).hexdigest()
    )


def test_a_warm_run_reads_no_picture_again_and_the_fingerprint_is_the_cohorts(vit):
    cases = tuple(cohort(3))
    opened = Cohort("drawn", "ultrasound", cases, {case.name: MaskRef("empty", key="8x8") for case in cases})
    features(cases, vit, [1])
    setting = Setting(opened, "all", vit, progress=False)
    before = [case.load.reads for case in cases]
    assert setting.fingerprint == data_fingerprint(opened)
    again = setting.features(cases, [1], attention=(), saliency=False)
    assert [case.load.reads - n for case, n in zip(cases, before)] == [2] * 3  # by the two fingerprints
    assert torch.equal(again.tokens(1), features(cases, vit, [1]).tokens(1))


def test_a_picture_that_changes_between_two_reads_is_refused_and_not_stored(vit, cache_folder):
    case = Case("alone", "unit0", "ultrasound", Drawn(5))
    seen = {digest_key(case, vit): digests_of(case, vit)}
    case.load.seed = 6
    with pytest.raises(CovtokenError, match="alone: the picture changed while this run went on"):
        features([case], vit, [1], seen=seen)
    assert not files(cache_folder)


def test_another_picture_under_a_name_is_another_picture(vit):
    """As a noisy copy has, or the same picture for a backbone that takes other values."""
    case = Case("alone", "unit0", "ultrasound", Drawn(7))
    other, seen = replace(case, load=Drawn(8)), {}
    first = features([case], vit, [1], seen=seen)
    assert features([other], vit, [1], seen=seen).digests != first.digests and len(seen) == 2
    assert not torch.equal(first.tokens(1), features([other], vit, [1], seen=seen).tokens(1))
