"""
What stands between an app and datagrams: one datagram is one message, one write one datagram back.

L{DatagramSessions} is the server's side. An app whose messages stand alone shares one protocol
among all peers; any other gets one for each peer, in a table with a cap and an idle expiry.
L{DatagramClient} is the other side: one client protocol, speaking to one server.
"""

from __future__ import annotations

import os
import socket
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import (
    ConnectionDone,
    ConnectionRefusedError,
    MessageLengthError,
    getConnectError,
)
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from sockapps.framing import LF
from sockapps.interfaces import IDatagramApp, IDatagramTransport
from sockapps.options import DatagramOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DATAGRAM = 65507
"""Bytes that one datagram can carry over IPv4 (RFC 768, RFC 791): 65,535 less both headers."""

MAX_WAITING = 64
"""Datagrams of one peer that wait while its app takes its time; more are dropped, as UDP may."""

Address = tuple[str, int]


class DatagramSessions(DatagramProtocol):
    """
    Shelter any protocol factory on a datagram port.

    @ivar sessions: The conversations that are open now, the longest silent first.
    @ivar host: Where it listens.
    @ivar dropped: How many datagrams were dropped because their peer had too many waiting.
    @ivar unsent: How many replies the network did not take.
    """

    noisy = False
    transport: Any
    host: Any = None

    def __init__(
        self, factory: IProtocolFactory, options: DatagramOptions, reactor: IReactorTime
    ) -> None:
        self.appFactory = factory
        self.options = options
        self.reactor = reactor
        traits = IDatagramApp(factory, None)
        self._standsAlone = traits is not None and bool(traits.standsAlone)
        self._wholeDatagrams = traits is not None and bool(traits.wholeDatagrams)
        self._shared: DatagramSession | None = None
        self._sweep: IDelayedCall | None = None
        self.sessions: OrderedDict[Address, DatagramSession] = OrderedDict()
        self.dropped = 0
        self.unsent = 0

    def logPrefix(self) -> str:
        """Speak in the log under the app's name."""
        return self.appFactory.__class__.__name__

    def startProtocol(self) -> None:
        self.host = self.transport.getHost()
        self.appFactory.doStart()

    def stopProtocol(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for session in [*self.sessions.values(), *filter(None, [self._shared])]:
            session.end()
        self.appFactory.doStop()

    def datagramReceived(self, datagram: bytes, addr: Address) -> None:
        """Deliver one message to the session of its sender."""
        if not datagram:
            return
        if datagram[-1] == LF and not self._wholeDatagrams:
            datagram = withoutLineEnd(datagram)
        shared = self._shared
        if shared is not None and shared.free:
            # Where one session serves all, most messages find it so.
            shared.addr = addr
            try:
                shared.app.dataReceived(datagram)
            except Exception:
                shared.fail("failed on a message")
            return
        session = self._shared if self._standsAlone else self.sessions.get(addr)
        if session is None:
            session = self._begin(addr)
            if session is None:
                return
        elif not self._standsAlone:
            self.sessions.move_to_end(addr)
            session.lastHeard = self.reactor.seconds()
        session.deliver(datagram, addr)

    def isShared(self, session: DatagramSession) -> bool:
        """Tell whether a session is the one of all peers."""
        return session is self._shared

    def forget(self, session: DatagramSession) -> None:
        """Have the next message from there begin a new session."""
        if session is self._shared:
            self._shared = None
        else:
            self.sessions.pop(session.addr, None)

    def _begin(self, addr: Address) -> DatagramSession | None:
        """
        Begin a conversation.

        @return: C{None} where the app's factory wants none with that peer.
        """
        app = self.appFactory.buildProtocol(cast(IAddress, _address(addr)))
        if app is None:
            return None
        session = DatagramSession(self, addr, app)
        if self._standsAlone:
            self._shared = session
        else:
            while len(self.sessions) >= self.options.maxPeers:
                next(iter(self.sessions.values())).end()
            self.sessions[addr] = session
            if self._sweep is None:
                self._sweepLater(self.options.peerTimeout)
        session.begin()
        return session

    def _sweepLater(self, wait: float) -> None:
        self._sweep = self.reactor.callLater(wait, self._expire)

    def _expire(self) -> None:
        """End the conversations that have been silent for too long."""
        self._sweep = None
        now = self.reactor.seconds()
        while self.sessions:
            session = next(iter(self.sessions.values()))
            end = session.lastHeard + self.options.peerTimeout
            if end > now:
                self._sweepLater(end - now)
                break
            session.end()


@implementer(IDatagramTransport, IPushProducer)
class DatagramSession:
    """
    One peer's dealings with one service over datagrams; toward the app, a transport.

    Where an app's messages stand alone there is one for all peers, C{addr} being the peer whose
    message is being answered.

    @ivar free: Whether a message can be delivered at once.
    """

    __slots__ = (
        "_ended",
        "_paused",
        "_resuming",
        "_sessions",
        "_waiting",
        "addr",
        "app",
        "free",
        "lastHeard",
    )

    _log = Logger()

    def __init__(self, sessions: DatagramSessions, addr: Address, app: IProtocol) -> None:
        self._sessions = sessions
        self.addr = addr
        self.app = app
        self.lastHeard = sessions.reactor.seconds()
        self.free = True
        self._ended = False
        self._paused = False
        self._resuming = False
        self._waiting: deque[tuple[bytes, Address]] | None = None

    def begin(self) -> None:
        """Tell the app that it has a peer."""
        try:
            self.app.makeConnection(self)
        except Exception:
            self.fail("failed to begin")

    def deliver(self, message: bytes, addr: Address) -> None:
        """Hand the app one message, or let it wait while the app takes its time."""
        if self._ended:
            return
        if self._paused:
            if self._waiting is None:
                self._waiting = deque()
            if len(self._waiting) < MAX_WAITING:
                self._waiting.append((message, addr))
            else:
                self._sessions.dropped += 1
            return
        self.addr = addr
        try:
            self.app.dataReceived(message)
        except Exception:
            self.fail("failed on a message")

    def end(self) -> None:
        """End the conversation, and tell the app."""
        if self._ended:
            return
        self._ended = True
        self.free = False
        self._waiting = None
        self._sessions.forget(self)
        try:
            self.app.connectionLost(Failure(ConnectionDone()))
        except Exception:
            self.fail("failed at the end")

    def fail(self, what: str) -> None:
        """The app is at fault, not the peer: say so in the log, and begin anew."""
        self._log.failure("{app} {what}", app=self.app.__class__.__name__, what=what)
        self.end()

    # From the app: its transport

    def write(self, data: bytes) -> None:
        """Send one reply, as one datagram."""
        if self._ended:
            return
        if len(data) > MAX_DATAGRAM:
            data = b"[error: the reply is longer than a datagram]"
        try:
            self._sessions.transport.write(data, self.addr)
        except (OSError, MessageLengthError):
            # Port 0, a broadcast address, an unreachable network: anybody can make these happen
            # with a forged sender, so they are counted and not logged.
            self._sessions.unsent += 1

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send one reply, given in pieces."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """End this peer's conversation; its next message begins a new one."""
        if not self._sessions.isShared(self):
            self.end()

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
        return _address(self.addr)

    def getHost(self) -> Any:
        """Say where the service listens."""
        return self._sessions.host


@implementer(IDatagramTransport, IPushProducer)
class DatagramClient(DatagramProtocol):
    """
    Let a client protocol speak to one server over datagrams.

    @param app: The client protocol; C{connectionLost} tells it the end, with
        L{ConnectionRefusedError} where nobody listens there.
    @param host: The server's address, a numeric one.
    """

    noisy = False
    transport: Any

    def __init__(self, app: IProtocol, host: str, port: int) -> None:
        self.app = app
        self._server = (host, port)
        self._reason = Failure(ConnectionDone())
        self._ended = False
        self._port: Any = None
        self._host: Any = None

    def startProtocol(self) -> None:
        self._port = self.transport
        self._port.connect(*self._server)
        self._host = self._port.getHost()
        self.app.makeConnection(self)

    def datagramReceived(self, datagram: bytes, addr: Address) -> None:
        self.app.dataReceived(datagram)

    def connectionRefused(self) -> None:
        self._reason = Failure(ConnectionRefusedError())
        self.loseConnection()

    def stopProtocol(self) -> None:
        if not self._ended:
            # Nobody asked for it: the reactor takes an error in the socket for its end.
            self._ended = True
            error = self._port.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._reason = Failure(getConnectError((error, os.strerror(error))))
        self.app.connectionLost(self._reason)

    # From the app: its transport

    def write(self, data: bytes) -> None:
        """
        Send one message, as one datagram.

        @raise ValueError: it is longer than a datagram can be.
        """
        if len(data) > MAX_DATAGRAM:
            raise ValueError(f"a message of {len(data)} bytes; a datagram carries {MAX_DATAGRAM}")
        if self._ended:
            return
        try:
            self.transport.write(data)
        except BlockingIOError:
            pass  # lost, as a datagram may be
        except OSError as error:
            self._reason = Failure(error)
            self.loseConnection()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send one message, given in pieces."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Stop speaking to the server."""
        if not self._ended:
            self._ended = True
            self.transport.stopListening()

    abortConnection = loseConnection
    stopProducing = loseConnection

    def pauseProducing(self) -> None:
        """Take no datagrams for now; the system keeps a few."""
        if not self._ended:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Take datagrams again."""
        if not self._ended:
            self.transport.resumeProducing()

    def getPeer(self) -> IPv4Address | IPv6Address:
        """Say where the server is."""
        return _address(self._server)

    def getHost(self) -> Any:
        """Say where this side is."""
        return self._host


def withoutLineEnd(datagram: bytes) -> bytes:
    """Leave out one trailing LF or CRLF."""
    if datagram.endswith(b"\n"):
        return datagram[: -2 if datagram.endswith(b"\r\n") else -1]
    return datagram


def _address(addr: Address) -> IPv4Address | IPv6Address:
    kind = IPv6Address if ":" in addr[0] else IPv4Address
    return kind("UDP", addr[0], addr[1])
