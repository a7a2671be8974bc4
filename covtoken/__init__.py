"""covtoken: label-free lesion subspaces in frozen vision transformers.

The public names, one by one: the table of contents. They load on first use, so that importing one module of the
package never opens another's door (subspaces must not pull in a mask reader) and ``covtoken --help`` is quick.
"""

from __future__ import annotations

import warnings
from importlib import import_module

# Libraries pull in tqdm's notebook bar; its complaint about absent widgets would put a local path into outputs.
warnings.filterwarnings("ignore", message="IProgress not found")

__version__ = "0.1.0"

_PUBLIC = {
    "CovtokenError": "covtoken.errors",
    "Case": "covtoken.data.case",
    "Cohort": "covtoken.data.case",
    "MaskRef": "covtoken.data.case",
    "open_cohort": "covtoken.data.cohorts",
    "load_splits": "covtoken.data.splits",
    "load_backbone": "covtoken.backbone.weights",
    "FrozenViT": "covtoken.backbone.vit",
    "features": "covtoken.backbone.cache",
    "FeatureSet": "covtoken.backbone.cache",
    "TokenBank": "covtoken.bank.token_bank",
    "build_bank": "covtoken.bank.token_bank",
    "DensitySubspace": "covtoken.subspace.density",
    "ResidualSubspace": "covtoken.subspace.residual",
    "RaritySubspace": "covtoken.subspace.rarity",
    "Direction": "covtoken.subspace.direction",
    "DirectionSettings": "covtoken.subspace.direction",
    "load_direction": "covtoken.subspace.direction",
    "greedy_k_center": "covtoken.bank.coreset",
    "prototype_bank": "covtoken.bank.prototypes",
    "Recipe": "covtoken.scores.recipe",
    "IN_ORGAN": "covtoken.scores.recipe",
    "RECOMMENDED": "covtoken.scores.recipe",
    "SCORERS": "covtoken.scores.scorers",
    "raw_maps": "covtoken.scores.scorers",
    "score_maps": "covtoken.scores.scorers",
    "kept_tokens": "covtoken.economy.keep",
    "merge_through": "covtoken.economy.merging",
    "rankme": "covtoken.coverage.functionals",
    "coding_rate": "covtoken.coverage.functionals",
    "prune": "covtoken.coverage.dual",
    "label": "covtoken.evaluation.labels",
    "measure": "covtoken.evaluation.measure",
    "load_scores": "covtoken.evaluation.records",
    "open_setting": "covtoken.protocol.setting",
    "run_and_write": "covtoken.gates.runs",
    "GateReport": "covtoken.protocol.report",
    "construction": "covtoken.leak_guard",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'covtoken' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
