"""
The private names that the reactor leans on: the table of them is complete, and Twisted has them.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache

import pytest

from sockapps import reactor
from sockapps.reactor import LEANS_ON

LEANT_ON = [(owner, name) for owner, names in LEANS_ON.items() for name in names]


@cache
def assigned(owner: type) -> frozenset[str]:
    """What the methods of a class, and of those it inherits from, assign on C{self}."""
    found: set[str] = set()
    for each in owner.__mro__[:-1]:
        try:
            source = inspect.getsource(each)
        except (OSError, TypeError):
            continue  # a class in C has no attributes but those it shows
        for node in ast.walk(ast.parse(textwrap.dedent(source))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
    return frozenset(found)


def has(owner: type, name: str) -> bool:
    return hasattr(owner, name) or name in assigned(owner)


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def used() -> set[str]:
    """Every private name that the module reads, sets, calls, or overrides."""
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(reactor))):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    names.add(inner.name)
                elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                    names.add(inner.target.id)
                elif isinstance(inner, ast.Assign):
                    names |= {each.id for each in inner.targets if isinstance(each, ast.Name)}
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            names |= {each.value for each in node.args if isinstance(each, ast.Constant)}
    return {name for name in names if isinstance(name, str) and private(name)}


def classes(ours: bool) -> set[type]:
    """The module's own classes, or those that they inherit from."""
    made = {each for each in vars(reactor).values() if isinstance(each, type)}
    own = {each for each in made if each.__module__ == reactor.__name__}
    inherited = {base for each in own for base in each.__mro__[:-1]} - own
    return own if ours else inherited


@pytest.mark.parametrize(
    ("owner", "name"), LEANT_ON, ids=lambda each: each if isinstance(each, str) else each.__name__
)
def test_what_the_reactor_leans_on_is_there(owner: type, name: str) -> None:
    assert has(owner, name), (
        f"{owner.__module__}.{owner.__qualname__} has no {name} any more, which sockapps.reactor"
        " leans on: see LEANS_ON there, and what this version has in its place"
    )


def test_the_table_of_what_the_reactor_leans_on_is_complete() -> None:
    ours = {name for each in classes(ours=True) for name in vars(each)}
    ours |= {name for each in classes(ours=True) for name in ownAssigned(each)}
    theirs = {
        name
        for name in used()
        if name not in ours or any(has(each, name) for each in classes(False))
    }
    assert theirs == {name for _, name in LEANT_ON}


def ownAssigned(owner: type) -> set[str]:
    """What the methods of one class of ours assign on C{self}."""
    nodes = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(owner))))
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def test_a_name_that_is_gone_is_missed() -> None:
    for owner in LEANS_ON:
        assert not has(owner, "_goneWithTheNextRelease")
