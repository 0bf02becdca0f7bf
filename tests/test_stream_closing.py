"""
Tests for L{sockapps.stream}: how a session ends, whoever ends it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock

from sockapps.stream import TURN
from tests.sockets import (
    PYOPENSSL,
    App,
    Apps,
    Connect,
    Listen,
    Peer,
    answer,
    sheltered,
    timers,
    tlsSides,
    turns,
    until,
)


def answerAndLeave(app: App, message: bytes) -> None:
    """Answer one message, then close."""
    answer(app, message)
    app.transport.loseConnection()
    app.transport.write(b"too late")


@pytest.mark.parametrize("framing", ["line", "raw"])
@pytest_twisted.ensureDeferred
async def test_anAppThatClosesHasItsAnswerSentAndIsGivenNoMore(
    listening: Listen, connected: Connect, framing: str
) -> None:
    clock = Clock()
    apps = Apps(answerAndLeave)
    sessions = sheltered(apps, clock, framing=framing)
    peer = await connected(listening(sessions))
    peer.send(b"1\n" if framing == "raw" else b"1\n2\n3\n")
    assert (await peer.rest()).split() in ([b"<1>"], [b"<1", b">"])
    assert isinstance(await peer.closed, ConnectionDone)
    await until(lambda: not sessions.sessions, "the session is closed")
    [app] = apps.apps
    assert (len(app.messages), len(app.lost)) == (1, 1)
    assert app.transport.disconnecting
    assert timers(clock) == []


MAX = 1000
FLOOD = b"x" * 4_000_000
ERROR = b"[error: message longer than 1000 bytes]"


@pytest.mark.parametrize(
    ("framing", "sent", "reply"),
    [
        ("line", b"1\n" + FLOOD, b"<1>\n" + ERROR + b"\n"),
        ("auto", b"1\n" + FLOOD + b"\n", b"<1>\n" + ERROR + b"\n"),
        ("auto", FLOOD, ERROR),
        ("chunk", FLOOD, ERROR),
        ("netstring", b"1:1,4000000:" + FLOOD, b"3:<1>,39:" + ERROR + b","),
        ("netstring", FLOOD, b"49:[error: netstring does not begin with its length],"),
    ],
)
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_aPeerThatIsStillSendingIsToldItsFault(
    listening: Listen,
    connected: Connect,
    tmp_path: Path,
    kind: str,
    framing: str,
    sent: bytes,
    reply: bytes,
) -> None:
    clock = Clock()
    sessions = sheltered(Apps(), clock, framing=framing, maxMessage=MAX)
    unix = str(tmp_path / "socket") if kind == "unix" else ""
    peer = await connected(listening(sessions, unix=unix))
    peer.send(sent)
    assert await peer.rest() == reply
    assert isinstance(await peer.closed, ConnectionDone)
    await until(lambda: not sessions.sessions, "the session is closed")
    assert timers(clock) == []


@pytest_twisted.ensureDeferred
async def test_aSessionThatExplainsNoFaultsOnlyCloses(
    listening: Listen, connected: Connect
) -> None:
    sessions = sheltered(Apps(), framing="line", maxMessage=MAX)
    sessions.explainsFaults = False
    peer = await connected(listening(sessions))
    peer.send(FLOOD)
    assert await peer.rest() == b""


@pytest_twisted.ensureDeferred
async def test_aFaultWaitsUntilAPausedAppHasAnswered(listening: Listen, connected: Connect) -> None:
    apps = Apps(lambda app, _: app.transport.pauseProducing())
    sessions = sheltered(apps, framing="line", maxMessage=MAX)
    peer = await connected(listening(sessions))
    peer.send(b"1\n")
    await until(lambda: apps.apps and apps.apps[0].messages, "the message came")
    peer.send(FLOOD)
    await until(lambda: next(iter(sessions.sessions))._readingHeld, "reading is held")
    answer(apps.apps[0], b"1")
    apps.apps[0].transport.resumeProducing()
    assert await peer.rest() == b"<1>\n" + ERROR + b"\n"


@pytest_twisted.ensureDeferred
async def test_aPeerThatDoesNotCloseTooIsCutOff(listening: Listen, connected: Connect) -> None:
    clock = Clock()
    apps = Apps(answerAndLeave)
    sessions = sheltered(apps, clock, framing="line", linger=5, closeTimeout=30)
    peer = await connected(listening(sessions), closesToo=False)
    peer.send(b"1\n")
    assert await peer.rest() == b"<1>\n"
    peer.send(b"2\n")
    clock.advance(4.9)
    await turns(10)
    assert sessions.sessions
    clock.advance(0.1)
    await until(lambda: not sessions.sessions, "the session is closed")
    [app] = apps.apps
    assert [type(why) for why in app.lost] == [ConnectionAborted]
    assert (app.messages, timers(clock)) == ([b"1"], [])


@pytest_twisted.ensureDeferred
async def test_aPeerThatDoesNotReadIsCutOff(listening: Listen, connected: Connect) -> None:
    clock = Clock()
    apps = Apps(lambda app, _: (app.transport.write(FLOOD * 4), app.transport.loseConnection()))
    sessions = sheltered(apps, clock, framing="line", linger=5, closeTimeout=30)
    peer = await connected(listening(sessions))
    peer.send(b"1\n")
    peer.pause()
    await until(lambda: timers(clock), "the app has left")
    clock.advance(29.9)
    await turns(10)
    assert sessions.sessions
    clock.advance(0.1)
    await until(lambda: not sessions.sessions, "the session is closed")
    assert [type(why) for why in apps.apps[0].lost] == [ConnectionAborted]
    assert timers(clock) == []


@pytest.mark.filterwarnings(PYOPENSSL)
@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_anAppAbortsAtOnce(
    listening: Listen, connected: Connect, tmp_path: Path, kind: str
) -> None:
    def abort(app: App, message: bytes) -> None:
        answer(app, message)
        app.transport.abortConnection()
        app.transport.abortConnection()

    clock = Clock()
    apps = Apps(abort)
    server, client = tlsSides(tmp_path) if kind == "tls" else (None, None)
    sessions = sheltered(apps, clock, framing="line")
    peer = await connected(listening(sessions, tls=server), tls=client)
    peer.send(b"1\n2\n")
    assert isinstance(await peer.closed, ConnectionLost)
    [app] = apps.apps
    await until(lambda: app.lost, "the app was told")
    assert (app.messages, len(app.lost), timers(clock)) == ([b"1"], 1, [])
    callEverythingLate(app)
    assert (len(app.lost), timers(clock)) == (1, [])


class Producer:
    """What an app may register."""

    stopped = False

    def stopProducing(self) -> None:
        self.stopped = True


def callEverythingLate(app: App) -> None:
    """Do what an app may do that does not know yet that its peer has gone."""
    transport = app.transport
    transport.write(b"late")
    transport.pauseProducing()
    transport.resumeProducing()
    producer = Producer()
    transport.registerProducer(producer, True)
    assert producer.stopped
    transport.unregisterProducer()
    transport.loseConnection()
    transport.stopProducing()
    transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_anAppThatDoesNotKnowThatItsPeerHasGoneDoesNoHarm(
    listening: Listen, connected: Connect
) -> None:
    clock = Clock()
    apps = Apps(lambda app, message: None)
    peer = await connected(listening(sheltered(apps, clock)))
    await until(lambda: apps.apps, "the app is there")
    peer.reset()
    [app] = apps.apps
    await until(lambda: app.lost, "the app was told")
    callEverythingLate(app)
    assert [type(why) for why in app.lost] == [ConnectionLost]
    assert timers(clock) == []


@pytest.mark.parametrize("sent", [b"undecided", b"x\n" * TURN * 3])
@pytest_twisted.ensureDeferred
async def test_noTimerOutlivesASession(listening: Listen, connected: Connect, sent: bytes) -> None:
    clock = Clock()
    apps = Apps()
    sessions = sheltered(apps, clock)
    peer = await connected(listening(sessions))
    peer.send(sent)
    await until(lambda: timers(clock), "a timer runs")
    apps.apps[0].transport.abortConnection()
    await until(lambda: not sessions.sessions, "the session is closed")
    assert timers(clock) == []


@pytest_twisted.ensureDeferred
async def test_aSessionThatClosesUndecidedDecidesNothing(
    listening: Listen, connected: Connect
) -> None:
    clock = Clock()
    apps = Apps()
    sessions = sheltered(apps, clock)
    peer = await connected(listening(sessions), closesToo=False)
    peer.send(b"undecided")
    await until(lambda: timers(clock), "the segment came")
    apps.apps[0].transport.loseConnection()
    assert await peer.rest() == b""
    clock.advance(1)
    assert (sessions.counts.decidedByQuiet, apps.apps[0].messages) == (0, [])


@pytest_twisted.ensureDeferred
async def test_aPeerThatHalfClosesWhileTheSessionClosesEndsIt(
    listening: Listen, connected: Connect
) -> None:
    clock = Clock()
    apps = Apps(lambda app, _: (app.transport.write(FLOOD), app.transport.loseConnection()))
    sessions = sheltered(apps, clock, framing="line")
    peer = await connected(listening(sessions))
    peer.send(b"1\n")
    peer.pause()
    await until(lambda: timers(clock), "the app has left")
    peer.halfClose()
    await until(lambda: next(iter(sessions.sessions))._ended, "the peer has half-closed")
    peer.resume()
    assert len(await peer.rest()) == len(FLOOD) + 1
    await until(lambda: not sessions.sessions, "the session is closed")
    assert timers(clock) == []


@pytest.mark.filterwarnings(PYOPENSSL)
@pytest.mark.parametrize("kind", ["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_anAppThatClosesWhileReadingIsHeldNeedsNoTimeOut(
    listening: Listen, connected: Connect, tmp_path: Path, kind: str
) -> None:
    clock = Clock()
    apps = Apps(lambda app, _: app.transport.pauseProducing())
    server, client = tlsSides(tmp_path) if kind == "tls" else (None, None)
    sessions = sheltered(apps, clock, framing="line")
    peer = await connected(listening(sessions, tls=server), tls=client)
    peer.send(b"1\n2\n")
    await until(lambda: apps.apps and apps.apps[0].messages, "the message came")
    assert next(iter(sessions.sessions))._readingHeld
    answerAndLeave(apps.apps[0], b"1")
    assert await peer.rest() == b"<1>\n"
    await until(lambda: not sessions.sessions, "the session is closed")
    assert (apps.apps[0].messages, timers(clock)) == ([b"1"], [])


@pytest.mark.filterwarnings(PYOPENSSL)
@pytest_twisted.ensureDeferred
async def test_aFaultIsToldOverTLSToo(
    listening: Listen, connected: Connect, tmp_path: Path
) -> None:
    server, client = tlsSides(tmp_path)
    sessions = sheltered(Apps(), framing="line", maxMessage=MAX)
    peer = await connected(listening(sessions, tls=server), tls=client)
    peer.send(b"1\n" + FLOOD)
    assert await peer.rest() == b"<1>\n" + ERROR + b"\n"
    assert isinstance(await peer.closed, ConnectionDone)


@pytest_twisted.ensureDeferred
async def test_aResetCostsNobodyElseAnything(listening: Listen, connected: Connect) -> None:
    port = listening(sheltered(Apps(), framing="line"))
    other: Peer = await connected(port)
    for _ in range(20):
        peer = await connected(port)
        peer.send(b"x\n" * 1000)
        peer.reset()
        other.send(b"1\n")
        assert await other.receiveUntil(b"\n") == b"<1>\n"
