"""
Sending a plan's messages: when which connection is asked, and what becomes of it.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from time import perf_counter_ns
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.error import CannotListenError, DNSLookupError
from twisted.internet.protocol import Factory

from sockapps.bench.asking import Asker, Connection
from sockapps.bench.plan import SECOND, Plan, Schedule
from sockapps.bench.tally import UNREACHED, Tally
from sockapps.client import UDP_PACKET
from sockapps.settings import splitDescription

GOODBYE = 1.0
"""Seconds that the connections have to close in order, at the end."""

POLL_GRAIN = 0.0015
"""Seconds by which a poll may wake up too late: the last of them are waited for awake."""


class _Only(Factory[Connection]):
    """Give an endpoint the one connection that it is asked for."""

    noisy = False

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def buildProtocol(self, addr: object) -> Connection:
        return self.connection


class Load:
    """
    Send a plan's messages, and count what comes of them.

    @ivar took: The tally's.
    @ivar left: How many messages may still be sent.
    @ivar busy: How many connections have something unanswered.
    @ivar closedLoop: Whether a connection's next message is sent as soon as it has its replies,
        on the same connection.
    @ivar paced: Whether messages are due at a rate.
    @ivar replies: As many replies as one connection can await; empty where any reply counts.
    @ivar replySize: The size of one of them.
    @ivar address: Over UDP, the server's.
    @ivar begun: When the first message was due; C{None} where none ever was.
    @ivar ended: When the last one was done with.
    @ivar interrupted: Whether somebody has ended it early.
    @raise ValueError: the plan's endpoint is not written like one.
    """

    def __init__(self, plan: Plan, reactor: Any) -> None:
        self.plan = plan
        self.tally = Tally()
        self.took = self.tally.took
        self.left = sys.maxsize if plan.messages is None else plan.messages
        self.busy = 0
        self.paced = plan.rate is not None
        self.closedLoop = not self.paced and not plan.churn
        self.replySize = 0 if plan.reply is None else len(plan.reply)
        self.replies = b"" if plan.reply is None else plan.reply * plan.depth
        self.address: tuple[str, int] = ("", 0)
        self.begun: int | None = None
        self.ended = 0
        self.interrupted = False
        self._reactor = reactor
        self._timeout = int(plan.timeout * SECOND)
        self._live: set[Connection | Asker] = set()
        self._ready: list[Connection | Asker] = []
        self._opening = 0
        self._lost = 0
        self._schedule: Schedule | None = None
        self._waiting: deque[int] = deque()
        # One entry for each message that a connection could take.
        self._free: deque[Connection | Asker] = deque()
        self._vacant = 0
        self._finished: Deferred[None] = Deferred()
        self._emptied: Deferred[None] | None = None
        self._calls: dict[Any, Any] = {}
        self._endpoint: Any = None
        if plan.datagrams:
            self.address = parseUDP(plan.where)
        else:
            try:
                self._endpoint = clientFromString(reactor, plan.where)
            except Exception as error:
                # Each kind of endpoint has its own way to refuse what it cannot read.
                raise ValueError(
                    f"{plan.where!r} cannot be connected to: {error}; endpoints are like "
                    "tcp:HOST:PORT, tls:HOST:PORT, unix:PATH, udp:HOST:PORT"
                ) from None

    @property
    def seconds(self) -> float:
        """How long it has gone on, or did."""
        if self.begun is None:
            return 0.0
        return ((self.ended or perf_counter_ns()) - self.begun) / SECOND

    async def run(self) -> None:
        """Do it all, and close every connection."""
        if await self._resolved():
            self._later(self._sweep, self._sweepEvery)
            if self.plan.churn:
                self._vacant = self.plan.connections
                self._go()
            else:
                self._opening = self.plan.connections
                for _ in range(self.plan.connections):
                    self._open()
            await self._finished
        await self._close()

    def stop(self) -> None:
        """End it now; what is unanswered is nobody's fault."""
        self.interrupted = True
        self._finish()

    # What connections say

    def connected(self, connection: Connection | Asker) -> None:
        """Take a connection that can be asked."""
        if self.begun is not None:
            self._offer(connection, self.plan.depth, perf_counter_ns())
            return
        self._ready.append(connection)
        self._opened()

    def answered(self, connection: Connection | Asker, count: int, now: int) -> None:
        """Take it that replies have come, right or wrong, and more could be asked."""
        if self.plan.churn:
            connection.close()
            self._vacant += 1
            self._fill()
        else:
            self._offer(connection, count, now)

    def failed(self, connection: Connection | Asker, kind: str, lost: int) -> None:
        """Take it that a connection has failed, and C{lost} messages with it."""
        if self._finished.called:
            return
        if kind in UNREACHED and not lost:
            # It stands for one message, so that a run with nobody to speak to has an end.
            # At a rate, messages wait their turn: it stands for one of those, where there is one.
            if not self.paced or self.begun is None:
                lost = 1
                self.left = max(0, self.left - 1)
            elif self._waiting:
                lost = 1
                self._waiting.popleft()
        self.tally.errors[kind] += lost
        if self.begun is None:
            self._lost += 1
            if connection.made:
                self._ready.remove(connection)
            else:
                self._opened()
        elif self.tally.unreached and self.tally.failed >= self.plan.connections and not self.busy:
            self._finish()  # nobody there
        elif kind in UNREACHED:
            self._lost += 1
            self._check()
        else:
            self._replace(1)
            self._check()

    def unreached(self, why: str) -> None:
        """Remember why there was no connection, the first time."""
        if self.tally.why is None:
            self.tally.why = why.rstrip(".")

    def gone(self, connection: Connection | Asker) -> None:
        """Forget a connection that is closed."""
        self._live.discard(connection)
        if self._emptied is not None and not self._live:
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)

    # Within

    async def _resolved(self) -> bool:
        host, port = self.address
        if self._endpoint is not None or isIPAddress(host) or isIPv6Address(host):
            return True
        try:
            self.address = (await self._reactor.resolve(host), port)
        except DNSLookupError as error:
            self.unreached(str(error))
            self.tally.errors["unreachable"] += 1
            return False
        return True

    def _open(self, due: int | None = None) -> None:
        """Make a connection; one for a message that is due sends it at once."""
        if self._endpoint is None:
            asker = Asker(self)
            self._live.add(asker)
            interface = "::" if ":" in self.address[0] else ""
            try:
                self._reactor.listenUDP(0, asker, interface, UDP_PACKET)
            except CannotListenError as error:
                self.gone(asker)
                self.unreached(str(error.socketError))
                self.failed(asker, "unreachable", 0)
            else:
                if asker.made:
                    self.connected(asker)
                else:
                    asker.fail("unreachable")
            return
        connection = Connection(self)
        self._live.add(connection)
        if due is not None:
            connection.ask(due, 1)
        attempt: Deferred[Any] = self._endpoint.connect(_Only(connection))
        connection.attempt = attempt
        attempt.addErrback(connection.notConnected)

    def _opened(self) -> None:
        """Begin when the last of the first connections is there, or is known not to be."""
        self._opening -= 1
        if self._opening:
            return
        if self.tally.unreached and not self._ready:
            self._finish()
        else:
            self._go()

    def _go(self) -> None:
        now = self.begun = perf_counter_ns()
        plan = self.plan
        if plan.duration is not None:
            self._later(self._endSending, plan.duration)
        if plan.rate is not None:
            end = None if plan.duration is None else now + int(plan.duration * SECOND)
            self._schedule = Schedule(plan.rate, now, plan.messages, end)
        if self.closedLoop:
            for connection in self._ready:
                self._offer(connection, plan.depth, perf_counter_ns())
        else:
            self._free.extend(self._ready * plan.depth)
            if self.paced:
                self._tick()
            else:
                self._fill()

    def _offer(self, connection: Connection | Asker, count: int, now: int) -> None:
        """Let a connection have as many messages as it can take."""
        if self.paced:
            for _ in range(count):
                if self._waiting:
                    connection.ask(self._waiting.popleft(), 1)
                else:
                    self._free.append(connection)
        elif granted := min(count, self.left):
            self.left -= granted
            connection.ask(now, granted)
        self._check()

    def _fill(self) -> None:
        """Begin a connection for each message whose turn it is."""
        while self._vacant and (self._waiting if self.paced else self.left):
            self._vacant -= 1
            if self.paced:
                self._open(self._waiting.popleft())
            else:
                self.left -= 1
                self._open(perf_counter_ns())
        self._check()

    def _tick(self) -> None:
        """Send what is due."""
        schedule = self._schedule
        assert schedule is not None
        self._waiting.extend(schedule.take(perf_counter_ns()))
        if self.plan.churn:
            self._fill()
        else:
            free = self._free
            while self._waiting and free:
                connection = free.popleft()
                if connection in self._live and not connection.ended:
                    connection.ask(self._waiting.popleft(), 1)
        due = schedule.next
        if self._finished.called:
            return
        if due is None:
            self._endSending()
        else:
            wait = (due - perf_counter_ns()) / SECOND - POLL_GRAIN
            self._later(self._tick, max(0, wait))

    def _replace(self, count: int) -> None:
        """Make up for connections that were lost."""
        if self.plan.churn:
            self._vacant += count
            self._fill()
        elif self._more:
            for _ in range(count):
                self._open()

    @property
    def _more(self) -> bool:
        """Whether there is anything to send yet."""
        if self.paced:
            return bool(self._schedule is not None or self._waiting)
        return self.left > 0

    def _sweep(self) -> None:
        """Look for what takes too long, coarsely: no message has a timer of its own."""
        now = perf_counter_ns()
        for connection in list(self._live):
            connection.expire(now, self._timeout)
        self.tally.settle()
        lost, self._lost = self._lost, 0
        if self.begun is None:
            self._lost = lost
        else:
            self._replace(lost)
        if not self._finished.called:
            self._later(self._sweep, self._sweepEvery)

    @property
    def _sweepEvery(self) -> float:
        return max(0.01, min(0.1, self.plan.timeout / 10))

    def _endSending(self) -> None:
        """Send nothing new; what was due already has the time of one time-out."""
        if self._schedule is not None:
            self._waiting.extend(self._schedule.take(perf_counter_ns()))
            self._schedule = None
        self.left = 0
        self._cancel(self._tick)
        self._cancel(self._endSending)
        self._later(self._giveUp, self.plan.timeout)
        self._check()

    def _giveUp(self) -> None:
        self.tally.errors["unsent"] += len(self._waiting)
        self._waiting.clear()
        for connection in list(self._live):
            if connection.inFlight:
                connection.fail("timeout")
        self._finish()

    def _check(self) -> None:
        """End where nothing is left to send or to await."""
        if not self.busy and not self._more and self.begun is not None:
            self._finish()

    def _finish(self) -> None:
        if self._finished.called:
            return
        self.ended = perf_counter_ns()
        self.left = 0
        for name in list(self._calls):
            self._cancel(name)
        self._finished.callback(None)

    async def _close(self) -> None:
        """Close every connection, in order where there is time."""
        for step in ("close", "abort"):
            for connection in list(self._live):
                getattr(connection, step)()
            if self._live:
                emptied: Deferred[None] = Deferred()
                self._emptied = emptied
                self._later(self._closeNoLonger, GOODBYE)
                await emptied
                self._cancel(self._closeNoLonger)

    def _closeNoLonger(self) -> None:
        emptied, self._emptied = self._emptied, None
        assert emptied is not None
        emptied.callback(None)

    def _later(self, what: Any, seconds: float) -> None:
        self._calls[what] = self._reactor.callLater(seconds, what)

    def _cancel(self, what: Any) -> None:
        call = self._calls.pop(what, None)
        if call is not None and call.active():
            call.cancel()


def parseUDP(where: str) -> tuple[str, int]:
    """
    Read C{udp:HOST:PORT}.

    @raise ValueError: it is not written so.
    """
    _, *parts = splitDescription(where)
    if len(parts) != 2 or not re.fullmatch("[0-9]{1,5}", parts[1]) or int(parts[1]) > 65535:
        raise ValueError(f"{where!r} is not written udp:HOST:PORT")
    return parts[0], int(parts[1])
