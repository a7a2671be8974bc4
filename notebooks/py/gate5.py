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
# # Run it: gate 5, one recipe on every cohort
#
# **Question.** Does a recipe that was chosen on one cohort find lesions of other organs and modalities, unchanged?
#
# The same pictures are scored in four ways. *Usual recipe, own bank* is what gate 1 measures. *Recipe chosen elsewhere* keeps
# the cohort's bank and takes every setting from one other cohort alone: breast ultrasound takes those of lung windows, lung
# windows those of breast ultrasound, all others whichever of the two does worse. That way decides. The last two keep the
# recipe and carry the bank over: from a cohort of the same modality, and, as a control that one expects to fail, of another.
# A cohort of fewer than twelve patients has no bank of its own, and so one way: the recipe and the bank of the recipe cohort
# of its modality. It decides nothing. External cohorts are not opened here: their rows are of the scores of their one
# confirmation.

# %% tags=["hide-input"]
try:
    from covtoken.gates import headlines, runs
    from covtoken.paper.charts.offline_renderer import install_renderer
    from covtoken.paper.charts.transfer import transfer_heatmap
    from covtoken.paper.tables import transfer
    from covtoken.paper.tables.shown import reproduced, verdict
except ImportError as error:
    raise SystemExit(f"{error}: install the package first, `make paper` or `pip install -e .[all]`") from error
install_renderer()

# %% tags=["parameters"]
cohort = "phantom"  # or busi, msd-task06, lidc-idri, kits23, … or a folder with index.csv
split = "test"  # under the lock; "selection" chooses anew
backbone = "embedded"  # or dinov2-base, … or any timm ViT, random:<timm ViT> for the floor
data = None  # the cohort's folder, where it is not under COVTOKEN_DATA
precision = "fp32"

# %% tags=["hide-input"]
run, path = runs.run_and_write(
    "5", cohort=cohort, split=split, backbone=backbone, data=data, precision=precision
)
metrics, parameters = run.report.metrics, run.report.parameters
# The chart has a row a cohort: real pictures are not in the repository, but the maps behind their numbers are.
recorded = headlines.recorded_metrics("5", but=run.report.cohort)
verdict(run.report)

# %%
rows = transfer.heat_rows(run.report, recorded)
transfer_heatmap(rows, title="Recommended score: the same recipe elsewhere")

# %%
transfer.transfer_table(metrics, among=transfer.best_scorers(metrics))

# %% [markdown]
# ## More from this run
# In the chart above, large: AUROC over all tokens of a split, which the colour shows; small: the mean of what it is inside one
# picture. The table is this run's: the proposed scores, and the three best baselines under their usual recipe.
#
# **The run, its verdict, and those of the committed reports:**

# %% tags=["hide-cell"]
print(
    f"{run.report.cohort}, {run.report.split} split, {run.report.backbone}: {parameters['n_lesions']} lesions in "
    f"{parameters['n_lesion_images']} pictures; recipe chosen elsewhere: that of {parameters['elsewhere']}"
)
for way, reason in parameters["blank"].items():
    print(f"no such way ({way}): {reason}")
print(transfer.verdicts(run.report))
for check, outcome in sorted(run.report.checks.items()):
    print(f"  {check}: {outcome}")

# %% [markdown]
# **Membership A**, the same way:

# %% tags=["hide-cell"]
transfer_heatmap(rows, title="Membership A: the same recipe elsewhere", score="density")

# %% [markdown]
# **By backbone.** From records of their own, which decide nothing: no recipe was chosen on a backbone other than the embedded
# one. Random weights are the floor, on fewer units where the table says so. Large cohorts show their selection split.

# %% tags=["hide-cell"]
by_backbone = transfer.backbone_rows()
display(transfer_heatmap(by_backbone, title="Recommended score, by backbone"))
transfer.backbones_table(by_backbone)

# %% [markdown]
# **With intervals, and every baseline.** Each baseline goes the same ways with its own locked recipe, and C, which reads the
# saliency head, beside C−.

# %% tags=["hide-cell"]
transfer.transfer_table(metrics)

# %% [markdown]
# ## Recomputed from records
# The maps of real pictures hold the recommended score and A. Their numbers are computed from these again, and held against the
# locked ones.

# %%
reproduced(headlines.locked_text("5", run.report.cohort, metrics, recorded))

# %% tags=["hide-output"]
for name, found in recorded.items():
    print(f"{name}: {found['auroc.recommended.refitted']['n_units']} units")
    display(transfer.transfer_table(found))

# %% tags=["nbval-check-output", "hide-output"]
print(headlines.locked_text("5", run.report.cohort, metrics, recorded))
