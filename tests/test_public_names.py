"""Public names are typed: the stub lists them, and every public signature is annotated."""

import ast
import inspect

import pytest

import covtoken
from covtoken.paths import PACKAGE


def test_the_stub_names_what_is_public():
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text())
    named = {
        alias.asname: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert named == covtoken._PUBLIC
    assert (PACKAGE / "py.typed").is_file()


def _callables(name):
    found = getattr(covtoken, name)
    if inspect.isclass(found):
        for key, value in vars(found).items():
            value = getattr(value, "__func__", value)
            if inspect.isfunction(value) and value.__module__.startswith("covtoken") and not key.startswith("_"):
                yield value
    elif inspect.isfunction(found):
        yield found


@pytest.mark.parametrize("name", covtoken._PUBLIC)
def test_public_signatures_are_annotated(name):
    for function in _callables(name):
        signature = inspect.signature(function)
        bare = [key for key, value in signature.parameters.items() if value.annotation is value.empty]
        assert set(bare) <= {"self", "cls"}, f"{function.__qualname__}: {bare} are not annotated"
        assert signature.return_annotation is not signature.empty, f"{function.__qualname__} says not what it gives"
