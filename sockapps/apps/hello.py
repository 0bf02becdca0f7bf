"""
hello: answer one message with hi, then close; hello-udp answers every datagram.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from sockapps.clientprotocol import ClientProtocol, asText
from sockapps.interfaces import IDatagramApp, IDatagramTransport

GREETING = b"hi"


class HelloProtocol(Protocol):
    """Say hi to one message, then close."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        # An answer longer than its question could be turned on others by a forged sender.
        if IDatagramTransport.providedBy(self.transport) and len(data) < len(GREETING):
            return
        self.transport.write(GREETING)
        self.transport.loseConnection()


@implementer(IDatagramApp)
class HelloFactory(Factory[HelloProtocol]):
    """Make greeters."""

    protocol = HelloProtocol
    noisy = False
    standsAlone = True
    wholeDatagrams = True


class HelloClient(ClientProtocol):
    """Speak to a greeter."""

    closesAfterReply = True

    def expected(self, message: bytes, datagrams: bool = False) -> bytes:
        return GREETING

    def greet(self) -> Deferred[str]:
        """
        Be greeted.

        @return: A Deferred of the greeting.
        """
        return self.request(b"hello").addCallback(asText)
