# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     formats: notebooks///ipynb,notebooks/py///py:percent
#     notebook_metadata_filter: kernelspec,jupytext,-all
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Run it: gate 1, every score on the same tokens
#
# **Question.** At which block does label-free membership point at lesions, and does it beat what a person would try
# first?
#
# Membership A of a token is its mean distance to its ten nearest neighbours in a bank of tokens from *other, unlabelled*
# pictures. The *recommended* score C− is one direction in token space that was fitted, without labels, to what is rare: no
# search is needed to use it. Its recipe is the same for all cohorts. Masks are opened only after every score exists.
# Block, pooling and smoothing of membership *and of every baseline* were chosen on the selection split; this notebook
# evaluates the locked choice and can tune nothing.

# %% tags=["hide-input"]
try:
    from covtoken.gates import headlines, runs
    from covtoken.gates.gate1 import verdicts as verdicts_of
    from covtoken.paper.charts.offline_renderer import install_renderer
    from covtoken.paper.charts.pictures import lesion_maps
    from covtoken.paper.charts.scores import auroc_by_block, gain_forest, score_densities
    from covtoken.paper.numbers import as_text
    from covtoken.paper.tables import gate1
    from covtoken.paper.tables.shown import reproduced, verdict
except ImportError as error:
    raise SystemExit(f"{error}: install the package first, `make paper` or `pip install -e .[all]`") from error
install_renderer()

# %% tags=["parameters"]
cohort = "phantom"  # or busi, … or a folder with index.csv
split = "test"  # under the lock; "selection" chooses anew
backbone = "embedded"  # or dinov2-base, … or any timm ViT
data = None  # the cohort's folder, where it is not under COVTOKEN_DATA
precision = "fp32"

# %% tags=["hide-input"]
# One pass of the frozen model gives the tokens of every block; each scorer sees the same tokens.
run, path = runs.run_and_write(1, cohort=cohort, split=split, backbone=backbone, data=data, precision=precision)
metrics = run.report.metrics
verdict(run.report)

# %%
auroc_by_block(run.report.chart_data["blocks"], threshold=run.pictures.plan.threshold)

# %%
gate1.scorer_table(metrics, gate1.best_scorers(metrics))

# %% [markdown]
# ## More from this run
# In the chart above, bands are 95 % intervals over units. Membership is drawn plain (no pooling, no smoothing); scores without
# a block are tuned baselines, drawn as rules. "norm" is the final block through the final norm. The table above holds the
# scores that have a verdict and the three best of all others; FP: false alarms a picture.
#
# **The run, its verdicts and checks**, and DeLong's interval, which takes tokens for independent:

# %% tags=["hide-cell"]
print(f"{run.report.cohort}, {run.report.split} split, {run.report.backbone}: middle block {run.pictures.plan.middle}, "
      f"{run.report.parameters['n_lesions']} lesions in {run.report.parameters['n_lesion_images']} pictures")
print(run.report.parameters["alarm_says"])
verdicts = ", ".join(f"{word} of {score}" for score, word in verdicts_of(run.report).items())
print(f"{run.report.cohort}, {run.report.split}: {verdicts} (threshold {run.pictures.plan.threshold}: {run.pictures.plan.reason})")
for check, outcome in sorted(run.report.checks.items()):
    print(f"  {check}: {outcome}")
print(gate1.delong_line(run))

# %% [markdown]
# **Every scorer**, tuned on the same grid: over all tokens, then inside organs, where the cohort has them.

# %% tags=["hide-cell"]
display(gate1.scorer_table(metrics))
gate1.scorer_table(metrics, in_organ=True)

# %% [markdown]
# **Differences.** Right of zero favours the recommended score; a baseline that wins is drawn like any other.

# %% tags=["hide-cell"]
gain_forest(run.report.chart_data["gains"])

# %% [markdown]
# **What it looks like.** Six lesion pictures, a row each, evenly spread over lesion size, not chosen by score; then the scores
# of lesion tokens and of all others.

# %% tags=["hide-cell"]
panels = gate1.lesion_cases(run)
display(lesion_maps(panels, title="Scores side by side", columns=len({panel["name"] for panel in panels}), size=128))
score_densities(run.report.chart_data["densities"])

# %% [markdown]
# ## Recomputed from records
# Real pictures are not in the repository, but the scores behind their headline numbers are. Their numbers are computed from
# these again, and held against the locked ones.

# %%
recorded = headlines.recorded_metrics("1", but=run.report.cohort)
reproduced(headlines.locked_text("1", run.report.cohort, metrics, recorded))

# %% tags=["hide-output"]
for name, found in recorded.items():
    print(f"{name}: membership A, middle − final block {as_text(found['auroc_gain.middle_minus_final'])}")
    display(gate1.scorer_table(found))

# %% tags=["nbval-check-output", "hide-output"]
print(headlines.locked_text("1", run.report.cohort, metrics, recorded))
