# ---
# jupyter:
#   jupytext:
#     formats: notebooks///ipynb,notebooks/py///py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Run it: gate 0, from pixels to tokens, twice
#
# **Question.** Do two extractions agree, is the pixel–token geometry right, are splits disjoint, is the bank intact, and
# does the leak guard trip?
#
# Every number of the other gates stands on this. Nothing is chosen here and no label is scored, so there is no test
# split to protect and no lock. All checks must hold.

# %% tags=["hide-input"]
try:
    from covtoken.gates import runs
    from covtoken.paper.charts.offline_renderer import install_renderer
    from covtoken.paper.charts.substrate import agreement_by_block, token_marks
    from covtoken.paper.tables import gate0
    from covtoken.paper.tables.shown import verdict
except ImportError as error:
    raise SystemExit(f"{error}: install the package first, `make paper` or `pip install -e .[all]`") from error
install_renderer()

# %% tags=["parameters"]
cohort = "phantom"  # or busi, … or a folder with index.csv
backbone = "embedded"  # or dinov2-base, … or any timm ViT
data = None  # the cohort's folder, where it is not under COVTOKEN_DATA

# %% tags=["hide-input"]
run, path = runs.run_and_write(0, cohort, backbone=backbone, data=data)
report = run.report
verdict(report)

# %%
agreement_by_block(report.chart_data["agreement"])

# %%
gate0.check_table(report)

# %% [markdown]
# ## More from this run
# **Two extractions.** In the chart above, the same pictures were read again: in other batches, with another number of threads,
# from the cache, and in bf16.
#
# **From pixels to tokens.** Marks at known pixels of pictures that are square, wide, tall and enlarged. The token that holds a
# mark must be the one that changes most after the first block, and the one that the mask path names.

# %% tags=["hide-cell"]
token_marks(report.chart_data["marks"])

# %% [markdown]
# **A check that cannot fail is none.** Each defect is planted into a small phantom, seen by a tiny random ViT.

# %% tags=["hide-cell"]
defects = gate0.defect_table()
defects

# %% [markdown]
# ## Recomputed from records
# This run's checks, then those of every committed report, whose decision must follow from them, then the planted defects.

# %% tags=["nbval-check-output", "hide-output"]
print(gate0.locked_text(report))
for defect, row in defects.iterrows():
    print(f"planted {defect}: {row['decision']}")
