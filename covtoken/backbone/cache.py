"""Extract features of cases once, into one safetensors file a picture, keyed by everything that decides its content.

A file lies at ``<cache>/features/<key>/<aa>/<digest>.safetensors``. The key covers weights, size, preprocessing and
precision; the digest is of the picture as the backbone takes it, so that one slice under two HU windows is two files.
Missing tensors are extracted and merged by rename: an interrupted run resumes. ``features`` compares each tensor's
checksum in the metadata and makes damaged ones again; it is no seal against forgery. About 0.4 MB a picture and block
for ViT-S/14 at 224 px.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from covtoken.backbone.feature_set import Disk, FeatureSet, Memory, check_allowed, tensor_name
from covtoken.backbone.token_model import TokenModel
from covtoken.backbone.vit import Block
from covtoken.data.case import Case, Cohort, picture_digest
from covtoken.data.intensity import check_input, to_input
from covtoken.errors import CovtokenError
from covtoken.leak_guard import construction, refuse_mask_file
from covtoken.paths import cache_root, write_then_rename

__all__ = ["FeatureSet", "cache_key", "features"]

CACHE_VERSION = "2"  # raise when the meaning of a stored tensor changes
ABANDONED = 3600  # seconds after which a temporary file is taken for one of a killed run
Digests = dict[tuple, tuple[str, str]]
"""``digest_key`` → digests of a picture, and of what a backbone is given of it."""


def features(
    cases: Sequence[Case],
    backbone: TokenModel,
    blocks: Sequence[Block],
    attention: Sequence[int] = (),
    saliency: bool = False,
    precision: str = "fp32",
    batch: int = 8,
    progress: bool = True,
    cache: bool = True,
    seen: Digests | None = None,
) -> FeatureSet:
    """Extract features of ``cases``, or take them from the cache; patch intensity and variance always.

    >>> from covtoken import load_backbone, open_cohort
    >>> vit = load_backbone("random:vit_tiny_patch16_224", 96)
    >>> found = features(open_cohort("phantom", n=40).cases[:2], vit, blocks=[6], cache=False)
    >>> found.tokens(6).shape
    torch.Size([2, 36, 192])

    Args:
        cases: read one after the other; only a batch of pictures is in memory.
        blocks, attention, saliency, precision: as in ``FrozenViT.extract``.
        batch: pictures a pass. It moves results by float32 rounding at most.
        progress: show a bar on stderr where that is a terminal.
        cache: False: write nothing, hold everything in memory.
        seen: digests of pictures read already for this backbone; filled here. Its cached pictures are not read again.

    Raises:
        LabelLeak: a picture is a registered mask file.
        CovtokenError: no cases, a picture that cannot be read, 8-bit pictures for a backbone that takes HU, a request
            the backbone cannot serve, a picture that changed since it was read first, a full disk.
    """
    cases, blocks, attention = _cases(cases), _listed("blocks", blocks), _listed("attention", attention)
    if not isinstance(backbone, TokenModel):
        raise CovtokenError(f"features takes a backbone as load_backbone or from_module give it, got {backbone!r:.60}")
    if not isinstance(batch, Integral) or batch < 1:
        raise CovtokenError(f"batch {batch!r}: expected at least 1 picture a pass")
    wanted = {tensor_name("block", b): b for b in blocks} | {tensor_name("attention", b): b for b in attention}
    wanted |= {name: None for name in (["saliency"] if saliency else []) + ["intensity", "variance"]}
    extractor = _Extractor(backbone, list(wanted), precision)
    extractor.check()
    for case in cases:
        check_input(case, backbone.input)
    folder = cache_root() / "features" / cache_key(backbone, precision) if cache else None
    digests, paths, held = [], [], []
    pending: list[tuple[int, Tensor, set[str]]] = []  # (position, squashed picture, missing tensors)

    def flush() -> None:
        missing = set().union(*(names for _, _, names in pending))
        results = extractor.run([picture for _, picture, _ in pending], missing)
        for (i, _, _), tensors in zip(pending, results):
            if folder is None:
                held.append(tensors)
            else:
                _merge(paths[i], tensors, extractor)
        pending.clear()

    with construction("features"), _bar(len(cases), progress) as advance:
        for i, case in enumerate(cases):
            given, missing = None, set(wanted)
            known = None if seen is None or folder is None else seen.get(digest_key(case, backbone))
            if known is None:
                given, known = _read(case, backbone)
            if seen is not None:
                seen[digest_key(case, backbone)] = known
            digest, stem = known
            digests.append(digest)
            if folder is not None:
                paths.append(folder / stem[:2] / f"{stem}.safetensors")
                missing -= extractor.sound(paths[i], missing).keys()
            if missing:
                if given is None:
                    given, again = _read(case, backbone)
                    if again != known:
                        raise CovtokenError(
                            f"{case.source or case.name}: the picture changed while this run went on; start it anew"
                        )
                pending.append((i, backbone.squash(given), missing))
            if len(pending) == batch:
                flush()
            advance()
        if pending:
            flush()
    read = Disk(paths) if cache else Memory({name: torch.stack([tensors[name] for tensors in held]) for name in wanted})
    return FeatureSet(
        *([case.name for case in cases], [case.unit for case in cases], digests, backbone.rows, backbone.cols),
        *(backbone.weights_sha256, backbone.name, backbone.preprocessing, precision, frozenset(wanted), read),
    )


def digest_key(case: Case, backbone: TokenModel) -> tuple:
    """Key a picture in ``Digests``: another loader under the same name, or another kind of input, is another one."""
    return case, case.load, backbone.input


def digests_of(case: Case, backbone: TokenModel) -> tuple[str, str]:
    """Read a picture for its entry in ``Digests``."""
    return _read(case, backbone)[1]


def _read(case: Case, backbone: TokenModel) -> tuple[np.ndarray, tuple[str, str]]:
    """Read a case as the backbone takes it, [H, W], with the case's digests."""
    pixels = case.pixels()
    given = to_input(pixels, case, backbone.input)
    return given, (picture_digest(pixels), picture_digest(given))


def cache_key(backbone: TokenModel, precision: str) -> str:
    """Hash all that decides a feature beside the picture: weights, size, preprocessing, precision, version."""
    parts = [backbone.weights_sha256, backbone.picture_size, backbone.preprocessing, precision, CACHE_VERSION]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _cases(cases) -> list[Case]:
    """List the cases, or refuse anything else."""
    if isinstance(cases, Cohort):
        raise CovtokenError(f"features takes cases, got the cohort {cases.name!r}: give its .cases, or some of them")
    try:
        cases = list(cases)
    except TypeError:
        cases = [cases]
    for case in cases:
        if not isinstance(case, Case):
            raise CovtokenError(
                f"features takes a list of Cases, as open_cohort(folder).cases, got {type(case).__name__} {case!r:.60}"
            )
    if not cases:
        raise CovtokenError("no cases to extract features from: the cohort or split is empty")
    return cases


def _listed(name: str, blocks) -> list[Block]:
    """List blocks, each once, or refuse them and show how to write them."""
    if isinstance(blocks, str) or not isinstance(blocks, Iterable):
        raise CovtokenError(f"{name}={blocks!r}: expected a list of blocks, such as [6] or [6, 'norm']")
    blocks = list(blocks)
    for block in blocks:
        whole = isinstance(block, Integral) and not isinstance(block, bool)
        if not whole and not (isinstance(block, str) and block == "norm"):
            raise CovtokenError(f"{name}: {block!r} names no block; expected whole numbers 1 … L, or 'norm'")
    return list(dict.fromkeys(blocks))


class _Extractor:
    """Turn squashed pictures into named tensors [T, D] or [T], and tell which stored tensors are sound."""

    def __init__(self, backbone: TokenModel, wanted: list[str], precision: str):
        self.backbone, self.wanted, self.precision = backbone, wanted, precision

    def check(self) -> None:
        """Refuse a request that the backbone cannot serve before the first picture is read."""
        empty = torch.zeros(1, 3, self.backbone.picture_size, self.backbone.picture_size)
        self.backbone.check_request(empty, *self._asked(self.wanted), self.precision)

    def run(self, squashed: list[Tensor], names: set[str]) -> list[dict[str, Tensor]]:
        """Extract the named tensors of each picture [S, S], on the CPU."""
        pictures = torch.stack(squashed)
        blocks, attention, saliency = self._asked(names)
        stored: dict[str, Tensor] = {}
        if blocks or attention or saliency:
            images = self.backbone.normalise(pictures).to(self.backbone.device)
            result = self.backbone.extract(images, blocks, attention, saliency, self.precision)
            stored |= {tensor_name("block", block): value for block, value in result.tokens.items()}
            stored |= {tensor_name("attention", block): value for block, value in result.attention.items()}
            stored |= {"saliency": result.saliency} if saliency else {}
        bright, size = self.backbone.brightness(pictures), self.backbone.picture_size
        high, wide = size // self.backbone.rows, size // self.backbone.cols
        patches = bright.unfold(1, high, high).unfold(2, wide, wide).flatten(3).flatten(1, 2)  # [N, T, pixels]
        stored |= {"intensity": patches.mean(dim=-1), "variance": patches.var(dim=-1, unbiased=False)}
        stored = {name: value.float().cpu() for name, value in stored.items() if name in names}
        return [{name: value[i].clone() for name, value in stored.items()} for i in range(len(pictures))]

    def sound(self, path: Path, wanted: set[str] | None = None) -> dict[str, Tensor]:
        """Read a file's tensors (None: all) whose type, shape and checksum are right; {} where the file is absent.

        Raises:
            LabelLeak: the file holds a tensor that is no feature, or is a mask.
        """
        if not path.is_file():
            return {}
        refuse_mask_file(path)
        stored = {}
        try:
            with safe_open(path, framework="pt") as handle:
                names, sums = list(handle.keys()), handle.metadata() or {}
                for name in names:
                    check_allowed(name, path)
                    if name in sums and (wanted is None or name in wanted):
                        stored[name] = handle.get_tensor(name)
        except (SafetensorError, OSError):
            return {}
        n_tokens, dim = self.backbone.rows * self.backbone.cols, self.backbone.dim
        for name, tensor in list(stored.items()):
            expected = (n_tokens, dim) if name.startswith("block") else (n_tokens,)
            right = tensor.dtype == torch.float32 and tuple(tensor.shape) == expected
            if not right or checksum(name, tensor) != sums[name]:
                del stored[name]
        return stored

    @staticmethod
    def _asked(names: Sequence[str] | set[str]) -> tuple[list[Block], list[int], bool]:
        blocks = [name.removeprefix("block") for name in sorted(names) if name.startswith("block")]
        attention = [int(name.removeprefix("attention")) for name in sorted(names) if name.startswith("attention")]
        return [block if block == "norm" else int(block) for block in blocks], attention, "saliency" in names


def checksum(name: str, tensor: Tensor) -> str:
    """Compute the CRC-32 of a tensor's name and bytes, in hex: against accidents only, at half the cost of SHA-256."""
    return f"{zlib.crc32(tensor.contiguous().numpy(), zlib.crc32(name.encode())):08x}"


def _merge(path: Path, tensors: dict[str, Tensor], extractor: _Extractor) -> None:
    """Add tensors to a picture's file by rename. Sound tensors stay, so that no result changes under a reader."""
    merged = {name: value.contiguous() for name, value in {**tensors, **extractor.sound(path)}.items()}
    for name in merged:
        check_allowed(name, path)
    with write_then_rename(path) as temporary:
        try:
            save_file(merged, temporary, metadata={name: checksum(name, value) for name, value in merged.items()})
        except SafetensorError as error:  # how safetensors reports a full disk
            raise CovtokenError(
                f"could not write {path}: {error}; free some space and run again: it resumes"
            ) from error
    for left in path.parent.glob(f".{path.name}.*"):  # of runs that were killed while they saved
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()


@contextmanager
def _bar(total: int, show: bool) -> Iterator:
    """Show a progress bar on stderr; silent where stderr is no terminal."""
    columns = (TextColumn("features"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not (show and sys.stderr.isatty())) as bar:
        task = bar.add_task("features", total=total)
        yield lambda: bar.advance(task)
