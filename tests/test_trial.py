"""
Who prefers trial runs the synchronous tests with it.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.daemons import PYTHON, finish

TESTS = Path(__file__).parent


def test_trial_runs_the_synchronous_tests(tmp_path: Path) -> None:
    modules = [
        f"tests.{file.stem}"
        for file in sorted(TESTS.glob("test_*.py"))
        if re.search(r"^class .*\(.*SynchronousTestCase", file.read_text("utf-8"), re.MULTILINE)
    ]
    assert "tests.test_settings" in modules
    ended = finish(
        *(PYTHON, "-m", "twisted.trial", f"--temp-directory={tmp_path}/trial", *modules),
        folder=TESTS.parent,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    ran = re.search(r"^Ran (\d+) tests", ended.stdout, re.MULTILINE)
    assert ran is not None
    assert int(ran[1]) >= len(modules)
    assert "PASSED" in ended.stdout
