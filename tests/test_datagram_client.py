"""
Tests for L{sockapps.datagramclient}, on real sockets.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.protocol import DatagramProtocol
from zope.interface.verify import verifyObject

from sockapps.datagram import MAX_DATAGRAM
from sockapps.datagramclient import DatagramClient
from sockapps.interfaces import IDatagramTransport
from tests.sockets import App, Apps, Listen, turns, until
from tests.test_datagram import hasIPv6


class Echo(DatagramProtocol):
    """A server that is none of ours."""

    noisy = False

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        assert self.transport is not None
        self.transport.write(datagram, addr)


def client(app: App, port: Any) -> DatagramClient:
    """Connect a client to a port."""
    host = port.getHost().host
    made = DatagramClient(app, host, port.getHost().port)
    from twisted.internet import reactor

    net: Any = reactor
    net.listenUDP(0, made, "::" if ":" in host else "", 65536)
    return made


async def ended(app: App) -> type[BaseException]:
    """Wait until an app is told its end."""
    await until(lambda: app.lost, "the app is told")
    await turns()
    [reason] = app.lost
    return type(reason)


@pytest.mark.parametrize("interface", ["127.0.0.1", "::1"])
@pytest_twisted.ensureDeferred
async def test_aClientSpeaksToOneServer(listening: Listen, interface: str) -> None:
    if interface == "::1" and not hasIPv6():
        pytest.skip("this machine has no IPv6 loopback")
    port = listening(Echo(), interface)
    app = Apps(lambda app, message: None).buildProtocol(None)
    assert app is not None
    made = client(app, port)
    verifyObject(IDatagramTransport, made)
    assert made.getPeer().port == port.getHost().port
    assert made.getHost().port not in (0, port.getHost().port)
    made.writeSequence([b"he", b"llo"])
    await until(lambda: app.messages, "the echo came")
    made.pauseProducing()
    made.write(b"x" * MAX_DATAGRAM)
    await turns(5)
    assert app.messages == [b"hello"]
    made.resumeProducing()
    await until(lambda: len(app.messages) == 2, "the second echo came")
    assert app.messages[1] == b"x" * MAX_DATAGRAM
    with pytest.raises(ValueError, match="a message of 65508 bytes; a datagram carries 65507"):
        made.write(b"x" * (MAX_DATAGRAM + 1))
    made.loseConnection()
    made.loseConnection()
    assert await ended(app) is ConnectionDone
    made.write(b"late")
    made.pauseProducing()
    made.resumeProducing()
    made.loseConnection()
    assert made.getHost().port


@pytest.mark.parametrize("writes", [1, 2])
@pytest_twisted.ensureDeferred
async def test_aClientIsToldThatNobodyListens(listening: Listen, writes: int) -> None:
    port = listening(Echo())
    app = Apps().buildProtocol(None)
    assert app is not None
    made = client(app, port)
    await port.stopListening()
    for _ in range(writes):
        made.write(b"hello")
    assert await ended(app) is ConnectionRefusedError


@pytest_twisted.ensureDeferred
async def test_aClientIsToldThatTheNetworkTookNothing(listening: Listen) -> None:
    app = Apps().buildProtocol(None)
    assert app is not None
    made = client(app, listening(Echo()))
    made.transport.getHandle().shutdown(socket.SHUT_WR)
    made.write(b"hello")
    assert issubclass(await ended(app), OSError)


def test_aClientsDatagramThatFindsTheQueueFullIsLostLikeAnyOther() -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise BlockingIOError

    made = DatagramClient(App(), "127.0.0.1", 9)
    made.transport = Full()
    made.write(b"hello")
    made.write(b"hello")


@pytest_twisted.ensureDeferred
async def test_aClientWhosePortIsClosedIsToldSo(listening: Listen) -> None:
    app = Apps().buildProtocol(None)
    assert app is not None
    made = client(app, listening(Echo()))
    await made.transport.stopListening()
    assert await ended(app) is ConnectionDone
