"""The alarm's locked limits, fixed by ``covtoken.studies.alarm``, and the sentence a report gives to an alarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from covtoken.errors import CovtokenError
from covtoken.protocol import locks
from covtoken.scores.alarm import Limits
from covtoken.scores.recipe import RECOMMENDED, Recipe, at_depth, scaled

LOCK = "alarm.lock.json"
DEFINED_ON = ("busi", "lidc-crops")
ENTRY = ("+".join(DEFINED_ON), "alarm")
DENSITY = Recipe("density", 9, False, 0.5)


@dataclass(frozen=True)
class Recipes:
    """C− and A as the alarm compares them."""

    direction: Recipe = RECOMMENDED
    fallback: Recipe = DENSITY

    def to_json(self) -> dict:
        return {"direction": self.direction.to_json(), "fallback": self.fallback.to_json()}

    @classmethod
    def from_json(cls, data: dict) -> Recipes:
        return cls(Recipe.from_json(data["direction"]), Recipe.from_json(data["fallback"]))

    @property
    def blocks(self) -> list:
        """Blocks whose tokens are read: C−'s, its target's and A's."""
        wanted = [self.direction.block, self.direction.settings.target_block, self.fallback.block]
        return list(dict.fromkeys(block for block in wanted if block is not None))


def read_limits(root: Path | None = None) -> tuple[Limits, Recipes, dict[str, Any]]:
    """Read the locked limits and recipes, with the whole locked entry.

    Raises:
        CovtokenError: nothing is locked yet, or the file was edited.
    """
    entry = locks.entry(LOCK, *ENTRY, root)
    if entry is None:
        raise CovtokenError(f"configs/{LOCK} holds no limits: run `covtoken alarm --define` first")
    return Limits.from_json(entry["limits"]), Recipes.from_json(entry["recipes"]), entry


def scaled_alarm(vit, root: Path | None = None) -> tuple[Limits, Recipes, str | None]:
    """Read the locked limits and recipes for a FrozenViT, the recipes' blocks moved to the same shares of its depth.

    Returns:
        limits; recipes; the backbone on which the limits were fixed, or None if it is this one. On other weights the
        alarm fires by numbers measured elsewhere, and the report says so.
    """
    limits, recipes, entry = read_limits(root)
    limits_of = None if entry["weights_sha256"] == vit.weights_sha256 else entry["backbone"]
    fallback = replace(recipes.fallback, block=at_depth(recipes.fallback.block, vit.n_blocks))
    return limits, Recipes(scaled(recipes.direction, vit.n_blocks), fallback), limits_of


def alarm_sentence(alarms: Sequence[dict]) -> str:
    """Write a report's sentence on the alarms of its banks (a single bank, or a bank for each fold)."""
    fired = [alarm for alarm in alarms if alarm["fired"]]
    others = {alarm.get("limits_of") for alarm in alarms} - {None}
    remark = f" (limits fixed on {', '.join(sorted(others))}, not on this backbone)" if others else ""
    if not fired:
        return f"no alarm: the recommended score is C−{remark}"
    reasons = "; ".join(dict.fromkeys(reason for alarm in fired for reason in alarm["reasons"]))
    banks = f"{len(fired)} of {len(alarms)} banks" if len(alarms) > 1 else "the bank"
    return f"ALARM of {banks}: the recommended score is A throughout, for {reasons}{remark}"
