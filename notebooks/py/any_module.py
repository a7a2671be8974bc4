# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
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
# # Run it: any module that yields tokens
#
# **Question.** What does it take to make lesion maps with an encoder that covtoken has never seen?
#
# Four things: the names of the parts whose outputs are read, a function that makes tokens of such an output, the grid that
# the tokens lie on, and the picture size. `covtoken.from_module` reads the parts by hooks; the module's code stays as it is.

# %% tags=["hide-input"]
try:
    import numpy as np
    import pandas as pd
    import torch
    from torch import nn

    import covtoken as ct
    from covtoken.data.intensity import to_unit_range
    from covtoken.evaluation.stats import auroc
    from covtoken.paper.charts.offline_renderer import install_renderer
    from covtoken.paper.charts.pictures import lesion_maps
    from covtoken.paper.tables.shown import Verdict
except ImportError as error:
    raise SystemExit(f"{error}: install the package first, `make paper` or `pip install -e .[all]`") from error
install_renderer()

# %% tags=["parameters"]
cohort = "phantom"  # or busi, … or a folder with index.csv and splits
modality = "ultrasound"
n_pictures = 24  # of the selection split, on which nothing is chosen here


# %% [markdown]
# ## Two modules
# The first is the embedded vision transformer, taken as if it were a stranger's: its blocks give `[N, 1 + T, D]`, CLS first.
# What comes out can be held against `FrozenViT`, which knows the model. The second is a convolutional encoder with random
# weights, whose layers give maps `[N, D, rows, cols]`: it shows the way, not a result.

# %%
class Convolutions(nn.Module):
    def __init__(self, width=64, depth=12):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 14, stride=14)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=8) for _ in range(depth))

    def forward(self, images):
        x = self.stem(images)
        for layer in self.layers:
            x = x + layer(nn.functional.gelu(x))
        return x


vit = ct.load_backbone("embedded")
torch.manual_seed(0)
same = {"grid": (16, 16), "picture_size": 224}
models = {
    "FrozenViT": vit,
    "the same by hooks": ct.from_module(
        vit.model,
        blocks=[f"blocks.{i}" for i in range(12)],
        tokens=lambda output: output[:, 1:],  # without CLS
        mean=vit.mean,
        std=vit.std,
        name="stranger",
        **same,
    ),
    "random convolutions": ct.from_module(
        Convolutions(),
        blocks=[f"layers.{i}" for i in range(12)],
        tokens=lambda output: output.flatten(2).transpose(1, 2),  # [N, D, rows, cols] → [N, T, D]
        name="random-convolutions",
        **same,
    ),
}

# %% [markdown]
# ## From here on, nothing differs
# A direction is fitted to the rarity of the bank's tokens, without labels, and scores other pictures. A direction knows
# its backbone: a map with another one is refused.

# %%
opened = ct.open_cohort(cohort)
splits = ct.load_splits(opened)
cases = [case for case in opened.cases if case.modality == modality]
bank = [case for case in cases if splits[case.unit] == "bank"]
pictures = [case for case in cases if splits[case.unit] == "selection"][:n_pictures]
blocks = [ct.RECOMMENDED.block, ct.RECOMMENDED.settings.target_block]
maps, directions = {}, {}
for name, model in models.items():
    bank_features, features = (ct.features(part, model, blocks, progress=False) for part in (bank, pictures))
    directions[name] = ct.direction_of(ct.RECOMMENDED, bank_features)
    maps[name] = ct.direction_maps(ct.RECOMMENDED, directions[name], features)
labels = ct.label(pictures, opened, vit.rows, vit.cols)
found = {name: auroc(scores, labels.lesion, ~labels.ignore) for name, scores in maps.items()}
Verdict(
    f"Read by hooks, the embedded model finds lesion tokens with an AUROC of {found['the same by hooks']:.3f}, as FrozenViT with "
    f"{found['FrozenViT']:.3f}; random convolutions reach {found['random convolutions']:.3f} (n = {len(pictures)} pictures of "
    f"{opened.name}, of its selection split)."
)

# %%
shown = [i for i in range(len(pictures)) if labels.lesion[i].any()][:2]
lesion_maps(
    (
        {
            "name": name,
            "case": pictures[i].name,
            "picture": to_unit_range(pictures[i].pixels(), pictures[i]),
            "score": scores[i].reshape(vit.rows, vit.cols),
            "mask": np.kron(labels.lesion[i].reshape(vit.rows, vit.cols), np.ones((14, 14))).astype(bool),
        }
        for i in shown
        for name, scores in maps.items()
    ),
    title="One picture a row, one module a column",
    columns=3,
    size=140,
)

# %%
pd.DataFrame(
    {"blocks": model.n_blocks, "tokens": f"{model.rows} × {model.cols}", "values": model.dim, "AUROC": f"{found[name]:.3f}"}
    for name, model in models.items()
).set_axis(list(models))


# %% [markdown]
# ## What the pipeline asks
# `covtoken.TokenModel` is the protocol: names, hash of the weights, grid, and methods that prepare a picture and give
# tokens. A class of your own that has them is a backbone without `from_module`. A route asks for more, blocks that take any
# choice of tokens, and so for a timm ViT: `covtoken.route(timm_model, direction, keep=…)`.

# %% tags=["nbval-check-output"]
def refused(name, other):
    try:
        ct.direction_maps(ct.RECOMMENDED, directions[name], ct.features(pictures[:1], models[other], blocks, progress=False))
    except ct.CovtokenError:
        return True
    return False


print("all are token models:", all(isinstance(model, ct.TokenModel) for model in models.values()))
print("hooks give the map of FrozenViT:", np.allclose(maps["FrozenViT"], maps["the same by hooks"], atol=1e-4))
print("a direction of one is refused by another:", refused("the same by hooks", "random convolutions"))
print("random convolutions are no better than the trained model:", found["random convolutions"] <= found["FrozenViT"])
