"""
One peer's dealings with an app over datagrams: one is one message, one write is one back.
"""

from __future__ import annotations

from collections import deque
from errno import EMSGSIZE
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from sockapps.counts import nextNumber
from sockapps.guard import Address, Allowance
from sockapps.interfaces import IAccountable, IDatagramTransport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sockapps.datagrams import DatagramSessions

MAX_DATAGRAM = 65507
"""Bytes that one datagram can carry over IPv4 (RFC 768, RFC 791): 65,535 less both headers."""

TOO_LONG = b"[error: the reply is longer than a datagram]"
"""What is sent in place of such a reply."""

MAX_WAITING = 64
"""Datagrams of one peer that wait while its app takes its time; more are dropped, as UDP may."""


_NEVER: Any = object()
"""What may be answered once a conversation has ended: nothing."""


@implementer(IAccountable, IDatagramTransport, IPushProducer)
class DatagramSession:
    """
    One peer's dealings with one service over datagrams; toward the app, a transport.

    Where an app's messages stand alone there is one for all peers, C{addr} being the peer whose
    message is being answered.

    @ivar shared: Whether it is the one for all peers.
    @ivar free: Whether a message can be delivered at once.
    @ivar allowance: What may be answered; C{None}: anything.
    @ivar number: Its number, which no other session of this process has.
    @ivar began: When it began, by the reactor's clock.
    @ivar messages: How many the app was given.
    @ivar received: Bytes of the datagrams that came, without headers.
    @ivar sent: Bytes of the app's replies that went out.
    """

    __slots__ = (
        "_ended",
        "_paused",
        "_resuming",
        "_send",
        "_sessions",
        "_waiting",
        "addr",
        "allowance",
        "app",
        "began",
        "free",
        "lastHeard",
        "messages",
        "number",
        "received",
        "sent",
        "shared",
    )

    _log = Logger()

    def __init__(self, sessions: DatagramSessions, addr: Address, app: IProtocol) -> None:
        self._sessions = sessions
        self._send = sessions.send
        self.shared = sessions.standsAlone
        self.addr = addr
        self.app = app
        self.allowance: Allowance | None = None
        self.number = nextNumber()
        self.began = self.lastHeard = sessions.reactor.seconds()
        self.messages = self.received = self.sent = 0
        self.free = True
        self._ended = False
        self._paused = False
        self._resuming = False
        self._waiting: deque[tuple[bytes, Address, Allowance | None]] | None = None

    def begin(self, allowance: Allowance | None) -> None:
        """
        Tell the app that it has a peer.

        @param allowance: What may be said to it before its first message is delivered.
        """
        self.allowance = allowance
        try:
            self.app.makeConnection(self)
        except Exception:
            self.fail("failed to begin")

    def deliver(self, message: bytes, addr: Address, allowance: Allowance | None) -> None:
        """Hand the app one message, or let it wait while the app takes its time."""
        if self._ended:
            return
        if self._paused:
            if self._waiting is None:
                self._waiting = deque()
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append((message, addr, allowance))
            else:
                self._sessions.drop("queue", addr[0])
            return
        self.addr = addr
        self._allow(allowance)
        self.messages += 1
        self.received += len(message)
        try:
            self.app.dataReceived(message)
        except Exception:
            self.fail("failed on a message")

    def cut(self, why: str) -> None:
        """
        End the conversation, and tell the app.

        @param why: One of L{sockapps.counts.ENDINGS}.
        """
        if self._ended:
            return
        self._ended = True
        self.allowance = _NEVER
        self.free = False
        self._waiting = None
        self._sessions.forget(self, why)
        try:
            self.app.connectionLost(Failure(ConnectionDone()))
        except Exception:
            self._tellFailure("failed at the end")

    def fail(self, what: str) -> None:
        """The app is at fault, not the peer: say so in the log, and begin anew."""
        self._tellFailure(what)
        self.cut("failed")

    def _tellFailure(self, what: str) -> None:
        self._log.failure("{app} {what}", app=self.app.__class__.__name__, what=what)

    def _allow(self, allowance: Allowance | None) -> None:
        """Let a message be answered: beside what is left of a conversation's allowance."""
        before = self.allowance
        if not (self.shared or before is None or allowance is None or allowance is before):
            allowance.credit += before.credit
        self.allowance = allowance

    # From the app: its transport

    def write(self, data: bytes) -> None:
        """Send one reply, as one datagram, unless the guard is against it."""
        if self.allowance is not None:
            if self.allowance is _NEVER:
                return
            if len(data) > MAX_DATAGRAM:
                data = TOO_LONG
            why = self._sessions.guard.refuses(self.allowance, self.addr, data)
            if why is not None:
                self._sessions.drop(why, self.addr[0])
                return
        try:
            self.sent += self._send(data, self.addr)
        except OSError as error:
            if error.errno == EMSGSIZE and data is not TOO_LONG:
                self.write(TOO_LONG)
                return
            # A broadcast address, an unreachable network: anybody can make these happen with a
            # forged sender, so they are counted and not logged.
            self._sessions.counts.unsent += 1

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send one reply, given in pieces."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """End this peer's conversation; its next message begins a new one."""
        if not self.shared:
            self.cut("app")

    abortConnection = loseConnection
    stopProducing = loseConnection

    def pauseProducing(self) -> None:
        """Deliver no more messages for now."""
        self._paused = True
        self.free = False

    def resumeProducing(self) -> None:
        """Deliver messages again, those that waited first."""
        self._paused = False
        if self._resuming:
            return  # by the app, for a message that had waited itself
        self._resuming = True
        while self._waiting and not self._paused:
            self.deliver(*self._waiting.popleft())
        self._resuming = False
        self.free = not (self._paused or self._ended)

    def getPeer(self) -> IPv4Address | IPv6Address:
        """Say who the messages come from."""
        return addressOf(self.addr)

    def getHost(self) -> Any:
        """Say where the service listens."""
        return self._sessions.host

    @property
    def source(self) -> str | None:
        """See L{IAccountable}."""
        return self.allowance.standing.source if self.allowance is not None else None

    def penalize(self, kind: str) -> None:
        """Hold nothing against it: whoever forged its address would have it refused."""


def addressOf(addr: Address) -> IPv4Address | IPv6Address:
    """Make what a socket says Twisted's kind of address."""
    kind = IPv6Address if ":" in addr[0] else IPv4Address
    return kind("UDP", addr[0], addr[1])
