"""The bank: which tokens, whatever the order; and which files it refuses."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from stub_features import StubFeatures

from covtoken.bank import token_bank as bank_module
from covtoken.bank.pooling import pool3x3
from covtoken.bank.token_bank import build_bank, check_fits, choose_tokens, load_bank
from covtoken.errors import CovtokenError
from covtoken.leak_guard import LabelLeak, refuse_labels


def by_definition(features, block, size):
    """All hashes at once, sorted."""
    rows = []
    for i, digest in enumerate(features.digests):
        for t in range(features.rows * features.cols):
            data = digest.encode() + b"\0" + t.to_bytes(4, "little")
            rows.append(
                (int.from_bytes(hashlib.blake2b(data, digest_size=8, key=b"covtoken-v1").digest(), "little"), i, t)
            )
    return torch.stack([features.tokens(block)[i, t] for _, i, t in sorted(rows)[:size]])


def test_takes_the_tokens_with_the_smallest_keyed_hashes():
    features = StubFeatures.of()
    bank = build_bank(features, 2, size=50)
    assert torch.equal(bank.tokens, by_definition(features, 2, 50))
    owner = [(features.tokens(2) == z).all(2).nonzero()[0, 0] for z in bank.tokens]
    np.testing.assert_array_equal(bank.units, bank.unit_ids([features.units[i] for i in owner]))


def test_order_and_shards_do_not_matter():
    features = StubFeatures.of()
    bank = build_bank(features, 2, size=50)
    shuffled = features.subset(np.random.default_rng(0).permutation(len(features)))
    again = build_bank(shuffled, 2, size=50)
    assert torch.equal(bank.tokens, again.tokens) and bank.header == again.header
    np.testing.assert_array_equal(bank.units, again.units)
    kept = set()
    for half in (features.subset(range(7)), features.subset(range(7, len(features)))):
        picture, token = choose_tokens(half.digests, half.units, 20, 50)
        kept |= {(half.digests[p], t) for p, t in zip(picture, token)}
    picture, token = choose_tokens(features.digests, features.units, 20, 50)
    assert {(features.digests[p], t) for p, t in zip(picture, token)} <= kept


def test_a_small_cohort_gives_all_it_has_and_pooling_comes_first():
    features = StubFeatures.of(2, 1)
    bank = build_bank(features, 1, size=1000, pooled=True)
    assert len(bank) == 40
    pooled = pool3x3(features.tokens(1), 4, 5).reshape(40, -1)
    assert torch.equal(bank.tokens[bank.tokens[:, 0].argsort()], pooled[pooled[:, 0].argsort()])


def test_saved_and_loaded_is_the_same(tmp_path):
    bank = build_bank(StubFeatures.of(), 2, size=50, target=tmp_path / "a.safetensors")
    again = load_bank(tmp_path / "a.safetensors")
    assert torch.equal(bank.tokens, again.tokens) and bank.header == again.header
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert "u0" not in (tmp_path / "a.safetensors").read_bytes()[:4000].decode("latin1")  # units are hashed


def test_truncated_edited_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    build_bank(StubFeatures.of(), 2, size=50, target=path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CovtokenError, match="truncated"):
        load_bank(path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CovtokenError, match="edited"):
        load_bank(path)
    path.write_bytes(whole.replace(b'\\"block\\": 2', b'\\"block\\": 3'))
    with pytest.raises(CovtokenError, match="edited"):
        load_bank(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(CovtokenError, match="not a token bank"):
        load_bank(path)
    with pytest.raises(CovtokenError, match="no such bank"):
        load_bank(tmp_path / "b.safetensors")


def test_check_fits_names_what_differs():
    features = StubFeatures.of()
    bank = build_bank(features, 2, size=50)
    check_fits(bank, features, block=2, pooled=False)
    features.backbone = "other"
    with pytest.raises(
        CovtokenError, match=r"backbone: expected 'other', the bank has 'arrays'; block: expected 3.*has 2"
    ):
        check_fits(bank, features, block=3)


def test_an_interrupted_build_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(bank_module, "SAVE_EVERY", 4)
    features, target = StubFeatures.of(), tmp_path / "a.safetensors"
    read, honest = [], StubFeatures.chunks

    def counted(self, block, size=64):
        if len(read) == fail_at:
            raise KeyboardInterrupt
        read.append(self.names[0])
        yield from honest(self, block, size)

    monkeypatch.setattr(StubFeatures, "chunks", counted)
    fail_at = 3
    with pytest.raises(KeyboardInterrupt):
        build_bank(features, 2, size=50, target=target)
    assert not target.exists() and (tmp_path / "a.safetensors.partial").exists()
    fail_at = None
    bank = build_bank(features, 2, size=50, target=target)
    assert len(read) == 5 and len(set(read)) == 5  # 18 pictures, four at a time, none read twice
    assert torch.equal(bank.tokens, by_definition(features, 2, 50))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_partial_file_of_another_bank_is_not_used(tmp_path):
    features, target = StubFeatures.of(), tmp_path / "a.safetensors"
    other = build_bank(features, 3, size=50, target=tmp_path / "b.safetensors")
    bank_module.write_tensors(
        tmp_path / "a.safetensors.partial", {"tokens": other.tokens, "next": torch.tensor([9])}, {"block": 3}
    )
    assert torch.equal(build_bank(features, 2, size=50, target=target).tokens, by_definition(features, 2, 50))


def test_labels_cannot_be_read_while_a_bank_is_built(monkeypatch):
    features, honest = StubFeatures.of(), StubFeatures.chunks

    def peeking(self, block, size=64):
        refuse_labels("a mask")
        yield from honest(self, block, size)

    monkeypatch.setattr(StubFeatures, "chunks", peeking)
    with pytest.raises(LabelLeak, match="bank"):
        build_bank(features, 2, size=50)
    features.lesion = np.zeros(3, bool)
    with pytest.raises(LabelLeak):
        build_bank(features, 2, size=50)


def test_nan_tokens_are_refused(monkeypatch):
    monkeypatch.setattr(StubFeatures, "tokens", lambda self, block: torch.full((len(self), 20, 8), torch.nan))
    with pytest.raises(CovtokenError, match="block 2 gave NaN"):
        build_bank(StubFeatures.of(), 2, size=50)
