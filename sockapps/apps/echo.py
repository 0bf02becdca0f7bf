"""
echo: say every message back.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from sockapps.clientprotocol import ClientProtocol, UnexpectedReply
from sockapps.interfaces import IDatagramApp

PREFIX = b"Echo=>"


class EchoProtocol(Protocol):
    """Say every message back, after C{Echo=>}."""

    transport: Any

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(PREFIX + data)


@implementer(IDatagramApp)
class EchoFactory(Factory[EchoProtocol]):
    """Make echoes."""

    protocol = EchoProtocol
    noisy = False
    standsAlone = True
    wholeDatagrams = False


class EchoClient(ClientProtocol):
    """Speak to an echo."""

    def expected(self, message: bytes, datagrams: bool = False) -> bytes:
        return PREFIX + message

    def echo(self, message: bytes | str) -> Deferred[bytes]:
        """
        Have a message said back.

        @return: A Deferred of the message; it fails with L{UnexpectedReply} where the reply is
            no echo.
        """
        return self.request(message).addCallback(_withoutPrefix)


def _withoutPrefix(reply: bytes) -> bytes:
    if not reply.startswith(PREFIX):
        raise UnexpectedReply(f"an echo begins with {PREFIX!r}, not {reply[:20]!r}")
    return reply.removeprefix(PREFIX)
