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
# # Run it: gate 6, a route and its certificate
#
# **Question.** What does a third of the tokens still do, and with which guarantee?
#
# A *route* runs all tokens through the first blocks, scores them there, and sends only the best ones through the rest;
# what the others show in the output is predicted from where they stopped. Score, block and number of tokens come from the
# selection split: first the score and block that retain most lesions at twice fewer FLOPs, then the fewest tokens that
# retain 98 % of them. A *certificate* then says, from labelled calibration units, how many tokens retain every lesion of
# a new unit with a chosen probability.

# %% tags=["hide-input"]
try:
    from covtoken.gates import headlines, runs
    from covtoken.paper.charts.economy import certificate_coverage, probe_pareto, retention_curves
    from covtoken.paper.charts.offline_renderer import install_renderer
    from covtoken.paper.charts.pictures import lesion_maps
    from covtoken.paper.tables import economy
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
    "6", cohort=cohort, split=split, backbone=backbone, data=data, precision=precision
)
metrics, parameters, rows = run.report.metrics, run.report.parameters, run.report.chart_data
verdict(run.report)

# %%
retention_curves(rows["curves"], marks=economy.setting_marks(metrics, parameters))

# %%
equal = economy.equal_table(metrics, parameters["setting"]["each"])
equal[["all", "chosen retains more", "p, Holm"]]

# %% [markdown]
# ## More from this run
# The table above is for the FLOPs of the chosen setting: lesions retained as a count, and what the chosen setting retains more,
# paired, with its interval over units.
#
# **As shares, with exact bounds**, all lesions and small ones; what the chosen setting misses; the run and its checks:

# %% tags=["hide-cell"]
display(equal[["all, share"]], equal[["small", "small, share"]], economy.missed_table(rows["missed"]))
print(
    f"{run.report.cohort}, {run.report.split} split, {run.report.backbone}: "
    f"{parameters['n_small_lesions']} small of {parameters['n_lesions']} lesions"
)
print(economy.verdict_lines(run.report))

# %% [markdown]
# **Settings**, of the selection split: the same rule gave each score one of its own.

# %% tags=["hide-cell"]
settings = economy.setting_table(parameters["setting"])
display(settings[["tokens kept", "net speed-up", "part"]])
settings[["after block", "share", "retained on selection", "retained at 2 ×"]]

# %% [markdown]
# **Which tokens are kept** (yellow), of pictures spread over lesion size, not chosen by result.

# %% tags=["hide-cell"]
lesion_maps(economy.kept_panels(run.pictures), title="Kept tokens", columns=3, size=140)

# %% [markdown]
# **The certificate.** Calibration reads masks, so the certificate is labelled though the score is not. Its promise is marginal,
# over the draw of calibration units and of the new unit; one split proves nothing, so 200 re-splits stand beside it.

# %% tags=["hide-cell"]
certified = rows.get("certificates", [])  # a selection split calibrates none
if certified:
    display(certificate_coverage(certified))
    table = economy.certificate_table(certified)
    display(table[["promised", "retained", "n", "kept"]], table[["found", "law, 95 %", "200 re-splits"]])
    display(economy.strata_table(rows["strata"], parameters["setting"]["chosen"]["n_tokens"]))
    display(Sentence(economy.route_line(rows["route_certificate"][0])))

# %% [markdown]
# **What a probe still reads.** Linear probes, trained with labels on the full pass and used for evaluation only, read the
# features of every route at equal FLOPs. Wall clock is this machine's; the gate does not decide by it.

# %% tags=["hide-cell"]
probes = rows.get("probes", [])  # none where a cohort is too small
for task in dict.fromkeys(row["task"] for row in probes):
    display(probe_pareto(probes, title=f"What a probe still reads: {economy.TASK_NAMES.get(task, task)}", task=task))
    display(economy.task_table(economy.probe_table(metrics, probes), task))
if rows.get("wall"):
    display(economy.wall_table(rows["wall"]))

# %% [markdown]
# ## Recomputed from records
# Real pictures are not in the repository, but the records behind their headline numbers are. Their numbers are computed from
# these again, and held against the locked ones.

# %%
recorded = headlines.recorded_metrics("6", but=run.report.cohort)
reproduced(headlines.locked_text("6", run.report.cohort, metrics, recorded))

# %% tags=["hide-output"]
for name, found in recorded.items():
    print(name)
    display(economy.equal_table(found)[["all", "chosen retains more", "p, Holm"]])

# %% tags=["nbval-check-output", "hide-output"]
print(headlines.locked_text("6", run.report.cohort, metrics, recorded))
