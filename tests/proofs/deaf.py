"""
Peers that send and never read: what their unread replies take, and when they are cut off.

Each would send 64 MiB. Those that send short lines are owed the most: each line has its reply, and
whoever keeps lines that wait needs more for a short one than it has bytes.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from itertools import cycle, islice

from tests.proofs.figures import Figure
from tests.proofs.peers import PATIENCE, SPARE, Watched, connections
from tests.proofs.servers import LOOPBACK, Server, needFiles, serving

TITLE = "500 peers that send 64 MiB each and never read: memory, and when they are cut off"

MIB = 1024 * 1024
EACH = 64 * MIB
"""Bytes that each one would send."""

BUFFER = 16 * 1024
"""Bytes that the system may keep for a peer, each way."""

SEGMENT = 1448
"""Bytes of a packet."""

FILLING = 20.0
"""Seconds that it may take until nobody can send any more."""

PEERS = 500
ROOM, BASE = 147, 3
"""MiB that the server may grow by: for so many peers, and however few there are."""

SHORT = 16
"""Bytes of a line up to which the server is busy with it for longer than with its transport."""

LINES = {
    "lines of 1 KiB": b"x" * 1023 + b"\n",
    "lines of 2 bytes": b"xy\n",
    "empty lines": b"\n",
}


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Send each kind of lines to a server of its own."""
    count, timeout = (10, 1.0) if smoke else (PEERS, 10.0)
    needFiles(count + SPARE)
    figures = []
    for what, line in LINES.items():
        service = f"--service=echo:stall_timeout={timeout:g}"
        with serving(service, f"--listen={LOOPBACK}") as server:
            say(f"{count} peers send {what}")
            late = (2.5 if smoke else 1.2) * timeout if len(line) > SHORT else None
            figures += _sent(server, what, line, count, timeout, late, say)
    return figures


def _sent(
    server: Server,
    what: str,
    line: bytes,
    count: int,
    timeout: float,
    late: float | None,
    say: Callable[[str], None],
) -> list[Figure]:
    port = server.ports["echo"]
    with connections(port, count, say, _connect) as peers:
        before = server.forgetPeak()
        with Watched(peers, select.EPOLLOUT) as watched:
            sending = _Sending(watched, line)
            sending.go(FILLING + 3 * timeout)
    grown = (server.peak() - before) / MIB
    first, last, sent = sending.first, sending.last, sending.sent
    soonest = min((when - first[peer] for peer, when in watched.cut.items()), default=0)
    latest = max((when - last[peer] for peer, when in watched.cut.items()), default=0)
    say(f"{sum(sent.values()) / MIB:,.0f} MiB taken in all; {grown:,.1f} MiB more memory")
    figures = [
        Figure.atMost("memory grows", grown, BASE + ROOM * count / PEERS, "MiB"),
        Figure.worthKnowing("taken from each", sum(sent.values()) / MIB / count, "MiB"),
        Figure.atMost("peers never cut off", len(watched.open), 0),
        Figure.atLeast("the first cut, after it began", soonest, 0.9 * timeout, "s"),
        # The server has so much to do with short lines that peers are stuck before it knows.
        Figure("the last cut, after it was stuck", latest, "s", most=late),
        Figure.atMost("tracebacks in the log", server.tracebacks(), 0),
    ]
    return [figure.of(what) for figure in figures]


def _connect(port: int) -> socket.socket:
    """
    Connect, like a peer at the other end of an Ethernet cable, with little room for what it gets.

    What the system keeps for a peer is no process's memory, and over loopback it is megabytes.
    """
    peer = socket.socket()
    try:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        peer.settimeout(PATIENCE)
        peer.connect(("127.0.0.1", port))
    except BaseException:
        peer.close()
        raise
    return peer


class _Sending:
    """
    Peers that send as fast as they can.

    The server's patience begins when it gets rid of no more replies. That is between C{first} and
    C{last}: until the server reads no more a peer can send, and a little longer, while what the
    system buffers fills up.

    @ivar first: When each began.
    @ivar last: When each last could send anything.
    @ivar sent: How many bytes each could send.
    """

    def __init__(self, watched: Watched, line: bytes) -> None:
        self._watched = watched
        self._piece = b"".join(islice(cycle([line]), 64 * 1024 // len(line)))
        self.first: dict[socket.socket, float] = {}
        self.last: dict[socket.socket, float] = {}
        self.sent: dict[socket.socket, int] = {}

    def go(self, seconds: float) -> None:
        """Send until all are cut off, or time is up."""
        bound = time.monotonic() + seconds
        while self._watched.open and time.monotonic() < bound:
            for peer in self._watched.poll(bound - time.monotonic()):
                self._send(peer)

    def _send(self, peer: socket.socket) -> None:
        before = self.sent.get(peer, 0)
        # A line that was sent in part goes on where it was.
        rest = memoryview(self._piece)[before % len(self._piece) :]
        try:
            sent = before + peer.send(rest[: EACH - before])
        except BlockingIOError:
            return
        except OSError:
            self._watched.note(peer)
            return
        now = time.monotonic()
        self.first.setdefault(peer, now)
        self.last[peer], self.sent[peer] = now, sent
        if sent >= EACH:
            self._watched.rest(peer)
