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
# # Gate 6: the token economy
#
# **Question.** What does a third of the tokens still do, and with which guarantee?
#
# A *route* runs all tokens through the first blocks, scores them there, and sends only the best ones through the rest;
# what the others show in the output is predicted from where they stopped. Score, block and number of tokens come from the
# selection split: first the score and block that retain most lesions at twice fewer FLOPs, then the fewest tokens that
# retain 98 % of them. A *certificate* then says, from labelled calibration units, how many tokens retain every lesion of
# a new unit with a chosen probability.

# %%
try:
    from covtoken.gates import headlines, runs
    from covtoken.paper.charts.economy import certificate_coverage, probe_pareto, retention_curves
    from covtoken.paper.charts.offline_renderer import install_renderer
    from covtoken.paper.charts.pictures import lesion_maps
    from covtoken.paper.tables import economy
except ImportError as error:
    raise SystemExit(f"{error}: install the package first, `make paper` or `pip install -e .[all]`") from error
install_renderer()

# %% tags=["parameters"]
cohort = "phantom"  # or busi, … or a folder with index.csv
split = "test"  # under the lock; "selection" chooses anew
backbone = "embedded"  # or dinov2-base, … or any timm ViT
data = None  # the cohort's folder, where it is not under COVTOKEN_DATA
precision = "fp32"

# %%
run, path = runs.run_and_write(
    "6", cohort=cohort, split=split, backbone=backbone, data=data, precision=precision
)
metrics, parameters, rows = run.report.metrics, run.report.parameters, run.report.chart_data
print(
    f"{run.report.cohort}, {run.report.split} split, {run.report.backbone}: "
    f"{parameters['n_small_lesions']} small of {parameters['n_lesions']} lesions"
)
print(economy.verdict_lines(run.report))

# %% [markdown]
# ## Lesions retained, by the work that is saved
# The table is of the selection split: the same rule gave each score a setting of its own. The curves are of the
# evaluated split.

# %%
display(economy.setting_table(parameters["setting"]))
retention_curves(rows["curves"], marks=economy.setting_marks(metrics, parameters))

# %% [markdown]
# For the FLOPs of the chosen setting, as counts, with exact bounds; then what the chosen setting misses, and which tokens
# it keeps (yellow) of pictures spread over lesion size, not chosen by result.

# %%
display(economy.equal_table(metrics, parameters["setting"]["each"]))
display(economy.missed_table(rows["missed"]))
lesion_maps(economy.kept_panels(run.pictures), title="Kept tokens", columns=3, size=140)

# %% [markdown]
# ## The certificate
# Calibration reads masks, so the certificate is labelled though the score is not. Its promise is marginal, over the draw of
# calibration units and of the new unit; one split proves nothing, so 200 re-splits stand beside it.

# %%
certified = rows.get("certificates", [])  # a selection split calibrates none
if certified:
    display(certificate_coverage(certified))
    display(economy.certificate_table(certified))
    display(economy.strata_table(rows["strata"], parameters["setting"]["chosen"]["n_tokens"]))
    print(economy.route_line(rows["route_certificate"][0]))

# %% [markdown]
# ## What a probe still reads
# Linear probes, trained with labels on the full pass and used for evaluation only, read the features of every route at
# equal FLOPs. Wall clock is this machine's; the gate does not decide by it.

# %%
probes = rows.get("probes", [])  # none where a cohort is too small
for task in dict.fromkeys(row["task"] for row in probes):
    display(probe_pareto(probes, title=f"What a probe still reads: {economy.TASK_NAMES.get(task, task)}", task=task))
if probes:
    display(economy.probe_table(metrics, probes))
if rows.get("wall"):
    display(economy.wall_table(rows["wall"]))

# %%
# Real pictures are not in the repository, but the records behind their headline numbers are: recomputed here.
recorded = headlines.recorded_metrics("6", but=run.report.cohort)
for name, found in recorded.items():
    print(name)
    display(economy.equal_table(found))

# %% tags=["nbval-check-output"]
print(headlines.locked_text("6", run.report.cohort, metrics, recorded))
