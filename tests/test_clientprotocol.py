"""
Tests for L{sockapps.clientprotocol}: what it sends when, and who is given which reply.
"""

from __future__ import annotations

from typing import Any

import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from sockapps.clientprotocol import DEFAULT_TIMEOUT, ClientProtocol
from sockapps.datagramclient import DatagramClient
from sockapps.datagrams import DatagramSessions
from sockapps.options import DatagramOptions
from sockapps.stream import StreamSession
from tests.sockets import Apps, Listen, answerLater, bounded, sheltered


class Polite(ClientProtocol):
    """A client that says goodbye."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[bytes] = []

    def isFarewell(self, message: bytes) -> bool:
        return message == b"bye"

    def unasked(self, message: bytes) -> None:
        self.heard.append(message)


class ClientProtocolTests(SynchronousTestCase):
    """Requests are answered in order, or fail."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        self.client = Polite()
        self.client.reactor = self.clock
        self.client.makeConnection(self.transport)

    def tearDown(self) -> None:
        self.client.connectionLost(Failure(ConnectionDone()))
        assert self.clock.getDelayedCalls() == []

    def sent(self) -> bytes:
        """Take what was sent since last time."""
        sent = self.transport.value()
        self.transport.clear()
        return sent

    def test_oneMessageIsSentAtATime(self) -> None:
        answers = [self.client.request(b"1"), self.client.request("zwei é")]
        assert self.sent() == b"1"
        self.assertNoResult(answers[0])
        self.client.dataReceived(b"one")
        assert self.sent() == "zwei é".encode()
        self.client.dataReceived(b"two")
        assert [self.successResultOf(answer) for answer in answers] == [b"one", b"two"]

    def test_allAreSentAtOnceWhereTheFramingAllows(self) -> None:
        self.client.pipelines = True
        answers = [self.client.request(b"%d" % number) for number in range(3)]
        assert self.sent() == b"012"
        for reply in (b"a", b"b", b"c"):
            self.client.dataReceived(reply)
        assert [self.successResultOf(answer) for answer in answers] == [b"a", b"b", b"c"]

    def test_whatNobodyAskedForIsNoAnswer(self) -> None:
        self.client.dataReceived(b"welcome")
        assert self.client.heard == [b"welcome"]
        ClientProtocol().dataReceived(b"nobody takes it")

    def test_anAnswersCallbackMayAsk(self) -> None:
        first = self.client.request(b"1")
        first.addCallback(lambda reply: self.client.request(b"2 after " + reply))
        self.client.dataReceived(b"one")
        assert self.sent() == b"12 after one"
        self.client.dataReceived(b"two")
        assert self.successResultOf(first) == b"two"

    def test_aReplyThatTakesTooLongEndsTheConnectionForAll(self) -> None:
        late, next_ = self.client.request(b"1", timeout=2), self.client.request(b"2")
        self.clock.advance(1.9)
        self.assertNoResult(late)
        assert not self.transport.disconnected
        self.clock.advance(0.1)
        self.failureResultOf(late, TimeoutError)
        assert self.transport.disconnected
        self.client.connectionLost(Failure(ConnectionAborted()))
        self.failureResultOf(next_, ConnectionAborted)

    def test_theClientsOwnTimeOutCountsWhereTheCallNamesNone(self) -> None:
        answer = self.client.request(b"1")
        self.clock.advance(DEFAULT_TIMEOUT)
        self.failureResultOf(answer, TimeoutError)
        self.client.timeout = None
        patient = self.client.request(b"1")
        self.clock.advance(1_000_000)
        self.assertNoResult(patient)
        patient.addErrback(lambda _: None)

    def test_aReplyInTimeEndsTheTimeOut(self) -> None:
        answer = self.client.request(b"1")
        self.client.dataReceived(b"one")
        assert self.clock.getDelayedCalls() == []
        assert self.successResultOf(answer) == b"one"

    def test_cancellingEndsTheConnection(self) -> None:
        answer = self.client.request(b"1")
        answer.cancel()
        self.failureResultOf(answer, CancelledError)
        assert self.transport.disconnected

    def test_aLostConnectionFailsAllThatAreNotAnswered(self) -> None:
        answers = [self.client.request(b"1"), self.client.request(b"2")]
        assert not self.client.ended
        self.client.connectionLost(Failure(ConnectionDone()))
        assert self.client.ended
        for answer in [*answers, self.client.request(b"3"), self.client.request(b"bye")]:
            self.failureResultOf(answer, ConnectionDone)
        assert self.sent() == b"1"

    def test_aFarewellIsSentAndTheConnectionClosed(self) -> None:
        assert self.successResultOf(self.client.request("bye")) == b""
        assert (self.sent(), self.transport.disconnecting) == (b"bye", True)

    def test_aFarewellWaitsForTheAnswersBeforeIt(self) -> None:
        for pipelines in (False, True):
            self.client.pipelines = pipelines
            self.transport.disconnecting = False
            answers = [self.client.request(word) for word in (b"1", b"2", b"bye")]
            assert not self.transport.disconnecting
            self.client.dataReceived(b"one")
            self.client.dataReceived(b"two")
            assert [self.successResultOf(answer) for answer in answers] == [b"one", b"two", b""]
            assert (self.sent(), self.transport.disconnecting) == (b"12bye", True)

    def test_aMessageThatCannotBeSentFailsAloneAndTheNextIsAnswered(self) -> None:
        class Narrow(StringTransport):
            def write(self, data: bytes) -> None:
                if len(data) > 3:
                    raise ValueError("too long")
                super().write(data)

        self.client.makeConnection(Narrow())
        first, long, last = (self.client.request(word) for word in (b"1", b"long", b"3"))
        self.client.dataReceived(b"one")
        self.client.dataReceived(b"three")
        self.failureResultOf(long, ValueError)
        assert [self.successResultOf(first), self.successResultOf(last)] == [b"one", b"three"]

    def test_disconnectingIsDoneWhenTheConnectionIsClosed(self) -> None:
        done = self.client.disconnect()
        assert self.transport.disconnecting
        self.assertNoResult(done)
        ended = self.client.whenEnded()
        self.client.connectionLost(Failure(ConnectionDone()))
        for deferred in (done, ended, self.client.whenEnded(), self.client.disconnect()):
            self.successResultOf(deferred)

    def test_noMessageIsAFarewellUnlessItsAppSaysSo(self) -> None:
        self.client = client = ClientProtocol()  # type: ignore[assignment]
        client.timeout = None
        client.makeConnection(self.transport)
        answer = client.request(b"bye")
        client.dataReceived(b"you too")
        assert self.successResultOf(answer) == b"you too"

    def test_errorRepliesAreRefusals(self) -> None:
        assert self.client.isRefusal(b"[error: no]")
        assert not self.client.isRefusal(b"fine")

    def test_aPromptsAnswersMakeOneMessage(self) -> None:
        assert ClientProtocol.compose("ls", "é") == "ls é".encode()


async def connect(factory: Any, port: Any) -> Any:
    """Connect a protocol of a factory to a port."""
    from twisted.internet import endpoints, reactor

    net: Any = reactor
    where = endpoints.TCP4ClientEndpoint(net, "127.0.0.1", port.getHost().port)
    return await bounded(where.connect(factory), lambda: "a connection")


def wait(deferred: Deferred[Any]) -> Deferred[Any]:
    """Wait for a Deferred, within bounds."""
    return bounded(deferred, lambda: "a Deferred")


@pytest_twisted.ensureDeferred
async def test_overAPlainConnectionEachSegmentIsAReply(listening: Listen) -> None:
    client = await connect(Factory.forProtocol(Polite), listening(Apps()))
    answers = [client.request(b"one"), client.request(b"two")]
    assert [await wait(answer) for answer in answers] == [b"<one>", b"<two>"]
    await wait(client.disconnect())


@pytest_twisted.ensureDeferred
async def test_withinASessionItPipelines(listening: Listen) -> None:
    port = listening(sheltered(Apps(answerLater), framing="line"))
    factory = Factory.forProtocol(Polite)
    session: StreamSession = await connect(sheltered(factory, framing="line"), port)
    client: Any = session.app
    client.pipelines = True
    answers = [client.request(b"%d" % number) for number in range(100)]
    answers.append(client.request(b"bye"))
    expected = [*(b"<%d>" % number for number in range(100)), b""]
    assert [await wait(answer) for answer in answers] == expected
    await wait(client.whenEnded())


@pytest_twisted.ensureDeferred
async def test_aMessageThatNoDatagramCarriesFailsAndTheNextIsAnswered(listening: Listen) -> None:
    from twisted.internet import reactor

    net: Any = reactor
    port = listening(DatagramSessions(Apps(), DatagramOptions(), Clock()))
    client = Polite()
    net.listenUDP(0, DatagramClient(client, "127.0.0.1", port.getHost().port))
    long, short = client.request(b"x" * 65508), client.request(b"x")
    assert await wait(short) == b"<x>"
    failures: list[Failure] = []
    long.addErrback(failures.append)
    assert failures[0].check(ValueError)
    await wait(client.disconnect())
