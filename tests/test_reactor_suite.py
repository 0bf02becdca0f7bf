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


def test_each_of_twisteds_own_tests_comes_to_what_it_comes_to_on_the_stock_reactor(
    tmp_path: Path,
) -> None:
    for which in ("stock", "lean"):
        (tmp_path / which).mkdir()
    suites = {
        which: subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.reactor_suite", which],
            cwd=tmp_path / which,  # the suite leaves files where it runs, named after the test
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for which in ("stock", "lean")
    }
    outcomes = {
        which: json.loads(suite.communicate(timeout=120)[0]) for which, suite in suites.items()
    }
    assert len(outcomes["stock"]) > 250
    assert "passed" in outcomes["lean"].values()
    different = {
        test: (outcome, outcomes["lean"].get(test))
        for test, outcome in outcomes["stock"].items()
        if outcomes["lean"].get(test, "not run").split(":")[0] != outcome.split(":")[0]
    }
    assert different == {}
    assert outcomes["lean"].keys() == outcomes["stock"].keys()
