"""
C{twistd} as people run it: in a process of its own, waited for with patience, stopped for sure.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 30.0
"""Seconds that a process may take; beginning needs one, where nothing else is going on."""

PYTHON = Path(sys.executable).name
"""The Python that runs the tests, as a program."""

LISTENS = re.compile(r"(\S+) listens on (\S+) at (\S+), framing (\w+)$")


def program(name: str) -> str:
    """Find a program that belongs to the Python that runs the tests."""
    return str(Path(sys.executable).parent / name)


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Make an environment in which nothing outside of a folder is written."""
    kept = {key: value for key, value in os.environ.items() if key != "STATE_DIRECTORY"}
    return {**kept, "HOME": str(folder), "XDG_STATE_HOME": str(folder), **more}


def finish(
    *command: str,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    daemonToo: bool = False,
) -> subprocess.CompletedProcess[str]:
    """
    Run a program to its end.

    @param daemonToo: Whether to wait for the end of the daemon that it has become, too.
    """
    here, there = os.pipe()
    with open(here, "rb") as left:
        try:
            ended = subprocess.run(
                [program(command[0]), *command[1:]],
                cwd=folder,
                env=environment(folder, **(variables or {})),
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                pass_fds=[there],
            )
        finally:
            os.close(there)
        if daemonToo:
            # It has the other end open; nobody ever writes to it.
            assert select.select([left], [], [], PATIENCE)[0], "the daemon goes on"
    return ended


class Daemon:
    """
    A daemon that runs in the foreground and logs where it can be heard.

    @ivar lines: What it has logged so far.
    @ivar listening: What it says of each listening: service, endpoint, address, framing.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.listening: list[tuple[str, str, str, str]] = []

    def address(self, service: str, number: int = 0) -> str:
        """Say where a service listens, in the words of the log."""
        return [each[2] for each in self.listening if each[0] == service][number]

    def waitFor(self, listenings: int) -> None:
        """Read the log until so many listenings have begun."""
        while len(self.listening) < listenings:
            line = self._read()
            assert line, "it has ended:\n" + "\n".join(self.lines)

    def end(self) -> int:
        """Ask it to stop, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> str:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if line:
            self.lines.append(line.rstrip())
        if found := LISTENS.search(line.rstrip()):
            self.listening.append((found[1], found[2], found[3], found[4]))
        return line


@contextmanager
def running(
    *command: str,
    folder: Path,
    listenings: int,
    variables: Mapping[str, str] | None = None,
    **more: Any,
) -> Iterator[Daemon]:
    """
    Run a daemon in the foreground until the block ends.

    @param listenings: How many it has when the block begins.
    @param more: For L{subprocess.Popen}.
    """
    process = subprocess.Popen(
        [program(command[0]), *command[1:]],
        cwd=folder,
        env=environment(folder, **(variables or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,
    )
    # A reader that would wait forever is freed by the end of what it reads from.
    bound = threading.Timer(PATIENCE, process.kill)
    bound.start()
    try:
        daemon = Daemon(process)
        daemon.waitFor(listenings)
        yield daemon
        assert daemon.process.poll() is not None or daemon.end() == -signal.SIGTERM
    finally:
        bound.cancel()
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def ask(address: str, message: bytes, udp: bool = False) -> bytes:
    """
    Send one message, and return what comes back.

    @param address: Where to, as the log has it: C{127.0.0.1:7000}, C{[::1]:7000}, C{/path}.
    """
    if address.startswith("/"):
        family, where = socket.AF_UNIX, address
    else:
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        where = (host.strip("[]"), int(port))  # type: ignore[assignment]  # either is an address
    with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as asking:
        asking.settimeout(PATIENCE)
        asking.connect(where)
        asking.sendall(message)
        if udp:
            return asking.recv(65536)
        asking.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: asking.recv(65536), b""))
