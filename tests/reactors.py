"""
Reactors of a test's own: made, run against peers with blocking sockets, and closed.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from sockapps.reactor import LeanReactor

PATIENCE = 8.0
"""Seconds that anything may take."""

BOTH = [EPollReactor, LeanReactor]

each = pytest.mark.parametrize("kind", BOTH, ids=["stock", "lean"])
"""Where a test shows that ours does what the stock one does, it runs on each."""


class Says(Protocol):
    """A protocol that does what its factory was told, and notes what becomes of it."""

    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        self.factory.protocols.append(self)
        self.factory.made(self)

    def dataReceived(self, data: bytes) -> None:
        self.factory.heard(self, data)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.reasons.append(reason.type)
        self.factory.lost(self)


@implementer(IHalfCloseableProtocol)
class HalfCloses(Says):
    """One that is told of each half's end; at the peer's its factory's C{ended} decides."""

    def readConnectionLost(self) -> None:
        self.factory.reasons.append("read")
        self.factory.ended(self)

    def writeConnectionLost(self) -> None:
        self.factory.reasons.append("write")
        self.factory.reactor.callLater(0, self.transport.loseConnection)


class Saying(Factory[Any]):
    """Make protocols from functions; each takes the protocol first."""

    noisy = False
    protocol: Any = Says

    def __init__(
        self,
        heard: Callable[[Any, bytes], object] = lambda said, data: said.transport.write(data),
        made: Callable[[Any], object] = lambda said: None,
        lost: Callable[[Any], object] = lambda said: None,
        protocol: Any = Says,
    ) -> None:
        self.heard, self.made, self.lost = heard, made, lost
        self.protocol = protocol
        self.protocols: list[Any] = []
        self.reasons: list[Any] = []


OWN = "logged while a test had a reactor of its own"
"""Marks an event that the reactor's own L{Logged} answers for."""


class Logged(list[dict[str, Any]]):
    """
    What is logged while a reactor of a test's own lives, and L{tests.conftest.LoggedErrors} leaves
    to it.
    """

    def note(self, event: dict[str, Any]) -> None:
        """Take one more event."""
        event[OWN] = True
        self.append(event)

    def take(self, kind: type[BaseException]) -> int:
        """Take the failures of a kind, and say how many there were."""
        taken = [event for event in self.failures() if failureOf(event).check(kind)]
        self[:] = [event for event in self if event not in taken]
        return len(taken)

    def failures(self) -> list[dict[str, Any]]:
        """Everything that was logged as an error."""
        return [event for event in self if failureOf(event) is not None]

    def systems(self, *texts: str) -> list[str]:
        """Say which log prefix each of these texts was logged with."""
        of = {event["log_text"]: event["system"] for event in self if "log_text" in event}
        return [of[text] for text in texts]


def failureOf(event: dict[str, Any]) -> Any:
    """Find the failure that was logged, by the API of now or the older one, or C{None}."""
    return event.get("failure") or event.get("log_failure")


@contextmanager
def fresh(kind: type[EPollReactor] = LeanReactor) -> Iterator[Any]:
    """
    Make a reactor, and free what it has when the test is done with it.

    Its C{logged} is what was logged meanwhile; an error that nobody has taken fails the test.
    """
    reactor: Any = kind()
    reactor.logged = logged = Logged()
    globalLogPublisher.addObserver(logged.note)
    try:
        yield reactor
    finally:
        for selectable in [*reactor._internalReaders, *reactor.removeAll()]:
            selectable.connectionLost(Failure(CONNECTION_LOST))
        reactor._poller.close()
        globalLogPublisher.removeObserver(logged.note)
    assert logged.failures() == []


def against(reactor: Any, script: Callable[[], Any] | None = None) -> Any:
    """
    Run a reactor until a script in a thread has ended, and return what it returned.

    Without a script, run it until something stops it.

    @raise AssertionError: it still runs after L{PATIENCE}.
    """
    results: list[Any] = []
    late: list[bool] = []

    def stop() -> None:
        if reactor.running:
            reactor.stop()

    def work() -> None:
        try:
            results.append(script and script())
        except BaseException as error:
            results.append(error)
        reactor.callFromThread(stop)

    def tooLate() -> None:
        late.append(True)
        reactor.stop()

    guard = reactor.callLater(PATIENCE, tooLate)
    thread = threading.Thread(target=work)
    if script is not None:
        reactor.callWhenRunning(thread.start)
    reactor.run(installSignalHandlers=False)
    assert not late, f"the reactor still ran after {PATIENCE:g} s"
    guard.cancel()
    if script is None:
        return None
    thread.join(PATIENCE)
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


def listen(reactor: Any, factory: Any) -> Any:
    """Listen on TCP, for as many at once as a test has."""
    return reactor.listenTCP(0, factory, 200, "127.0.0.1")


def reach(port: Any) -> socket.socket:
    """Connect to a port with a socket that blocks, though not forever."""
    peer = socket.create_connection(("127.0.0.1", port.getHost().port), PATIENCE)
    peer.settimeout(PATIENCE / 2)
    return peer


def rest(peer: socket.socket) -> bytes:
    """Read up to the end."""
    return b"".join(iter(lambda: peer.recv(65536), b""))


def exactly(peer: socket.socket, size: int) -> bytes:
    """Read so many bytes."""
    got = bytearray()
    while len(got) < size:
        more = peer.recv(min(65536, size - len(got)))
        assert more, f"it ended after {len(got)} of {size} bytes"
        got += more
    return bytes(got)
