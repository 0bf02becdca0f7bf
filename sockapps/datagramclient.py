"""
A client's dealings with one server over datagrams: what it writes is one datagram each time.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone, ConnectionRefusedError, getConnectError
from twisted.internet.interfaces import IProtocol, IPushProducer
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from sockapps.datagram import MAX_DATAGRAM, addressOf
from sockapps.guard import Address
from sockapps.interfaces import IDatagramTransport

if TYPE_CHECKING:
    from collections.abc import Iterable


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
        return addressOf(self._server)

    def getHost(self) -> Any:
        """Say where this side is."""
        return self._host
