"""List the places (block, pooling, sign, settings) of each score that may be chosen on a selection split."""

from __future__ import annotations

import math
from collections.abc import Iterable

from covtoken.bank.features import Block
from covtoken.scores.recipe import InOrganSettings, PatchCoreSettings
from covtoken.subspace.consensus import ConsensusSettings
from covtoken.subspace.direction import DirectionSettings

STUDENT_WEIGHTS = (0.25, 0.5, 1.0, 2.0)  # of the head's student beside A in O


def middle_blocks(n_blocks: int) -> range:
    """Give ⌈L/4⌉ … ⌊3L/4⌋ + 1 (3 … 10 of 12), book/method.md; never beyond L."""
    return range(math.ceil(n_blocks / 4), min(3 * n_blocks // 4 + 1, n_blocks) + 1)


def places(blocks: Iterable[Block | None], **more) -> list[dict]:
    """List every block, as it is and pooled."""
    return [{"block": block, "pooled": pooled} | more for block in blocks for pooled in (False, True)]


def middle(n_blocks: int) -> list[dict]:
    """List every middle block."""
    return places(middle_blocks(n_blocks))


def middle_to_last(n_blocks: int) -> list[dict]:
    """List the middle blocks and those behind: attention is known to be strong there, and a baseline gets its best."""
    return places(range(middle_blocks(n_blocks)[0], n_blocks + 1))


def from_a_third(n_blocks: int) -> list[dict]:
    """List ⌈L/3⌉ … the last middle block: before that, tokens know too little of the picture for one direction."""
    return places(range(math.ceil(n_blocks / 3), middle_blocks(n_blocks)[-1] + 1))


def directions(n_blocks: int) -> list[dict]:
    """List D's blocks, pooled; its target is made at 0.75 L (block 9 of 12), whichever block reads it."""
    settings = DirectionSettings(max(1, round(0.75 * n_blocks)))
    return [place | {"settings": settings} for place in from_a_third(n_blocks) if place["pooled"]]


def consensus(n_blocks: int) -> list[dict]:
    """List C−'s blocks, as D's; an attention source is read at the block before the last (11 of 12)."""
    settings = ConsensusSettings("rarity", max(1, round(0.75 * n_blocks)), attention_block=max(1, n_blocks - 1))
    return [place | {"settings": settings} for place in directions(n_blocks)]


def last(n_blocks: int) -> list[dict]:
    """List the last block."""
    return places([n_blocks])


def blockless(n_blocks: int) -> list[dict]:
    """List no block, for scores that read none."""
    return places([None])


def both_signs(n_blocks: int) -> list[dict]:
    """List no block, with each sign: dark or bright."""
    return [place for sign in (1, -1) for place in places([None], sign=sign)]


def pairs(n_blocks: int) -> list[dict]:
    """List middle blocks two apart, always pooled: PatchCore's locally aware patch features."""
    blocks = middle_blocks(n_blocks)
    first = [block for block in blocks if block < blocks[-1]] or blocks[-1:]
    second = (PatchCoreSettings(min(block + 2, blocks[-1])) for block in first)
    return [{"block": block, "pooled": True, "settings": settings} for block, settings in zip(first, second)]


def in_organ(n_blocks: int) -> list[dict]:
    """List A at and beside 0.75 L with the student where D reads, for each weight."""
    about, student = max(1, round(0.75 * n_blocks)), max(1, n_blocks // 2)
    blocks = [b for b in (about - 1, about, about + 1) if 1 <= b <= n_blocks]
    settings = [InOrganSettings(student, weight) for weight in STUDENT_WEIGHTS]
    return [{"block": block, "pooled": False, "settings": each} for block in blocks for each in settings]
