"""
Tests for L{sockapps.streams} and L{sockapps.stream}: who may come, who has taken too long, and what
is held against them.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock

from sockapps.counts import ENDINGS
from sockapps.limits import Admission, Sources
from sockapps.options import AdmissionOptions, ProcessOptions, StreamOptions
from sockapps.streams import StreamSessions
from tests.sockets import (
    PYOPENSSL,
    App,
    Apps,
    Connect,
    Listen,
    Peer,
    answer,
    answerLater,
    tlsSides,
    turns,
    until,
)

BIG = b"x" * 8_000_000
BUFFER = 64 * 1024


def guarded(
    apps: Any,
    clock: Clock,
    exempt: tuple[str, ...] = (),
    admission: AdmissionOptions | None = None,
    process: dict[str, Any] | None = None,
    **options: Any,
) -> StreamSessions:
    """Put stream sessions around apps, at whose door loopback is like everywhere else."""
    limits = ProcessOptions(**{"exempt": exempt, "penaltyThreshold": 0, **(process or {})})
    sources = Sources(limits, clock.seconds)
    return StreamSessions(
        apps, StreamOptions(**options), clock, Admission(admission or AdmissionOptions(), sources)
    )


def sweep(clock: Clock, seconds: float) -> None:
    """Let time pass in small steps, as it does."""
    for _ in range(round(seconds * 10)):
        clock.advance(0.1)


async def ended(sessions: StreamSessions) -> dict[str, int]:
    """Wait until every session has ended, and say why they did."""
    await until(lambda: not sessions.sessions, "every session has ended")
    return dict(sessions.counts.ended)


# Who may come


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.filterwarnings(PYOPENSSL)
@pytest_twisted.ensureDeferred
async def test_whoIsNotToComeIsClosedAtOnceAndTheAppHearsNothingOfIt(
    listening: Listen, connected: Connect, tmp_path: Path, kind: str
) -> None:
    apps = Apps()
    sessions = guarded(apps, Clock(), admission=AdmissionOptions(deny=["127.0.0.1"]))
    server, client = tlsSides(tmp_path) if kind == "tls" else (None, None)
    sessions.wrapped = kind == "tls"
    port = listening(sessions, tls=server)
    peer = await connected(port, tls=client)
    await peer.closed
    assert (peer.total, apps.apps, dict(sessions.counts.refused)) == (0, [], {"denied": 1})
    assert (sessions.admission.connections, sessions.sessions) == (0, {})


@pytest_twisted.ensureDeferred
async def test_overTheLimitOfASourceNobodyComesAndWhoIsInStays(
    listening: Listen, connected: Connect
) -> None:
    clock = Clock()
    sessions = guarded(Apps(), clock, admission=AdmissionOptions(maxConnectionsPerSource=2))
    port = listening(sessions)
    first, second = await connected(port), await connected(port)
    first.send(b"1\n")
    assert await first.receiveUntil(b"\n") == b"<1>\n"
    await until(lambda: len(sessions.sessions) == 2, "both are in")
    await (await connected(port)).closed
    assert dict(sessions.counts.refused) == {"source": 1}
    # Lowering a limit never kills who is in.
    sessions.admission.options = AdmissionOptions(maxConnectionsPerSource=1)
    first.send(b"2\n")
    second.send(b"3\n")
    assert await first.receiveUntil(b"\n") == b"<2>\n"
    assert await second.receiveUntil(b"\n") == b"<3>\n"
    first.close()
    second.close()
    assert await ended(sessions) == {"peer": 2}
    third = await connected(port)
    third.send(b"4\n")
    assert await third.receiveUntil(b"\n") == b"<4>\n"


@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest.mark.filterwarnings(PYOPENSSL)
@pytest_twisted.ensureDeferred
async def test_aFactoryThatDeclinesLeavesNoConnectionCounted(
    listening: Listen, connected: Connect, tmp_path: Path, kind: str
) -> None:
    class Declining(Apps):
        def buildProtocol(self, addr: Any) -> None:
            return None

    sessions = guarded(Declining(), Clock())
    server, client = tlsSides(tmp_path) if kind == "tls" else (None, None)
    sessions.wrapped = kind == "tls"
    await (await connected(listening(sessions, tls=server), tls=client)).closed
    assert sessions.admission.connections == 0


@pytest_twisted.ensureDeferred
async def test_aPeerOfAUNIXSocketHasNoSource(
    listening: Listen, connected: Connect, tmp_path: Path
) -> None:
    sessions = guarded(Apps(), Clock(), admission=AdmissionOptions(connectionRate=1))
    port = listening(sessions, unix=str(tmp_path / "socket"))
    for _ in range(3):
        peer = await connected(port)
        peer.send(b"1\n")
        assert await peer.receiveUntil(b"\n") == b"<1>\n"
    assert [session.source for session in sessions.open()] == [None] * 3
    assert sessions.admission.connections == 3


@pytest.mark.parametrize("sent", [b"x\n" * 21, b"x\n" * 60], ids=["few", "many"])
@pytest_twisted.ensureDeferred
async def test_whoSaysTooMuchASecondIsCutOff(
    listening: Listen, connected: Connect, sent: bytes
) -> None:
    sessions = guarded(Apps(), Clock(), admission=AdmissionOptions(messageRate=20))
    peer = await connected(listening(sessions))
    for at in range(0, len(sent), 20):
        peer.send(sent[at : at + 20])
        await turns(3)
    await peer.closed
    assert await ended(sessions) == {"rate": 1}
    assert sessions.counts.messages == 20


@pytest_twisted.ensureDeferred
async def test_oneLineAtATimeIsCountedToo(listening: Listen, connected: Connect) -> None:
    sessions = guarded(Apps(), Clock(), admission=AdmissionOptions(messageRate=3))
    peer = await connected(listening(sessions))
    for _ in range(3):
        peer.send(b"1\n")
        assert await peer.receiveUntil(b"\n") == b"<1>\n"
    peer.send(b"1\n")
    await peer.closed
    assert await ended(sessions) == {"rate": 1}


@pytest_twisted.ensureDeferred
async def test_exemptSourcesHaveNoLimitsOfTheirOwn(listening: Listen, connected: Connect) -> None:
    tight = AdmissionOptions(maxConnectionsPerSource=1, connectionRate=1, messageRate=1)
    sessions = guarded(Apps(), Clock(), exempt=("127.0.0.0/8",), admission=tight)
    port = listening(sessions)
    for _ in range(3):
        peer = await connected(port)
        for _ in range(3):
            peer.send(b"1\n2\n")
            assert await peer.receive(8) == b"<1>\n<2>\n"
    assert not sessions.counts.refused


# Penalties


@pytest.mark.parametrize(
    ("framing", "sent", "kind", "why"),
    [
        ("line", b"x" * 2000, "long", "too_long"),
        ("chunk", b"x" * 2000, "long", "too_long"),
        ("netstring", b"nonsense", "fault", "fault"),
        ("netstring", b"4000:", "long", "too_long"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_faultsAreHeldAgainstTheirSource(
    listening: Listen, connected: Connect, framing: str, sent: bytes, kind: str, why: str
) -> None:
    sessions = guarded(Apps(), clock := Clock(), framing=framing, maxMessage=1000)
    port = listening(sessions)
    peer = await connected(port)
    peer.send(sent)
    assert b"[error: " in await peer.rest()
    assert await ended(sessions) == {why: 1}
    assert dict(sessions.admission.sources.penalties) == {kind: 1}
    await (await connected(port)).closed
    assert dict(sessions.counts.refused) == {"penalty": 1}
    clock.advance(11)
    again = await connected(port)
    await until(lambda: sessions.sessions, "the penalty is over")
    again.close()


@pytest_twisted.ensureDeferred
async def test_anAppCanHoldSomethingAgainstItsPeer(listening: Listen, connected: Connect) -> None:
    sessions = guarded(Apps(lambda app, _: app.transport.penalize("login")), Clock())
    peer = await connected(listening(sessions))
    peer.send(b"guess\n")
    await until(lambda: sessions.admission.sources.penalized, "it is noted")
    assert [session.source for session in sessions.open()] == ["127.0.0.1"]


# Deadlines


@pytest.mark.parametrize("framing", ["auto", "line", "netstring", "chunk", "raw"])
@pytest_twisted.ensureDeferred
async def test_whoSaysNothingAtFirstIsClosedAndNotToldWhy(
    listening: Listen, connected: Connect, framing: str
) -> None:
    sessions = guarded(Apps(), clock := Clock(), framing=framing, firstMessageTimeout=10)
    peer = await connected(listening(sessions))
    await until(lambda: sessions.sessions, "the session has begun")
    sweep(clock, 9.9)
    await turns(5)
    assert peer.reason is None
    sweep(clock, 1.1)
    assert await peer.rest() == b""
    assert await ended(sessions) == {"first_message_timeout": 1}
    assert dict(sessions.admission.sources.penalties) == {"deadline": 1}


@pytest.mark.parametrize(
    ("framing", "begin", "drip", "error"),
    [
        ("line", b"1\n", b"x", b"[error: message not complete within 10 seconds]\n"),
        ("netstring", b"1:1,9:", b"x", b"47:[error: message not complete within 10 seconds],"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_aMessageHasADeadlineThatItsBytesDoNotPutOff(
    listening: Listen, connected: Connect, framing: str, begin: bytes, drip: bytes, error: bytes
) -> None:
    sessions = guarded(Apps(), clock := Clock(), framing=framing, messageTimeout=10)
    peer = await connected(listening(sessions))
    peer.send(begin)
    await until(lambda: peer.received, "the first is answered")
    answered = len(peer.received)
    for second in range(11):
        assert len(peer.received) == answered, second
        peer.send(drip)
        await turns(3)
        sweep(clock, 1)
        await turns(3)
    await until(lambda: peer.atEnd, "it is closed")
    assert bytes(peer.received[answered:]) == error
    peer.close()
    assert await ended(sessions) == {"message_timeout": 1}


@pytest_twisted.ensureDeferred
async def test_aFirstMessageInDripsIsNotPutOffByTheGapThatEndsIt(
    listening: Listen, connected: Connect
) -> None:
    sessions = guarded(Apps(), clock := Clock(), messageTimeout=10, quiet=3)
    peer = await connected(listening(sessions))
    for _ in range(11):
        peer.send(b"x")
        await turns(3)
        sweep(clock, 1)
    assert await peer.rest() == b"[error: message not complete within 10 seconds]"
    assert await ended(sessions) == {"message_timeout": 1}


@pytest_twisted.ensureDeferred
async def test_theNextMessageHasADeadlineOfItsOwn(listening: Listen, connected: Connect) -> None:
    sessions = guarded(Apps(), clock := Clock(), messageTimeout=10)
    peer = await connected(listening(sessions))
    for number in range(5):
        peer.send(b"x\nx")
        assert await peer.receiveUntil(b"\n") == (b"<xx>\n" if number else b"<x>\n")
        sweep(clock, 9)
        await turns(3)
        assert (not peer.atEnd, dict(sessions.counts.ended)) == (True, {}), number


@pytest.mark.parametrize("framing", ["line", "raw"])
@pytest_twisted.ensureDeferred
async def test_whoFallsSilentIsClosed(listening: Listen, connected: Connect, framing: str) -> None:
    sessions = guarded(Apps(), clock := Clock(), framing=framing, idleTimeout=10)
    peer = await connected(listening(sessions))
    for _ in range(5):
        peer.send(b"1\n")
        await peer.receive(4)
        sweep(clock, 9)
        await turns(3)
        assert not peer.atEnd
    sweep(clock, 2)
    await peer.rest()
    assert await ended(sessions) == {"idle_timeout": 1}
    assert not sessions.admission.sources.penalties


@pytest_twisted.ensureDeferred
async def test_whoIsSpokenToIsNotIdle(listening: Listen, connected: Connect) -> None:
    apps = Apps()
    sessions = guarded(apps, clock := Clock(), idleTimeout=10)
    peer = await connected(listening(sessions))
    peer.send(b"1\n")
    await peer.receive(4)
    for _ in range(5):
        apps.apps[0].transport.write(b"news")
        sweep(clock, 9)
    await turns(3)
    assert not peer.atEnd


@pytest_twisted.ensureDeferred
async def test_nobodyWaitsForAPeerWhileItsAppTakesItsTime(
    listening: Listen, connected: Connect
) -> None:
    apps = Apps(lambda app, _: app.transport.pauseProducing())
    sessions = guarded(apps, clock := Clock(), idleTimeout=10, messageTimeout=10)
    peer = await connected(listening(sessions))
    peer.send(b"1\n2")
    await until(lambda: apps.apps and apps.apps[0].messages, "the message came")
    sweep(clock, 60)
    await turns(3)
    assert not peer.atEnd
    apps.apps[0].transport.resumeProducing()
    sweep(clock, 9)
    await turns(3)
    assert not peer.atEnd
    sweep(clock, 2)
    assert b"not complete" in await peer.rest()


@pytest_twisted.ensureDeferred
async def test_nobodyStaysForEver(listening: Listen, connected: Connect) -> None:
    sessions = guarded(Apps(), clock := Clock(), sessionTimeout=100)
    peer = await connected(listening(sessions))
    for number in range(11):
        assert not peer.atEnd, number
        peer.send(b"1\n")
        await peer.receive(4)
        sweep(clock, 10)
        await turns(3)
    assert await peer.rest() == b""
    assert await ended(sessions) == {"session_timeout": 1}


@pytest_twisted.ensureDeferred
async def test_withoutTimeLimitsThereIsNoTimer(listening: Listen, connected: Connect) -> None:
    none = dict.fromkeys(
        ("firstMessageTimeout", "messageTimeout", "idleTimeout", "sessionTimeout"), 0
    )
    sessions = guarded(Apps(), clock := Clock(), **none)
    peer = await connected(listening(sessions))
    peer.send(b"1\n")
    await peer.receive(4)
    assert clock.getDelayedCalls() == []
    clock.advance(1e6)
    peer.send(b"2\n")
    assert await peer.receive(4) == b"<2>\n"


# Who does not read


def withSmallBuffers(app: App) -> None:
    """Let the system take little of what the app sends."""
    app.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)


def answerMuch(app: App, message: bytes) -> None:
    app.transport.write(BIG)


async def deaf(listening: Listen, connected: Connect, sessions: StreamSessions) -> Peer:
    """Connect somebody who asks for much, and reads nothing."""
    peer = await connected(listening(sessions))
    # What its system takes for it must not be more than what it reads at once.
    peer.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * BUFFER)
    peer.pause()
    peer.send(b"1\n")
    await until(lambda: sessions.stalls and len(sessions.stalls), "it leaves its reply unread")
    return peer


@pytest.mark.parametrize("framing", ["line", "raw"])
@pytest_twisted.ensureDeferred
async def test_whoReadsNothingIsCutOff(listening: Listen, connected: Connect, framing: str) -> None:
    clock = Clock()
    sessions = guarded(Apps(answerMuch, withSmallBuffers), clock, framing=framing, stallTimeout=10)
    peer = await deaf(listening, connected, sessions)
    # The system goes on for a moment with what fits into the peer's buffer.
    sweep(clock, 9.9)
    assert sessions.sessions
    sweep(clock, 10.2)
    assert await ended(sessions) == {"stalled": 1}
    assert dict(sessions.admission.sources.penalties) == {"deadline": 1}
    peer.resume()
    await peer.closed
    assert peer.total < len(BIG)


@pytest_twisted.ensureDeferred
async def test_whoReadsSlowlyIsNotCutOff(listening: Listen, connected: Connect) -> None:
    clock = Clock()
    sessions = guarded(Apps(answerMuch, withSmallBuffers), clock, framing="line", stallTimeout=10)
    peer = await deaf(listening, connected, sessions)
    while peer.total < len(BIG):
        # Less than its system's buffer would not let this side send any more.
        enough = min(peer.total + 8 * BUFFER, len(BIG))
        peer.resume()
        await until(
            lambda enough=enough: peer.total >= enough, f"more is read, {sessions.counts.ended}"
        )
        peer.pause()
        sweep(clock, 9)
    peer.resume()
    assert (await peer.receive(len(BIG) + 1)).endswith(b"\n")
    assert not sessions.counts.ended


@pytest_twisted.ensureDeferred
async def test_anAppThatGoesOnTalkingToWhoReadsNothingIsBounded(
    listening: Listen, connected: Connect
) -> None:
    apps = Apps(answerMuch, withSmallBuffers)
    sessions = guarded(apps, Clock(), framing="line", maxUnsent=256 * 1024)
    peer = await deaf(listening, connected, sessions)
    [app] = apps.apps
    app.transport.write(b"one more")
    assert await ended(sessions) == {"unsent": 1}
    peer.resume()
    await peer.closed


@pytest_twisted.ensureDeferred
async def test_aLittleMoreThanTheSystemTakesIsNoReasonToCutOff(
    listening: Listen, connected: Connect
) -> None:
    apps = Apps(lambda app, _: None, withSmallBuffers)
    sessions = guarded(apps, Clock(), framing="line", maxUnsent=256 * 1024)
    peer = await connected(listening(sessions))
    peer.pause()
    peer.send(b"1\n")
    await until(lambda: apps.apps and apps.apps[0].messages, "the message came")
    transport = apps.apps[0].transport
    while not len(sessions.stalls):
        transport.write(b"x" * 1000)
        await turns()
    for _ in range(100):
        transport.write(b"x" * 1000)
    written = sessions.open()[0].sent
    assert not sessions.counts.ended
    peer.resume()
    await until(lambda: peer.total >= written, "everything is read")
    await until(lambda: not len(sessions.stalls), "nothing waits any more")
    transport.write(b"the last")
    assert (await peer.receiveUntil(b"the last\n")).count(b"\n") == written // 1000 + 1


@pytest_twisted.ensureDeferred
async def test_aHostedAppThatRegulatesItsWritingIsFreedOfWhoReadsNothing(
    listening: Listen, connected: Connect
) -> None:
    from twisted.protocols.basic import FileSender

    def send(app: App, message: bytes) -> None:
        from io import BytesIO

        FileSender().beginFileTransfer(BytesIO(BIG), Pushing(app.transport)).addErrback(lambda _: 0)

    class Pushing:
        """Have a pull producer push, as twisted.web does."""

        def __init__(self, transport: Any) -> None:
            self.transport = transport
            self.write = transport.write

        def registerProducer(self, producer: Any, streaming: bool) -> None:
            from twisted.internet.interfaces import IPushProducer
            from zope.interface import directlyProvides

            class Push:
                paused = False

                def pauseProducing(self) -> None:
                    self.paused = True

                def resumeProducing(self) -> None:
                    self.paused = False
                    while not self.paused:
                        producer.resumeProducing()

                def stopProducing(self) -> None:
                    producer.stopProducing()

            push = Push()
            directlyProvides(push, IPushProducer)
            self.transport.registerProducer(push, True)
            push.resumeProducing()

        def unregisterProducer(self) -> None:
            self.transport.unregisterProducer()

    clock = Clock()
    sessions = guarded(Apps(send, withSmallBuffers), clock, framing="raw", stallTimeout=10)
    peer = await deaf(listening, connected, sessions)
    sweep(clock, 25)
    assert await ended(sessions) == {"stalled": 1}
    peer.resume()
    await peer.closed


# What is counted


@pytest_twisted.ensureDeferred
async def test_whatSessionsDidIsCounted(listening: Listen, connected: Connect) -> None:
    sessions = guarded(Apps(), Clock(), framing="line")
    port = listening(sessions)
    peer = await connected(port)
    peer.send(b"1\n")
    await peer.receive(4)
    peer.send(b"22\r\n333\n4")
    await peer.receive(11)
    [session] = sessions.open()
    assert (session.messages, session.received, session.sent) == (3, 11, 12)
    peer.halfClose()
    assert await peer.rest() == b"<4>\n"
    assert isinstance(await peer.closed, ConnectionDone)
    await ended(sessions)
    counts = sessions.counts
    assert (counts.opened, counts.messages, counts.received, counts.sent) == (1, 4, 11, 15)


@pytest_twisted.ensureDeferred
async def test_whatIsNotSentAnyMoreDoesNotCount(listening: Listen, connected: Connect) -> None:
    def leave(app: App, message: bytes) -> None:
        answer(app, message)
        app.transport.loseConnection()
        app.transport.write(b"too late")

    sessions = guarded(Apps(leave), Clock(), framing="line")
    peer = await connected(listening(sessions))
    peer.send(b"1\n2\n")
    assert await peer.rest() == b"<1>\n"
    assert await ended(sessions) == {"app": 1}
    assert (sessions.counts.messages, sessions.counts.sent) == (1, 3)


@pytest_twisted.ensureDeferred
async def test_messagesThatWaitedAreCountedOnce(listening: Listen, connected: Connect) -> None:
    sessions = guarded(Apps(answerLater), Clock(), framing="line")
    peer = await connected(listening(sessions))
    peer.send(b"1\n2\n3\n")
    assert await peer.receive(12) == b"<1>\n<2>\n<3>\n"
    assert sessions.open()[0].messages == 3


@pytest_twisted.ensureDeferred
async def test_everyEndHasAName(listening: Listen, connected: Connect, loggedErrors: Any) -> None:
    def fail(app: App, message: bytes) -> None:
        raise ValueError("the app's own fault")

    sessions = guarded(Apps(fail), Clock(), framing="line")
    port = listening(sessions)
    peer = await connected(port)
    peer.send(b"1\n")
    await peer.closed
    assert await ended(sessions) == {"failed": 1}
    assert len(loggedErrors.take(ValueError)) == 1
    peer = await connected(port)
    await until(lambda: sessions.sessions, "it is open")
    peer.reset()
    assert await ended(sessions) == {"failed": 1, "lost": 1}
    peer = await connected(port)
    await until(lambda: sessions.sessions, "it is open")
    sessions.open()[0].cut("operator")
    assert await ended(sessions) == {"failed": 1, "lost": 1, "operator": 1}
    assert set(sessions.counts.ended) <= set(ENDINGS)


def test_everySessionHasANumberOfItsOwn() -> None:
    sessions = guarded(Apps(), Clock())
    numbers = [sessions.buildProtocol(None).number for _ in range(3)]  # type: ignore[union-attr]  # they are sessions
    assert len(set(numbers)) == 3
