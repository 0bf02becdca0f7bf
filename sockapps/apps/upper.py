"""
upper: give every message back in upper case; upper-tcp is the same, upper-once answers one only.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from sockapps.clientprotocol import ClientProtocol, asText
from sockapps.interfaces import IDatagramApp, IDatagramTransport


def upper(message: bytes) -> bytes:
    """
    Upper-case UTF-8 as text, and anything else byte by byte, ASCII letters only.

    The result can be longer than the message: C{ß} becomes C{SS}.
    """
    if message.isascii():
        return message.upper()
    try:
        return message.decode().upper().encode()
    except UnicodeDecodeError:
        return message.upper()


def upperWithin(message: bytes) -> bytes:
    """
    Upper-case a message, but never make it longer.

    Where the text form grows, in letters (C{ß}) or in bytes (C{ɐ}), it is the byte form: an answer
    longer than its question, sent to whom the question claims to come from, would let anybody
    flood others through us.
    """
    if message.isascii():
        return message.upper()
    try:
        text = message.decode()
    except UnicodeDecodeError:
        return message.upper()
    raised = text.upper()
    encoded = raised.encode()
    grows = len(raised) > len(text) or len(encoded) > len(message)
    return message.upper() if grows else encoded


class UpperProtocol(Protocol):
    """Answer each message with itself in upper case."""

    transport: Any
    _upper = staticmethod(upper)

    def connectionMade(self) -> None:
        if IDatagramTransport.providedBy(self.transport):
            self._upper = upperWithin

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data.upper() if data.isascii() else self._upper(data))


class UpperOnceProtocol(UpperProtocol):
    """Answer one message with itself in upper case, then close."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.loseConnection()


@implementer(IDatagramApp)
class UpperFactory(Factory[UpperProtocol]):
    """Make upper-casers."""

    protocol = UpperProtocol
    noisy = False
    standsAlone = True
    wholeDatagrams = True


class UpperOnceFactory(UpperFactory):
    """Make upper-casers of one message."""

    protocol = UpperOnceProtocol


class UpperClient(ClientProtocol):
    """Speak to an upper-caser."""

    def expected(self, message: bytes, datagrams: bool = False) -> bytes:
        return upperWithin(message) if datagrams else upper(message)

    def upper(self, text: str) -> Deferred[str]:
        """
        Have a text upper-cased.

        @return: A Deferred of the text in upper case.
        """
        return self.request(text).addCallback(asText)


class UpperOnceClient(UpperClient):
    """Speak to an upper-caser of one message."""

    closesAfterReply = True
