"""A plan fixes recipes, middle block, threshold and cut before a test split is looked at; a lock binds it to data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from covtoken.bank.token_bank import REFERENCE_SIZE
from covtoken.coverage.dual import REPAIRED, SLACK, SPECIFIED
from covtoken.coverage.functionals import CODING_EPSILON, EPSILON
from covtoken.coverage.greedy import CANDIDATES, SWAPS
from covtoken.evaluation.labels import LABEL_THRESHOLD
from covtoken.evaluation.measure import N_DRAWS
from covtoken.keys import hash_unit
from covtoken.protocol.setting import SEED, Setting
from covtoken.scores import recipe
from covtoken.scores.baselines import CORESET, MUTUAL_PICTURES, MUTUAL_SHARE
from covtoken.scores.memberships import SOURCE_SIGMA
from covtoken.scores.recipe import Recipe
from covtoken.scores.scorers import SIGMAS
from covtoken.subspace.density import ALPHA, K_NEIGHBOURS, RANK

BASELINES = (
    *("centre_prior", "attention_best", "attention_last", "token_norm", "intensity", "variance", "patchcore", "musc"),
    *("random", "saliency_head", "head_student"),
)
MEMBERSHIPS = ("density", "residual")
RIVALS = ("attention_fit", "attention_head_fit")  # C−'s fit on saliency: no bank search, and no threshold either
FIXED = (*recipe.FIXED, "rarity", "without_head")  # the same recipe for all cohorts
PROPOSED = ("recommended", "with_head", "direction", *MEMBERSHIPS, "rarity", "without_head", "in_organ")
SEARCHING = (*PROPOSED, *RIVALS, "patchcore", "musc")  # proposed scores and bank searches: none sets a threshold
FEW_UNITS = 20  # with fewer evaluated units a gate prints its numbers and decides nothing
METHOD_PARAMETERS = {
    "reference_size": REFERENCE_SIZE,
    "k": K_NEIGHBOURS,
    "coreset": CORESET,
    "sigmas": list(SIGMAS),
    "label_threshold": LABEL_THRESHOLD,
    "n_draws": N_DRAWS,
    "fixed": {name: each.to_json() for name, each in recipe.FIXED.items()} | {"source_sigma": SOURCE_SIGMA},
    "musc": {"pictures": MUTUAL_PICTURES, "share": MUTUAL_SHARE},
    "subspace": {"alpha": ALPHA, "rank": RANK},
    "coverage": {
        "epsilon": EPSILON,
        "coding_epsilon": CODING_EPSILON,
        "slack": SLACK,
        "candidates": CANDIDATES,
        "swaps": SWAPS,
    },
    "dual": {"specified": asdict(SPECIFIED), "repaired": asdict(REPAIRED)},
}


@dataclass(frozen=True)
class Plan:
    """Choices fixed before a test split is looked at.

    Attributes:
        recipes: scorer → recipe, for ``density`` and every baseline.
        middle: block 1…L with the best plain density on the selection split.
        threshold: AUROC that the lower bound of ``auroc.recommended`` must beat.
        reason: says where the threshold comes from.
        small_cuts: modality → area (mm² or share of the picture) up to which a lesion is small.
        table: a row for each variant tried on the selection split.
        locked: whether a lock fixed the plan before this run.
    """

    recipes: dict[str, Recipe]
    middle: int
    threshold: float
    reason: str
    small_cuts: dict[str, float]
    table: tuple[dict, ...] = ()
    locked: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "recipes": {name: each.to_json() for name, each in self.recipes.items()},
            "middle": self.middle,
            "threshold": self.threshold,
            "threshold_reason": self.reason,
            "small_cuts": self.small_cuts,
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> Plan:
        recipes = {name: Recipe.from_json(each) for name, each in content["recipes"].items()}
        return Plan(
            recipes, content["middle"], content["threshold"], content["threshold_reason"], content["small_cuts"]
        )


def binding(setting: Setting) -> dict[str, Any]:
    """Collect what a lock binds a plan to: data, weights and the method's parameters."""
    method = {"picture_size": setting.vit.picture_size, "seed": SEED, **METHOD_PARAMETERS}
    return {"data_fingerprint": setting.fingerprint, "weights_sha256": setting.vit.weights_sha256, "method": method}


def records_header(setting: Setting, units: Iterable[str], **more) -> dict[str, Any]:
    """Write down how records were made: cohort, split, backbone, hashed ``units`` in their order, binding, ``more``."""
    about = {"cohort": setting.cohort.name, "split": setting.split, "backbone": setting.vit.name}
    return about | {"units": [hash_unit(unit) for unit in units]} | more | binding(setting)
