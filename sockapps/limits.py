"""
Who may come in, and how much: no I/O, no timer, and the clock is passed in.

The limits are those of OpenSSH (C{MaxStartups}, C{PerSourceMaxStartups}), of HAProxy's stick
tables, and of nginx's C{limit_conn} and C{limit_req}; for the penalties see L{sockapps.penalties}.
Wherever a limit is a number, 0 means that there is none.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import inf
from typing import Protocol

from sockapps.networks import Networks, sourceOf
from sockapps.penalties import OFFENCES, OVERFLOWS, Penalties, PenaltyOptions

__all__ = [
    "OFFENCES",
    "OVERFLOWS",
    "Admission",
    "AdmissionLimits",
    "Networks",
    "ProcessLimits",
    "Sources",
    "Standing",
    "TokenBucket",
    "sourceOf",
]


class TokenBucket:
    """
    Hold somebody to a rate, of which one second's worth may be taken at once.

    Nothing is ever added up: what was earned is reckoned from when the bucket was last full, so
    no rounding errors gather, however long and often it is asked.

    @param rate: How many a second; 0: as many as you like.
    @param seconds: The clock, which never goes back.
    """

    __slots__ = ("_burst", "_rate", "_seconds", "_since", "_taken")

    def __init__(self, rate: float, seconds: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = max(1, rate)
        self._seconds = seconds
        self._since = -inf
        self._taken = 0

    def take(self, n: int = 1) -> bool:
        """Take so many at once, or, where there are not enough, none: C{False}."""
        if not self._rate:
            return True
        now = self._seconds()
        earned = (now - self._since) * self._rate
        if earned >= self._taken:
            self._since = now
            self._taken = 0
            earned = 0
        if self._taken + n > self._burst + earned:
            return False
        self._taken += n
        return True


class ProcessLimits(PenaltyOptions, Protocol):
    """
    What is asked of a L{sockapps.options.ProcessOptions}.
    """

    @property
    def maxConnections(self) -> int: ...
    @property
    def exempt(self) -> Sequence[str]: ...


class AdmissionLimits(Protocol):
    """
    What is asked of a L{sockapps.options.AdmissionOptions}.
    """

    @property
    def maxConnections(self) -> int: ...
    @property
    def maxConnectionsPerSource(self) -> int: ...
    @property
    def connectionRate(self) -> float: ...
    @property
    def messageRate(self) -> float: ...
    @property
    def allow(self) -> Sequence[str]: ...
    @property
    def deny(self) -> Sequence[str]: ...


def _place(exempt: Networks, host: str) -> str | None:
    """Find what a host counts as; C{None}: it is exempt."""
    return None if host in exempt else sourceOf(host)


def _isDenied(allow: Networks, deny: Networks, host: str) -> bool:
    """Tell whether a host may not come: C{deny} has the last word."""
    return host in deny or (bool(allow) and host not in allow)


class Sources:
    """
    What all services of a process together know of those who come.

    @ivar connections: How many are open now.
    @ivar most: How many may be.
    @ivar place: Finds what a host counts as; C{None}: it is exempt.
    @ivar free: Sets of hosts that somebody has found to be exempt; they are emptied whenever the
        options change.
    @ivar penalties: How many penalties there have been, by kind.
    """

    def __init__(self, options: ProcessLimits, seconds: Callable[[], float]) -> None:
        self.connections = 0
        self.seconds = seconds
        self.free: list[set[str]] = []
        self._penalties = Penalties(options, seconds)
        self.penalties: Counter[str] = self._penalties.counts
        self.options = options

    @property
    def options(self) -> ProcessLimits:
        """What is decided by, from now on."""
        return self._options

    @options.setter
    def options(self, options: ProcessLimits) -> None:
        self.place = lru_cache(options.maxSources)(partial(_place, Networks(options.exempt)))
        self.most = options.maxConnections or sys.maxsize
        self._options = self._penalties.options = options
        for hosts in self.free:
            hosts.clear()

    def penalize(self, source: str, kind: str) -> None:
        """
        Hold something against a source, which is not exempt.

        @param kind: One of L{OFFENCES}.
        """
        self._penalties.penalize(source, kind)

    def refuses(self, source: str) -> bool:
        """Tell whether a source is to be turned away now, for what it did."""
        return self._penalties.refuses(source)

    @property
    def penalized(self) -> int:
        """How many sources have a penalty now, refused for it or not."""
        return len(self._penalties)


class Standing:
    """
    What one service knows of one source.

    @ivar source: What L{sourceOf} says; C{None}: exempt, or a UNIX socket.
    @ivar options: What it began with.
    @ivar limited: Whether the source has limits; who is not is not asked about C{messages}.
    @ivar connections: How many are open now, if it is limited.
    @ivar arrivals: Counts new connections.
    @ivar messages: Counts messages.
    @ivar replies: For who answers datagrams: counts replies.
    """

    __slots__ = ("arrivals", "connections", "limited", "messages", "options", "replies", "source")

    def __init__(
        self, source: str | None, options: AdmissionLimits, seconds: Callable[[], float]
    ) -> None:
        self.source = source
        self.options = options
        self.limited = source is not None
        self.connections = 0
        self.arrivals = TokenBucket(options.connectionRate, seconds)
        self.messages = TokenBucket(options.messageRate, seconds)
        self.replies: TokenBucket | None = None


class Admission:
    """
    Decide who may come in to one service, at whichever of its endpoints.

    @ivar connections: How many are open now.
    @ivar free: Some hosts that are exempt and not denied.
    """

    def __init__(self, options: AdmissionLimits, sources: Sources) -> None:
        self.sources = sources
        self.free: set[str] = set()
        sources.free.append(self.free)
        self.connections = 0
        self._standings: dict[str, Standing] = {}
        # Those of them with no connection, which can be forgotten: longest unseen first.
        self._idle: OrderedDict[str, Standing] = OrderedDict()
        self.options = options

    @property
    def options(self) -> AdmissionLimits:
        """
        What is decided by, from now on. Who is in stays in, and a source keeps the message rate
        that it has until it has no connection any more.
        """
        return self._options

    @options.setter
    def options(self, options: AdmissionLimits) -> None:
        allow, deny = Networks(options.allow), Networks(options.deny)
        self._options = options
        self.free.clear()
        self._most = options.maxConnections or sys.maxsize
        self._mostOfOne = options.maxConnectionsPerSource or sys.maxsize
        self._forget(0)
        for standing in self._standings.values():
            standing.arrivals = TokenBucket(options.connectionRate, self.sources.seconds)
        self._free = Standing(None, options, self.sources.seconds)
        self._denies = (
            lru_cache(self.sources.options.maxSources)(partial(_isDenied, allow, deny))
            if allow or deny
            else None
        )

    def admit(self, host: str | None) -> Standing | str:
        """
        Let a connection in, or not.

        @param host: The peer's address; C{None}: it has none, on a UNIX socket.
        @return: What L{leave} is to be told when it is over, or why it may not come:
            one of L{sockapps.counts.REFUSALS}.
        """
        sources = self.sources
        if host is None or host in self.free:
            standing = self._free
        else:
            heard = self.hear(host)
            if isinstance(heard, str):
                return heard
            standing = heard
        if sources.connections >= sources.most:
            return "process"
        if self.connections >= self._most:
            return "service"
        if standing.source is not None:
            if standing.connections >= self._mostOfOne:
                return "source"
            if not standing.arrivals.take():
                return "rate"
            if not standing.connections:
                del self._idle[standing.source]
            standing.connections += 1
        self.connections += 1
        sources.connections += 1
        return standing

    def leave(self, standing: Standing) -> None:
        """Note that a connection is over, once for each that was let in."""
        self.connections -= 1
        self.sources.connections -= 1
        if standing.source is not None:
            standing.connections -= 1
            if not standing.connections:
                if standing.options is self._options:
                    self._idle[standing.source] = standing
                    self._forget(self.sources.options.maxSources)
                else:
                    del self._standings[standing.source]

    def hear(self, host: str) -> Standing | str:
        """
        Let a datagram in, or not; it counts as no connection.

        @return: What is known of its source, or why it is not heard: C{"denied"}, C{"penalty"}.
        """
        if self._denies is not None and self._denies(host):
            return "denied"
        source = self.sources.place(host)
        if source is None:
            if len(self.free) >= self.sources.options.maxSources:
                self.free.clear()
            self.free.add(host)
            return self._free
        if self.sources.refuses(source):
            return "penalty"
        standing = self._standings.get(source)
        if standing is None:
            self._forget(self.sources.options.maxSources - 1)
            standing = Standing(source, self._options, self.sources.seconds)
            self._standings[source] = self._idle[source] = standing
        elif not standing.connections:
            self._idle.move_to_end(source)
        return standing

    def _forget(self, most: int) -> None:
        """Keep so many standings only, and those with connections."""
        while len(self._standings) > most and self._idle:
            del self._standings[self._idle.popitem(last=False)[0]]
