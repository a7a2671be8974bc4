"""Do two extractions agree? A sample of pictures is extracted again in five ways and compared block by block."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from covtoken.backbone.cache import features
from covtoken.backbone.vit import Block, FrozenViT
from covtoken.data.case import Case

BATCH, OTHER_BATCH = 8, 3  # pictures a pass
# Float32 sums in another order move tokens by about 1e-6; 1e-4 is far below what any score can tell apart. bf16 keeps 8
# bits, so one rounding is off by up to 2⁻⁹ = 0.2 %, and a dozen blocks pile up: a few per cent, by the final block.
BOUNDS = {"same": 1e-6, "batch_size": 1e-4, "threads": 1e-4, "cache": 1e-4, "bf16": 5e-2}
BF16_PICTURES = 2  # a CPU without bf16 units takes a second a picture


def agreement_rows(cases: Sequence[Case], vit: FrozenViT, *, noisy: bool = False, progress: bool = True) -> list[dict]:
    """Measure the relative L2 distance of two extractions, mean over pictures: rows {comparison, block, value, n}.

    Args:
        cases: the sample.
        noisy: plant a defect: each pass of the backbone adds one per cent of noise.
    """
    blocks: list[Block] = [*range(1, vit.n_blocks + 1), "norm"]
    second = _noisy(vit) if noisy else vit

    def extract(model: FrozenViT, pictures: Sequence[Case], **options):
        return features(pictures, model, blocks, progress=progress, **({"batch": BATCH, "cache": False} | options))

    few = cases[:BF16_PICTURES]
    first = extract(vit, cases)
    again = {"same": extract(second, cases), "batch_size": extract(second, cases, batch=OTHER_BATCH)}
    with _other_threads():
        again["threads"] = extract(second, cases)
    again["cache"] = extract(vit, cases, cache=True)  # never the noisy one: what it writes, gate 1 reads
    again["bf16"] = extract(second, few, precision="bf16")
    rows = []
    for name, other in again.items():
        for block in blocks:
            a, b = other.tokens(block), first.tokens(block)[: len(other)]
            distance = (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
            rows.append({"comparison": name, "block": block, "value": float(distance.mean()), "n": len(other)})
    return rows


def _noisy(vit: FrozenViT) -> FrozenViT:
    """Plant a defect in a copy of the backbone: no two passes agree."""
    other, generator = copy.copy(vit), torch.Generator().manual_seed(0)

    def extract(*arguments, **options):
        result = vit.extract(*arguments, **options)
        for block, tokens in result.tokens.items():
            result.tokens[block] = tokens + 0.01 * tokens.std() * torch.randn(tokens.shape, generator=generator)
        return result

    other.extract = extract
    return other


@contextmanager
def _other_threads() -> Iterator[None]:
    """Change the number of threads for a while: to 1, or to 2 where it is 1 already."""
    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
