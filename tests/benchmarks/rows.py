"""
What is measured: a row of the table each.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Generator, Iterator

from attrs import frozen

from tests.benchmarks.load import Churn, Datagrams, EncryptedLines, Lines, Load, WrongReply, idle
from tests.benchmarks.servers import Peer, Place, Server, cpuSeconds, residentBytes

IDLE = 8000
"""How many connections are idle."""

SPARE = 200
"""File descriptors that a process needs for itself."""

MOST = IDLE + SPARE
"""File descriptors that are enough for every row."""


@frozen
class Effort:
    """
    How much is done for one figure.

    @ivar seconds: How long a server is asked.
    @ivar slices: In how many parts, between which the others have their turn: shorter than what
        usually keeps a virtual machine from its processor.
    @ivar warm: How long it is asked before that, uncounted.
    @ivar share: What part of the connections there are.
    """

    seconds: float
    slices: int = 15
    warm: float = 0.3
    share: float = 1.0

    def of(self, connections: int) -> int:
        """Say how many connections there are where a row says so many."""
        return max(1, min(int(connections * self.share), mostFiles() - SPARE))


@frozen
class Figure:
    """
    What one measurement gave.

    @ivar value: In the unit of its row.
    @ivar detail: What else is worth keeping: how many were asked, and so on.
    """

    value: float
    detail: dict[str, float]


@frozen
class Row:
    """
    One thing that is measured of every server that has the transport.

    @ivar name: What C{--only} calls it.
    @ivar measure: What measures a server.
    """

    name: str
    title: str
    unit: str
    transport: str
    measure: Callable[[Server, Effort], Iterator[Figure]]

    def figures(self, peer: Peer, place: Place, effort: Effort) -> Generator[Figure, None, None]:
        """
        Start a server, and measure it as often as it is asked for one more figure.

        @raise Failed: it cannot be measured.
        """
        with peer.serving(self.transport, place) as server:
            yield from self.measure(server, effort)


def mostFiles() -> int:
    """Raise what this process, and whom it starts, may have open as far as it helps."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def _asked(make: Callable[[Server, Effort], Load]) -> Callable[[Server, Effort], Iterator[Figure]]:
    """Have a server's CPU per request measured under a load."""

    def measure(server: Server, effort: Effort) -> Iterator[Figure]:
        load = make(server, effort)
        try:
            load.run(effort.warm)
            for _ in range(effort.slices):
                yield _slice(server, load, effort.seconds / effort.slices)
        finally:
            load.close()

    return measure


def _slice(server: Server, load: Load, seconds: float) -> Figure:
    cpu, own, clock = cpuSeconds(server.pid), time.process_time(), time.perf_counter()
    requests = load.run(seconds)
    cpu, own = cpuSeconds(server.pid) - cpu, time.process_time() - own
    clock = time.perf_counter() - clock
    if not requests:
        raise WrongReply(f"nothing came within {seconds:g} seconds")
    return Figure(
        1e6 * cpu / requests,
        {
            "requests": requests,
            "requests_per_second": requests / clock,
            "server_busy": cpu / clock,
            "load_us_per_request": 1e6 * own / requests,
        },
    )


def _lines(connections: int, depth: int) -> Callable[[Server, Effort], Iterator[Figure]]:
    return _asked(lambda server, effort: Lines(server.port, effort.of(connections), depth))


def _idle(server: Server, effort: Effort) -> Iterator[Figure]:
    before = residentBytes(server.pid)
    connections = effort.of(IDLE)
    close = idle(server.port, connections)
    grown = residentBytes(server.pid) - before
    close()
    yield Figure(grown / connections, {"connections": connections})


def _encrypted(server: Server, effort: Effort) -> Load:
    assert server.tls is not None
    return EncryptedLines(server.port, effort.of(50), server.tls)


def _start(what: str) -> Callable[[Server, Effort], Iterator[Figure]]:
    def measure(server: Server, effort: Effort) -> Iterator[Figure]:
        yield Figure(1e3 * getattr(server, what), {})

    return measure


ALL = (
    Row(
        "tcp-50x1", "TCP echo, 50 connections, one line in flight each", "µs", "tcp", _lines(50, 1)
    ),
    Row("tcp-1x1", "TCP echo, 1 connection, one line in flight", "µs", "tcp", _lines(1, 1)),
    Row("tcp-500x1", "TCP echo, 500 connections, one line each", "µs", "tcp", _lines(500, 1)),
    Row("tcp-50x32", "TCP echo, 50 connections, 32 lines each", "µs", "tcp", _lines(50, 32)),
    Row("tcp-1x32", "TCP echo, 1 connection, 32 lines", "µs", "tcp", _lines(1, 32)),
    Row(
        "udp",
        "UDP upper, 50 sockets, one datagram in flight each",
        "µs",
        "udp",
        _asked(lambda server, effort: Datagrams(server.port, effort.of(50))),
    ),
    Row(
        "churn",
        "TCP echo, a new connection for each line, 50 at a time",
        "µs",
        "tcp",
        _asked(lambda server, effort: Churn(server.port, effort.of(50))),
    ),
    Row("tls", "TLS echo, 50 connections, one line each", "µs", "tls", _asked(_encrypted)),
    Row("idle", "an idle connection, of 8,000", "bytes", "tcp", _idle),
    Row("start-cpu", "start until the first reply, CPU", "ms", "tcp", _start("cpu")),
    Row("start-wall", "start until the first reply, wall clock", "ms", "tcp", _start("wall")),
)
"""Every row, in the order of the tables."""
