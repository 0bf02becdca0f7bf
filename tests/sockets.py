"""
Peers on real sockets for tests: what they wait for comes, or fails clearly after L{PATIENCE}.

The fixtures in C{tests/conftest.py} make them; a test says::

    @pytest_twisted.ensureDeferred
    async def test_echo(listening: Listen, connected: Connect) -> None:
        peer = await connected(listening(EchoFactory()))
        peer.send(b"hi")
        assert await peer.receive(8) == b"Echo=>hi"
        peer.halfClose()
        assert await peer.rest() == b""
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from typing import Protocol as Typed

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate, PrivateCertificate, optionsForClientTLS
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from sockapps.deadlines import Deadlines
from sockapps.options import StreamOptions
from sockapps.streams import StreamSessions
from tests.certificates import makeCertificate

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that anything may take."""

PYOPENSSL = "ignore:Passing pyOpenSSL:DeprecationWarning"
"""What C{pytest.mark.filterwarnings} takes for a test with TLS: Twisted's own calls of it."""


def bounded(deferred: Deferred[T], what: Callable[[], str]) -> Deferred[T]:
    """Let a Deferred fail with C{what()} was awaited, where it takes longer than L{PATIENCE}."""
    from twisted.internet import reactor

    def late(_: object, seconds: float) -> Any:
        raise AssertionError(f"waited {seconds:g} s for {what()}")

    return deferred.addTimeout(PATIENCE, reactor, late)


def timers(clock: Clock) -> list[Any]:
    """The timers that somebody waits for; a sweep is left to run when nobody does any more."""
    return [call for call in clock.getDelayedCalls() if not _sweeps(call.func)]


def _sweeps(func: Any) -> bool:
    owner = getattr(func, "__self__", None)
    return isinstance(owner, StreamSessions) or (isinstance(owner, Deadlines) and not len(owner))


async def turns(number: int = 1) -> None:
    """Let the reactor go round so many times."""
    from twisted.internet import reactor

    for _ in range(number):
        turn: Deferred[None] = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn


async def until(condition: Callable[[], object], what: str) -> None:
    """Let the reactor go round until something is so; for what nothing tells of by itself."""
    from twisted.internet import reactor

    end = reactor.seconds() + PATIENCE
    while not condition():
        assert reactor.seconds() < end, f"waited {PATIENCE:g} s until {what}"
        await turns()


class _Waiting:
    """Wait for something to become so; whoever changes anything calls C{_changed}."""

    def __init__(self) -> None:
        self._waiters: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def _changed(self) -> None:
        for waiter in self._waiters[:]:
            if waiter[0]():
                self._waiters.remove(waiter)
                waiter[1].callback(None)

    async def _until(self, condition: Callable[[], bool], what: Callable[[], str]) -> None:
        if condition():
            return
        waiter = (condition, Deferred[None]())
        self._waiters.append(waiter)
        await bounded(waiter[1], what)


@implementer(IHalfCloseableProtocol)
class Peer(_Waiting, Protocol):
    """
    The other end of a connection; the fixture C{connected} makes it.

    @ivar received: What came and was not yet taken by a C{receive} method.
    @ivar total: How many bytes came in all.
    @ivar closesToo: Whether it closes when the other side has.
    @ivar reason: Why the connection is closed; C{None} while it is not.
    """

    transport: Any

    def __init__(self, closesToo: bool = True) -> None:
        super().__init__()
        self.closesToo = closesToo
        self.received = bytearray()
        self.total = 0
        self.atEnd = False
        self.reason: Exception | None = None

    # What a test does

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.transport.write(data)

    def halfClose(self) -> None:
        """Say that nothing more comes from this side, and go on reading."""
        self.transport.loseWriteConnection()

    def close(self) -> None:
        """Close when everything is sent."""
        self.transport.loseConnection()

    def reset(self) -> None:
        """Close at once and with a reset (RST), as a crashed program's machine does."""
        linger = struct.pack("ii", 1, 0)
        self.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.transport.abortConnection()

    def pause(self) -> None:
        """Read nothing until L{resume}."""
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read again."""
        self.transport.resumeProducing()

    async def receive(self, size: int) -> bytes:
        """Wait for exactly so many bytes."""
        await self._untilReceived(lambda: len(self.received) >= size, f"{size} bytes")
        return self._take(size)

    async def receiveUntil(self, end: bytes) -> bytes:
        """Wait for bytes that end so, and return them, C{end} included."""
        await self._untilReceived(lambda: end in self.received, f"{end!r}")
        return self._take(self.received.index(end) + len(end))

    async def rest(self) -> bytes:
        """Wait until the other side says that nothing more comes; return what came before."""
        await self._until(lambda: self.atEnd, lambda: f"the end; have {self._have()}")
        return self._take(len(self.received))

    @property
    def closed(self) -> Awaitable[Exception]:
        """
        Wait until the connection is closed in both directions.

        @return: Why: L{twisted.internet.error.ConnectionDone}, or another for a reset.
        """
        return self._closed()

    # What happens to it

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.total += len(data)
        self._changed()

    def readConnectionLost(self) -> None:
        self.atEnd = True
        if self.closesToo:
            self.transport.loseConnection()
        self._changed()

    def writeConnectionLost(self) -> None:
        pass

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.atEnd = True
        self.reason = reason.value
        self._changed()

    async def _closed(self) -> Exception:
        await self._until(lambda: self.reason is not None, lambda: f"a close; have {self._have()}")
        assert self.reason is not None
        return self.reason

    async def _untilReceived(self, enough: Callable[[], bool], what: str) -> None:
        await self._until(lambda: enough() or self.atEnd, lambda: f"{what}; have {self._have()}")
        assert enough(), f"the other side ended before {what}; have {self._have()}: {self.reason!r}"

    def _take(self, size: int) -> bytes:
        taken = bytes(self.received[:size])
        del self.received[:size]
        return taken

    def _have(self) -> str:
        return f"{len(self.received)} bytes, {bytes(self.received[:200])!r}"


class DatagramPeer(_Waiting, DatagramProtocol):
    """
    Who sends datagrams to one port; the fixture C{speaking} makes it.

    @ivar received: The datagrams that came and were not yet taken.
    """

    transport: Any
    noisy = False

    def __init__(self, server: tuple[str, int]) -> None:
        super().__init__()
        self.server = server
        self.received: list[bytes] = []

    def send(self, datagram: bytes) -> None:
        """Send one datagram to the server."""
        self.transport.write(datagram, self.server)

    async def receive(self) -> bytes:
        """Wait for one datagram from the server."""
        await self._until(lambda: bool(self.received), lambda: "a datagram")
        return self.received.pop(0)

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if addr[:2] == self.server:
            self.received.append(datagram)
            self._changed()


class Listen(Typed):
    """What the fixture C{listening} is; see there."""

    def __call__(self, what: Any, interface: str = ..., *, unix: str = ..., tls: Any = ...) -> Any:
        """Listen until the test ends."""


class Connect(Typed):
    """What the fixture C{connected} is; see there."""

    def __call__(self, to: Any, *, closesToo: bool = ..., tls: Any = ...) -> Awaitable[Peer]:
        """Connect until the test ends."""


class Speak(Typed):
    """What the fixture C{speaking} is; see there."""

    def __call__(self, to: Any) -> DatagramPeer:
        """Have a peer for datagrams until the test ends."""


class App(Protocol):
    """
    An app that notes what it is told, and does with each message what its L{Apps} say.

    @ivar messages: What it was given.
    @ivar lost: What the ends it was told of were; one, in a good world.
    """

    factory: Apps
    transport: Any

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.lost: list[BaseException] = []

    def connectionMade(self) -> None:
        self.factory.onMade(self)

    def dataReceived(self, data: bytes) -> None:
        self.messages.append(data)
        self.factory.onMessage(self, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason.value)


def answer(app: App, message: bytes) -> None:
    """Answer a message with itself in angle brackets."""
    app.transport.write(b"<%b>" % message)


def answerLater(app: App, message: bytes) -> None:
    """Answer when the reactor has gone round, and take no message meanwhile."""
    from twisted.internet import reactor

    later: Any = reactor
    app.transport.pauseProducing()
    later.callLater(0, lambda: (answer(app, message), app.transport.resumeProducing()))


class Apps(Factory[App]):
    """
    Make apps.

    @ivar apps: Those that were made.
    """

    noisy = False
    protocol = App

    def __init__(
        self,
        onMessage: Callable[[Any, bytes], object] = answer,
        onMade: Callable[[Any], object] = lambda app: None,
    ) -> None:
        self.onMessage = onMessage
        self.onMade = onMade
        self.apps: list[App] = []

    def buildProtocol(self, addr: Any) -> App | None:
        app = super().buildProtocol(addr)
        assert app is not None
        self.apps.append(app)
        return app


def sheltered(apps: Any, clock: Clock | None = None, **options: Any) -> StreamSessions:
    """Put stream sessions around apps."""
    from twisted.internet import reactor

    time: Any = clock or reactor
    return StreamSessions(apps, StreamOptions(**options), time)


def tlsSides(folder: Path) -> tuple[Any, Any]:
    """
    Make what C{listening} and C{connected} take as C{tls}, with a certificate made on the spot.
    """
    pem = makeCertificate(folder).read_bytes()
    trust = optionsForClientTLS("localhost", trustRoot=Certificate.loadPEM(pem))
    return PrivateCertificate.loadPEM(pem).options(), trust
