"""
Inputs that nobody would write, found by atheris: nothing goes unhandled.

What is done with each input is in L{tests.proofs.inputs}, which is the program that runs here once
for each target, seeded, so that it is the same every time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from tests.proofs.figures import CannotRun, Figure
from tests.proofs.inputs import TARGETS

TITLE = "1,000,000 fuzzed inputs each: framing, credentials, settings, networks"

SEED = 4
BOUND = 3600
"""Seconds that one target may take."""


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """
    Fuzz each target.

    @raise CannotRun: If there is no atheris.
    """
    if find_spec("atheris") is None:
        raise CannotRun(
            "needs atheris: pip install -e '.[fuzz]', on a CPython that it has wheels for"
        )
    runs = 5_000 if smoke else 1_000_000
    return [figure for name in TARGETS for figure in fuzz(name, runs, say)]


def fuzz(name: str, runs: int, say: Callable[[str], None]) -> list[Figure]:
    """Fuzz one target."""
    with tempfile.TemporaryDirectory(prefix="sockapps-proof-") as folder:
        seeds = Path(folder, "seeds")
        seeds.mkdir()
        for number, each in enumerate(TARGETS[name].seeds):
            (seeds / str(number)).write_bytes(each)
        ended = subprocess.run(
            [
                *(sys.executable, "-m", "tests.proofs.inputs", name),
                *(f"-runs={runs}", f"-seed={SEED}", "-max_len=700", "-print_final_stats=1"),
                *("-timeout=10", "-rss_limit_mb=1024", f"-artifact_prefix={folder}/"),
                str(seeds),
            ],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": "0", "TMPDIR": folder},
            capture_output=True,
            timeout=BOUND,
        )
    said = ended.stderr.decode(errors="backslashreplace") + ended.stdout.decode(errors="replace")
    done = re.search(r"number_of_executed_units: (\d+)", said)
    if ended.returncode:
        say(f"{name}: {said[-3000:]}")
    return [
        Figure.atLeast(f"{name}: inputs", int(done[1]) if done else 0, runs),
        Figure.atMost(f"{name}: unhandled", 0 if ended.returncode == 0 else 1, 0),
    ]
