"""The leak guard's static half: nothing that builds a subspace can reach a mask reader, and imports go one way."""

import ast
import re
import subprocess
import sys

import pytest

from covtoken.paths import PACKAGE

BUILDERS = ("backbone", "bank", "subspace", "scores", "shards")
CONSTRUCTION = sorted(path for folder in BUILDERS for path in (PACKAGE / folder).rglob("*.py"))
FORBIDDEN = (
    "covtoken.data.masks",
    "covtoken.data.cohorts",  # it knows every reader
    "covtoken.evaluation",
    "covtoken.protocol",
    "covtoken.gates",
    "covtoken.studies",
    "covtoken.economy",
    "covtoken.data.phantoms",
    "covtoken.data.readers",
)
ORDER = [
    *("leak_guard", "data", "backbone", "bank", "subspace", "scores", "shards", "coverage", "economy", "deploy"),
    *("evaluation", "protocol", "studies", "gates", "maps", "paper", "cli"),
]  # ground floor first
MOST_FILES, LARGEST_SHARE = 13, 0.2


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", CONSTRUCTION, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_construction_imports_no_mask_reader(path):
    bad = [name for name in _imports(path) if name.startswith(FORBIDDEN)]
    assert not bad, f"{path.name} imports {bad}: subspaces are built without labels"


@pytest.mark.parametrize("folder", BUILDERS)
def test_importing_what_builds_loads_no_mask_module(folder):
    modules = [f"covtoken.{folder}.{path.stem}" for path in (PACKAGE / folder).glob("*.py") if path.stem != "__init__"]
    code = f"import sys, {', '.join(modules)}; print([m for m in sys.modules if m.startswith({FORBIDDEN!r})])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_only_masks_module_opens_masks():
    users = {
        p.relative_to(PACKAGE).as_posix()
        for p in PACKAGE.rglob("*.py")
        if re.search("read_mask|read_marked", p.read_text())
    }
    readers = {u for u in users if not u.startswith(("data/masks.py", "evaluation/labels.py"))}
    allowed = {
        "paper/tables/gate1.py",
        "paper/tables/budgets.py",
        "gates/budgets/growing_lesion.py",
        "data/card.py",
        "data/check/look.py",
        "studies/explorer.py",  # outlines for the reader's eye, drawn after scores exist
        "studies/ablations/picture_forms.py",  # an ablation, choosing nothing
    }
    assert readers <= allowed, f"read_mask is called from {readers - allowed}"


@pytest.mark.parametrize("folder", ORDER)
def test_imports_go_one_way(folder):
    above = tuple(f"covtoken.{name}" for name in ORDER[ORDER.index(folder) + 1 :])
    for path in (PACKAGE / folder).rglob("*.py"):
        bad = [name for name in _imports(path) if name.startswith(above)]
        assert not bad, f"{path.relative_to(PACKAGE)} imports upward: {bad}"


def test_no_gate_imports_a_gate():
    """Only the runner and the headlines know several; none knows the experiment that fixed the alarm's limits."""
    for path in (PACKAGE / "gates").rglob("*.py"):
        names = list(_imports(path))
        assert not [name for name in names if name.startswith("covtoken.studies.alarm")], path.name
        if path.stem in ("runs", "headlines"):
            continue
        gates = {name.split(".")[2] for name in names if name.startswith("covtoken.gates.")} - {path.stem}
        assert not {name for name in gates if name.startswith(("gate", "negative"))} - {"gate1_rows"}, path.name


def test_rooms_are_small_enough_to_know():
    """Every folder of the package is in the order, and none holds more than a dozen files or a fifth of the lines."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert {folder.relative_to(PACKAGE).parts[0] for folder in folders if folder != PACKAGE} == set(ORDER)
    for folder in folders:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder
    lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    for name in ORDER:
        share = sum(n for path, n in lines.items() if PACKAGE / name in path.parents) / sum(lines.values())
        assert share <= LARGEST_SHARE, f"{name} holds {share:.0%} of the lines"
