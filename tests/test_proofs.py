"""
Every proof runs, and what does not hold is told: the smoke forms, which say little of how much.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.daemons import PATIENCE, environment
from tests.proofs import __main__ as proofs
from tests.proofs.figures import CannotRun, Figure, Outcome, percentile, table
from tests.proofs.probing import PACE, Prober, Probes

PROJECT = Path(__file__).parent.parent
NAN = float("nan")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc and needs epoll")


# Those whose smoke form tells of nothing but right and wrong. What the others say of times and of
# memory a busy machine decides; they are run by hand.
STEADY = ("files", "links", "loop", "secrets", "upper")


def test_steady_proofs_are_there() -> None:
    assert set(STEADY) <= set(proofs.found())


@pytest.mark.parametrize("name", STEADY)
def test_it_holds_in_its_smoke_form(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    ended = subprocess.run(
        [sys.executable, "-m", "tests.proofs", name, "--smoke", f"--out={out}"],
        cwd=PROJECT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    [outcome] = json.loads(out.read_text("utf-8"))["proofs"]
    if outcome["skipped"]:
        pytest.skip(outcome["skipped"])
    assert outcome["proof"] == name
    assert outcome["figures"]
    assert all(figure["figure"] in ended.stdout for figure in outcome["figures"])


Told = tuple[Result, list[dict[str, Any]]]


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Told]:
    """Run the command with proofs of our own; return what came of it, and what it wrote."""

    def tell(*arguments: str, **runs: Any) -> Told:
        made = {
            name: SimpleNamespace(TITLE=f"what {name} is", run=run) for name, run in runs.items()
        }
        monkeypatch.setattr(proofs, "found", lambda: made)
        out = tmp_path / "out.json"
        result = CliRunner().invoke(proofs.main, [*arguments, f"--out={out}"])
        return result, json.loads(out.read_text("utf-8"))["proofs"] if out.exists() else []

    return tell


def good(smoke: bool, say: Any) -> list[Figure]:
    say("smoking" if smoke else "not smoking")
    return [Figure.atMost("apples", 3, 3), Figure.worthKnowing("pears", 1234567.8, "kg")]


def bad(smoke: bool, say: Any) -> list[Figure]:
    return [Figure.atLeast("apples", 3, 3), Figure.within("plums", 2.5, 3, 4, "t")]


def lacking(smoke: bool, say: Any) -> list[Figure]:
    raise CannotRun("needs a moon; install one")


def broken(smoke: bool, say: Any) -> list[Figure]:
    raise ValueError("no such orchard")


def test_without_a_name_it_lists_what_there_is_and_runs_nothing(
    tell: Callable[..., Told],
) -> None:
    result, written = tell(good=good, broken=broken)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "good    what good is",
        "broken  what broken is",
        "",
        "python -m tests.proofs NAME... or all proves them; --smoke, in short",
    ]
    assert written == []


def test_what_holds_exits_with_0(tell: Callable[..., Told]) -> None:
    result, [written] = tell("good", "--smoke", good=good, bad=bad)
    assert result.exit_code == 0
    assert "good: smoking" in result.stderr
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in result.stdout.splitlines()]
    assert rows[0] == ["proof", "figure", "seen", "target", "holds"]
    assert rows[2:] == [
        ["good", "apples", "3", "≤ 3", "yes"],
        ["good", "pears", "1,234,568 kg", "", ""],
    ]
    assert (written["proof"], written["holds"]) == ("good", True)
    assert [figure["seen"] for figure in written["figures"]] == [3, 1234567.8]


def test_a_figure_that_does_not_hold_makes_the_exit_code_1(tell: Callable[..., Told]) -> None:
    result, written = tell("all", good=good, bad=bad)
    assert result.exit_code == 1
    assert [outcome["holds"] for outcome in written] == [True, False]
    assert [figure["holds"] for figure in written[1]["figures"]] == [True, False]
    assert "| plums  | 2.5 t        | ≥ 3 ≤ 4 | NO    |" in result.stdout
    assert "bad: does NOT hold" in result.stderr


def test_a_proof_that_fails_is_told_and_the_others_run(tell: Callable[..., Told]) -> None:
    result, written = tell("all", broken=broken, good=good)
    assert result.exit_code == 1
    assert [outcome["failed"] for outcome in written] == ["ValueError: no such orchard", ""]
    assert "failed: ValueError: no such orchard" in result.stdout


def test_a_proof_that_cannot_run_says_why_and_is_no_failure(
    tell: Callable[..., Told],
) -> None:
    result, [written] = tell("lacking", lacking=lacking)
    assert result.exit_code == 0
    assert written["skipped"] == "needs a moon; install one"
    assert "left out: needs a moon; install one" in result.stdout


def test_an_unknown_name_is_refused_with_those_there_are(tell: Callable[..., Told]) -> None:
    result, _ = tell("godo", good=good, bad=bad)
    assert result.exit_code == 2
    assert "there is no proof 'godo'; there are good, bad" in result.stderr


@pytest.mark.parametrize(
    ("figure", "holds"),
    [
        (Figure.atMost("", 1, 1), True),
        (Figure.atMost("", 1.01, 1), False),
        (Figure.atLeast("", 1, 1), True),
        (Figure.atLeast("", 0.99, 1), False),
        (Figure.within("", 110.1, 90, 110), False),
        (Figure.within("", 89.9, 90, 110), False),
        (Figure.within("", 100, 90, 110), True),
        (Figure.atMost("", NAN, 1), False),
        (Figure.worthKnowing("", NAN), False),
        (Figure.worthKnowing("", 7), True),
    ],
)
def test_a_figure_holds_within_its_bounds_only(figure: Figure, holds: bool) -> None:
    assert figure.holds is holds
    assert ("NO" in table([Outcome("x", "", [figure])])) is not holds


def test_a_percentile_is_what_so_many_do_not_exceed() -> None:
    values = [float(value) for value in range(200, 0, -1)]
    assert [percentile(values, share) for share in (0, 50, 99, 100)] == [1, 100, 198, 200]


# The honest peer, and the server's process


def probed(owed: bytes, pause: float, enough: int) -> Probes:
    """
    Have a server probed.

    @param owed: What it answers.
    @param pause: Seconds that it takes for the tenth line of a connection.
    @param enough: After how many lines, all together, to stop.
    """
    heard = iter(range(enough))
    done = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            lines = 0
            while connection.recv(4096):
                lines += 1
                if lines == 10:
                    time.sleep(pause)  # this is what is to be noticed
                with suppress(OSError):
                    connection.sendall(owed)
                if next(heard, None) is None:
                    done.set()

    def accept() -> None:
        with suppress(OSError):  # it has been shut down
            while True:
                threading.Thread(target=serve, args=listening.accept()[:1]).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=accept)
        thread.start()
        with Prober(listening.getsockname()[1]) as prober:
            assert done.wait(PATIENCE)
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    return prober.probes


def test_a_stall_counts_for_every_probe_that_would_have_met_it() -> None:
    waits = probed(b"Echo=>still there?\n", 0.3, 60).waits
    assert max(waits) >= 0.3
    # One probe is answered late; those that were to begin meanwhile have waited as well.
    assert sum(wait > 0.1 for wait in waits) > 0.1 / PACE


def test_a_wrong_answer_is_a_fault() -> None:
    probes = probed(b"Echo=>no\n", 0.0, 10)
    assert probes.waits == []
    assert "came, not" in probes.faults[0]


def test_a_server_ends_with_the_proof_even_if_that_is_killed(tmp_path: Path) -> None:
    program = """
import signal
from tests.proofs.servers import LOOPBACK, serving
with serving("--service=echo", f"--listen={LOOPBACK}") as server:
    print(server.pid, flush=True)
    signal.pause()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env=environment(tmp_path, TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        server = os.pidfd_open(int(process.stdout.readline()))
        try:
            process.send_signal(signal.SIGKILL)
            assert select.select([server], [], [], PATIENCE)[0]
        finally:
            os.close(server)
