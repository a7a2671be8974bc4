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
# # Run it: gate 4, the dual over seeds and slacks
#
# **Question.** Does the dual variable converge over seeds, is the coverage floor met, and does its price fall as the
# floor loosens?
#
# The pruner minimises the number of kept tokens under a floor on their RankMe. μ would read as the price, in tokens, of one
# unit of coverage. It is run as it was specified (the mask multiplies the tokens, SGD, dual ascent) and repaired (the mask
# enters the Gram matrix linearly, scaled steps, annealed temperature, best tokens added until the floor is met).

# %% tags=["hide-input"]
try:
    from covtoken.gates import headlines, runs
    from covtoken.paper.charts.coverage import mu_by_slack, mu_paths
    from covtoken.paper.charts.offline_renderer import install_renderer
    from covtoken.paper.tables import budgets
    from covtoken.paper.tables.shown import Sentence, reproduced, verdict
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
run, path = runs.run_and_write(
    "4", cohort=cohort, split=split, backbone=backbone, data=data, precision=precision
)
metrics = run.report.metrics
verdict(run.report)

# %%
mu_by_slack(run.report.chart_data["by_slack"])

# %%
dual = budgets.dual_table(metrics)
dual[["μ", "CV of μ", "floor met"]]

# %% [markdown]
# ## More from this run
# **What stays**: tokens kept, and the drop in coverage; then the run and its checks.

# %% tags=["hide-cell"]
display(dual[["tokens kept", "drop / C*"]])
print(f"{run.report.cohort}, {run.report.split} split: {run.report.parameters['n_lesion_images']} pictures, "
      f"{run.report.parameters['n_seeds']} seeds, slacks {run.report.parameters['slacks']} of C*")
print(budgets.verdict_lines(run.report))

# %% [markdown]
# **Step by step**: price and tokens along the descent.

# %% tags=["hide-cell"]
mu_paths(run.report.chart_data["paths"])

# %% [markdown]
# **A coverage certificate.** What the repaired pruner certifies of one picture.

# %% tags=["hide-cell"]
Sentence(budgets.certificate_line(run.pictures))

# %% [markdown]
# ## Recomputed from records
# Real pictures are not in the repository, but the records behind their headline numbers are. Their numbers are computed from
# these again, and held against the locked ones.

# %%
recorded = headlines.recorded_metrics("4", but=run.report.cohort)
reproduced(headlines.locked_text("4", run.report.cohort, metrics, recorded))

# %% tags=["hide-output"]
for name, found in recorded.items():
    print(name)
    display(budgets.dual_table(found)[["μ", "CV of μ", "floor met"]])

# %% tags=["nbval-check-output", "hide-output"]
print(headlines.locked_text("4", run.report.cohort, metrics, recorded))
