"""
The honest peer: in a process of its own it asks a line at a time, and notes how long that takes.

L{Prober} runs C{python -m tests.proofs.probing PORT}. Probes begin at a steady pace, over a
connection that is kept and over new ones in turns. A probe that has to wait because the one before
it took too long has waited too, so that a stall counts for everybody who would have met it.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.daemons import PATIENCE
from tests.proofs.figures import Failed, Figure, percentile
from tests.proofs.servers import Server

PACE = 0.005
"""Seconds from one probe to the next."""

LINE, OWED = b"still there?\n", b"Echo=>still there?\n"


@frozen
class Probes:
    """
    What an honest peer has met with.

    @ivar waits: Seconds that each answered probe has waited.
    @ivar faults: What became of the others.
    @ivar starved: What part of the time the server was kept from a CPU by other programs; waits
        are longer by that.
    """

    waits: list[float]
    faults: list[str]
    starved: float | None = None

    def p99(self, what: str, most: float) -> list[Figure]:
        """Compare what 99 % have waited, and see that nobody was let down."""
        return [
            Figure.atMost(what, 1e3 * percentile(self.waits, 99), 1e3 * most, "ms"),
            *self._answered(),
        ]

    def worst(self, what: str, most: float) -> list[Figure]:
        """Compare the longest wait, and see that nobody was let down."""
        longest = 1e3 * percentile(self.waits, 100)
        return [Figure.atMost(what, longest, 1e3 * most, "ms"), *self._answered()]

    def _answered(self) -> list[Figure]:
        return [
            Figure.worthKnowing("honest probes answered", len(self.waits)),
            Figure.atMost("honest probes not answered", len(self.faults), 0),
            *(
                [Figure.worthKnowing("the server had to wait for a CPU", 100 * self.starved, "%")]
                if self.starved is not None
                else []
            ),
        ]


class Prober:
    """
    An honest peer of an echo service, as long as the block lasts.

    @param server: Whose waiting for a CPU is to be noted too.
    @ivar probes: What it has met with, when the block has ended.
    """

    probes: Probes

    def __init__(self, port: int, server: Server | None = None) -> None:
        self._port = port
        self._server = server

    def __enter__(self) -> Prober:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.proofs.probing", str(self._port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent.parent,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self._end()
            raise Failed("the honest peer did not even begin")
        self._began = time.monotonic()
        self._before = self._server.waited() if self._server else 0.0
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                starved = None
                if self._server:
                    waited = self._server.waited() - self._before
                    starved = waited / (time.monotonic() - self._began)
                said, _unsaid = self._process.communicate(timeout=PATIENCE)
                self.probes = Probes(**json.loads(said), starved=starved)
        finally:
            self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()


def main(port: int) -> None:
    """Probe until standard input ends."""
    waits: list[float] = []
    faults: list[str] = []
    kept: socket.socket | None = None
    print("begun", flush=True)
    began = due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        fresh = len(waits) % 2 == 1
        asking = None
        try:
            asking = None if fresh else kept
            asking = asking or _connect(port)
            _ask(asking)
        except OSError as error:
            faults.append(f"after {due - began:.3f} s: {error!r}")
            fresh = True
        else:
            waits.append(time.monotonic() - due)
        if not fresh:
            kept = asking
        elif asking is not None:
            asking.close()
            kept = None if asking is kept else kept
        due += PACE
    print(json.dumps({"waits": waits, "faults": faults}))


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _ask(asking: socket.socket) -> None:
    asking.sendall(LINE)
    said = b""
    while said != OWED:
        more: Any = asking.recv(4096)
        said += more
        if not more or not OWED.startswith(said):
            raise ConnectionError(f"{said!r} came, not {OWED!r}")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(int(sys.argv[1]))
