"""
Twisted's own tests on the stock epoll reactor and on ours: which of them come to something else.

C{python -m tests.reactor_wide} runs all of L{PARTS} and takes some ten minutes; names of packages
or modules as arguments run only those. What differs runs again on both reactors, twice: a test that
then differs no more is one that does not always come to the same. The exit code is 1 where some
test still differs, other than L{KNOWN}.

Each part runs in a process of its own as C{trial --reactor=} would run it, but keeps what came of
each test, by its name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.trial.reporter import Reporter

PARTS = [
    "twisted.application",
    "twisted.conch",
    "twisted.internet",
    "twisted.mail",
    "twisted.names",
    "twisted.protocols",
    "twisted.runner",
    "twisted.spread",
    "twisted.test",
    "twisted.web",
    "twisted.words",
]

KNOWN = {
    "twisted.test.test_sip.RegistrationTests.testRegister": (
        "subtracts the wall clock from a timer's getTime(), and so leaves out the asyncio reactor"
    ),
}
"""What differs because of the clock, and how."""

REACTORS = ("epoll", "lean")
PATIENCE = 1200.0
"""Seconds that one part may take on one reactor."""


class Outcomes(Reporter):
    """Keep what came of each test, and say nothing."""

    kept: dict[str, str] = {}

    def _keep(self, test: Any, outcome: str, why: Any = None) -> None:
        self.kept[test.id()] = outcome if why is None else f"{outcome}: {_inOneLine(why)}"

    def addSuccess(self, test: Any) -> None:
        self.kept.setdefault(test.id(), "passed")

    def addError(self, test: Any, error: Any) -> None:
        self._keep(test, "error", error)

    def addFailure(self, test: Any, fail: Any) -> None:
        self._keep(test, "failed", fail)

    def addSkip(self, test: Any, reason: Any) -> None:
        self._keep(test, "skipped", reason)

    def addExpectedFailure(self, test: Any, *_: Any) -> None:
        self._keep(test, "failed as expected")

    def addUnexpectedSuccess(self, test: Any, *_: Any) -> None:
        self._keep(test, "passed unexpectedly")

    def done(self) -> None:
        pass


def _inOneLine(why: Any) -> str:
    value = why[1] if isinstance(why, tuple) else getattr(why, "value", why)
    return f"{type(value).__name__} {value}".replace("\n", " ")[:300]


def run(reactor: str, output: str, names: Iterable[str]) -> None:
    """Run tests in this process, and write what came of them to a file."""
    from twisted.application.reactors import installReactor

    installReactor(reactor)
    from twisted.trial.runner import TestLoader, TestSuite, TrialRunner

    loader = TestLoader()
    tests = TestSuite([loader.loadByName(name, recurse=True) for name in names])
    TrialRunner(Outcomes, workingDirectory="trial").run(tests)
    Path(output).write_text(json.dumps(Outcomes.kept), "utf-8")


def outcomes(reactor: str, names: Iterable[str]) -> dict[str, str]:
    """Run tests in a process of their own, and return what came of each."""
    with TemporaryDirectory() as folder:
        output = Path(folder) / "outcomes"
        subprocess.run(
            [sys.executable, "-W", "ignore", "-m", __spec__.name, "--run", reactor, output, *names],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
        )
        return dict(json.loads(output.read_text("utf-8"))) if output.exists() else {}


def different(each: dict[str, dict[str, str]]) -> list[str]:
    """Name the tests that came to something else on one reactor than on the other."""
    stock, lean = (each[reactor] for reactor in REACTORS)
    return [
        test
        for test in sorted(stock.keys() | lean.keys())
        if _kind(stock.get(test)) != _kind(lean.get(test))
    ]


def _kind(outcome: str | None) -> str:
    return (outcome or "not run").partition(":")[0]


def compare(parts: Iterable[str]) -> int:
    """Run each part on both reactors, print what differs, and count what differs every time."""
    total = differing = 0
    for part in parts:
        each = {reactor: outcomes(reactor, [part]) for reactor in REACTORS}
        total += len(each["epoll"])
        counts = [Counter(map(_kind, each[reactor].values())) for reactor in REACTORS]
        print(f"{part}: {dict(counts[0])}")
        if counts[0] != counts[1]:
            print(f"  on lean: {dict(counts[1])}")
        if not each["epoll"]:
            print("  it could not be run")
            differing += bool(each["lean"])
        suspects = different(each)
        again = suspects
        for _ in range(2):
            if again:
                once = {reactor: outcomes(reactor, again) for reactor in REACTORS}
                again = [test for test in different(once) if test in again]
        differing += len({*again} - KNOWN.keys())
        for test in suspects:
            often = "differs every time" if test in again else "does not differ every time"
            print(f"  {test}: {KNOWN.get(test, often)}")
            for reactor in REACTORS:
                print(f"    {reactor}: {each[reactor].get(test, 'not run')}")
        sys.stdout.flush()
    print(f"{total} tests; {differing} differ, other than for known reasons")
    return differing


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        if options := [word for word in sys.argv[1:] if word.startswith("-")]:
            sys.exit(f"{options[0]}: it takes no options, only names of packages and modules")
        sys.exit(bool(compare(sys.argv[1:] or PARTS)))
