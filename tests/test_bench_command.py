"""
C{sockapps bench} as a person or a program runs it, against servers in this process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from click.testing import CliRunner
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from sockapps.apps.echo import EchoFactory
from sockapps.apps.upper import UpperFactory
from sockapps.cli import main
from sockapps.globalreactor import globalReactor
from tests.sockets import Listen, bounded
from tests.test_cli import PROGRAM, Running
from tests.test_client import at, datagrams, streams

Bench = Callable[..., Running]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Run C{sockapps bench} with these arguments; on a terminal where C{terminal} says so."""

    def start(*arguments: str, terminal: bool = False) -> Running:
        running = Running()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LC_ALL": "C.UTF-8"}
        command = [PROGRAM, "bench", *arguments]
        globalReactor().spawnProcess(
            running, PROGRAM, command, environment, str(tmp_path), usePTY=terminal
        )
        return running

    return start


ALL_KEYS = {
    "app",
    "endpoint",
    "framing",
    "connections",
    "depth",
    "churn",
    "rate",
    "size",
    "verified",
    "interrupted",
    "seconds",
    "messages",
    "per_second",
    "bytes_sent",
    "bytes_received",
    "errors",
    "no_connection",
    "latency_us",
    "cpu_us_per_message",
    "histogram",
    "reactor",
}


@pytest_twisted.ensureDeferred
async def test_json_has_all_figures(listening: Listen, bench: Bench) -> None:
    port = listening(streams(EchoFactory()))
    program = bench("echo", "--to", at(port), "--messages", "500", "--depth", "4", "--json")
    assert await program.ended() == 0, program.err
    [line] = program.out.splitlines()
    told = json.loads(line)
    assert told.keys() == ALL_KEYS
    assert (told["messages"], told["bytes_sent"], told["bytes_received"]) == (500, 3000, 6000)
    assert set(told["errors"].values()) == {0}
    latency = told["latency_us"]
    names = ["min", "p50", "p90", "p99", "p99_9", "max"]
    assert [latency[name] for name in names] == sorted(latency[name] for name in names)
    assert latency["min"] > 0
    assert told["cpu_us_per_message"] > 0
    assert sum(bar["messages"] for bar in told["histogram"]) == 500
    if sys.platform == "linux":
        assert told["reactor"] == "LeanReactor"


@pytest_twisted.ensureDeferred
async def test_people_get_a_table_and_no_progress_where_nobody_watches(
    listening: Listen, bench: Bench
) -> None:
    port = listening(datagrams(UpperFactory()))
    program = bench("upper", "--to", at(port, "udp"), "--messages", "60", "--size", "9")
    assert await program.ended() == 0, program.err
    text = program.out.decode()
    assert text.startswith("upper at udp:127.0.0.1:")
    for part in ("messages", "errors", "none", "540 sent", "p99.9", "own CPU", "█"):
        assert part in text, part
    assert program.err == b""


@pytest_twisted.ensureDeferred
async def test_who_watches_sees_how_far_it_is(listening: Listen, bench: Bench) -> None:
    port = listening(streams(EchoFactory()))
    program = bench("echo", "--to", at(port), "--duration", "0.5", terminal=True)
    await program.shows(b" messages, ")
    await program.shows(b"a second")
    await program.shows(b"p99.9")
    assert await program.ended() == 0


@pytest_twisted.ensureDeferred
async def test_another_reactor_can_be_chosen(listening: Listen, bench: Bench) -> None:
    port = listening(streams(EchoFactory()))
    program = bench("echo", "--to", at(port), "--messages", "5", "--reactor", "poll", "--json")
    assert await program.ended() == 0, program.err
    assert json.loads(program.out)["reactor"] == "PollReactor"


@pytest_twisted.ensureDeferred
async def test_ctrl_c_ends_it_early_and_it_reports_all_the_same(
    listening: Listen, bench: Bench
) -> None:
    begun: Deferred[None] = Deferred()

    class Telling(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(b"Echo=>" + data)
            if not begun.called:
                begun.callback(None)

    port = listening(Factory.forProtocol(Telling))
    program = bench("echo", "--to", at(port), "--duration", "600", "--json")
    await bounded(begun, lambda: f"the first message; {program.err!r}")
    program.transport.signalProcess(signal.SIGINT)
    assert await program.ended() == 0, program.err
    told = json.loads(program.out)
    assert told["interrupted"]
    assert told["seconds"] < 60
    assert program.err == b""


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest_twisted.ensureDeferred
async def test_more_connections_than_the_system_allows_are_errors_and_the_others_go_on(
    listening: Listen, kind: str
) -> None:
    port = listening(datagrams(EchoFactory()) if kind == "udp" else streams(EchoFactory()))
    load = f"bench echo --to {at(port, kind)} --connections 60 --messages 300 --json"
    program = Running()
    globalReactor().spawnProcess(
        program, "/bin/sh", ["sh", "-c", f"ulimit -n 40; exec '{PROGRAM}' {load}"], os.environ
    )
    assert await program.ended() == 1, program.err
    told = json.loads(program.out)
    assert told["errors"]["unreachable"] >= 20
    assert told["messages"] + told["errors"]["unreachable"] == 300
    assert "Too many open files" in told["no_connection"]


class Wrong(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


@pytest_twisted.ensureDeferred
async def test_wrong_replies_are_exit_1(listening: Listen, bench: Bench) -> None:
    port = listening(Factory.forProtocol(Wrong))
    program = bench("echo", "--to", at(port), "--messages", "60")
    assert await program.ended() == 1
    [line] = [line for line in program.out.decode().splitlines() if line.startswith("errors")]
    assert line.split() == ["errors", "60", "wrong", "reply"]


@pytest.mark.parametrize(("kind", "json_"), [("tcp", False), ("tcp", True), ("udp", False)])
@pytest_twisted.ensureDeferred
async def test_nobody_there_is_exit_3(
    listening: Listen, bench: Bench, kind: str, json_: bool
) -> None:
    port = listening(datagrams(EchoFactory()) if kind == "udp" else streams(EchoFactory()))
    where = at(port, kind)
    await port.stopListening()
    program = bench("echo", "--to", where, *(["--json"] if json_ else []))
    assert await program.ended() == 3
    assert program.err.startswith(b"Error: %b: Connection was refused" % where.encode())
    assert program.err.count(b"\n") == 1
    if json_:
        told = json.loads(program.out)
        assert told["errors"]["refused"] == 50
        assert "refused" in told["no_connection"]
    else:
        assert program.out == b""


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["ecko"], "Error: there is no app 'ecko'"),
        (["echo", "--message", "x", "--size", "3"], "Error: --message has a size of its own"),
        (["gate", "--depth", "2"], "Error: gate closes after one reply"),
        (["echo", "--reactor", "nuclear"], "Error: there is no reactor 'nuclear' here"),
        (["echo", "--to", "carrier:pigeon"], "Error: 'carrier:pigeon' cannot be connected to"),
        (["upper", "--to", "udp:x"], "Error: 'udp:x' is not written udp:HOST:PORT"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_wrong_usage_is_exit_2_and_one_line(
    bench: Bench, arguments: list[str], why: str
) -> None:
    program = bench(*arguments)
    assert await program.ended() == 2
    assert program.err.decode().startswith(why)
    assert program.err.count(b"\n") == 1
    assert program.out == b""


@pytest.mark.parametrize(
    "arguments",
    [["--connections", "0"], ["--rate", "0"], ["--timeout", "0"], ["--framing", "auto"]],
)
def test_options_out_of_range_are_exit_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["bench", "echo", *arguments])
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[0]}'" in result.output


def test_the_names_of_apps_are_completed() -> None:
    command: Any = main.commands["bench"]
    context: Any = None
    [app] = [each for each in command.params if each.name == "app"]
    assert {item.value for item in app.shell_complete(context, "up")} == {
        "upper",
        "upper-once",
        "upper-tcp",
    }


def test_the_command_line_loads_nothing_heavy_and_no_reactor() -> None:
    heavy = ("hdrh", "rich", "twisted.internet.reactor", "twisted.internet.endpoints")
    code = f"import sys, sockapps.cli; print([each for each in {heavy} if each in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
