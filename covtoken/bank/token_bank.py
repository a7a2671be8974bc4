"""Build, save, load and check the bank: reference tokens of unlabelled pictures, with a header and a digest of both.

A token enters by the keyed hash of its picture's digest and its index (book/method.md): the ``size`` smallest win. The
choice needs no features, does not depend on the order of pictures or on sharding, and never looks at a label.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from covtoken.bank.features import Block, Features
from covtoken.bank.pooling import pool3x3
from covtoken.bank.tensor_file import content_digest, read_tensors, write_tensors
from covtoken.errors import CovtokenError
from covtoken.keys import hash_unit
from covtoken.leak_guard import construction, refuse_label_arrays, refuse_label_choice

KEY = "covtoken-v1"  # never changed: another key is another bank
REFERENCE_SIZE = 12_000  # tokens
CHUNK = 64  # pictures held at a time
SAVE_EVERY = 512  # pictures between two saves of an interrupted build


@dataclass(frozen=True)
class TokenBank:
    """Reference tokens, their units, and a header: ``origin``, block, pooled, size, key, content_sha256."""

    tokens: torch.Tensor  # [n, D] float32, in the order of their hashes
    units: np.ndarray  # [n] int64, positions in ``header["units"]``
    header: dict = field(repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    def unit_ids(self, units: Sequence[str]) -> np.ndarray:
        """Translate unit names to this bank's numbers, as ``nearest`` takes them; −1 for units that fed it nothing."""
        known = {name: i for i, name in enumerate(self.header["units"])}
        return np.array([known.get(hash_unit(unit), -1) for unit in units], dtype=np.int64)

    def derive(self, tokens: torch.Tensor, units: np.ndarray, **more: Any) -> TokenBank:
        """Make a bank of other tokens [m, D] and units [m] whose header is this bank's with ``more``."""
        header = {k: v for k, v in self.header.items() if k != "content_sha256"} | more
        return TokenBank(tokens, units, header | {"content_sha256": content_digest(tokens, units, header)})

    def save(self, path: Path) -> None:
        """Write the bank to one safetensors file, or nothing."""
        write_tensors(Path(path), {"tokens": self.tokens, "units": torch.as_tensor(self.units)}, self.header)


def build_bank(
    features: Features,
    block: Block,
    size: int = REFERENCE_SIZE,
    pooled: bool = False,
    key: str = KEY,
    target: str | Path | None = None,
    progress: bool = False,
) -> TokenBank:
    """Build the bank of one block, streamed: memory holds the bank and one chunk of pictures.

    >>> from covtoken import FeatureSet
    >>> features = FeatureSet.from_arrays({9: torch.randn(12, 16, 8)}, 4, 4, units="abcdefghijkl")
    >>> len(build_bank(features, block=9, size=50))
    50

    Args:
        features: the bank's pictures.
        block: 1 … L or ``"norm"``.
        size: tokens wanted; fewer pictures give all they have.
        pooled: take tokens after ``pool3x3``.
        key: of the hash.
        target: also save there; an interrupted build goes on from ``<target>.partial``. One build a target.

    Raises:
        LabelLeak: something like a label was handed in.
        CovtokenError: no pictures, NaN tokens, size below 1.
    """
    refuse_label_arrays("a bank", features)
    need_features("a bank", features)
    refuse_label_choice("a bank", features)
    if len(features) == 0 or size < 1:
        raise CovtokenError(f"a bank needs pictures and a size of at least 1, got {len(features)} and {size}")
    with construction("a token bank"):
        header = origin(features) | {"block": block, "pooled": bool(pooled), "size": int(size), "key": key}
        number = {name: i for i, name in enumerate(header["units"])}
        picture, token = choose_tokens(features.digests, features.units, features.rows * features.cols, size, key)
        units = np.array([number[hash_unit(features.units[p])] for p in picture], dtype=np.int64)
        target = None if target is None else Path(target)
        partial = None if target is None else target.with_name(target.name + ".partial")
        state = header | _order(features, len(picture))
        tokens, start = _resume(partial, state)
        starts = range(start, len(features), SAVE_EVERY)
        for first in track(starts, description=f"bank, block {block}", disable=not progress):
            last = min(first + SAVE_EVERY, len(features))
            for part, chunk in features.subset(range(first, last)).chunks(block, size=CHUNK):
                refuse_label_arrays("a bank", chunk)
                offset = first + part.start
                rows = np.flatnonzero((picture >= offset) & (picture < offset + len(chunk)))
                z = pool3x3(chunk, features.rows, features.cols) if pooled else chunk
                if tokens is None:
                    tokens = torch.zeros((len(picture), z.shape[-1]))
                tokens[rows] = z[picture[rows] - offset, token[rows]].to(torch.float32)
            if partial is not None and last < len(features):
                sealed = state | {"content_sha256": content_digest(tokens, np.array([last]), state)}
                write_tensors(partial, {"tokens": tokens, "next": torch.tensor([last])}, sealed)
        if not torch.isfinite(tokens).all():
            raise CovtokenError(f"block {block} gave NaN or infinite tokens: check the weights and the pictures")
        bank = TokenBank(tokens, units, header | {"content_sha256": content_digest(tokens, units, header)})
    if target is not None:
        bank.save(target)
        partial.unlink(missing_ok=True)
        for left in target.parent.glob(f".{glob.escape(target.name)}.*"):  # of builds that were killed while they saved
            left.unlink(missing_ok=True)
    return bank


def load_bank(path: Path) -> TokenBank:
    """Read a bank. Raises CovtokenError, with the path, if missing, damaged, edited or no bank."""
    path = Path(path)
    tensors, header = read_tensors(path)
    if tensors.keys() != {"tokens", "units"} or "content_sha256" not in header:
        raise CovtokenError(
            f"{path}: not a finished token bank: expected the tensors tokens and units and a sealed header, came "
            f"{', '.join(sorted(tensors)) or 'none'}; build it again"
        )
    tokens, units = tensors["tokens"], tensors["units"].numpy()
    if tokens.dtype != torch.float32 or tokens.ndim != 2 or units.dtype != np.int64 or units.shape != tokens.shape[:1]:
        raise CovtokenError(
            f"{path}: edited or damaged: expected tokens [n, D] float32 and units [n] int64, came tokens "
            f"{list(tokens.shape)} {tokens.dtype} and units {list(units.shape)} {units.dtype}; build it again"
        )
    expected = header["content_sha256"]
    digest = content_digest(tokens, units, {k: v for k, v in header.items() if k != "content_sha256"})
    if digest != expected:
        raise CovtokenError(
            f"{path}: edited or damaged: content is {digest[:12]}, its header says {expected[:12]}; build it again"
        )
    return TokenBank(tokens, units, header)


def origin(features: Features) -> dict:
    """Name what features came from, as header fields of a bank and of all that is fitted on it."""
    return {
        "backbone": str(features.backbone),
        "weights_sha256": str(features.weights_sha256),
        "preprocessing": str(features.preprocessing),
        "precision": str(features.precision),
        "cohort_fingerprint": fingerprint(features.digests),
        "units": sorted({hash_unit(unit) for unit in features.units}),
        "package_version": _version(),
    }


def check_fits(bank, source, block: Block = None, pooled: bool | None = None, pictures=None) -> None:
    """Refuse a bank of another backbone, weights, preprocessing, precision, block, pooling or cohort, naming which.

    Args:
        bank: a TokenBank, or a Direction, which names its origin likewise.
        source: a FeatureSet, or a FrozenViT, which has no precision.
        block: to be scored (None: not compared).
        pooled: whether pooled tokens are to be scored (None: not compared).
        pictures: the FeatureSet of the pictures that must have fed it, or None.
    """
    name = source.backbone if hasattr(source, "backbone") else source.name
    wanted = {"backbone": name, "weights_sha256": source.weights_sha256, "preprocessing": source.preprocessing}
    wanted |= {"precision": source.precision} if hasattr(source, "precision") else {}
    wanted |= {k: v for k, v in (("block", block), ("pooled", pooled)) if v is not None}
    wanted |= {} if pictures is None else {"cohort_fingerprint": fingerprint(pictures.digests)}
    has = {k: bank.header.get(k, "nothing") for k in wanted}
    kind = bank.header.get("kind", "bank")
    wrong = [f"{k}: expected {v!r}, the {kind} has {has[k]!r}" for k, v in wanted.items() if has[k] != v]
    if wrong:
        raise CovtokenError(f"this {kind} does not fit ({'; '.join(wrong)}): build a {kind} for these features")


def check_alike(bank_features: Features, features: Features, block: Block = None, other_size: bool = False) -> None:
    """Refuse pictures whose features were not made as those of the bank's pictures, naming what differs.

    Args:
        bank_features: the bank's pictures.
        features: the pictures to be scored.
        block: whose tokens must be equally wide (None: not compared); one picture of each is read for it.
        other_size: let pictures of another size pass, with another preprocessing and grid.

    Raises:
        CovtokenError: they differ in backbone, weights, preprocessing, precision, grid or width, or are no features.
    """
    both = bank_features, features
    for pictures in both:
        need_features("a score", pictures)
    made = [{k: str(getattr(f, k)) for k in ("backbone", "weights_sha256", "precision")} for f in both]
    if not other_size:
        for fields, f in zip(made, both):
            fields |= {"preprocessing": str(f.preprocessing), "grid": f"{f.rows} × {f.cols} tokens"}
    if made[0] == made[1] and block is not None and len(bank_features) and len(features):
        for fields, f in zip(made, both):
            fields["width"] = f"{f.subset([0]).tokens(block).shape[-1]} values a token of block {block}"
    wrong = [f"{k}: the bank's have {v!r}, these {made[1][k]!r}" for k, v in made[0].items() if made[1][k] != v]
    if wrong:
        raise CovtokenError(f"these pictures do not fit the bank's ({'; '.join(wrong)}): extract both alike")


def need_bank(what: str, bank) -> None:
    """Refuse anything but a TokenBank."""
    if not isinstance(bank, TokenBank):
        raise CovtokenError(f"{what} takes a TokenBank (build_bank, load_bank), got {type(bank).__name__}")


def need_features(what: str, features: Features) -> None:
    """Refuse anything but features, such as a FeatureSet."""
    missing = [k for k in ("digests", "units", "rows", "cols", "precision", "subset") if not hasattr(features, k)]
    if missing:
        raise CovtokenError(
            f"{what} takes a FeatureSet (covtoken.features, or FeatureSet.from_arrays for arrays), got "
            f"{type(features).__name__}"
        )


def choose_tokens(
    digests: Sequence[str], units: Sequence[str], n_tokens: int, size: int, key: str = KEY
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the ``size`` tokens of smallest keyed hash: their pictures and token indices, int64, in hash order.

    Mergeable: choosing from the union of two shards' choices gives the choice from all tokens.
    """
    ranks = np.array([f"{d}\0{u}" for d, u in zip(digests, units, strict=True)])
    by_name = np.argsort(np.argsort(ranks, kind="stable"), kind="stable")  # ties between equal pictures, order-free
    best = np.zeros((3, 0), dtype=np.uint64)  # hash, picture's rank, token
    position = np.argsort(ranks, kind="stable")
    for i, digest in enumerate(digests):
        hashes = _token_hashes(digest, n_tokens, key)
        rows = np.stack([hashes, np.full(n_tokens, by_name[i], np.uint64), np.arange(n_tokens, dtype=np.uint64)])
        best = np.concatenate([best, rows], axis=1)
        if best.shape[1] > 4 * size + n_tokens or i == len(digests) - 1:
            best = best[:, np.lexsort(best[::-1])[:size]]
    return position[best[1].astype(np.int64)], best[2].astype(np.int64)


def fingerprint(digests: Sequence[str]) -> str:
    """Name a set of pictures, whatever their order, by the sha256 over their sorted digests."""
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def _token_hashes(digest: str, n_tokens: int, key: str) -> np.ndarray:
    state = hashlib.blake2b(digest.encode() + b"\0", digest_size=8, key=key.encode())
    values = bytearray()
    for token in range(n_tokens):
        hashed = state.copy()
        hashed.update(token.to_bytes(4, "little"))
        values += hashed.digest()
    return np.frombuffer(bytes(values), dtype="<u8")


def _resume(partial: Path | None, state: dict) -> tuple[torch.Tensor | None, int]:
    """Load tokens and next picture of an interrupted build of the very same bank; anything else starts anew."""
    if partial is None or not partial.is_file():
        return None, 0
    try:
        tensors, header = read_tensors(partial)
    except CovtokenError:
        return None, 0
    digest = header.pop("content_sha256", None)
    if header != state or tensors.keys() != {"tokens", "next"}:
        return None, 0
    tokens, reached = tensors["tokens"], tensors["next"].numpy()
    fits = tokens.dtype == torch.float32 and tokens.ndim == 2 and len(tokens) == state["chosen"] and len(reached) == 1
    if not fits or content_digest(tokens, reached, state) != digest:
        return None, 0
    return tokens, int(reached[0])


def _order(features: Features, chosen: int) -> dict:
    """Name what an interrupted build must find again besides the header: pictures in order, tokens chosen."""
    listing = json.dumps([list(features.digests), list(features.units), features.rows, features.cols])
    return {"order_sha256": hashlib.sha256(listing.encode()).hexdigest(), "chosen": chosen}


def _version() -> str:
    try:
        return version("covtoken")
    except PackageNotFoundError:
        return "unknown"
