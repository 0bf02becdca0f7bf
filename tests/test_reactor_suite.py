"""
Twisted's own reactor suite comes to the same on our reactor as on the stock one, test by test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hamcrest", reason="Twisted's suite needs it: pip install PyHamcrest")


ATTEMPTS = 3
"""
How often the suites run, as long as something differs: some of Twisted's tests take the real time,
and do not always come to the same on one reactor where the machine is busy.
"""


def outcomesIn(folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Run the suite on both reactors, and say what came of each test: stock, then lean."""
    suites = []
    for which in ("stock", "lean"):
        (folder / which).mkdir(parents=True)
        suites.append(
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.reactor_suite", which],
                cwd=folder / which,  # the suite leaves files where it runs, named after the test
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        )
    stock, lean = (json.loads(suite.communicate(timeout=120)[0]) for suite in suites)
    return stock, lean


def test_each_of_twisteds_own_tests_comes_to_what_it_comes_to_on_the_stock_reactor(
    tmp_path: Path,
) -> None:
    always: set[str] | None = None
    different: dict[str, tuple[str, str]] = {}
    for attempt in range(ATTEMPTS):
        stock, lean = outcomesIn(tmp_path / str(attempt))
        assert len(stock) > 250
        assert "passed" in lean.values()
        assert lean.keys() == stock.keys()
        different = {
            test: (outcome, lean[test])
            for test, outcome in stock.items()
            if lean[test].split(":")[0] != outcome.split(":")[0]
            and (always is None or test in always)
        }
        if not different:
            break
        always = set(different)
    assert different == {}
