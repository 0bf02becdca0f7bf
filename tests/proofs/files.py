"""
A server that runs out of file descriptors: who is in is served, and accepting recovers.

It is met twice: with a low limit from the start, which the daemon knows of, so that it turns away
whom it has no room for; and with a limit that is lowered under it while it runs, so that accept(2)
itself fails with EMFILE. The admin listener answers in either case.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.proofs.figures import Figure
from tests.proofs.peers import ask, connect
from tests.proofs.servers import LOOPBACK, Server, limitFiles, serving

TITLE = "more connections than file descriptors: who is in is served, accepting recovers"

FILES = 256
"""What the server's limit is from the start."""

LOWERED = 128
"""What it is made while the server runs, and believes in a higher one."""

TRIED = 400
RECOVERY = 1.0
"""Seconds within which somebody new is served, once there is room."""

PATIENCE = 3.0
"""Seconds after which who has not been answered is not in."""

LINE = b"am I in?"


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Crowd both servers."""
    figures = []
    for what, atFirst, later in (
        ("limit known", FILES, 0),
        ("limit lowered", 0, LOWERED),
    ):
        config = '[admin]\nlisten = "unix:admin"\n\n[echo]\n'
        config += f'listen = "{LOOPBACK}:backlog={TRIED}"\n'
        with serving(config=config, listenings=2, files=atFirst) as server:
            if later:
                limitFiles(server.pid, later)
            say(f"{what}: {TRIED} connections to a server that may have {later or atFirst} files")
            figures += [figure.of(what) for figure in _crowded(server, bool(atFirst), say)]
    return figures


def _crowded(server: Server, known: bool, say: Callable[[str], None]) -> list[Figure]:
    port, admin = server.ports["echo"], server.folder / "admin"
    with ExitStack() as opened:
        tried = []
        for _ in range(TRIED):
            with suppress(OSError):  # turned away already
                tried.append(opened.enter_context(connect(port)))
        inside, outside = _served(tried)
        say(f"{len(inside)} of {TRIED} are in, with {server.files()} files open")
        healthy = _healthy(admin)
        again, lost = _served(inside)
        for connection in (*outside, *again[: len(again) // 4]):
            connection.close()
        began = time.monotonic()
        recovered = _recovered(port) - began
    return [
        Figure.atLeast("connections that are in", len(inside), 32),
        Figure.worthKnowing("connections that are not", TRIED - len(inside)),
        Figure.atMost("who was in and is served no more", len(lost), 0),
        # Where the daemon could not know how few files there are, none are left for that.
        Figure("/healthz answers meanwhile", healthy, least=1 if known else None),
        Figure.atMost(
            "somebody new is served, once there is room, after", recovered, RECOVERY, "s"
        ),
        Figure.atMost("tracebacks in the log", server.tracebacks(), 0),
        Figure.atMost("log", server.log.stat().st_size / 1024, 64, "KiB"),
    ]


def _served(
    connections: list[socket.socket],
) -> tuple[list[socket.socket], list[socket.socket]]:
    """Ask over all of them, and tell those that are answered from the others."""
    served, others = [], []
    end = time.monotonic() + PATIENCE
    for connection in connections:
        connection.settimeout(max(0.01, end - time.monotonic()))
        try:
            ask(connection, LINE)
        except OSError:
            others.append(connection)
        else:
            served.append(connection)
    return served, others


def _healthy(admin: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking, suppress(OSError):
        asking.settimeout(PATIENCE)
        asking.connect(str(admin))
        asking.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        return b" 200 " in asking.recv(4096).partition(b"\r\n")[0]
    return False


def _recovered(port: int) -> float:
    """Come anew until served, or for far too long, and return when that was."""
    end = time.monotonic() + 10 * RECOVERY
    while time.monotonic() < end:
        with suppress(OSError), connect(port) as newcomer:
            newcomer.settimeout(0.25)
            ask(newcomer, LINE)
            break
        time.sleep(0.01)
    return time.monotonic()
