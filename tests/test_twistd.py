"""
C{twistd sockapps} and C{twist sockapps} as people run them.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sockapps.registry import findApps
from tests.daemons import PATIENCE, PYTHON, ask, environment, finish, program, running

TCP = "tcp:0:interface=127.0.0.1"


def test_every_app_answers_at_once(tmp_path: Path) -> None:
    arguments = []
    for name, app in findApps().items():
        arguments += [f"--service={name}"]
        arguments += ["--listen=udp:0" if app.listens.startswith("udp:") else f"--listen={TCP}"]
    apps = findApps()
    with running(
        "twistd", "-n", "sockapps", *arguments, folder=tmp_path, listenings=len(apps)
    ) as daemon:
        assert [each[0] for each in daemon.listening] == list(apps)
        assert (tmp_path / "twistd.pid").read_text() == str(daemon.process.pid)
        for name, message, reply in [
            ("command", b"os", b"[posix]"),
            ("echo", b"hi", b"Echo=>hi"),
            ("gate", b"1", b"welcome to server!"),
            ("hello", b"you", b"hi"),
            ("login", b"{'a': 'b'}", "用户名或密码错误!".encode()),
            ("upper-once", b"up", b"UP"),
            ("upper-tcp", b"up", b"UP"),
        ]:
            assert ask(daemon.address(name), message) == reply
        assert ask(daemon.address("upper"), b"up", udp=True) == b"UP"
        assert ask(daemon.address("hello-udp"), b"you", udp=True) == b"hi"
        assert ask(daemon.address("chat"), b"sb", udp=True) == b"alexsb"
    assert not any("Traceback" in line or "#error" in line for line in daemon.lines)
    assert not (tmp_path / "twistd.pid").exists()


def bindable(description: str) -> bool:
    kind, port, *_ = description.split(":")
    probe = socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    )
    with probe:
        if kind == "tcp":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except OSError:
            return False
    return True


def test_without_an_option_every_app_starts_where_wire_md_says(tmp_path: Path) -> None:
    apps = findApps()
    for app in apps.values():
        if not bindable(app.listens):
            pytest.skip(f"somebody else listens on {app.listens}")
    with running("twistd", "-n", "sockapps", folder=tmp_path, listenings=len(apps)) as daemon:
        assert sorted(f"{each[0]} {each[2]}" for each in daemon.listening) == [
            "chat 127.0.0.1:8086",
            "command 127.0.0.1:21560",
            "echo 127.0.0.1:50007",
            "gate 127.0.0.1:8001",
            "hello 127.0.0.1:8898",
            "hello-udp 127.0.0.1:9000",
            "login 127.0.0.1:8083",
            "upper 127.0.0.1:12000",
            "upper-once 127.0.0.1:12000",
            "upper-tcp 127.0.0.1:5000",
        ]
        assert all(
            framing == ("datagram" if description.startswith("udp:") else "auto")
            for _, description, _, framing in daemon.listening
        )


def test_twist_runs_it_too(tmp_path: Path) -> None:
    config = tmp_path / "services.toml"
    config.write_text(
        f'[loud]\napp = "upper-tcp"\nframing = "netstring"\nlisten = ["{TCP}", "udp:0"]\n'
    )
    with running(
        "twist",
        "--log-format=text",
        "sockapps",
        f"--config={config}",
        folder=tmp_path,
        listenings=2,
    ) as daemon:
        assert ask(daemon.address("loud"), b"2:up,") == b"2:UP,"
        assert ask(daemon.address("loud", 1), b"up", udp=True) == b"UP"


def test_a_daemon_runs_in_the_background_until_sigterm(tmp_path: Path) -> None:
    pidfile, logfile = tmp_path / "pid", tmp_path / "log"
    started = finish(
        "twistd",
        f"--pidfile={pidfile}",
        f"--logfile={logfile}",
        "sockapps",
        "--service=echo",
        f"--listen=unix:{tmp_path}/socket",
        folder=tmp_path,
    )
    assert (started.returncode, started.stdout, started.stderr) == (0, "", "")
    pid = int(pidfile.read_text())
    try:
        assert ask(f"{tmp_path}/socket", b"hi") == b"Echo=>hi"
        watched = os.pidfd_open(pid)
    finally:
        os.kill(pid, signal.SIGTERM)
    _awaitEnd(watched)
    log = logfile.read_text()
    assert f"echo listens on unix:{tmp_path}/socket at {tmp_path}/socket, framing auto" in log
    assert "Server Shut Down" in log
    assert {each.name for each in tmp_path.iterdir()} == {"log"}


def _awaitEnd(pidfd: int) -> None:
    """Wait until a process that is no child of ours has ended."""
    try:
        assert select.select([pidfd], [], [], 10)[0], "the daemon has not ended"
    finally:
        os.close(pidfd)


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def failing(folder: Path, busy: int) -> list[str]:
    """Have two UNIX sockets and a datagram port begin before what cannot."""
    return [
        "sockapps",
        "--service=upper",
        f"--listen=unix:{folder}/socket",
        "--listen=udp:0",
        "--service=echo",
        f"--listen=tcp:{busy}:interface=127.0.0.1",
    ]


def oneLine(busy: int) -> str:
    return f"echo cannot listen: Address already in use (tcp:{busy}:interface=127.0.0.1)"


def leftIn(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_in_the_foreground_a_failed_start_leaves_nothing_but_a_line_in_the_log(
    tmp_path: Path, busy: int
) -> None:
    ended = finish("twistd", "-n", *failing(tmp_path, busy), folder=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == ""
    assert ended.stdout.count("cannot listen") == 1
    assert ended.stdout.rstrip().endswith(oneLine(busy))
    assert "Traceback" not in ended.stdout
    assert leftIn(tmp_path) == set()


def test_as_a_daemon_a_failed_start_is_explained_by_the_parent_and_by_the_log(
    tmp_path: Path, busy: int
) -> None:
    ended = finish(
        *("twistd", "--pidfile=pid", "--logfile=log", *failing(tmp_path, busy)),
        folder=tmp_path,
        daemonToo=True,
    )
    assert ended.returncode == 1
    assert f"echo cannot listen: Address already in use (tcp:{busy}:" in ended.stderr
    assert "Traceback" not in ended.stderr
    log = (tmp_path / "log").read_text()
    assert log.count("cannot listen") == 1
    assert log.rstrip().endswith(oneLine(busy))
    assert "Traceback" not in log
    assert leftIn(tmp_path) == {"log"}


def test_under_twist_a_failed_start_is_one_line_on_stderr(tmp_path: Path, busy: int) -> None:
    ended = finish("twist", *failing(tmp_path, busy), folder=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", oneLine(busy) + "\n")
    assert leftIn(tmp_path) == set()


def test_two_services_on_one_port_do_not_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    endpoint = f"tcp:{port}:interface=127.0.0.1"
    ended = finish(
        *("twistd", "-n", "sockapps"),
        *("--service=echo", f"--listen={endpoint}", "--service=upper", f"--listen={endpoint}"),
        folder=tmp_path,
    )
    assert ended.returncode == 1
    said = f"upper cannot listen: Address already in use ({endpoint})"
    assert ended.stdout.rstrip().endswith(said)
    assert leftIn(tmp_path) == set()


@pytest.mark.parametrize(
    "command",
    [("twistd", "-n"), ("twistd", "--pidfile=pid", "--logfile=log"), ("twist",)],
    ids=["foreground", "daemon", "twist"],
)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--service=ecko"], "ecko: there is no app 'ecko'; did you mean 'echo'?"),
        (
            ["--service=login", "--auth=memory:s3cret"],
            "login: memory: argstring must be in format U:P:...",
        ),
    ],
    ids=["option", "app"],
)
def test_an_option_that_cannot_be_used_is_one_line_on_stderr(
    tmp_path: Path, command: tuple[str, ...], arguments: list[str], said: str
) -> None:
    ended = finish(*command, "sockapps", *arguments, folder=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"sockapps: {said}\n")
    assert leftIn(tmp_path) == set()


def test_no_secret_option_is_in_the_log(tmp_path: Path) -> None:
    with running(
        *("twistd", "-n", "sockapps", "--service=login", f"--listen={TCP}"),
        "--auth=memory:alice:s3cret",
        folder=tmp_path,
        listenings=1,
    ) as daemon:
        assert ask(daemon.address("login"), b"{'alice': 's3cret'}") == "登录成功!".encode()
        assert daemon.end() == -signal.SIGTERM
    assert any("was accepted" in line for line in daemon.lines)
    assert not any("s3cret" in line for line in daemon.lines)


# What systemd does for a service with sockets: the first inherited descriptor is 3.
SYSTEMD = """
import os, sys
for number, inherited in enumerate(map(int, os.environ.pop("SOCKETS").split())):
    os.dup2(inherited, 3 + number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(number + 1))
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_sockets_inherited_from_systemd_are_served(tmp_path: Path) -> None:
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(f"{tmp_path}/socket")
        unix.listen()
        # Beyond 3 and 4, where they are to go.
        high = [os.dup(os.dup(each.fileno())) for each in (tcp, unix)]
        for each in high:
            stack.callback(os.close, each)
        daemon = stack.enter_context(
            running(
                PYTHON,
                *("-c", SYSTEMD, program("twistd"), "-n", "sockapps"),
                *("--service=echo", "--listen=systemd:domain=INET:name=echo.socket"),
                *("--service=upper", "--listen=systemd:domain=UNIX:index=1"),
                folder=tmp_path,
                listenings=2,
                variables={
                    "SOCKETS": " ".join(map(str, high)),
                    "LISTEN_FDNAMES": "echo.socket:upper.socket",
                },
                pass_fds=high,
            )
        )
        port = tcp.getsockname()[1]
        assert [each[2] for each in daemon.listening] == [f"127.0.0.1:{port}", f"{tmp_path}/socket"]
        assert ask(f"127.0.0.1:{port}", b"hi") == b"Echo=>hi"
        assert ask(f"{tmp_path}/socket", b"hi") == b"HI"


@pytest.mark.parametrize("asked", ["--help", "--help-auth", "--help-auth-type=memory", "--version"])
def test_help_that_cannot_be_written_is_one_line_at_most(tmp_path: Path, asked: str) -> None:
    read, unread = os.pipe()
    os.close(read)
    full = "Error: standard output: No space left on device\n"
    with open("/dev/full", "wb") as disk, open(unread, "wb") as pipe:
        for where, says in ((disk, full), (pipe, "")):
            shown = subprocess.run(
                [program("twistd"), "sockapps", asked],
                cwd=tmp_path,
                env=environment(tmp_path),
                stdout=where,
                stderr=subprocess.PIPE,
                text=True,
                timeout=PATIENCE,
            )
            assert (shown.returncode, shown.stderr) == (1, says)


def test_the_help_is_for_people(tmp_path: Path) -> None:
    shown = finish("twistd", "sockapps", "--help", folder=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(
        "Usage: twistd [options] sockapps [options]\n\nStart small socket"
    )
    auth = finish("twistd", "sockapps", "--help-auth", folder=tmp_path)
    assert (auth.returncode, auth.stderr) == (0, "")
    assert re.search(r"accounts\s+The accounts file", auth.stdout)
