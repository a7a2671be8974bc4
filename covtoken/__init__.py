"""Find lesions without labels, by subspaces of frozen vision transformers.

``_MODULES`` is the table of contents. Names load on first use, so that no module opens another's door (subspaces must
not pull in a mask reader) and ``covtoken --help`` is quick.
"""

from __future__ import annotations

import warnings
from importlib import import_module

# Libraries pull in tqdm's notebook bar; its complaint about absent widgets would put a local path into outputs.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"

_MODULES = {
    "errors": ["CovtokenError"],
    "data.case": ["Case", "Cohort", "MaskRef"],
    "data.cohorts": ["open_cohort"],
    "data.splits": ["load_splits"],
    "backbone.weights": ["load_backbone"],
    "backbone.vit": ["FrozenViT"],
    "backbone.token_model": ["TokenModel"],
    "backbone.any_module": ["from_module", "from_timm"],
    "backbone.cache": ["features", "FeatureSet"],
    "bank.token_bank": ["TokenBank", "build_bank"],
    "subspace.density": ["DensitySubspace"],
    "subspace.residual": ["ResidualSubspace"],
    "subspace.rarity": ["RaritySubspace"],
    "subspace.consensus": ["ConsensusSettings", "fit_consensus", "taught"],
    "subspace.direction": ["Direction", "DirectionSettings", "load_direction"],
    "bank.coreset": ["greedy_k_center"],
    "bank.prototypes": ["prototype_bank"],
    "scores.recipe": ["Recipe", "IN_ORGAN", "RECOMMENDED"],
    "scores.recommended": ["direction_maps", "direction_of"],
    "scores.scorers": ["SCORERS", "raw_maps", "score_maps"],
    "economy.keep": ["kept_tokens"],
    "economy.merging": ["merge_through"],
    "economy.stages": ["Stage"],
    "economy.routing": ["route_through", "route_cases"],
    "economy.certificate": ["Certificate", "MadeBy", "certify", "certify_route", "load_certificate"],
    "economy.exit_maps": ["ExitMaps", "fit_exit_maps", "load_exit_maps"],
    "deploy.routed": ["RoutedViT", "route"],
    "deploy.export": ["export_map"],
    "coverage.functionals": ["rankme", "coding_rate"],
    "coverage.dual": ["prune"],
    "evaluation.labels": ["label"],
    "evaluation.measure": ["measure"],
    "evaluation.records": ["load_scores"],
    "protocol.setting": ["open_setting"],
    "gates.runs": ["run_and_write"],
    "protocol.report": ["GateReport"],
    "maps.lesion_map": ["lesion_map"],
    "maps.shipped": ["shipped_direction"],
    "leak_guard": ["construction"],
}
_PUBLIC = {name: f"covtoken.{module}" for module, names in _MODULES.items() for name in names}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'covtoken' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
