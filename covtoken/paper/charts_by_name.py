"""Find every chart by the name that a page gives it."""

from __future__ import annotations

from covtoken.paper.charts.alarm import alarm_against_failure
from covtoken.paper.charts.budgets import miss_by_method, rho_by_measure
from covtoken.paper.charts.coverage import growing_lesion_curve, mu_by_slack, mu_paths, objective_optimiser
from covtoken.paper.charts.economy import certificate_coverage, probe_pareto, retention_by_clock, retention_curves
from covtoken.paper.charts.scores import auroc_by_block, gain_forest, score_densities
from covtoken.paper.charts.substrate import agreement_by_block, token_marks
from covtoken.paper.charts.transfer import transfer_heatmap
from covtoken.paper.charts.volumes import volume_retention

CHARTS = {
    "alarm_against_failure": alarm_against_failure,
    "auroc_by_block": auroc_by_block,
    "score_densities": score_densities,
    "gain_forest": gain_forest,
    "agreement_by_block": agreement_by_block,
    "token_marks": token_marks,
    "rho_by_measure": rho_by_measure,
    "miss_by_method": miss_by_method,
    "mu_paths": mu_paths,
    "mu_by_slack": mu_by_slack,
    "objective_optimiser": objective_optimiser,
    "growing_lesion_curve": growing_lesion_curve,
    "transfer_heatmap": transfer_heatmap,
    "retention_curves": retention_curves,
    "retention_by_clock": retention_by_clock,
    "certificate_coverage": certificate_coverage,
    "probe_pareto": probe_pareto,
    "volume_retention": volume_retention,
}
