"""
Tests for L{tests.proofs.secrets}: a secret that shows is seen.
"""

from __future__ import annotations

import subprocess
import sys

from tests.proofs.secrets import Canaries, commandLines


def test_aSecretThatShowsIsSeenAndNamed() -> None:
    canaries = Canaries()
    canaries.look("log", b"nothing")
    assert [figure.holds for figure in canaries.figures(["log"])] == [True, True]
    canaries.look("log", f"the token is {canaries.texts['token']}!".encode())
    assert [figure.holds for figure in canaries.figures(["log"])] == [True, False]
    assert canaries.seen == {"log": {"token"}}
    assert [figure.holds for figure in canaries.figures(["elsewhere"])] == [False, True]


def test_theCommandLinesOfAllProcessesAreSeen() -> None:
    canaries = Canaries()
    secret = canaries.texts["right"]
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "input(print(flush=True))", secret],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        canaries.look("command lines", b"\n".join(commandLines()))
        process.communicate(b"\n")
    assert canaries.seen == {"command lines": {"right"}}
