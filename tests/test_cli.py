"""
What a person types: the program itself, in a process of its own, against servers in this one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from click.testing import CliRunner
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from sockapps.apps.chat import ChatFactory
from sockapps.apps.echo import EchoFactory
from sockapps.apps.gate import GateFactory
from sockapps.apps.hello import HelloFactory
from sockapps.apps.login import LoginFactory
from sockapps.apps.upper import UpperFactory
from sockapps.cli import main
from sockapps.globalreactor import globalReactor
from tests.sockets import Listen, bounded
from tests.test_client import at, datagrams, streams

PROGRAM = str(Path(sys.executable).with_name("sockapps"))


class Running(ProcessProtocol):
    """A program that runs, and what it has written so far."""

    transport: Any

    def __init__(self) -> None:
        self.out = b""
        self.err = b""
        self.exit: Deferred[int] = Deferred()
        self._awaited: tuple[bytes, Deferred[None]] | None = None

    def outReceived(self, data: bytes) -> None:
        self.out += data
        if self._awaited is not None and self._awaited[0] in self.out:
            awaited, self._awaited = self._awaited[1], None
            awaited.callback(None)

    def errReceived(self, data: bytes) -> None:
        self.err += data

    def processEnded(self, reason: Failure) -> None:
        self.exit.callback(0 if reason.check(ProcessDone) else reason.value.exitCode)

    async def shows(self, text: bytes) -> None:
        """Wait until it has written this since it was last waited for."""
        if text not in self.out:
            self._awaited = (text, Deferred())
            await bounded(self._awaited[1], lambda: f"{text!r} in {self.out!r}")
        self.out = self.out.split(text, 1)[1]

    async def ended(self) -> int:
        return await bounded(self.exit, lambda: f"the end; so far {self.out!r} {self.err!r}")


Run = Callable[..., Running]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run C{sockapps} with these arguments; on a terminal where C{terminal} says so."""

    def start(*arguments: str, input: bytes | None = None, terminal: bool = False) -> Running:
        environment = {
            **os.environ,
            "XDG_STATE_HOME": str(tmp_path),
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",
        }
        running = Running()
        globalReactor().spawnProcess(
            running, PROGRAM, [PROGRAM, *arguments], environment, str(tmp_path), usePTY=terminal
        )
        if input is not None:
            running.transport.write(input)
        if not terminal:
            running.transport.closeStdin()
        return running

    return start


@pytest_twisted.ensureDeferred
async def test_messages_are_answered_one_a_line(listening: Listen, run: Run) -> None:
    port = listening(streams(EchoFactory()))
    program = run("call", "--to", at(port), "echo", "one", "")
    assert await program.ended() == 0, program.err
    assert program.out == b"Echo=>one\nEcho=>\n"


@pytest_twisted.ensureDeferred
async def test_each_line_of_the_input_is_a_message(listening: Listen, run: Run) -> None:
    port = listening(streams(EchoFactory()))
    program = run("call", "--to", at(port), "echo", input=b"one\n\r\n\xff two\nlast")
    assert await program.ended() == 0, program.err
    assert program.out == b"Echo=>one\nEcho=>\nEcho=>\xff two\nEcho=>last\n"


@pytest_twisted.ensureDeferred
async def test_an_app_that_closes_after_each_reply_is_called_anew(
    listening: Listen, run: Run
) -> None:
    port = listening(streams(HelloFactory()))
    program = run("call", "--to", at(port), "hello", "a", "b", "c")
    assert await program.ended() == 0, program.err
    assert program.out == b"hi\nhi\nhi\n"


@pytest_twisted.ensureDeferred
async def test_a_farewell_has_no_reply_and_is_no_failure(listening: Listen, run: Run) -> None:
    port = listening(datagrams(ChatFactory()))
    program = run("call", "--to", at(port, "udp"), "chat", "you sb", "byebye", "sb")
    assert await program.ended() == 0, program.err
    assert program.out == b"you alexsb\nalexsb\n"


@pytest_twisted.ensureDeferred
async def test_a_no_is_exit_1_and_the_rest_is_asked_all_the_same(
    listening: Listen, run: Run
) -> None:
    port = listening(streams(GateFactory()))
    program = run("call", "--to", at(port), "gate", "2", "1")
    assert await program.ended() == 1
    assert program.out == b"please go out!\nwelcome to server!\n"


class Silent(Protocol):
    """Read, and never answer."""


class Blunt(Protocol):
    """Close at the first word."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.loseConnection()


@pytest.mark.parametrize(
    ("server", "options", "code", "why"),
    [
        (Silent, ["--timeout", "0.1"], 4, b"Error: no reply within 0.1 s\n"),
        (Blunt, [], 5, b"Error: the connection ended before the reply\n"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_each_end_has_its_exit_code(
    listening: Listen, run: Run, server: type[Protocol], options: list[str], code: int, why: bytes
) -> None:
    port = listening(Factory.forProtocol(server))
    program = run("call", "--to", at(port), *options, "echo", "one", "two")
    assert await program.ended() == code
    assert (program.out, program.err) == (b"", why)


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest_twisted.ensureDeferred
async def test_nobody_there_is_exit_3(listening: Listen, run: Run, kind: str) -> None:
    port = listening(datagrams(EchoFactory()) if kind == "udp" else streams(EchoFactory()))
    where = at(port, kind)
    await port.stopListening()
    program = run("call", "--to", where, "echo", "one")
    assert await program.ended() == 3
    assert program.err.startswith(b"Error: %b: Connection was refused" % where.encode())
    assert b"Traceback" not in program.err


@pytest_twisted.ensureDeferred
async def test_a_server_that_speaks_no_tls_is_exit_3(listening: Listen, run: Run) -> None:
    host = listening(streams(EchoFactory())).getHost()
    program = run("call", "--to", f"tls:localhost:{host.port}", "echo", "one")
    assert await program.ended() == 3
    assert program.err.startswith(b"Error: tls:localhost:%d: TLS: " % host.port)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["echo", "--to", "carrier:pigeon", "x"], b"'carrier:pigeon' cannot be connected to"),
        (["upper", "--to", "udp:x", "x"], b"not written udp:HOST:PORT"),
        (["ecko"], b"there is no app 'ecko'"),
        (["echo", "--framing", "auto", "x"], b"'auto' is not one of"),
        (["echo", "--timeout", "0", "x"], b"not in the range x>0"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_wrong_usage_is_exit_2_and_says_what_is_wrong(
    run: Run, arguments: list[str], why: bytes
) -> None:
    program = run("call", *arguments)
    assert await program.ended() == 2
    assert why in program.err
    assert b"Traceback" not in program.err


@pytest_twisted.ensureDeferred
async def test_a_message_too_long_for_a_datagram_is_exit_2(listening: Listen, run: Run) -> None:
    where = at(listening(datagrams(UpperFactory())), "udp")
    program = run("call", "--to", where, "upper", input=b"x" * 65508)
    assert await program.ended() == 2
    assert program.err == b"Error: a message of 65508 bytes; a datagram carries 65507\n"


@pytest_twisted.ensureDeferred
async def test_json_is_one_object_a_line(listening: Listen, run: Run) -> None:
    port = listening(streams(EchoFactory()))
    program = run("call", "--json", "--to", at(port), "echo", input=b"grun\xc3\xbc\n\xff\n")
    assert await program.ended() == 0, program.err
    first, second = map(json.loads, program.out.splitlines())
    assert first.pop("seconds") >= 0
    assert first == {"app": "echo", "message": "grunü", "reply": "Echo=>grunü", "refused": False}
    assert (second["message_hex"], second["reply_hex"]) == ("ff", b"Echo=>\xff".hex())


@pytest_twisted.ensureDeferred
async def test_json_tells_of_errors_and_keeps_credentials_to_itself(
    listening: Listen, run: Run
) -> None:
    port = listening(streams(LoginFactory(auth=["memory:u:s3cret"])))
    where = at(port)
    program = run("call", "--json", "--to", where, "login", "{'u': 's3cret'}", "{'u': 's3cre'}")
    assert await program.ended() == 1
    assert b"s3cre" not in program.out
    replies = [json.loads(line)["reply"] for line in program.out.splitlines()]
    assert replies == ["登录成功!", "用户名或密码错误!"]
    await port.stopListening()
    program = run("call", "--json", "--to", where, "login", "{'u': 's3cret'}")
    assert await program.ended() == 3
    told = json.loads(program.out)
    assert (told["exit"], "refused" in told["error"], "message" in told) == (3, True, False)


@pytest_twisted.ensureDeferred
async def test_a_prompt_answers_until_ctrl_d_and_remembers(
    listening: Listen, run: Run, tmp_path: Path
) -> None:
    port = listening(streams(EchoFactory()))
    program = run("call", "--to", at(port), "echo", terminal=True)
    await program.shows(b"echo>")
    program.transport.write(b"q\r")
    await program.shows(b"Echo=>q")
    await program.shows(b"echo>")
    program.transport.write(b"\x04")
    assert await program.ended() == 0
    assert "+q" in (tmp_path / "sockapps" / "history-echo").read_text()

    program = run("call", "--to", at(port), "echo", terminal=True)
    await program.shows(b"echo>")
    program.transport.write(b"\x1b[A\r")
    await program.shows(b"Echo=>q")
    await program.shows(b"echo>")
    program.transport.write(b"\x03")
    assert await program.ended() == 0


@pytest_twisted.ensureDeferred
async def test_a_prompt_shows_nothing_that_acts_on_the_terminal(
    listening: Listen, run: Run
) -> None:
    class Evil(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write("\x1b]0;owned\x07\x9b31m‮\n".encode())

    program = run(
        "call", "--to", at(listening(Factory.forProtocol(Evil))), "echo", "x", terminal=True
    )
    assert await program.ended() == 0
    assert program.out.strip() == rb"\x1b]0;owned\x07\x9b31m\u202e"


@pytest_twisted.ensureDeferred
async def test_a_prompt_goes_on_after_a_message_that_got_no_reply(
    listening: Listen, run: Run
) -> None:
    port = listening(Factory.forProtocol(Blunt))
    program = run("call", "--to", at(port), "echo", terminal=True)
    for _ in range(2):
        await program.shows(b"echo>")
        program.transport.write(b"x\r")
        await program.shows(b"Error: the connection ended before the reply")
    await program.shows(b"echo>")
    program.transport.write(b"\x04")
    assert await program.ended() == 5


@pytest_twisted.ensureDeferred
async def test_a_login_is_asked_for_with_the_password_hidden_and_forgotten(
    listening: Listen, run: Run, tmp_path: Path
) -> None:
    port = listening(streams(LoginFactory(auth=["memory:u:s3cret"])))
    program = run("call", "--to", at(port), "login", terminal=True)
    await program.shows(b"User name:")
    program.transport.write(b"u\r")
    await program.shows(b"Password:")
    program.transport.write(b"s3cret\r")
    await program.shows(b"*")
    await program.shows("登录成功!".encode())
    await program.shows(b"User name:")
    program.transport.write(b"\x03")
    assert await program.ended() == 0
    assert b"s3cret" not in program.out
    assert not list(tmp_path.rglob("history*"))


def test_apps_shows_each_app() -> None:
    result = CliRunner().invoke(main, ["apps"])
    assert result.exit_code == 0
    assert "echo        tcp        127.0.0.1:50007" in result.output
    assert "upper       udp        127.0.0.1:12000" in result.output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_completion(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_SOCKAPPS_COMPLETE" in result.output


def test_the_names_of_apps_are_completed() -> None:
    environment = {
        "_SOCKAPPS_COMPLETE": "bash_complete",
        "COMP_WORDS": "sockapps call hel",
        "COMP_CWORD": "2",
    }
    result = CliRunner().invoke(main, [], env=environment, prog_name="sockapps")
    assert result.output.split() == ["plain,hello", "plain,hello-udp"]


@pytest.mark.parametrize("where", ["full", "unread", "closed"])
@pytest_twisted.ensureDeferred
async def test_output_that_cannot_be_written_is_one_line_at_most_and_exit_code_1(
    listening: Listen, where: str
) -> None:
    to = f"--to={at(listening(streams(EchoFactory())))}"
    load = ["bench", "echo", to, "--messages=1"]
    read, unread = os.pipe()
    os.close(read)
    with open("/dev/full", "wb") as full, open(unread, "wb") as pipe:
        for words in (["--help"], ["apps"], ["call", "echo", "hi", to], load, [*load, "--json"]):
            done = await deferToThread(
                subprocess.run,
                [PROGRAM, *words]
                if where != "closed"
                else ["sh", "-c", '"$@" >&-', "-", PROGRAM, *words],
                stdout=full if where == "full" else pipe,
                stderr=subprocess.PIPE,
                timeout=30,
                check=False,
            )
            says = b"Error: standard output: No space left on device\n" if where == "full" else b""
            # What was closed beforehand is wanted by nobody, which is no error.
            assert (done.returncode, done.stderr) == (where != "closed", says), words


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    result = CliRunner().invoke(main, ["--version"])
    assert result.output == f"sockapps, version {version('sockapps')}\n"
