"""
Fixtures for every test.

- C{listening(factory)}: a port that closes when the test ends; C{port.getHost()} says where.
- C{await connected(port)}: a raw L{tests.sockets.Peer} of it.
- C{speaking(port)}: a L{tests.sockets.DatagramPeer} of a UDP port.
- C{loggedErrors}: what was logged with a failure (a traceback). Every test that leaves something
  in it B{fails}: one that expects an error says so with C{loggedErrors.take()}.
"""

from __future__ import annotations

import gc
import unittest
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, ensureDeferred, maybeDeferred
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    connectProtocol,
    wrapClientTLS,
)
from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.logger import LogEvent, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory

from tests.reactors import OWN, failureOf
from tests.sockets import Connect, DatagramPeer, Listen, Peer, Speak, bounded, until


class LoggedErrors(list[LogEvent]):
    """What was logged with a failure in one test."""

    def take(self, *kinds: type[BaseException]) -> list[LogEvent]:
        """
        Take what was logged as expected.

        @param kinds: What exceptions to take; without any, everything.
        """
        taken = [event for event in self if not kinds or failureOf(event).check(*kinds)]
        self[:] = [event for event in self if event not in taken]
        return taken

    def note(self, event: LogEvent) -> None:
        """Take one more event, if it tells of a failure."""
        if failureOf(event) is not None:
            self.append(event)

    @property
    def left(self) -> list[Any]:
        """The failures that nobody has taken, and no reactor of a test's own has answered for."""
        return [failureOf(event) for event in self if OWN not in event]


@pytest.fixture(autouse=True)
def loggedErrors(request: pytest.FixtureRequest) -> Iterator[LoggedErrors]:
    """
    Fail a test that leaves a traceback in the log.

    Trial's test cases see to that themselves.
    """
    errors = LoggedErrors()
    if request.cls is not None and issubclass(request.cls, unittest.TestCase):
        yield errors
        return
    globalLogPublisher.addObserver(errors.note)
    yield errors
    gc.collect(0)  # a Deferred that failed with nobody to care logs when it is freed
    globalLogPublisher.removeObserver(errors.note)
    assert errors.left == []


class _Watched(Factory[Any]):
    """Know every connection of a factory, to end them with the test."""

    noisy = False

    def __init__(self, factory: Any) -> None:
        self.inner = factory
        self.protocols: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        protocol = self.inner.buildProtocol(addr)
        if protocol is not None:
            self.protocols.append(protocol)
        return protocol

    def doStart(self) -> None:
        self.inner.doStart()

    def doStop(self) -> None:
        self.inner.doStop()

    async def end(self) -> None:
        transports = [protocol.transport for protocol in self.protocols if protocol.transport]
        for transport in transports:
            if transport.connected:
                transport.abortConnection()
        await until(lambda: not any(t.connected for t in transports), "all connections ended")


@pytest.fixture
def listening() -> Iterator[Listen]:
    """
    Listen, on a free port of loopback, until the test ends.

    C{listening(factory)} is TCP, C{listening(factory, tls=contextFactory)} TLS, and
    C{listening(factory, unix=path)} a UNIX socket; C{listening(datagramProtocol)} is UDP.
    C{interface="::1"} is IPv6.
    """
    from twisted.internet import reactor

    net: Any = reactor
    ports: list[Any] = []
    factories: list[_Watched] = []

    def listen(what: Any, interface: str = "127.0.0.1", *, unix: str = "", tls: Any = None) -> Any:
        if isinstance(what, DatagramProtocol):
            ports.append(net.listenUDP(0, what, interface, 65536))
            return ports[-1]
        watched = _Watched(what)
        factories.append(watched)
        factory = TLSMemoryBIOFactory(tls, False, watched) if tls else watched
        factory.noisy = False
        ports.append(
            net.listenUNIX(unix, factory)
            if unix
            else net.listenTCP(0, factory, interface=interface)
        )
        return ports[-1]

    yield listen

    async def end() -> None:
        for port in ports:
            await bounded(maybeDeferred(port.stopListening), lambda: "a port to close")
        for watched in factories:
            await watched.end()

    pytest_twisted.blockon(ensureDeferred(end()))


@pytest.fixture
def connected() -> Iterator[Connect]:
    """
    Connect to a port, until the test ends.

    C{await connected(port)}: C{port} is what C{listening} gave, an address, or a number on
    C{127.0.0.1}. C{tls=} takes what C{optionsForClientTLS} makes; C{closesToo=False} makes a peer
    that does not close when the other side does.
    """
    from twisted.internet import reactor

    net: Any = reactor
    peers: list[Peer] = []

    async def connect(to: Any, *, closesToo: bool = True, tls: Any = None) -> Peer:
        address = IPv4Address("TCP", "127.0.0.1", to) if isinstance(to, int) else to
        address = address.getHost() if hasattr(address, "getHost") else address
        endpoint: Any
        if isinstance(address, UNIXAddress):
            endpoint = UNIXClientEndpoint(net, address.name)
        else:
            kind = TCP6ClientEndpoint if ":" in address.host else TCP4ClientEndpoint
            endpoint = kind(net, address.host, address.port)
        if tls is not None:
            endpoint = wrapClientTLS(tls, endpoint)
        peer = Peer(closesToo)
        peers.append(peer)
        made: Deferred[Peer] = connectProtocol(endpoint, peer)
        return await bounded(made, lambda: f"a connection to {address}")

    yield connect

    async def end() -> None:
        for peer in peers:
            if peer.connected and peer.reason is None:
                peer.transport.abortConnection()
                await peer.closed

    pytest_twisted.blockon(ensureDeferred(end()))


@pytest.fixture
def speaking() -> Iterator[Speak]:
    """Have a peer that sends datagrams to a port, until the test ends: C{speaking(port)}."""
    from twisted.internet import reactor

    net: Any = reactor
    ports: list[Any] = []

    def speak(to: Any) -> DatagramPeer:
        address = to.getHost()
        peer = DatagramPeer((address.host, address.port))
        own = "::1" if ":" in address.host else "127.0.0.1"
        ports.append(net.listenUDP(0, peer, own, 65536))
        return peer

    yield speak
    for port in ports:
        pytest_twisted.blockon(maybeDeferred(port.stopListening))
