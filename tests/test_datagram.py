"""
Tests for L{sockapps.datagram}, on real sockets.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from sockapps.datagram import MAX_DATAGRAM, MAX_WAITING
from sockapps.datagrams import DatagramSessions, withoutLineEnd
from sockapps.interfaces import IAccountable, IDatagramApp, IDatagramTransport
from sockapps.options import DatagramOptions
from tests.conftest import LoggedErrors
from tests.sockets import (
    App,
    Apps,
    DatagramPeer,
    Listen,
    Speak,
    answer,
    until,
)


@implementer(IDatagramApp)
class Shared(Apps):
    """Apps whose messages stand alone."""

    standsAlone = True
    wholeDatagrams = False


@implementer(IDatagramApp)
class Whole(Apps):
    """Apps that are given line ends too."""

    standsAlone = False
    wholeDatagrams = True


def sheltered(apps: Apps, clock: Clock | None = None, **options: Any) -> DatagramSessions:
    """Put datagram sessions around apps."""
    return DatagramSessions(apps, DatagramOptions(**options), clock or Clock())


async def say(peer: DatagramPeer, message: bytes) -> bytes:
    """Send one datagram, and wait for one."""
    peer.send(message)
    return await peer.receive()


@pytest.mark.parametrize("kind", [Shared, Whole])
@pytest_twisted.ensureDeferred
async def test_aFactoryThatFailsHarmsNobodyElse(
    listening: Listen, speaking: Speak, loggedErrors: LoggedErrors, kind: type[Apps]
) -> None:
    apps = kind(answer)
    sessions = sheltered(apps)
    peer = speaking(listening(sessions))
    build = apps.buildProtocol

    def failing(addr: Any) -> None:
        apps.buildProtocol = build  # type: ignore[method-assign]
        raise ValueError("the factory is at fault")

    apps.buildProtocol = failing  # type: ignore[method-assign,assignment]
    peer.send(b"1")
    assert await say(peer, b"2") == b"<2>"
    assert len(loggedErrors.take(ValueError)) == 1
    assert sessions.counts.opened == 1


@pytest_twisted.ensureDeferred
async def test_anAppOfAllPeersThatFailsIsBegunAnew(
    listening: Listen, speaking: Speak, loggedErrors: LoggedErrors
) -> None:
    def onMessage(app: App, message: bytes) -> None:
        if message == b"bad":
            raise ValueError("the app is at fault")
        app.transport.write(message)

    apps = Shared(onMessage)
    peer = speaking(listening(sheltered(apps)))
    assert await say(peer, b"1") == b"1"
    peer.send(b"bad")
    assert await say(peer, b"2") == b"2"
    assert len(apps.apps) == 2
    assert len(loggedErrors.take(ValueError)) == 1


@pytest.mark.parametrize("interface", ["127.0.0.1", "::1"])
@pytest_twisted.ensureDeferred
async def test_eachPeerHasAnAppOfItsOwn(listening: Listen, speaking: Speak, interface: str) -> None:
    if interface == "::1" and not hasIPv6():
        pytest.skip("this machine has no IPv6 loopback")
    apps = Apps(lambda app, _: app.transport.writeSequence([b"%d" % len(app.messages), b"!"]))
    sessions = sheltered(apps)
    port = listening(sessions, interface)
    one, other = speaking(port), speaking(port)
    assert [await say(one, b"a"), await say(one, b"b"), await say(other, b"c")] == [
        b"1!",
        b"2!",
        b"1!",
    ]
    transport = apps.apps[0].transport
    own = one.transport.getHost()
    address = (IPv6Address if interface == "::1" else IPv4Address)("UDP", interface, own.port)
    assert (transport.getPeer(), transport.getHost()) == (address, port.getHost())
    for interface_ in (IAccountable, IDatagramTransport, IPushProducer):
        verifyObject(interface_, transport)
    assert (len(sessions.sessions), sessions.logPrefix()) == (2, "Apps")


def hasIPv6() -> bool:
    """Tell whether there is an IPv6 loopback."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest_twisted.ensureDeferred
async def test_anAppWhoseMessagesStandAloneIsOneForAllPeers(
    listening: Listen, speaking: Speak
) -> None:
    def leave(app: App, message: bytes) -> None:
        answer(app, message)
        app.transport.loseConnection()

    apps = Shared(leave)
    sessions = sheltered(apps)
    port = listening(sessions)
    one, other = speaking(port), speaking(port)
    assert [await say(one, b"a"), await say(other, b"b"), await say(one, b"c")] == [
        b"<a>",
        b"<b>",
        b"<c>",
    ]
    assert (len(apps.apps), apps.apps[0].lost, len(sessions.sessions)) == (1, [], 0)


@pytest_twisted.ensureDeferred
async def test_aSharedAppThatPausesAnswersEachPeerItsOwn(
    listening: Listen, speaking: Speak
) -> None:
    apps = Shared(lambda app, _: app.transport.pauseProducing())
    sessions = sheltered(apps)
    port = listening(sessions)
    one, other = speaking(port), speaking(port)
    one.send(b"1")
    await until(lambda: apps.apps and apps.apps[0].messages, "the first came")
    [app] = apps.apps
    other.send(b"2")
    await until(lambda: sessions._shared and sessions._shared._waiting, "the second waits")
    answer(app, b"1")
    app.transport.resumeProducing()
    answer(app, b"2")
    assert [await one.receive(), await other.receive()] == [b"<1>", b"<2>"]


def pauseAndAnswer(app: App, message: bytes) -> None:
    """Pause and resume around an answer, as an app does whose Deferred had fired already."""
    app.depth = getattr(app, "depth", 0) + 1  # type: ignore[attr-defined]
    assert app.depth == 1, "an app is given one message at a time"  # type: ignore[attr-defined]
    app.transport.pauseProducing()
    answer(app, message)
    app.transport.resumeProducing()
    app.depth -= 1  # type: ignore[attr-defined]


@pytest_twisted.ensureDeferred
async def test_messagesWaitInOrderWhileAnAppPausesAndTooManyAreDropped(
    listening: Listen, speaking: Speak
) -> None:
    apps = Apps(pauseAndAnswer, lambda app: app.transport.pauseProducing())
    sessions = sheltered(apps)
    peer = speaking(listening(sessions))
    for number in range(MAX_WAITING + 3):
        peer.send(b"%d" % number)
    await until(lambda: sessions.counts.dropped["queue"] == 3, "all came")
    [app] = apps.apps
    assert app.messages == []
    app.transport.resumeProducing()
    expected = [b"<%d>" % number for number in range(MAX_WAITING)]
    assert [await peer.receive() for _ in expected] == expected
    assert await say(peer, b"more") == b"<more>"


@pytest_twisted.ensureDeferred
async def test_anAppMayPauseAgainWhileMessagesWait(listening: Listen, speaking: Speak) -> None:
    def pause(app: App, message: bytes) -> None:
        app.transport.pauseProducing()
        answer(app, message)

    apps = Apps(pause)
    sessions = sheltered(apps)
    peer = speaking(listening(sessions))
    for number in range(3):
        peer.send(b"%d" % number)
    for number in range(3):
        assert await peer.receive() == b"<%d>" % number
        [app] = apps.apps
        await until(lambda: app.messages, "the message is noted")  # noqa: B023
        assert len(app.messages) == number + 1
        app.transport.resumeProducing()


@pytest_twisted.ensureDeferred
async def test_theLongestSilentConversationMakesRoom(listening: Listen, speaking: Speak) -> None:
    apps = Apps()
    sessions = sheltered(apps, maxPeers=2)
    port = listening(sessions)
    one, two, three = speaking(port), speaking(port), speaking(port)
    for peer in (one, two, one, three):
        await say(peer, b"hello")
    assert [[type(why) for why in app.lost] for app in apps.apps] == [[], [ConnectionDone], []]
    assert len(sessions.sessions) == 2


@pytest_twisted.ensureDeferred
async def test_aSilentConversationEnds(listening: Listen, speaking: Speak) -> None:
    clock = Clock()
    apps = Apps()
    sessions = sheltered(apps, clock, peerTimeout=0.3)
    port = listening(sessions)
    one, two = speaking(port), speaking(port)
    await say(one, b"a")
    clock.advance(0.1)
    await say(two, b"a")
    clock.advance(0.1)
    await say(one, b"a")
    clock.advance(0.1)
    assert [len(app.lost) for app in apps.apps] == [0, 0]
    clock.advance(0.1)
    assert [len(app.lost) for app in apps.apps] == [0, 1]
    clock.advance(0.1)
    clock.advance(0.001)
    assert [len(app.lost) for app in apps.apps] == [1, 1]
    assert clock.getDelayedCalls() == []
    await say(one, b"anew")
    assert (len(apps.apps), len(clock.getDelayedCalls())) == (3, 1)


@pytest_twisted.ensureDeferred
async def test_aConversationThatAnAppEndsBeginsAnew(listening: Listen, speaking: Speak) -> None:
    def leave(app: App, message: bytes) -> None:
        answer(app, message)
        app.transport.loseConnection()
        app.transport.write(b"too late")
        app.transport.abortConnection()

    apps = Apps(leave)
    sessions = sheltered(apps)
    peer = speaking(listening(sessions))
    assert [await say(peer, b"1"), await say(peer, b"2")] == [b"<1>", b"<2>"]
    assert [(app.messages, len(app.lost)) for app in apps.apps] == [([b"1"], 1), ([b"2"], 1)]
    assert len(sessions.sessions) == 0


@pytest_twisted.ensureDeferred
async def test_anAppThatEndsAtTheBeginningIsGivenNothing(
    listening: Listen, speaking: Speak
) -> None:
    apps = Apps(onMade=lambda app: (app.transport.write(b"no"), app.transport.loseConnection()))
    peer = speaking(listening(sheltered(apps)))
    assert [await say(peer, b"1"), await say(peer, b"2")] == [b"no", b"no"]
    assert [(app.messages, len(app.lost)) for app in apps.apps] == [([], 1), ([], 1)]


@pytest.mark.parametrize(
    ("datagram", "message"),
    [(b"a\n", b"a"), (b"a\r\n", b"a"), (b"a\n\n", b"a\n"), (b"a\r", b"a\r"), (b"\n", b"")],
)
@pytest.mark.parametrize("kind", [Apps, Shared, Whole])
@pytest_twisted.ensureDeferred
async def test_oneTrailingLineEndIsKeptApartUnlessTheAppWantsIt(
    listening: Listen, speaking: Speak, kind: type[Apps], datagram: bytes, message: bytes
) -> None:
    expected = datagram if kind is Whole else message
    assert await say(speaking(listening(sheltered(kind()))), datagram) == b"<%b>" % expected
    assert withoutLineEnd(datagram) == message


@pytest_twisted.ensureDeferred
async def test_anEmptyDatagramIsNoMessage(listening: Listen, speaking: Speak) -> None:
    apps = Apps()
    peer = speaking(listening(sheltered(apps)))
    peer.send(b"")
    assert await say(peer, b"a") == b"<a>"
    assert apps.apps[0].messages == [b"a"]


@pytest_twisted.ensureDeferred
async def test_whatADatagramCannotCarryIsAShortError(listening: Listen, speaking: Speak) -> None:
    peer = speaking(listening(sheltered(Apps())))
    assert len(await say(peer, b"x" * (MAX_DATAGRAM - 2))) == MAX_DATAGRAM
    error = b"[error: the reply is longer than a datagram]"
    assert await say(peer, b"x" * (MAX_DATAGRAM - 1)) == error
    assert await say(peer, b"x" * MAX_DATAGRAM) == error


@pytest.mark.parametrize("kind", [Apps, Shared])
@pytest_twisted.ensureDeferred
async def test_aReplyThatTheNetworkDoesNotTakeIsCountedAndNotLogged(
    listening: Listen, speaking: Speak, kind: type[Apps]
) -> None:
    sessions = sheltered(kind())
    port = listening(sessions)
    sessions.datagramReceived(b"forged", ("127.255.255.255", 60000))  # loopback's broadcast
    assert (sessions.counts.unsent, sessions.open()[0].sent) == (1, 0)
    assert await say(speaking(port), b"a") == b"<a>"


@pytest.mark.parametrize("kind", [Apps, Shared])
@pytest.mark.parametrize("when", ["beginning", "message", "end"])
@pytest_twisted.ensureDeferred
async def test_anAppThatFailsIsLoggedAndBegunAnewAndCostsNobodyElseAnything(
    listening: Listen,
    speaking: Speak,
    loggedErrors: LoggedErrors,
    kind: type[Apps],
    when: str,
) -> None:
    def fail(app: App, *_: object) -> None:
        raise ValueError("the app is at fault")

    apps = kind()
    sessions = sheltered(apps)
    port = listening(sessions)
    one, other = speaking(port), speaking(port)
    if kind is Apps:
        assert await say(other, b"a") == b"<a>"
    if when == "beginning":
        apps.onMade = fail
        one.send(b"1")
    elif when == "message":
        apps.onMessage = fail
        one.send(b"1")
    else:
        assert await say(one, b"1") == b"<1>"
        apps.apps[-1].connectionLost = fail  # type: ignore[method-assign]
        apps.apps[-1].transport.cut("operator")
    await until(lambda: loggedErrors, "it is logged")
    assert len(loggedErrors.take(ValueError)) == 1
    assert len(sessions.sessions) == (kind is Apps)
    apps.onMade, apps.onMessage = (lambda app: None), answer
    assert [await say(one, b"2"), await say(other, b"3")] == [b"<2>", b"<3>"]
    assert len(apps.apps) == (3 if kind is Apps else 2)


@pytest_twisted.ensureDeferred
async def test_aFactoryThatWantsNoPeerHasNone(listening: Listen, speaking: Speak) -> None:
    apps = Apps()
    build = apps.buildProtocol
    refused: list[Any] = []
    apps.buildProtocol = refused.append  # type: ignore[method-assign,assignment]
    sessions = sheltered(apps)
    peer = speaking(listening(sessions))
    peer.send(b"a")
    await until(lambda: refused, "it was refused")
    own = peer.transport.getHost()
    assert refused == [IPv4Address("UDP", "127.0.0.1", own.port)]
    assert len(sessions.sessions) == 0
    apps.buildProtocol = build  # type: ignore[method-assign]
    assert await say(peer, b"b") == b"<b>"


@pytest.mark.parametrize("kind", [Apps, Shared])
@pytest_twisted.ensureDeferred
async def test_stoppingToListenEndsConversationsAndListeningAgainBeginsNewOnes(
    listening: Listen, speaking: Speak, kind: type[Apps]
) -> None:
    clock = Clock()
    apps = kind()
    sessions = sheltered(apps, clock)
    port = listening(sessions)
    host = port.getHost()
    assert await say(speaking(port), b"a") == b"<a>"
    [app] = apps.apps
    assert apps.numPorts == 1
    await port.stopListening()
    assert (len(app.lost), len(sessions.sessions), apps.numPorts) == (1, 0, 0)
    assert clock.getDelayedCalls() == []
    app.transport.write(b"late")
    app.transport.resumeProducing()
    assert app.transport.getHost() == host
    assert await say(speaking(listening(sessions)), b"b") == b"<b>"
    assert len(apps.apps) == 2


@pytest.mark.parametrize("option", [{"maxPeers": 0}, {"peerTimeout": 0}])
def test_optionsThatMakeNoSenseAreRefused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        DatagramOptions(**option)
