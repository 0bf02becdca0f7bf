"""
Peers that send a byte a second and never complete a message: each is cut off in time.

Half of them have completed a message before, for the others it would be the first one. The first
byte's time counts, whatever follows.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from tests.proofs.figures import SLACK, Figure, percentile
from tests.proofs.peers import SPARE, Watched, ask, connections
from tests.proofs.probing import Prober
from tests.proofs.servers import LOOPBACK, needFiles, serving

TITLE = "5,000 peers at a byte a second: cut off at their deadline, and how others fare"

PACE = 1.0
"""Seconds from one byte of a peer to its next."""

PROMPT = 0.1
"""Seconds within which 99 of 100 honest probes are answered meanwhile."""


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Drip until everybody is cut off, or should have been for long."""
    count, deadline = (200, 3.0) if smoke else (5000, 10.0)
    off = 20 if smoke else 10
    needFiles(count + SPARE)
    service = f"--service=echo:framing=line:message_timeout={deadline:g}"
    with serving(service, f"--listen={LOOPBACK}") as server:
        port = server.ports["echo"]
        with Prober(port, server) as prober, connections(port, count, say) as peers:
            for peer in peers[::2]:
                ask(peer, b"a whole one")
            with Watched(peers, 0) as watched:
                began = _drip(watched, peers, 2 * deadline)
        tracebacks = server.tracebacks()
    lasted = [100 * (watched.cut[peer] - began[peer]) / deadline for peer in watched.cut]
    say(f"{len(lasted):,} of {count:,} were cut off")
    return [
        Figure.atMost("peers never cut off", len(watched.open), 0),
        Figure.atLeast(
            "the first one cut off, of its deadline", min(lasted, default=0), 100 - off, "%"
        ),
        Figure.worthKnowing("half of them cut off", percentile(lasted or [0], 50), "%"),
        Figure.atMost("the last one cut off", max(lasted, default=0), 100 + off, "%"),
        *prober.probes.p99("p99 of probes", PROMPT * (SLACK if smoke else 1)),
        Figure.atMost("tracebacks in the log", tracebacks, 0),
    ]


def _drip(watched: Watched, peers: list[socket.socket], most: float) -> dict[socket.socket, float]:
    """
    Send their bytes, spread evenly over time.

    @return: When each peer's first byte went out.
    """
    start = time.monotonic()
    due = deque((start + PACE * place / len(peers), peer) for place, peer in enumerate(peers))
    began: dict[socket.socket, float] = {}
    while watched.open and due and time.monotonic() < start + PACE + most:
        when, peer = due[0]
        watched.poll(when - time.monotonic())
        while due and due[0][0] <= time.monotonic():
            when, peer = due.popleft()
            if peer not in watched.cut:
                began.setdefault(peer, time.monotonic())
                _drop(peer)
                due.append((when + PACE, peer))
    return began


def _drop(peer: socket.socket) -> None:
    with suppress(OSError):  # it has just been cut off, which epoll is about to say
        peer.send(b"x")
