"""
Twisted's own reactor suite, on the stock epoll reactor or on ours: what came of each test.

C{python -m tests.reactor_suite stock} (or C{lean}) writes one JSON object: each test's outcome by
its name. It runs in a process of its own, since each of its tests makes a reactor.
"""

from __future__ import annotations

import json
import pkgutil
import sys
import unittest
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import twisted.internet.test
from twisted.internet import epollreactor
from twisted.internet.test.reactormixins import ReactorBuilder
from twisted.trial.runner import TestLoader

from sockapps.reactor import LeanReactor

STOCK = "_EPollReactorTests"
"""What the names of the cases that the suite makes for the epoll reactor end in."""


class EPollReactor(LeanReactor):
    """Ours under the name by which the suite knows what no epoll reactor can do."""


REACTORS = {"stock": epollreactor.EPollReactor, "lean": EPollReactor}


def builtCases() -> Iterator[type[unittest.TestCase]]:
    """Every test case that the suite makes for the epoll reactor."""
    for found in pkgutil.iter_modules(twisted.internet.test.__path__):
        if not found.name.startswith("test_"):
            continue
        try:
            module = import_module(f"twisted.internet.test.{found.name}")
        except Exception as error:
            print(f"{found.name}: {error!r}", file=sys.stderr)
            continue
        for name, case in sorted(vars(module).items()):
            if (
                name.endswith(STOCK)
                and isinstance(case, type)
                and issubclass(case, ReactorBuilder)
                and case.__module__ == module.__name__
            ):
                yield case


class Outcomes(unittest.TestResult):
    """Keep what came of each test."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[str, str] = {}

    def addSuccess(self, test: Any) -> None:
        self.outcomes.setdefault(test.id(), "passed")

    def addError(self, test: Any, err: Any) -> None:
        self.outcomes[test.id()] = f"error: {_last(err)}"

    def addFailure(self, test: Any, err: Any) -> None:
        self.outcomes[test.id()] = f"failed: {_last(err)}"

    def addSkip(self, test: Any, reason: str) -> None:
        self.outcomes[test.id()] = f"skipped: {reason}"

    def addExpectedFailure(self, test: Any, *_: Any) -> None:
        self.outcomes[test.id()] = "failed as expected"

    def addUnexpectedSuccess(self, test: Any, *_: Any) -> None:
        self.outcomes[test.id()] = "passed unexpectedly"


def _last(err: Any) -> str:
    value = err[1] if isinstance(err, tuple) else err.value
    return f"{type(value).__name__}: {value}"


def run(which: str, only: str = "") -> dict[str, str]:
    """Run the suite on one of the two reactors."""
    outcomes = Outcomes()
    for case in builtCases():
        built = type(case.__name__, (case,), {"reactorFactory": REACTORS[which]})
        built.__module__ = case.__module__
        built.__qualname__ = case.__qualname__
        suite = TestLoader().loadClass(built)
        for test in suite:
            if only in test.id():
                test.run(outcomes)
    return outcomes.outcomes


if __name__ == "__main__":
    print(json.dumps(run(*sys.argv[1:]), indent=0))
