"""
What a run sends, what it awaits, and when each message is due: no I/O, no clock of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import attrs

from sockapps.client import MAX_REPLY, findApp, whereIs
from sockapps.datagram import MAX_DATAGRAM
from sockapps.framing import FRAMINGS, Framing

if TYPE_CHECKING:
    from sockapps.clientprotocol import ClientProtocol

MAX_RATE = 1_000_000
"""Messages a second, more than any generator in Python sends."""

MAX_IN_FLIGHT = 10_000_000
"""Unanswered messages, all connections together."""

DEFAULT_MESSAGE = b"hello"
_FILLING = b"0123456789abcdefghijklmnopqrstuvwxyz"

SECOND = 1_000_000_000
"""Times are whole nanoseconds, as L{time.perf_counter_ns} gives them."""


@attrs.frozen
class Plan:
    """
    One run, checked.

    @ivar where: A client string, or C{udp:HOST:PORT}.
    @ivar connections: How many there are at once; over UDP, sockets.
    @ivar depth: How many messages one of them has unanswered at most.
    @ivar messages: How many are sent at most; C{None} is no limit.
    @ivar duration: Seconds after which none is sent any more; C{None} is no limit.
    @ivar rate: Messages that are due in a second, whatever the server does; C{None} sends each
        when the one before it is answered.
    @ivar churn: Whether each message has a connection of its own.
    @ivar request: One message as it goes over the wire.
    @ivar expected: The reply to it; C{None} where any counts.
    @ivar reply: The same as it comes over the wire.
    """

    app: str
    where: str
    connections: int
    depth: int
    messages: int | None
    duration: float | None
    rate: float | None
    churn: bool
    timeout: float
    framing: str
    size: int
    request: bytes
    expected: bytes | None
    reply: bytes | None

    @property
    def datagrams(self) -> bool:
        """Whether messages go over UDP."""
        return self.where.startswith("udp:")

    @property
    def makeFraming(self) -> Callable[[], Framing]:
        """What reads replies off the wire."""
        return lambda: FRAMINGS[self.framing](MAX_REPLY)


def makePlan(
    app: str,
    to: str | None = None,
    *,
    connections: int = 1,
    depth: int = 1,
    messages: int | None = None,
    duration: float | None = None,
    rate: float | None = None,
    churn: bool = False,
    message: bytes | None = None,
    size: int | None = None,
    framing: str | None = None,
    timeout: float = 10.0,
) -> Plan:
    """
    Check what somebody wants, and work out what it takes.

    @raise ValueError: it cannot be done; in words for whoever wants it.
    """
    for name, number in (("--duration", duration), ("--rate", rate), ("--timeout", timeout)):
        if number is not None and not (0 < number < math.inf and SECOND / number < math.inf):
            raise ValueError(f"{name} {number:g} is out of range")
    if rate is not None and rate > MAX_RATE:
        raise ValueError(f"--rate {rate:g} is more than can be sent; at most {MAX_RATE:,}")
    if size is not None and size > MAX_REPLY:
        raise ValueError(f"a message of {size} bytes; at most {MAX_REPLY} can be sent")
    if depth * connections > MAX_IN_FLIGHT:
        raise ValueError(f"--depth times --connections is {MAX_IN_FLIGHT:,} at most")
    found = findApp(app)
    client = cast("type[ClientProtocol]", found.loadClient())()
    where = whereIs(found, to)
    datagrams = where.startswith("udp:")
    if datagrams and framing is not None:
        raise ValueError("each datagram is one message over UDP, so there is no --framing")
    framing = "chunk" if datagrams else framing or "line"
    if message is not None and size is not None:
        raise ValueError("--message has a size of its own; give it or --size, not both")
    if message is None:
        message = DEFAULT_MESSAGE if size is None else filled(size)
    frames = FRAMINGS[framing](MAX_DATAGRAM if datagrams else MAX_REPLY)
    request = frames.frame(message)
    if not request and datagrams:
        raise ValueError("an empty datagram gets no reply")
    if not request:
        raise ValueError("an empty message cannot be sent without line or netstring framing")
    if len(message) > MAX_REPLY:
        raise ValueError(f"a message of {len(message)} bytes; at most {MAX_REPLY} can be sent")
    if datagrams and len(request) > MAX_DATAGRAM:
        raise ValueError(f"a message of {len(request)} bytes; a datagram carries {MAX_DATAGRAM}")
    if frames.feed(request) != [message]:
        raise ValueError(f"this message cannot be sent with {framing} framing; netstring can")
    if client.isFarewell(message):
        raise ValueError(f"this message ends a conversation with {app}, and has no reply")
    alone = "--churn sends one message on each connection" if churn else None
    if client.closesAfterReply and not datagrams:
        churn, alone = True, f"{app} closes after one reply"
    elif framing == "chunk" and not datagrams:
        alone = alone or "chunk framing does not tell one reply from the next"
    if datagrams and churn:
        raise ValueError("there are no connections over UDP, so no --churn either")
    if depth > 1 and alone is not None:
        raise ValueError(f"{alone}, so --depth can only be 1")
    # What a datagram's line end becomes is for each app to say: any reply counts.
    lineEnd = datagrams and message.endswith(b"\n")
    expected = None if lineEnd else client.expected(message, datagrams)
    if datagrams and expected is not None and len(expected) > MAX_DATAGRAM:
        raise ValueError(f"a reply of {len(expected)} bytes; a datagram carries {MAX_DATAGRAM}")
    if messages is None and duration is None:
        duration = DEFAULT_DURATION
    if datagrams:
        # Nothing in a late datagram tells which message it answers; a socket of its own does.
        connections, depth = connections * depth, 1
    if messages is not None:
        connections = min(connections, messages)
    return Plan(
        app=app,
        where=where,
        connections=connections,
        depth=depth,
        messages=messages,
        duration=duration,
        rate=rate,
        churn=churn,
        timeout=timeout,
        framing=framing,
        size=len(message),
        request=request,
        expected=expected,
        reply=None if expected is None else frames.frame(expected),
    )


DEFAULT_DURATION = 10.0


def filled(size: int) -> bytes:
    """Make a message of so many bytes."""
    return (_FILLING * (size // len(_FILLING) + 1))[:size]


class Schedule:
    """
    When each message of an open-loop run is due, whatever the server does meanwhile.

    @param rate: How many are due in a second.
    @param begin: When the first is due.
    @param messages: How many there are; C{None} is no limit.
    @param end: When nothing is due any more; C{None} is never.
    """

    def __init__(self, rate: float, begin: int, messages: int | None, end: int | None) -> None:
        self._rate = rate
        self._begin = begin
        self._messages = messages
        self._end = end
        self._number = 0

    @property
    def next(self) -> int | None:
        """When the next message is due; C{None} where there is none."""
        if self._number == self._messages:
            return None
        # From the beginning, not from the one before it: rounding must not add up.
        due = self._begin + int(self._number * SECOND / self._rate)
        return None if self._end is not None and due >= self._end else due

    def take(self, now: int) -> list[int]:
        """Take the messages that are due by now: when each was."""
        taken = []
        while (due := self.next) is not None and due <= now:
            taken.append(due)
            self._number += 1
        return taken
