"""
Tests for L{sockapps.apps.gate}.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from sockapps.apps.gate import GateFactory, GateProtocol, verdict
from sockapps.options import StreamOptions
from sockapps.streams import StreamSessions
from tests.peers import UDP, logged, serving
from tests.sockets import Connect, Listen, Speak, until


class GateTests(SynchronousTestCase):
    """One gate, its clock turned by hand."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        factory: Any = GateFactory(reactor=self.clock)
        self.gate = factory.buildProtocol(None)
        self.gate.makeConnection(self.transport)

    def test_onlyExactly1IsWelcome(self) -> None:
        assert verdict(b"1") == b"welcome to server!"
        for message in (b"", b"0", b"11", b" 1", b"1 ", b"1\n", b"\x31\x00", "１".encode()):
            assert verdict(message) == b"please go out!"

    def test_itClosesAfterItsVerdict(self) -> None:
        self.gate.dataReceived(b"1")
        assert self.transport.value() == b"welcome to server!"
        assert self.transport.disconnecting

    def test_afterFiveSecondsOfSilenceItClosesSayingNothingAndLogsOneLine(self) -> None:
        with logged() as events:
            self.clock.advance(4.99)
            assert not self.transport.disconnecting
            assert events == []
            self.clock.advance(0.01)
        assert self.transport.disconnecting
        assert self.transport.value() == b""
        [event] = events
        said = formatEvent(event)
        assert str(self.transport.getPeer()) in said
        assert said.endswith("said nothing for 5 s"), said

    def test_whoWasAnsweredAndLingersIsNotSaidToBeSilent(self) -> None:
        self.gate.dataReceived(b"1")
        with logged() as events:
            self.clock.advance(60)
        assert events == []
        assert self.clock.getDelayedCalls() == []

    def test_whoLeavesIsNotWaitedFor(self) -> None:
        self.gate.connectionLost()
        assert self.clock.getDelayedCalls() == []


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_aTimeoutMustBePositive(seconds: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        GateFactory(timeout=seconds)


async def _closesInTime(listening: Listen, connected: Connect, framing: str, sent: bytes) -> None:
    from twisted.internet import reactor

    clock = Clock()
    gates: list[GateProtocol] = []

    class Gates(Factory[GateProtocol]):
        """Know the gates that were made."""

        inner = GateFactory(reactor=clock)

        def buildProtocol(self, addr: object) -> GateProtocol:
            gates.append(self.inner.buildProtocol(addr))  # type: ignore[arg-type]  # as in Twisted
            return gates[-1]

    options = StreamOptions(framing=framing, quiet=600)
    port = listening(StreamSessions(Gates(), options, reactor))
    peer = await connected(port)
    await until(lambda: gates and gates[0].transport, "the gate has its peer")
    clock.advance(4)
    peer.send(sent)
    session = gates[0].transport
    await until(lambda: not sent or session._framing._held == sent, "half a message has come")
    with logged() as events:
        clock.advance(1)
        assert await peer.rest() == b""
    [line] = [formatEvent(event) for event in events if "gate" in event["log_namespace"]]
    assert line.endswith("said nothing for 5 s")


@pytest.mark.parametrize(
    ("framing", "sent"),
    [("auto", b""), ("line", b""), ("auto", b"1"), ("line", b"1"), ("netstring", b"2:1")],
)
@pytest_twisted.ensureDeferred
async def test_halfAMessageDoesNotKeepAGateOpen(
    listening: Listen, connected: Connect, framing: str, sent: bytes
) -> None:
    await _closesInTime(listening, connected, framing, sent)


@pytest_twisted.ensureDeferred
async def test_overUDPEveryDatagramIsAVisit(speaking: Speak) -> None:
    async with serving("gate", UDP) as served:
        peer = speaking(served)
        for message, reply in [(b"1", b"welcome to server!"), (b"x", b"please go out!")] * 2:
            peer.send(message)
            assert await peer.receive() == reply
        assert served.sessions == {}
