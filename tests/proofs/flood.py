"""
Peers that send without end: others notice no stall, and the server's memory does not grow.

A line over C{max_message} is answered with an error and a close. The stubborn peer goes on sending
into that until it is cut off; the eager one begins anew as soon as it hears of it.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.benchmarks.load import echoed
from tests.proofs.figures import SLACK, Failed, Figure
from tests.proofs.peers import connect
from tests.proofs.probing import Prober
from tests.proofs.servers import LOOPBACK, serving

TITLE = "1 GiB without a newline, and 20 peers of newlines only: stalls of others, and memory"

MIB = 1024 * 1024
ROOM = 10
"""MiB that the server may grow by."""

STALL = 0.05
"""Seconds that no honest probe may exceed."""

FLOODERS = 20

Say = Callable[[str], None]


def run(smoke: bool, say: Say) -> list[Figure]:
    """Flood three servers, each in its own way, and probe meanwhile."""
    size, seconds = (64 * MIB, 2.0) if smoke else (1024 * MIB, 15.0)
    return [
        *_flooded("stubborn", lambda port: _endless(port, size, True), smoke, say),
        *_flooded("eager", lambda port: _endless(port, size, False), smoke, say),
        *_flooded("newlines", lambda port: _newlines(port, seconds), smoke, say),
    ]


def _flooded(what: str, flood: Callable[[int], Figure], smoke: bool, say: Say) -> list[Figure]:
    with serving("--service=echo", f"--listen={LOOPBACK}") as server:
        port = server.ports["echo"]
        with Prober(port, server) as prober:
            before = server.forgetPeak()
            began = time.monotonic()
            done = flood(port)
            took = time.monotonic() - began
            grown = (server.peak() - before) / MIB
        say(f"{what}: {done.seen:,.0f} {done.what} in {took:.1f} s")
        figures = [
            done,
            *prober.probes.worst("longest probe meanwhile", STALL * (SLACK if smoke else 1)),
            Figure.atMost("memory grows", grown, ROOM, "MiB"),
            Figure.atMost("tracebacks in the log", server.tracebacks(), 0),
        ]
    return [figure.of(what) for figure in figures]


def _endless(port: int, size: int, stubborn: bool) -> Figure:
    """
    Offer so many bytes and no newline among them.

    @return: How often that took another connection.
    """
    piece = b"x" * 256 * 1024
    offered = told = 0
    while offered < size:
        with connect(port) as peer:
            try:
                while offered < size:
                    offered += peer.send(piece)
                    if not stubborn and select.select([peer], [], [], 0)[0]:
                        break
            except TimeoutError as error:
                raise Failed(f"after {offered:,} bytes the server took no more") from error
            except ConnectionError:
                continue  # cut off, whatever it was told before is lost
            if peer.recv(1024).startswith(b"[error: "):
                told += 1
    return Figure.atLeast("connections told why they were closed", told, 1)


def _newlines(port: int, seconds: float) -> Figure:
    """
    Send newlines only, over several connections, and read their replies.

    @return: How many replies there were.
    """
    newlines, owed = b"\n" * 64 * 1024, echoed(b"") * 64 * 1024
    each = len(echoed(b""))
    with ExitStack() as opened:
        epoll = opened.enter_context(select.epoll())
        flooders = {}
        for _ in range(FLOODERS):
            flooder = opened.enter_context(connect(port))
            flooder.setblocking(False)
            flooders[flooder.fileno()] = flooder
            epoll.register(flooder.fileno(), select.EPOLLIN | select.EPOLLOUT)
        came = dict.fromkeys(flooders, 0)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for fileno, event in epoll.poll(1.0):
                if event & select.EPOLLIN:
                    data = flooders[fileno].recv(256 * 1024)
                    begins = came[fileno] % each
                    if not data or data != owed[begins : begins + len(data)]:
                        raise Failed(f"{data[:80]!r} came, not so many echoes of nothing")
                    came[fileno] += len(data)
                if event & select.EPOLLOUT:
                    flooders[fileno].send(newlines)
    least, replies = min(came.values()), sum(came.values()) // each
    if not least:
        raise Failed("one of the flooders was never answered")
    return Figure.worthKnowing("replies a second", replies / seconds)
