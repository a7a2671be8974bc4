"""Ways round the leak guard, each tried while something label-free is built; one that works fails the build.

What each attack tries works outside construction (the negative controls), so that a refusal is the guard's doing.
"""

from __future__ import annotations

import ast
import csv
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from stub_features import StubFeatures

from covtoken.backbone.feature_set import Disk, FeatureSet
from covtoken.bank.token_bank import TokenBank, build_bank, load_bank
from covtoken.data.case import Case, MaskRef
from covtoken.data.masks import read_mask
from covtoken.data.readers import folder as folder_reader
from covtoken.errors import CovtokenError
from covtoken.evaluation.labels import label, token_labels
from covtoken.leak_guard import LabelLeak, construction, register_mask_files
from covtoken.paths import PACKAGE
from covtoken.scores.scorers import raw_maps
from covtoken.subspace.density import DensitySubspace
from covtoken.subspace.direction import Direction, DirectionSettings, fit_many, load_direction
from covtoken.subspace.rarity import RaritySubspace

ROWS = COLS = 2


@pytest.fixture
def cohort(tmp_path):
    """Three pictures of 16 × 16 with masks, in a folder as people keep it; the reader registers the masks."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(3):
        picture, mask = rng.integers(1, 255, (16, 16), np.uint8), np.zeros((16, 16), np.uint8)
        mask[2 : 9 + i, 2:9] = 255
        Image.fromarray(picture).save(tmp_path / f"p{i}.png")
        Image.fromarray(mask).save(tmp_path / f"m{i}.png")
        rows.append({"image": f"p{i}.png", "mask": f"m{i}.png", "patient": f"u{i}", "lesion_px": int((mask > 0).sum())})
    with (tmp_path / "index.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder_reader.read(tmp_path, "leaky")


@pytest.fixture
def mask_file(cohort):
    return cohort.masks["p0"].files[0]


def refused(attack):
    """Whether the guard refuses what works outside construction."""
    attack()
    with construction("a bank"), pytest.raises(LabelLeak):
        attack()
    attack()


def in_memory(n=4, **options):
    tokens = torch.randn(n, ROWS * COLS, 8, generator=torch.Generator().manual_seed(0))
    return FeatureSet.from_arrays({1: tokens}, ROWS, COLS, [f"u{i}" for i in range(n)], **options)


# Files


def test_mask_door(cohort):
    refused(lambda: read_mask(cohort.masks["p0"]))


def test_mask_opened_by_a_library(mask_file):
    refused(lambda: np.asarray(Image.open(mask_file)))


def test_mask_by_symbolic_and_hard_link(mask_file):
    soft, hard = mask_file.with_name("soft.png"), mask_file.with_name("hard.png")
    soft.symlink_to(mask_file)
    os.link(mask_file, hard)
    refused(soft.read_bytes)
    refused(hard.read_bytes)


def test_mask_by_relative_path_and_folder_descriptor(mask_file, monkeypatch):
    monkeypatch.chdir(mask_file.parent)
    refused(Path("m0.png").read_bytes)
    monkeypatch.chdir("/")
    folder = os.open(mask_file.parent, os.O_RDONLY)
    refused(lambda: os.close(os.open("m0.png", os.O_RDONLY, dir_fd=folder)))
    os.close(folder)


def test_mask_copied_under_another_name(mask_file):
    copy = mask_file.with_name("innocent.dat")
    shutil.copyfile(mask_file, copy)
    refused(copy.read_bytes)


def test_mask_moved_before_construction(mask_file):
    moved = mask_file.with_name("moved.png")
    mask_file.rename(moved)
    refused(moved.read_bytes)


def test_mask_moved_inside_construction(mask_file):
    with construction("a bank"), pytest.raises(LabelLeak):
        mask_file.rename(mask_file.with_name("moved.png"))
    assert mask_file.rename(mask_file.with_name("moved.png")).is_file()


def test_mask_opened_before_and_read_inside(mask_file):
    lazy = Image.open(mask_file)  # PIL reads pixels later, from the open file
    with pytest.raises(LabelLeak, match="is open"), construction("a bank"):
        lazy.load()
    lazy.close()
    with construction("a bank"):
        pass


def test_mask_mapped_before_and_read_inside(tmp_path):
    np.save(tmp_path / "m.npy", np.eye(8))
    register_mask_files([tmp_path / "m.npy"])
    mapped = np.load(tmp_path / "m.npy", mmap_mode="r")
    with pytest.raises(LabelLeak, match="is open"), construction("a bank"):
        mapped.sum()
    del mapped
    torch_mapped = torch.from_file(str(tmp_path / "m.npy"), size=8, dtype=torch.uint8)  # the hook did not see this one
    with pytest.raises(LabelLeak, match="is open"), construction("a bank"):
        torch_mapped.sum()


def test_lazy_nifti_mask(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.eye(8, dtype=np.uint8), np.eye(4)), tmp_path / "m.nii.gz")
    register_mask_files([tmp_path / "m.nii.gz"])
    lazy = nibabel.load(tmp_path / "m.nii.gz")
    refused(lambda: np.asarray(lazy.dataobj))


def test_mask_read_by_another_program(mask_file):
    refused(lambda: subprocess.run(["cat", str(mask_file)], capture_output=True, check=True))
    refused(lambda: subprocess.run(f"cat '{mask_file}' | wc -c", shell=True, capture_output=True, check=True))
    refused(lambda: os.system(f"cat '{mask_file}' > /dev/null"))


def test_mask_stored_as_safetensors_and_read_in_rust(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"block1": torch.randn(4, 8)}, path)
    register_mask_files([path])
    refused(lambda: Disk([path])("block1", [0]))
    for door in (load_bank, load_direction):
        with construction("a bank"), pytest.raises(LabelLeak):
            door(path)


@pytest.mark.parametrize("read_at", range(4))
def test_mask_opened_while_a_direction_is_fitted(mask_file, monkeypatch, read_at):
    """In each of its passes: the reference, the rarity of all tokens, the sums of two blocks."""
    real, passes = StubFeatures.chunks, []

    def chunks(self, block, size=64):
        if len(passes) == read_at:
            mask_file.read_bytes()
        passes.append(block)
        yield from real(self, block, size)

    monkeypatch.setattr(StubFeatures, "chunks", chunks)
    with pytest.raises(LabelLeak, match=r"m0\.png"):
        fit_many(StubFeatures.of(), [1, 2], DirectionSettings(3))
    assert passes == [3, 3, 1, 2][:read_at]
    passes.extend([0] * 4)
    assert list(fit_many(StubFeatures.of(), [1, 2], DirectionSettings(3))) == [1, 2]


def test_mask_listed_as_a_picture(cohort, mask_file):
    from covtoken.backbone.cache import features
    from covtoken.backbone.weights import load_backbone
    from covtoken.data.pictures import read_picture

    backbone = load_backbone("random:vit_tiny_patch16_224", picture_size=32)
    asked = {"blocks": [1], "progress": False, "cache": False}
    assert len(features(cohort.cases[:1], backbone, **asked)) == 1
    disguised = replace(cohort.cases[0], load=partial(read_picture, mask_file))
    with pytest.raises(LabelLeak, match="features"):
        features([disguised], backbone, **asked)


# Arrays, token labels and cached features


def test_token_labels_made_inside(cohort):
    mask = read_mask(cohort.masks["p0"])
    refused(lambda: token_labels(mask, ROWS, COLS))
    refused(lambda: label(cohort.cases, cohort, ROWS, COLS))


CASTS = {
    "boolean": torch.Tensor.bool,
    "integer": torch.Tensor.int,
    "0 and 1": torch.Tensor.float,
    "0 and 255": lambda m: 255 * m.float(),
    "-1 and 1": lambda m: 2 * m - 1,
    "0.1 and 0.9": lambda m: 0.8 * m + 0.1,
    "0, 1 and -1 to ignore": lambda m: torch.cat([m[:-1], -torch.ones_like(m[-1:])]),
}


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_mask_array_as_features(cast):
    mask = torch.zeros(4, ROWS * COLS, 8)
    mask[:2] = 1
    with pytest.raises(LabelLeak):
        FeatureSet.from_arrays({1: cast(mask)}, ROWS, COLS, ["a", "b", "c", "d"])
    with pytest.raises(LabelLeak):
        DensitySubspace.fit(TokenBank(cast(mask).reshape(-1, 8), np.arange(16), {}), k=1, rank=2)
    with pytest.raises(LabelLeak):
        RaritySubspace.fit(TokenBank(cast(mask).reshape(-1, 8), np.arange(16), {}), k=1, neighbours=1)
    with pytest.raises(LabelLeak):
        Direction.fit_target(in_memory(), 1, cast(mask)[..., 0])
    nested, target = cast(mask).tolist(), cast(mask)[..., 0].tolist()
    with pytest.raises(LabelLeak):
        FeatureSet.from_arrays({1: nested}, ROWS, COLS, ["a", "b", "c", "d"])
    with pytest.raises(LabelLeak):
        FeatureSet.from_arrays({}, ROWS, COLS, ["a", "b", "c", "d"], saliency=target)
    with pytest.raises(LabelLeak):
        Direction.fit_target(in_memory(), 1, target)


def masked(tokens, how):
    """Tokens [N, T, D] with a mask in them: added or written over a channel, or cutting tokens out."""
    mask = torch.zeros(tokens.shape[:2])
    mask[: len(mask) // 2, :2] = 1
    return {
        "one more channel": lambda: torch.cat([tokens, mask[..., None]], 2),
        "over a channel": lambda: torch.cat([tokens[..., 1:], 0.5 + mask[..., None]], 2),
        "zero inside": lambda: tokens * (1 - mask[..., None]),
        "zero outside": lambda: tokens * mask[..., None],
    }[how]()


@pytest.mark.parametrize("how", ["one more channel", "over a channel", "zero inside", "zero outside"])
def test_mask_inside_of_tokens(monkeypatch, how):
    tokens = torch.randn(12, ROWS * COLS, 8, generator=torch.Generator().manual_seed(0))
    for given in (masked(tokens, how), masked(tokens, how).tolist(), masked(tokens, how).numpy()):
        with pytest.raises(LabelLeak, match=r"a channel .* of 2 values|tokens that are zero"):
            FeatureSet.from_arrays({1: given}, ROWS, COLS, [f"u{i}" for i in range(12)])
    real = StubFeatures.chunks
    monkeypatch.setattr(StubFeatures, "chunks", lambda *a, **k: ((s, masked(z, how)) for s, z in real(*a, **k)))
    ways = (
        lambda features: build_bank(features, 1, size=20),
        lambda features: Direction.fit_target(features, 1, features.saliency()),
        lambda features: raw_maps("token_norm_centred", 1, False, features, StubFeatures.of(2, prefix="v")),
    )
    for way in ways:
        with pytest.raises(LabelLeak, match=r"a channel .* of 2 values|tokens that are zero"):
            way(StubFeatures.of())


def test_dull_pictures_and_sparse_tokens_are_no_masks():
    """False alarms that must not come: equal tokens, silent and rarely active channels, black pictures."""
    from covtoken.backbone.cache import features
    from covtoken.backbone.weights import load_backbone

    draw = torch.Generator().manual_seed(0)
    tokens = torch.randn(12, 16, 96, generator=draw)
    tokens[:9] = tokens[0, 0]  # nine pictures of one token
    rare = torch.randn(12, 16, 96, generator=draw).sub(1).relu()
    rare[..., 3], rare[..., 4] = 0, 0  # silent, and active at a few tokens
    rare[0, :5, 4] = 1.5
    for given in (tokens, rare, tokens.relu()):
        assert len(FeatureSet.from_arrays({1: given}, 4, 4, [f"u{i}" for i in range(12)]))
    backbone = load_backbone("random:vit_tiny_patch16_224", picture_size=64)
    flat = [Case(f"c{i}", f"u{i}", "ultrasound", partial(np.full, (40, 40), 90 * (i // 5))) for i in range(14)]
    found = features(flat, backbone, [1, "norm"], saliency=False, progress=False, cache=False)
    for block in (1, "norm"):
        assert len(FeatureSet.from_arrays({block: found.tokens(block)}, 4, 4, found.units)) == 14
        assert len(build_bank(found, block, size=40)) == 40


def test_mask_streamed_as_tokens(monkeypatch):
    real = StubFeatures.chunks
    cut = [lambda z: z > 0, lambda z: (z > 0).float()]
    for leak in cut:
        monkeypatch.setattr(StubFeatures, "chunks", lambda *a, f=leak, **k: ((s, f(z)) for s, z in real(*a, **k)))
        with pytest.raises(LabelLeak):
            build_bank(StubFeatures.of(), 1, size=20)
        with pytest.raises(LabelLeak):
            raw_maps("token_norm_centred", 1, False, StubFeatures.of(), StubFeatures.of(2, prefix="v"))
    monkeypatch.setattr(StubFeatures, "chunks", real)
    assert len(build_bank(StubFeatures.of(), 1, size=20)) == 20


def test_labels_riding_on_a_feature_set(cohort):
    labels = label(cohort.cases, cohort, ROWS, COLS)
    for riding in (labels, [labels], {"hint": labels.lesions[0]}, labels.lesion, MaskRef("empty", key="4x4")):
        features = StubFeatures.of()
        features.hint = riding
        with pytest.raises(LabelLeak):
            build_bank(features, 1, size=20)


def test_labels_in_a_cached_feature_file(tmp_path):
    tokens = torch.randn(ROWS * COLS, 8)
    beside, instead = tmp_path / "beside.safetensors", tmp_path / "instead.safetensors"
    save_file({"block1": tokens, "lesion": (tokens > 0).float()}, beside)
    save_file({"block1": (tokens > 0).float()}, instead)
    for path in (beside, instead):
        features = replace(in_memory(1), read=Disk([path]))
        with pytest.raises(LabelLeak):
            build_bank(features, 1, size=4)


# Choice by label


def test_pictures_chosen_by_a_boolean_mask():
    features = in_memory()
    healthy = np.array([True, False, True, True])
    chosen = features.subset(healthy)
    assert len(chosen) == 3 and torch.equal(chosen.tokens(1), features.tokens(1)[healthy])  # it can be scored
    for way_in in (chosen, chosen.subset([0, 1]), features.subset(healthy.tolist())):
        with pytest.raises(LabelLeak, match="boolean mask"):
            build_bank(way_in, 1, size=4)
        with pytest.raises(LabelLeak, match="boolean mask"):
            raw_maps("token_norm_centred", 1, False, way_in, features)
        with pytest.raises(LabelLeak, match="boolean mask"):
            Direction.fit(way_in, 1, DirectionSettings(1))
    assert len(build_bank(features.subset([0, 2, 3]), 1, size=4)) == 4


@pytest.mark.parametrize("cast", [np.ndarray.tolist, np.asarray, torch.as_tensor])
def test_pictures_chosen_by_a_mask_cast_to_integers(cast):
    """Taken for indices, it would give pictures 0 and 1 over and over."""
    with pytest.raises(LabelLeak, match="mask cast to 0 and 1: 4 of them for 4 pictures"):
        in_memory().subset(cast(np.array([1, 0, 1, 1])))
    with pytest.raises(CovtokenError, match=r"expected whole numbers \[n\], got \[4\] of torch.float"):
        in_memory().subset(cast(np.array([1.0, 0, 1, 1])))
    for order in ([0, 1], [1, 0]):
        assert in_memory(2).subset(cast(np.array(order))).units == [f"u{i}" for i in order]
    with pytest.raises(CovtokenError, match="picture index 2 comes twice: give each picture once"):
        in_memory().subset(cast(np.array([2, 0, 2])))


def test_pictures_chosen_inside_by_a_boolean_mask():
    features = in_memory()
    refused(lambda: features.subset(torch.tensor([True, False, True, True])))


def test_slices_chosen_by_the_lesion_column_of_the_index(cohort, mask_file):
    index = mask_file.with_name("index.csv")
    refused(lambda: [row for row in csv.DictReader(index.open()) if int(row["lesion_px"]) == 0])
    refused(lambda: folder_reader.read(index.parent, "leaky"))


def test_an_index_first_read_inside(tmp_path):
    (tmp_path / "index.csv").write_text("image,mask\n")
    with construction("a bank"), pytest.raises(LabelLeak):
        folder_reader.read(tmp_path)


def test_cases_carry_no_lesion_column(cohort):
    assert not {"lesion_px", "lesion_frac", "note"} & {name for case in cohort.cases for name in vars(case)}


def test_a_label_chosen_bank_names_its_pictures():
    """Integers worked out from labels cannot be told from others: the header gives the choice away afterwards."""
    features = in_memory()
    whole, chosen = (build_bank(f, 1, size=4).header for f in (features, features.subset([0, 2])))
    assert chosen["cohort_fingerprint"] != whole["cohort_fingerprint"] and chosen["units"] != whole["units"]


# Threads and workers


def test_thread_started_before_construction(mask_file):
    go, caught = threading.Event(), []

    def read():
        go.wait()
        try:
            mask_file.read_bytes()
        except LabelLeak as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    with construction("a bank"):
        go.set()
        thread.join()
    assert len(caught) == 1


def test_thread_pool(mask_file):
    with ThreadPoolExecutor(1) as pool:
        refused(lambda: pool.submit(mask_file.read_bytes).result())


def _read(path: str) -> str:
    try:
        return f"read {len(Path(path).read_bytes())}"
    except LabelLeak:
        return "refused"


def test_forked_worker(mask_file):
    with construction("a bank"), ProcessPoolExecutor(1, get_context("fork")) as pool:
        assert pool.submit(_read, str(mask_file)).result() == "refused"


SPAWNED = """
import sys
from pathlib import Path
from covtoken.leak_guard import LabelLeak
paths = [line.strip() for line in sys.stdin]
for path in paths:
    try:
        Path(path).read_bytes()
        print("read")
    except LabelLeak:
        print("refused")
"""


def test_spawned_worker_knows_the_files(mask_file):
    copy = mask_file.with_name("copy.dat")
    shutil.copyfile(mask_file, copy)

    def spawned() -> list[str]:
        lines = f"{mask_file}\n{copy}\n{mask_file.with_name('p0.png')}\n"
        command = [sys.executable, "-c", SPAWNED]
        return subprocess.run(command, input=lines, capture_output=True, text=True, check=True).stdout.split()

    assert spawned() == ["read", "read", "read"]
    with construction("a bank"):
        assert spawned() == ["refused", "refused", "read"]


# Controls


def test_nothing_is_refused_outside_and_pictures_are_free_inside(cohort, mask_file):
    assert read_mask(cohort.masks["p0"]).any() and token_labels(np.eye(8, dtype=bool), 2, 2).lesion.any()
    assert _read(str(mask_file)).startswith("read")
    with construction("a bank"):
        assert all(case.pixels().shape == (16, 16) for case in cohort.cases)
        assert np.asarray(Image.open(mask_file.with_name("p1.png"))).any()
    assert len(build_bank(in_memory(), 1, size=4)) == 4


def test_readers_that_the_hook_cannot_see_stand_behind_our_doors():
    """Only these modules read files in C or Rust; those reached during construction ask ``refuse_mask_file`` first."""
    unseen = {"safe_open", "load_file", "from_file", "read_file", "read_image", "imread", "read_index"}
    users = set()
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        if unseen & (names | {node.id for node in nodes if isinstance(node, ast.Name)}):
            users.add(path.relative_to(PACKAGE).as_posix())
    guarded = {"backbone/feature_set.py", "evaluation/records.py", "bank/tensor_file.py"}
    guarded |= {"shards/store.py", "shards/pictures.py", "shards/tokens.py", "cli/commands/bank.py"}
    assert all("refuse_mask_file(" in (PACKAGE / name).read_text() for name in guarded)
    own = {name for name in users if name.startswith("backbone/")}  # weights
    assert users <= guarded | own, f"{users - guarded - own} reads files unseen: ask refuse_mask_file first"
