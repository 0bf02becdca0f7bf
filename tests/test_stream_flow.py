"""
Tests for L{sockapps.stream}: who does not read is not read from, and apps that regulate their own
writing.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.protocols.basic import FileSender
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from sockapps.framing import PIECE
from sockapps.stream import TURN
from tests.sockets import App, Apps, Connect, Listen, Peer, answer, sheltered, timers, turns, until

BUFFER = 64 * 1024
BOUND = 2 * 1024 * 1024
"""More than all the buffers between an app and its peer hold, where the system's are small."""

BIG = bytes(range(256)) * 80 * 1024
"""20 MiB."""


def withSmallBuffers(app: App) -> None:
    """Let the system take little of what the app sends."""
    app.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)


def held(sessions: Any) -> bool:
    """Tell whether some session reads no more."""
    return any(session._readingHeld for session in sessions.sessions)


@pytest.mark.parametrize("framing", ["line", "chunk", "raw"])
@pytest_twisted.ensureDeferred
async def test_aPeerThatDoesNotReadIsNotReadFromAndThenLosesNothing(
    listening: Listen, connected: Connect, framing: str
) -> None:
    def echo(app: App, message: bytes) -> None:
        app.messages.clear()
        taken.append(len(message))
        app.transport.write(message)

    taken: list[int] = []
    apps = Apps(echo, withSmallBuffers)
    sessions = sheltered(apps, framing=framing, maxMessage=BUFFER)
    peer = await connected(listening(sessions))
    peer.pause()
    sent = b"".join(b"%0999d\n" % number for number in range(8000))
    peer.send(sent)
    for _ in range(5):
        await until(lambda: held(sessions), "the session reads no more")
        await turns(20)
    assert sum(taken) < BOUND
    peer.halfClose()
    peer.resume()
    assert await peer.rest() == sent
    assert sum(taken) in (len(sent), len(sent) - 8000)


@pytest.mark.parametrize("sent", [b"\n" * 65536, b"xy\n" * 20_000], ids=["empty", "short"])
@pytest_twisted.ensureDeferred
async def test_manySmallMessagesInOneReadAreNotHeldAllAtOnce(
    listening: Listen, connected: Connect, sent: bytes
) -> None:
    def pause(app: App, message: bytes) -> None:
        app.transport.pauseProducing()

    apps = Apps(pause)
    sessions = sheltered(apps)
    peer = await connected(listening(sessions))
    peer.send(sent)
    await until(lambda: held(sessions), "the session reads no more")
    [session] = sessions.open()
    assert len(session._pending) <= PIECE
    peer.halfClose()
    apps.onMessage = answer
    apps.apps[0].transport.resumeProducing()
    assert (await peer.rest()).count(b"\n") == sent.count(b"\n") - 1
    assert len(apps.apps[0].messages) == sent.count(b"\n")


@pytest_twisted.ensureDeferred
async def test_aPeerThatDoesNotReadCostsOthersNothing(
    listening: Listen, connected: Connect
) -> None:
    sessions = sheltered(Apps(onMade=withSmallBuffers), framing="line")
    port = listening(sessions)
    peer, other = await connected(port), await connected(port)
    peer.pause()
    peer.send(b"%0999d\n" % 0 * 8000)
    await until(lambda: held(sessions), "the session reads no more")
    other.send(b"1\n")
    assert await other.receiveUntil(b"\n") == b"<1>\n"


@pytest_twisted.ensureDeferred
async def test_anAppThatResumesIsGivenNothingWhileItsPeerDoesNotRead(
    listening: Listen, connected: Connect
) -> None:
    apps = Apps(lambda app, _: app.transport.write(BIG))
    sessions = sheltered(apps, framing="line")
    peer = await connected(listening(sessions))
    peer.pause()
    peer.send(b"1\n2\n")
    await until(lambda: held(sessions), "the session reads no more")
    [app] = apps.apps
    assert app.messages == [b"1"]
    app.transport.pauseProducing()
    app.transport.resumeProducing()
    await turns(20)
    assert app.messages == [b"1"]
    peer.resume()
    assert await peer.receive(len(BIG) + 1) == await peer.receive(len(BIG) + 1) == BIG + b"\n"


@implementer(IPushProducer)
class Pusher:
    """Write in blocks until it is paused, as Twisted's own example of a producer does."""

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self.produced = 0
        self.paused = False
        self.stopped = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False
        while not self.paused and self.produced < len(BIG):
            block = BIG[self.produced : self.produced + 10_000]
            self.produced += len(block)
            self.consumer.write(block)
        if self.produced == len(BIG):
            self.produced += 1
            self.consumer.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


def push(app: App) -> None:
    """Send something big, with a push producer."""
    producer: Any = Pusher(app.transport)
    app.producer = producer  # type: ignore[attr-defined]
    app.transport.registerProducer(producer, True)
    producer.resumeProducing()


def pull(app: App) -> None:
    """Send something big, with a pull producer."""
    FileSender().beginFileTransfer(BytesIO(BIG), app.transport)


@pytest.mark.parametrize("send", [push, pull])
@pytest.mark.parametrize("closes", ["nobody", "app", "peer", "both"])
@pytest.mark.parametrize("framing", ["raw", "chunk"])
@pytest_twisted.ensureDeferred
async def test_anAppRegulatesItsOwnWriting(
    listening: Listen, connected: Connect, send: Callable[[App], None], closes: str, framing: str
) -> None:
    def respond(app: App, message: bytes) -> None:
        app.transport.write(b"here it comes:")
        send(app)
        if closes in ("app", "both"):
            app.transport.loseConnection()

    apps = Apps(respond, withSmallBuffers)
    sessions = sheltered(apps, framing=framing)
    peer = await connected(listening(sessions))
    peer.send(b"please")
    peer.pause()
    await until(lambda: apps.apps and apps.apps[0].messages, "the message came")
    await turns(50)
    written = getattr(getattr(apps.apps[0], "producer", None), "produced", 0)
    assert written < BOUND
    if closes in ("peer", "both"):
        peer.halfClose()
    peer.resume()
    assert await peer.receive(14) == b"here it comes:"
    assert await peer.receive(len(BIG)) == BIG
    if closes != "nobody":
        assert await peer.rest() == b""
        return
    apps.onMessage = answer
    peer.send(b"1")
    assert await peer.receive(3) == b"<1>"
    peer.pause()
    apps.onMessage = lambda app, message: app.transport.write(BIG)
    peer.send(b"2")
    await until(lambda: len(apps.apps[0].messages) == 3, "the message came")
    peer.send(b"3")
    await until(lambda: held(sessions), "the session reads no more")


@pytest_twisted.ensureDeferred
async def test_aProducerIsStoppedWhenItsPeerIsLost(listening: Listen, connected: Connect) -> None:
    apps = Apps(onMade=push)
    peer: Peer = await connected(listening(sheltered(apps, framing="raw")))
    await until(lambda: apps.apps, "the app is there")
    peer.reset()
    app: Any = apps.apps[0]
    await until(lambda: app.lost, "the app was told")
    assert app.producer.stopped


@pytest_twisted.ensureDeferred
async def test_aSecondProducerIsRefusedAsTwistedRefusesIt(
    listening: Listen, connected: Connect
) -> None:
    apps = Apps()
    await connected(listening(sheltered(apps)))
    await until(lambda: apps.apps, "the app is there")
    transport = apps.apps[0].transport
    transport.unregisterProducer()
    transport.registerProducer(Pusher(transport), True)
    with pytest.raises(RuntimeError, match="never unregistered"):
        transport.registerProducer(Pusher(transport), True)


@pytest_twisted.ensureDeferred
async def test_anAppThatBeginsToRegulateIsGivenWhatHadToWait(
    listening: Listen, connected: Connect
) -> None:
    apps = Apps(lambda app, _: app.transport.write(BIG))
    sessions = sheltered(apps, framing="line")
    peer = await connected(listening(sessions))
    peer.pause()
    peer.send(b"1\n2\n")
    await until(lambda: held(sessions), "the session reads no more")
    [app] = apps.apps
    assert app.messages == [b"1"]
    apps.onMessage = answer
    app.transport.registerProducer(Pusher(app.transport), True)
    assert app.messages == [b"1"]
    await until(lambda: len(app.messages) == 2, "the second message is delivered")
    app.transport.unregisterProducer()
    peer.resume()
    assert await peer.receive(len(BIG) + 1) == BIG + b"\n"
    assert await peer.receiveUntil(b"\n") == b"<2>\n"
    peer.send(b"3\n")
    assert await peer.receiveUntil(b"\n") == b"<3>\n"


@pytest_twisted.ensureDeferred
async def test_anAppMayBeginToRegulateBetweenTwoTurns(
    listening: Listen, connected: Connect
) -> None:
    clock = Clock()
    apps = Apps()
    peer = await connected(listening(sheltered(apps, clock, framing="line", stallTimeout=0)))
    peer.send(b"x\n" * 2 * TURN)
    await until(lambda: timers(clock), "the first turn is over")
    [app] = apps.apps
    app.transport.write(BIG)
    app.transport.registerProducer(Pusher(app.transport), True)
    app.transport.unregisterProducer()
    assert len(app.messages) == TURN
    clock.advance(0)
    assert len(app.messages) == 2 * TURN
    assert timers(clock) == []
    replies = b"<x>\n" * TURN
    assert await peer.receive(2 * len(replies) + len(BIG) + 1) == replies + BIG + b"\n" + replies


@pytest_twisted.ensureDeferred
async def test_anAppMayStopRegulatingAfterItHasClosed(
    listening: Listen, connected: Connect
) -> None:
    def respond(app: App, message: bytes) -> None:
        transport = app.transport
        transport.registerProducer(Pusher(transport), True)
        transport.loseConnection()
        transport.write(b"the last words")
        transport.unregisterProducer()
        transport.write(b"too late")

    clock = Clock()
    peer = await connected(listening(sheltered(Apps(respond), clock, framing="line")))
    peer.send(b"1\n")
    assert await peer.rest() == b"the last words\n"
    await until(lambda: not timers(clock), "the session is closed")


@pytest.mark.parametrize("peerHalfCloses", [False, True])
@pytest_twisted.ensureDeferred
async def test_closingWaitsForAProducerThatHasNothingToSayYet(
    listening: Listen, connected: Connect, peerHalfCloses: bool
) -> None:
    def respond(app: App, message: bytes) -> None:
        app.transport.registerProducer(Pusher(app.transport), True)
        app.transport.loseConnection()

    clock = Clock()
    apps = Apps(respond)
    sessions = sheltered(apps, clock, framing="line")
    peer = await connected(listening(sessions))
    peer.send(b"1\n")
    await until(lambda: timers(clock), "the app has left")
    if peerHalfCloses:
        peer.halfClose()
        await until(lambda: next(iter(sessions.sessions))._ended, "the peer has half-closed")
    await turns(5)
    [app] = apps.apps
    app.transport.write(b"the last words")
    app.transport.unregisterProducer()
    assert await peer.rest() == b"the last words\n"
    await until(lambda: not timers(clock), "the session is closed")


@pytest_twisted.ensureDeferred
async def test_aWebSiteIsHostedUnderRaw(listening: Listen, connected: Connect) -> None:
    class Page(Resource):
        def render_GET(self, request: Any) -> bytes:
            return BIG if request.path == b"/big" else b"small"

    root = Resource()
    root.putChild(b"big", Page())
    root.putChild(b"small", Page())
    site = Site(root)
    site.noisy = False
    sessions = sheltered(site, framing="raw")
    peer = await connected(listening(sessions))
    for path in (b"small", b"big", b"small"):
        peer.send(b"GET /%b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
    peer.send(b"GET /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    for body in (b"small", BIG, b"small", b"small"):
        head = await peer.receiveUntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert await peer.receive(len(body)) == body
    assert await peer.rest() == b""
    await until(lambda: not sessions.sessions, "the session is closed")
