"""Examples in docstrings run and give what they show; the names that a person meets first all have one."""

import ast
import doctest
import importlib

import pytest

import covtoken
from covtoken.paths import PACKAGE

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>>" in path.read_text()
)
FIRST = (
    *("lesion_map", "shipped_direction", "route", "export_map", "from_module", "from_timm", "load_backbone"),
    *("features", "open_cohort", "load_splits", "label", "measure", "direction_of", "score_maps", "kept_tokens"),
    *("certify", "rankme", "coding_rate", "build_bank", "greedy_k_center"),
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.attempted and not done.failed


@pytest.mark.parametrize("name", FIRST)
def test_what_a_person_meets_first_has_an_example(name):
    function = getattr(covtoken, name)
    assert ">>>" in (function.__doc__ or ""), f"{name} shows no example"
    ast.parse("\n".join(example.source for example in doctest.DocTestParser().get_examples(function.__doc__)))
