"""Define recipes: a score as it is run, the recommended ones, and the same at another depth."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass, fields, replace

from covtoken.bank.features import Block
from covtoken.errors import CovtokenError
from covtoken.subspace.consensus import ConsensusSettings
from covtoken.subspace.direction import DirectionSettings


@dataclass(frozen=True)
class InOrganSettings:
    """Settings of O's second map, the head's student, beside membership A."""

    student_block: int  # whose tokens the student reads
    weight: float  # of the student's map beside A's


@dataclass(frozen=True)
class PatchCoreSettings:
    """Settings of PatchCore."""

    second_block: int  # whose tokens stand beside those of the recipe's block


Settings = ConsensusSettings | DirectionSettings | InOrganSettings | PatchCoreSettings
SETTINGS: dict[str, type] = {
    "consensus": ConsensusSettings,
    "direction": DirectionSettings,
    "in_organ": InOrganSettings,
    "patchcore": PatchCoreSettings,
    "without_head": ConsensusSettings,
}


@dataclass(frozen=True)
class Recipe:
    """A score as it is run. Raises CovtokenError on settings of another score."""

    scorer: str  # a name in ``SCORERS``
    block: Block | None = None  # whose tokens it reads; None where it reads none
    pooled: bool = False  # tokens, or the map, after ``pool3x3``
    sigma: float = 0.0  # of the Gaussian that smooths the map, in patches
    sign: int = 1  # −1 turns the map round
    settings: Settings | None = None  # of the scores in ``SETTINGS``; None for the others

    def __post_init__(self) -> None:
        kind = SETTINGS.get(self.scorer)
        if not isinstance(self.settings, kind or type(None)) and (self.settings, kind) != (None, PatchCoreSettings):
            wanted = "no settings" if kind is None else kind.__name__
            raise CovtokenError(f"score {self.scorer!r} takes {wanted}, got {self.settings!r}")

    def to_json(self) -> dict:
        """Give the recipe as locks and reports keep it: settings as the list ``extra``."""
        recipe = {name: value for name, value in asdict(self).items() if name != "settings"}
        return recipe | {"extra": [] if self.settings is None else list(astuple(self.settings))}

    @classmethod
    def from_json(cls, data: dict) -> Recipe:
        """Read what ``to_json`` gives. Raises CovtokenError on settings of another number."""
        recipe, extra = {name: value for name, value in data.items() if name != "extra"}, data.get("extra", ())
        kind = SETTINGS.get(recipe["scorer"])
        n = len(fields(kind)) if kind else 0
        if len(extra) not in (n, 0):
            raise CovtokenError(f"a recipe of score {recipe['scorer']!r} has {n} settings, got {list(extra)}")
        return cls(**recipe, settings=kind(*extra) if extra else None)


def fixed_recipes(n_blocks: int, has_head: bool) -> dict[str, Recipe]:
    """Give ``FIXED`` and three that follow from it: PN of its target, C− without the head, moved to another depth."""
    recipes = {name: scaled(recipe, n_blocks) for name, recipe in FIXED.items()}
    ours = recipes["recommended"]
    recipes["rarity"] = Recipe("rarity", ours.settings.target_block, True, ours.sigma)
    recipes["without_head"] = replace(ours, scorer="without_head")
    return {name: recipe for name, recipe in recipes.items() if has_head or not needs_head(recipe)}


def needs_head(recipe: Recipe) -> bool:
    """Tell whether a fixed recipe reads the saliency head."""
    return recipe.scorer == "without_head" or "head" in getattr(recipe.settings, "sources", "")


def recommended(n_blocks: int) -> Recipe:
    """Give C−; on a backbone of another depth, read and aimed at the same shares of it."""
    return scaled(RECOMMENDED, n_blocks)


def in_organ(n_blocks: int) -> Recipe:
    """Give O's recipe; on a backbone of another depth, at the same shares of it."""
    settings = replace(IN_ORGAN.settings, student_block=at_depth(IN_ORGAN.settings.student_block, n_blocks))
    return replace(IN_ORGAN, block=at_depth(IN_ORGAN.block, n_blocks), settings=settings)


def scaled(recipe: Recipe, n_blocks: int) -> Recipe:
    """Move a recipe of a direction for 12 blocks to the same shares of a backbone of another depth."""
    places = {field.name for field in fields(recipe.settings)} & {"target_block", "attention_block"}
    moved = {name: at_depth(getattr(recipe.settings, name), n_blocks) for name in places}
    return replace(recipe, block=at_depth(recipe.block, n_blocks), settings=replace(recipe.settings, **moved))


def at_depth(block: int, n_blocks: int, of: int = 12) -> int:
    """Give the block that lies as deep among ``n_blocks`` as ``block`` among ``of``, rounded down."""
    return max(1, block * n_blocks // of)


# What `covtoken ablate --banks --choose` gives from the recipe cohorts' committed tables; a test holds them to that.
RECOMMENDED = Recipe("consensus", 6, True, 0.0, settings=ConsensusSettings("rarity", 9, 0.9, 1.0, 2, 1.0, "peak", 11))
FIXED = {  # the same for all cohorts
    "recommended": RECOMMENDED,
    "with_head": Recipe(
        "consensus", 6, True, 0.0, settings=ConsensusSettings("rarity+head", 9, 0.95, 3.0, 2, 1.0, "peak", 11)
    ),
    "direction": Recipe("direction", 6, True, 0.0, settings=DirectionSettings(9, 0.93, 3.0, 2, 0.75)),
    "attention_fit": Recipe(
        "consensus", 6, True, 0.0, settings=ConsensusSettings("attention", 9, 0.9, 3.0, 2, 0.75, "peak", 11)
    ),
    "attention_head_fit": Recipe(
        "consensus", 6, True, 0.0, settings=ConsensusSettings("attention+head", 9, 0.93, 1.0, 2, 1.0, "peak", 11)
    ),
}
# What `covtoken in-organ --choose` gives from the committed tables of the recipe cohorts; tested alike.
IN_ORGAN = Recipe("in_organ", 9, False, 0.5, settings=InOrganSettings(6, 0.5))
