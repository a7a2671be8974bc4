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
# # Run it: one setting changed at a time
#
# **Question.** Which settings carry the scores, and how much purity and size must a bank have?
#
# All numbers are of *selection* splits: nothing is chosen here, and no test split is opened. A, B, the lesion subspace (a
# token's length in it) and PN are searched in the bank; D, C− and C are directions that were fitted to it without labels.
# Scores are plain, without smoothing. Each value is compared with the default of its score on the same draws of units.

# %% tags=["hide-input"]
try:
    from covtoken.paper.charts.ablations import ablation_chart
    from covtoken.paper.charts.offline_renderer import install_renderer
    from covtoken.paper.tables import ablations as words
    from covtoken.paper.tables.shown import Sentence, Verdict
    from covtoken.studies.ablations import run
except ImportError as error:
    raise SystemExit(f"{error}: install the package first, `make paper` or `pip install -e .[all]`") from error
install_renderer()

# %% tags=["parameters"]
cohort = "phantom"  # or busi, … or a folder with index.csv, large enough to have a selection split
backbone = "embedded"  # or dinov2-base, … or any timm ViT
data = None  # the cohort's folder, where it is not under COVTOKEN_DATA

# %% tags=["hide-input"]
# This cohort from pixels; beside it, the cohorts whose ablations are recorded (their pictures are not in the repository).
content = run.run_ablations(cohort, backbone, data=data, progress=False)
path = run.STUDY.write(content, recorded=False)
contents = {content["cohort"]: content} | words.committed(but=content["cohort"])
Verdict(words.verdict(content))

# %%
ablation_chart(words.chart_rows("block", contents), *words.TITLES["block"])

# %%
words.change_table(content)

# %% [markdown]
# ## More from this run
# A point is a value's token AUROC with its 95 % interval; a row of the table is this run's.

# %% tags=["hide-cell"]
n = content["n"]
print(
    f"{content['cohort']}, {content['split']} split, {content['backbone']}: {n['images']} pictures of {n['units']} units, "
    f"a bank of {n['bank_units']} units, {content['reference']} tokens of reference; recorded: "
    f"{', '.join(list(contents)[1:]) or 'none'}"
)


def show(*names):
    for name in names:
        title, axis = words.TITLES[name]
        display(ablation_chart(words.chart_rows(name, contents), title, axis), Sentence(words.sentences(name, contents)))


# %% [markdown]
# **What the scores fix.** Few neighbours are noisy, many blur; a larger reference brings every distance down. B's rank says
# how much of a token counts as normal, the subspace's rank how much of it counts as lesion.

# %% tags=["hide-cell"]
show("k", "alpha", "rank", "reference")

# %% [markdown]
# **Where tokens are read.** C− is fitted to the rarity of one block and read at any.

# %% tags=["hide-cell"]
display(Sentence(words.sentences("block", contents)))  # drawn above
show("pooling")

# %% [markdown]
# **The bank.** Units are drawn by keyed hash, blind to all but names. **The banks without lesions and with lesions alone are
# the exception**: there, masks chose the units. That is for this evaluation alone; construction refuses such a bank, and no
# recipe comes from it.
#
# Then one lesion type (size, grey level, grain and rim are fixed) is drawn into a share of the phantom bank's units, again
# by keyed hash, and into every scored picture; what is scored there is that type alone.

# %% tags=["hide-cell"]
show("units", "purity", "planted")

# %% [markdown]
# **The pictures.** Other sizes are run on few units, the same at each size. A padded picture keeps its aspect; tokens of the
# padding enter no reference and are not evaluated.

# %% tags=["hide-cell"]
show("picture", "aspect")

# %% [markdown]
# ## Recomputed from pixels
# How many of the recorded numbers of this cohort come out again.

# %% tags=["nbval-check-output"]
print(words.reproduction(content))
