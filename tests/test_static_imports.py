"""The leak guard's static half: nothing that builds a subspace can reach a mask reader, and imports go one way."""

import ast
import subprocess
import sys

import pytest

from covtoken.paths import PACKAGE

CONSTRUCTION = sorted(p for folder in ("subspace", "backbone") for p in (PACKAGE / folder).glob("*.py"))
FORBIDDEN = (
    "covtoken.data.masks",
    "covtoken.evaluation",
    "covtoken.gates",
    "covtoken.economy",
    "covtoken.data.phantom",
)
ORDER = ["leak_guard", "data", "backbone", "subspace", "coverage", "economy", "evaluation", "gates"]


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


@pytest.mark.parametrize(
    "module", ["bank", "density", "residual", "rarity", "ridge", "direction", "scorers", "neighbors", "alarm"]
)
def test_importing_a_subspace_loads_no_mask_module(module):
    code = f"import sys, covtoken.subspace.{module}; print([m for m in sys.modules if m.startswith({FORBIDDEN!r})])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_only_masks_module_opens_masks():
    users = {p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob("*.py") if "read_mask" in p.read_text()}
    readers = {u for u in users if not u.startswith(("data/masks.py", "evaluation/labels.py"))}
    allowed = {"paper/tables/gate1.py", "paper/tables/budgets.py", "gates/rarity_curve.py", "data/card.py"}
    assert readers <= allowed, f"read_mask is called from {readers - allowed}"


@pytest.mark.parametrize("folder", ORDER[1:])
def test_imports_go_one_way(folder):
    above = tuple(f"covtoken.{name}" for name in ORDER[ORDER.index(folder) + 1 :])
    for path in (PACKAGE / folder).glob("*.py"):
        bad = [name for name in _imports(path) if name.startswith(above)]
        assert not bad, f"{path.relative_to(PACKAGE)} imports upward: {bad}"
