"""
Tests for L{sockapps.stream}: messages between peers on real sockets and an app.

How sessions close is in C{test_stream_closing}, how they hold back in C{test_stream_flow}.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ISSLTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from sockapps.options import StreamOptions
from sockapps.stream import TURN
from tests.conftest import LoggedErrors
from tests.sockets import (
    PYOPENSSL,
    App,
    Apps,
    Connect,
    Listen,
    answer,
    answerLater,
    sheltered,
    timers,
    tlsSides,
    turns,
    until,
)

STYLES = [
    ("line", b"one\ntwo\r\n", b"<one>\n<two>\n"),
    ("chunk", b"one\n", b"<one\n>"),
    ("netstring", b"3:one,3:two,", b"5:<one>,5:<two>,"),
    ("auto", b"one\ntwo\n", b"<one>\n<two>\n"),
    ("auto", b"one", b"<one>"),
    ("raw", b"one\ntwo", b"<one\ntwo>"),
]


@pytest.mark.filterwarnings(PYOPENSSL)
@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
@pytest.mark.parametrize(("framing", "sent", "replies"), STYLES)
@pytest_twisted.ensureDeferred
async def test_everyFramingOverEveryTransport(
    listening: Listen,
    connected: Connect,
    tmp_path: Path,
    kind: str,
    framing: str,
    sent: bytes,
    replies: bytes,
) -> None:
    sessions = sheltered(Apps(), framing=framing)
    if kind == "tls":
        server, client = tlsSides(tmp_path)
        peer = await connected(listening(sessions, tls=server), tls=client)
    else:
        port = listening(sessions, unix=str(tmp_path / "socket") if kind == "unix" else "")
        peer = await connected(port)
    peer.send(sent)
    assert await peer.receive(len(replies)) == replies
    [session] = sessions.sessions
    assert bool(ISSLTransport.providedBy(session)) == (kind == "tls")
    peer.close()
    await peer.closed
    assert peer.received == b""


@pytest_twisted.ensureDeferred
async def test_autoTakesAGapForTheEndOfTheFirstMessage(
    listening: Listen, connected: Connect
) -> None:
    clock = Clock()
    apps = Apps()
    sessions = sheltered(apps, clock, quiet=0.05)
    peer = await connected(listening(sessions))
    for part in [b"da", b"te"]:
        peer.send(part)
        await until(lambda: timers(clock), "a segment came")
        await turns(3)
        clock.advance(0.04)
    assert apps.apps[0].messages == []
    clock.advance(0.01)
    assert await peer.receive(6) == b"<date>"
    assert (sessions.counts.decidedByQuiet, timers(clock)) == (1, [])
    peer.send(b"os\n")
    assert await peer.receive(5) == b"<os\n>"


@pytest_twisted.ensureDeferred
async def test_autoNeverSplitsALineConnectionByTime(listening: Listen, connected: Connect) -> None:
    clock = Clock()
    sessions = sheltered(Apps(), clock, messageTimeout=0)
    peer = await connected(listening(sessions))
    peer.send(b"os\nda")
    assert await peer.receiveUntil(b"\n") == b"<os>\n"
    clock.advance(60)
    peer.send(b"te\n")
    assert await peer.receiveUntil(b"\n") == b"<date>\n"
    assert (sessions.counts.decidedByQuiet, timers(clock)) == (0, [])


@pytest.mark.parametrize(
    ("framing", "sent", "reply"),
    [("line", b"date\r\n", b"<date>\n"), ("netstring", b"4:date,", b"6:<date>,")],
)
@pytest_twisted.ensureDeferred
async def test_aMessageMayComeByteByByte(
    listening: Listen, connected: Connect, framing: str, sent: bytes, reply: bytes
) -> None:
    peer = await connected(listening(sheltered(Apps(), Clock(), framing=framing)))
    peer.transport.setTcpNoDelay(True)
    for byte in sent * 2:
        peer.send(bytes([byte]))
        await turns(2)
    assert await peer.receive(len(reply) * 2) == reply * 2


@pytest_twisted.ensureDeferred
async def test_anLFAfterTheFirstSegmentEndsTheWaitForAGap(
    listening: Listen, connected: Connect
) -> None:
    clock = Clock()
    peer = await connected(listening(sheltered(Apps(), clock)))
    peer.send(b"da")
    await until(lambda: timers(clock), "the first segment came")
    peer.send(b"te\n")
    assert await peer.receiveUntil(b"\n") == b"<date>\n"
    assert timers(clock) == []


@pytest.mark.filterwarnings(PYOPENSSL)
@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_whatTheServerSaysFirstGoesOutBareUnderAuto(
    listening: Listen, connected: Connect, tmp_path: Path, kind: str
) -> None:
    apps = Apps(onMade=lambda app: app.transport.writeSequence([b"hel", b"lo"]))
    server, client = tlsSides(tmp_path) if kind == "tls" else (None, None)
    peer = await connected(listening(sheltered(apps), tls=server), tls=client)
    assert await peer.receive(5) == b"hello"
    peer.send(b"date\n")
    assert await peer.receiveUntil(b"\n") == b"<date>\n"


@pytest.mark.parametrize(
    ("framing", "sent", "replies"),
    [
        ("line", b"one\ntwo", b"<one>\n<two>\n"),
        ("auto", b"one\ntwo", b"<one>\n<two>\n"),
        ("auto", b"one", b"<one>"),
        ("auto", b"", b""),
        ("chunk", b"one", b"<one>"),
        ("netstring", b"3:one,3:t", b"5:<one>,34:[error: netstring is not complete],"),
        ("line", b"x\n" * TURN * 3, b"<x>\n" * TURN * 3),
    ],
)
@pytest.mark.parametrize("late", [False, True])
@pytest_twisted.ensureDeferred
async def test_atHalfCloseEverythingOwedIsAnsweredFirst(
    listening: Listen,
    connected: Connect,
    framing: str,
    sent: bytes,
    replies: bytes,
    late: bool,
) -> None:
    apps = Apps(answerLater if late else answer)
    sessions = sheltered(apps, framing=framing)
    peer = await connected(listening(sessions))
    peer.send(sent)
    peer.halfClose()
    assert await peer.rest() == replies
    await until(lambda: apps.apps[0].lost, "the app was told")
    assert (sessions.sessions, sessions.counts.decidedByQuiet) == ({}, 0)


def answerAtOnceByPausing(app: App, message: bytes) -> None:
    """Pause and resume around an answer, as an app does whose Deferred had fired already."""
    app.transport.pauseProducing()
    answer(app, message)
    app.transport.resumeProducing()


def answerHalfOfThemLater(app: App, message: bytes) -> None:
    """Be unpredictable."""
    (answerLater if len(app.messages) % 2 else answerAtOnceByPausing)(app, message)


@pytest.mark.parametrize("onMessage", [answerLater, answerAtOnceByPausing, answerHalfOfThemLater])
@pytest_twisted.ensureDeferred
async def test_pausingAndResumingKeepsMessagesInOrder(
    listening: Listen, connected: Connect, onMessage: Callable[[App, bytes], None]
) -> None:
    peer = await connected(listening(sheltered(Apps(onMessage), framing="line")))
    for hundred in range(5):
        peer.send(
            b"".join(b"%d\n" % number for number in range(hundred * 100, hundred * 100 + 100))
        )
        await turns(2)
    await peer.receiveUntil(b"<498>\n")
    assert await peer.receiveUntil(b"\n") == b"<499>\n"


@pytest_twisted.ensureDeferred
async def test_messagesThatArriveWhilePausedWaitInOrder(
    listening: Listen, connected: Connect
) -> None:
    apps = Apps(onMade=lambda app: app.transport.pauseProducing())
    sessions = sheltered(apps, framing="line")
    peer = await connected(listening(sessions))
    peer.send(b"1\n2\n")
    await until(lambda: next(iter(sessions.sessions))._pending, "the first messages came")
    peer.send(b"3\n")
    peer.halfClose()
    [app] = apps.apps
    assert app.messages == []
    app.transport.resumeProducing()
    assert await peer.rest() == b"<1>\n<2>\n<3>\n"
    assert app.messages == [b"1", b"2", b"3"]


@pytest_twisted.ensureDeferred
async def test_aPausedAppIsNotGivenTheRestOfARead(listening: Listen, connected: Connect) -> None:
    apps = Apps(lambda app, message: (app.transport.pauseProducing(), answer(app, message)))
    peer = await connected(listening(sheltered(apps, framing="line")))
    peer.send(b"1\n2\n3\n")
    for number in (1, 2, 3):
        assert await peer.receiveUntil(b"\n") == b"<%d>\n" % number
        assert len(apps.apps[0].messages) == number
        apps.apps[0].transport.resumeProducing()


@pytest_twisted.ensureDeferred
async def test_oneTurnDeliversABoundedNumberOfMessages(
    listening: Listen, connected: Connect
) -> None:
    clock = Clock()
    apps = Apps()
    sessions = sheltered(apps, clock, framing="line")
    peer = await connected(listening(sessions))
    peer.send(b"x\n" * TURN * 3)
    await peer.receive(4 * TURN)
    [app] = apps.apps
    assert len(app.messages) == TURN
    clock.advance(0)
    assert len(app.messages) == 3 * TURN
    peer.send(b"more\n")
    await peer.receiveUntil(b"<more>\n")
    assert timers(clock) == []


@pytest_twisted.ensureDeferred
async def test_aSessionWithManyMessagesLetsOthersHaveTheirTurn(
    listening: Listen, connected: Connect
) -> None:
    told: list[bytes] = []

    def note(app: App, message: bytes) -> None:
        if not told:
            other.send(b"other\n")
        told.append(message)

    port = listening(sheltered(Apps(note), framing="line"))
    peer, other = await connected(port), await connected(port)
    peer.send(b"x\n" * TURN * 100)
    await until(lambda: len(told) > TURN * 100, "all messages came")
    assert told.index(b"other") < TURN * 50


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Protocol):
    """A protocol that speaks on when its peer has said everything."""

    transport: Any
    ends = 0

    def readConnectionLost(self) -> None:
        self.ends += 1
        self.transport.write(b"x" * 300_000)

    def writeConnectionLost(self) -> None:
        self.ends += 10


@pytest_twisted.ensureDeferred
async def test_rawPassesAHalfCloseThroughOnce(listening: Listen, connected: Connect) -> None:
    class Made(Apps):
        protocol = HalfCloseable  # type: ignore[assignment]

    apps = Made()
    peer = await connected(listening(sheltered(apps, framing="raw")))
    peer.halfClose()
    await peer.receive(300_000)
    app: Any = apps.apps[0]
    app.transport.write(b"y" * 300_000)
    await peer.receive(300_000)
    app.transport.loseWriteConnection()
    assert await peer.rest() == b""
    assert app.ends == 11
    app.transport.loseConnection()
    assert await peer.closed


@pytest_twisted.ensureDeferred
async def test_rawClosesAProtocolThatKnowsNoHalfClose(
    listening: Listen, connected: Connect
) -> None:
    apps = Apps()
    peer = await connected(listening(sheltered(apps, framing="raw")))
    peer.send(b"a")
    peer.halfClose()
    assert await peer.rest() == b"<a>"


@pytest_twisted.ensureDeferred
async def test_anAppThatFailsLosesItsPeerAndNobodyElse(
    listening: Listen, connected: Connect, loggedErrors: LoggedErrors
) -> None:
    def judge(app: App, message: bytes) -> None:
        answer(app, message)
        if message == b"bad":
            raise ValueError("the app is at fault")

    port = listening(sheltered(Apps(judge), framing="line"))
    peer, other = await connected(port), await connected(port)
    peer.send(b"good\nbad\nnever\n")
    assert await peer.rest() == b"<good>\n<bad>\n"
    other.send(b"good\n")
    assert await other.receiveUntil(b"\n") == b"<good>\n"
    assert len(loggedErrors.take(ValueError)) == 1


@pytest_twisted.ensureDeferred
async def test_anAppThatFailsToBeginLosesItsPeer(
    listening: Listen, connected: Connect, loggedErrors: LoggedErrors
) -> None:
    def fail(app: App) -> None:
        app.transport.write(b"hello")
        raise ValueError("the app is at fault")

    apps = Apps(onMade=fail)
    peer = await connected(listening(sheltered(apps)))
    assert await peer.rest() == b"hello"
    assert len(loggedErrors.take(ValueError)) == 1


@pytest_twisted.ensureDeferred
async def test_anAppThatFailsOnALaterLineLosesItsPeerToo(
    listening: Listen, connected: Connect, loggedErrors: LoggedErrors
) -> None:
    def answer(app: App, message: bytes) -> None:
        app.transport.write(message)
        if message == b"2":
            raise ValueError("the app is at fault")

    peer = await connected(listening(sheltered(Apps(answer))))
    peer.send(b"1\n")
    assert await peer.receive(2) == b"1\n"
    peer.send(b"2\n")  # alone in its segment, with nothing before it
    assert await peer.rest() == b"2\n"
    assert len(loggedErrors.take(ValueError)) == 1


@pytest.mark.parametrize("framing", ["line", "chunk", "netstring", "raw"])
@pytest_twisted.ensureDeferred
async def test_aReplyThatIsNoBytesIsTheAppsFaultWhereItWritesIt(
    listening: Listen, connected: Connect, loggedErrors: LoggedErrors, framing: str
) -> None:
    apps = Apps(lambda app, _: (app.transport.write(b"one"), app.transport.write("two")))
    peer = await connected(listening(sheltered(apps, framing=framing)))
    peer.send(b"1:x,\n")
    assert b"one" in await peer.rest()
    [event] = loggedErrors.take(TypeError)
    assert "a reply is bytes, not str" in str(event["log_failure"])


@pytest_twisted.ensureDeferred
async def test_aFactoryThatWantsNoConnectionGetsNone(listening: Listen, connected: Connect) -> None:
    apps = Apps()
    apps.buildProtocol = lambda addr: None  # type: ignore[method-assign,assignment]
    sessions = sheltered(apps)
    peer = await connected(listening(sessions))
    assert await peer.rest() == b""
    assert sessions.sessions == {}


@pytest_twisted.ensureDeferred
async def test_sessionsAreThoseThatAreOpen(listening: Listen, connected: Connect) -> None:
    apps = Apps()
    sessions = sheltered(apps)
    port = listening(sessions)
    assert apps.numPorts == 1
    peers = [await connected(port), await connected(port)]
    await until(lambda: len(sessions.sessions) == 2, "both are open")
    peers[0].close()
    await until(lambda: len(sessions.sessions) == 1, "one is closed")
    peers[1].reset()
    await until(lambda: not sessions.sessions, "the other is reset")
    assert [len(app.lost) for app in apps.apps] == [1, 1]
    assert isinstance(apps.apps[1].lost[0], ConnectionLost)
    await port.stopListening()
    assert apps.numPorts == 0


@pytest_twisted.ensureDeferred
async def test_aSessionIsATransportAndLeavesTheRestToTheConnections(
    listening: Listen, connected: Connect
) -> None:
    apps = Apps()
    sessions = sheltered(apps)
    unconnected: Any = sessions.buildProtocol(None)
    with pytest.raises(AttributeError):
        unconnected.getPeer()
    peer = await connected(listening(sessions))
    await until(lambda: len(apps.apps) == 2, "it is connected")
    session = apps.apps[1].transport
    for interface in (ITransport, IConsumer, IPushProducer, IProtocol, IHalfCloseableProtocol):
        verifyObject(interface, session)
    assert session.getPeer().port == peer.transport.getHost().port
    session.setTcpNoDelay(True)
    assert session.getTcpNoDelay()
    session.setTcpKeepAlive(True)
    assert session.getTcpKeepAlive()
    with pytest.raises(AttributeError):
        session.getPeerCertificate()
    session.anything = 1  # as hosted factories do
    assert (session.logPrefix(), sessions.logPrefix()) == ("App", "Apps")


@pytest.mark.parametrize(
    "option",
    [{"framing": "morse"}, {"maxMessage": 0}, {"quiet": 0}, {"closeTimeout": 0}, {"linger": 0}],
)
def test_optionsThatMakeNoSenseAreRefused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        StreamOptions(**option)
