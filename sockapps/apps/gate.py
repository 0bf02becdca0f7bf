"""
gate: let in who says 1, turn away everybody else, then close.
"""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from sockapps.clientprotocol import ClientProtocol, UnexpectedReply
from sockapps.globalreactor import globalReactor

PASSWORD = b"1"
WELCOME = b"welcome to server!"
GO_AWAY = b"please go out!"


def verdict(message: bytes) -> bytes:
    """Judge what somebody at the gate says."""
    return WELCOME if message == PASSWORD else GO_AWAY


class GateProtocol(Protocol):
    """Judge one message, then close; close without a word where none comes in time."""

    factory: GateFactory
    transport: Any
    _log = Logger()
    _patience: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._patience = self.factory.reactor.callLater(self.factory.timeout, self._giveUp)

    def dataReceived(self, data: bytes) -> None:
        self._waitNoMore()
        self.transport.write(verdict(data))
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._waitNoMore()

    def _waitNoMore(self) -> None:
        if self._patience is not None and self._patience.active():
            self._patience.cancel()

    def _giveUp(self) -> None:
        self._log.info(
            "gate: {peer} said nothing for {seconds:g} s",
            peer=self.transport.getPeer(),
            seconds=self.factory.timeout,
        )
        self.transport.loseConnection()


@attrs.define(eq=False, slots=False)
class GateFactory(Factory[GateProtocol]):
    """
    Make gates.

    @ivar reactor: The clock; by default the global reactor.
    """

    protocol = GateProtocol
    noisy = False

    timeout: float = attrs.field(
        default=5.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "seconds that the one message may take"},
    )
    reactor: IReactorTime = attrs.field(factory=globalReactor, repr=False)


class GateClient(ClientProtocol):
    """Speak to a gate."""

    closesAfterReply = True

    def expected(self, message: bytes, datagrams: bool = False) -> bytes:
        return verdict(message)

    def isRefusal(self, reply: bytes) -> bool:
        return reply == GO_AWAY or super().isRefusal(reply)

    def enter(self, word: bytes | str = PASSWORD) -> Deferred[bool]:
        """
        Ask to be let in.

        @return: A Deferred of whether one is; it fails with L{UnexpectedReply} where the gate
            says something else.
        """
        return self.request(word).addCallback(_isWelcome)


def _isWelcome(reply: bytes) -> bool:
    if reply not in (WELCOME, GO_AWAY):
        raise UnexpectedReply(f"a gate does not say {reply[:40]!r}")
    return reply == WELCOME
