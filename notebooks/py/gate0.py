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
# # Gate 0: the substrate
#
# **Question.** Do two extractions agree, is the pixel–token geometry right, are splits disjoint, is the bank intact, and
# does the leak guard trip?
#
# Every number of the other gates stands on this. Nothing is chosen here and no label is scored, so there is no test
# split to protect and no lock. All checks must hold.

# %%
try:
    from covtoken.gates import runs
    from covtoken.paper.charts.offline_renderer import install_renderer
    from covtoken.paper.charts.substrate import agreement_by_block, token_marks
    from covtoken.paper.tables import gate0
except ImportError as error:
    raise SystemExit(f"{error}: install the package first, `make paper` or `pip install -e .[all]`") from error
install_renderer()

# %% tags=["parameters"]
cohort = "phantom"  # or busi, … or a folder with index.csv
backbone = "embedded"  # or dinov2-base, … or any timm ViT
data = None  # the cohort's folder, where it is not under COVTOKEN_DATA

# %%
run, path = runs.run_and_write(0, cohort, backbone=backbone, data=data)
report = run.report
print(f"{report.cohort}, {report.backbone}: {report.decision}")

# %% [markdown]
# ## Two extractions
# The same pictures again, in other batches, with another number of threads, from the cache, and in bf16.

# %%
agreement_by_block(report.chart_data["agreement"])

# %% [markdown]
# ## From pixels to tokens
# Marks at known pixels of pictures that are square, wide, tall and enlarged. The token that holds a mark must be the one
# that changes most after the first block, and the one that the mask path names.

# %%
token_marks(report.chart_data["marks"])

# %%
gate0.check_table(report)

# %% [markdown]
# ## A check that cannot fail is none
# Each defect is planted into a small phantom, seen by a tiny random ViT.

# %%
defects = gate0.defect_table()
defects

# %% tags=["nbval-check-output"]
print(gate0.locked_text(report))
for defect, row in defects.iterrows():
    print(f"planted {defect}: {row['decision']}")
