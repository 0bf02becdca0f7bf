"""
Tests for a datagram port that many datagrams come to at once, on real sockets.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from errno import ENOSYS, EPERM
from typing import Any

import pytest
from twisted.internet import udp
from twisted.internet.task import Clock
from zope.interface import implementer

from sockapps import datagrams
from sockapps.datagrams import CROWD, PACKETS, DatagramSessions
from sockapps.interfaces import IDatagramApp
from sockapps.options import DatagramOptions
from sockapps.reactor import LeanUDPPort
from sockapps.recvmmsg import Receiver
from tests.sockets import App, Apps, answer

AT_ONCE = sys.platform == "linux"
"""Whether this system has a way to take many datagrams at once."""


@implementer(IDatagramApp)
class Shared(Apps):
    """Apps whose messages stand alone."""

    standsAlone = True
    wholeDatagrams = False


class Crowd:
    """
    A port whose turns a test takes by hand, and peers with blocking sockets.

    @ivar calls: How many times more than one datagram was asked for at once.
    """

    def __init__(self, apps: Apps, kind: Any, host: str) -> None:
        self.sessions = DatagramSessions(apps, DatagramOptions(), Clock())
        self.kind = kind
        self.calls = 0
        self.peers: list[socket.socket] = []
        self.listen(host)

    def listen(self, host: str) -> None:
        """Listen, where it did not before."""
        from twisted.internet import reactor

        self.port = self.kind(0, self.sessions, host, 65536, reactor)
        self.port.startListening()
        self.port.stopReading()

    def send(self, *messages: bytes, peers: int = 1) -> None:
        """Have each of some peers send all messages, in turns."""
        where = self.port.getHost()
        while len(self.peers) < peers:
            family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
            peer = socket.socket(family, socket.SOCK_DGRAM)
            peer.settimeout(5)
            peer.connect((where.host, where.port))
            self.peers.append(peer)
        for message in messages:
            for peer in self.peers[:peers]:
                peer.send(message)

    def turn(self) -> None:
        """Have the port take its turn."""
        self.port.doRead()

    def messages(self) -> int:
        """Say how many messages the apps were given."""
        now = sum(session.messages for session in self.sessions.open())
        return self.sessions.counts.messages + now

    def heard(self, count: int, peer: int = 0) -> list[bytes]:
        """Say what a peer hears next."""
        return [self.peers[peer].recv(65536) for _ in range(count)]

    def end(self) -> None:
        """Close everything."""
        for peer in self.peers:
            peer.close()
        if self.port.connected:
            self.port.connectionLost()


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Crowd]]:
    """Make a L{Crowd}, that ends with the test."""
    made: list[Crowd] = []

    class Counting(Receiver):
        def __call__(self, fd: int) -> Any:
            made[-1].calls += 1
            return super().__call__(fd)

    def make(apps: Apps | None = None, kind: Any = LeanUDPPort, host: str = "127.0.0.1") -> Crowd:
        made.append(Crowd(apps or Shared(), kind, host))
        return made[-1]

    monkeypatch.setattr(datagrams, "Receiver", Counting)
    yield make
    for each in made:
        each.end()


@pytest.mark.skipif(not AT_ONCE, reason="it is Linux's recvmmsg(2)")
def test_afterManyTheNextAreTakenAtOnceAndAfterFewOneByOne(crowd: Callable[..., Crowd]) -> None:
    ours = crowd()
    for count, calls in [
        *((CROWD - 1, 0), (CROWD, 0)),
        *((CROWD, 1), (1, 2)),  # taken at once
        *((CROWD, 2), (0, 3), (1, 3)),
    ]:
        ours.send(*[b"%d" % each for each in range(count)])
        ours.turn()
        assert ours.heard(count) == [b"<%d>" % each for each in range(count)]
        assert ours.calls == calls


@pytest.mark.parametrize("apps", [Apps, Shared])
@pytest.mark.parametrize("kind", [udp.Port, LeanUDPPort])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_eachOfManyIsAnsweredInOrder(
    crowd: Callable[..., Crowd], apps: type[Apps], kind: Any, host: str
) -> None:
    ours = crowd(apps(), kind, host)
    for _ in range(3):
        ours.send(b"a", b"", b"b\r\n", b"c\n", b"e", peers=10)
        ours.send(b"x" * 20000, peers=2)
        ours.turn()
        for peer in range(10):
            assert ours.heard(4, peer) == [b"<a>", b"<b>", b"<c>", b"<e>"]
        for peer in range(2):
            assert ours.heard(1, peer) == [b"<" + b"x" * 20000 + b">"]
    assert ours.calls == 2 * AT_ONCE
    assert (ours.messages(), ours.sessions.counts.dropped["empty"]) == (3 * 42, 3 * 10)


def test_aTurnHasNoMoreThanSome(crowd: Callable[..., Crowd]) -> None:
    ours = crowd()
    ours.send(*[b"%d" % each for each in range(2 * PACKETS + 3)])
    for count in (PACKETS, PACKETS, 3):
        before = ours.messages()
        ours.turn()
        assert ours.messages() - before == count
    assert ours.heard(2 * PACKETS + 3)[-1] == b"<%d>" % (2 * PACKETS + 2)


@pytest.mark.parametrize("many", [False, True])
def test_anAppThatFailsOnOneOfManyCostsTheOthersNothing(
    crowd: Callable[..., Crowd], loggedErrors: Any, many: bool
) -> None:
    def reply(app: App, message: bytes) -> None:
        if message == b"bad":
            raise RuntimeError("on purpose")
        answer(app, message)

    ours = crowd(Shared(onMessage=reply))
    ours.send(*[b"x"] * (CROWD * many))
    ours.turn()
    ours.heard(CROWD * many)
    ours.send(b"a", b"bad", b"b", b"bad", b"c")
    ours.turn()
    assert ours.heard(3) == [b"<a>", b"<b>", b"<c>"]
    assert ours.calls == (many and AT_ONCE)
    assert len(loggedErrors.take(RuntimeError)) == 2


@pytest.mark.parametrize("apps", [Apps, Shared])
@pytest.mark.parametrize("many", [False, True])
def test_whatCameWithTheOneThatClosedThePortIsNotDelivered(
    crowd: Callable[..., Crowd], apps: type[Apps], many: bool
) -> None:
    def reply(app: App, message: bytes) -> None:
        if message == b"close":
            ours.port.connectionLost()
        else:
            answer(app, message)

    ours = crowd(apps(onMessage=reply))
    ours.send(*[b"x"] * (CROWD * many))
    ours.turn()
    ours.heard(CROWD * many)
    ours.send(b"a", b"close", b"b", b"c")
    ours.turn()
    [app] = ours.sessions.appFactory.apps  # type: ignore[attr-defined]
    assert app.messages[-2:] == [b"a", b"close"]
    assert len(app.lost) == 1
    assert (ours.heard(1), ours.sessions.open()) == ([b"<a>"], [])
    assert ours.calls == (many and AT_ONCE)


@pytest.mark.parametrize("apps", [Apps, Shared])
@pytest.mark.parametrize("many", [False, True])
def test_whereAnAppTurnsTheReactorNothingIsOvertaken(
    crowd: Callable[..., Crowd], apps: type[Apps], many: bool
) -> None:
    heard: list[bytes] = []

    def reply(app: App, message: bytes) -> None:
        heard.append(message)
        if message == b"1":
            ours.send(b"4")
            ours.turn()
            ours.turn()
            assert heard[-1] == b"4"
        answer(app, message)

    ours = crowd(apps(onMessage=reply))
    ours.send(*[b"x"] * (CROWD * many))
    ours.turn()
    ours.heard(CROWD * many)
    heard.clear()
    ours.send(b"0", b"1", b"2", b"3")
    ours.turn()
    assert heard == [b"0", b"1", b"2", b"3", b"4"]
    assert sorted(ours.heard(5)) == [b"<0>", b"<1>", b"<2>", b"<3>", b"<4>"]


@pytest.mark.parametrize("many", [False, True])
def test_aRefusalThatASocketTellsOfEndsATurnAndNothingElse(
    crowd: Callable[..., Crowd], many: bool
) -> None:
    ours = crowd()
    ours.send(*[b"x"] * (CROWD if many else 1))
    ours.turn()
    ours.heard(CROWD if many else 1)
    with socket.socket(type=socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        nobody = gone.getsockname()
    ours.port.getHandle().connect(nobody)
    ours.port.getHandle().send(b"anybody there?")
    ours.turn()
    ours.port.getHandle().connect(ours.peers[0].getsockname())
    ours.send(b"hi")
    ours.turn()
    assert ours.heard(1) == [b"<hi>"]


@pytest.mark.parametrize("many", [False, True])
def test_whatIsWrongWithASocketTheReactorIsTold(crowd: Callable[..., Crowd], many: bool) -> None:
    ours = crowd()
    ours.send(*[b"x"] * (CROWD * many))
    ours.turn()
    os.close(ours.port.getHandle().detach())
    with pytest.raises(OSError, match="Bad file descriptor"):
        ours.turn()


def test_whoListensAgainBeginsAnew(crowd: Callable[..., Crowd]) -> None:
    def reply(app: App, message: bytes) -> None:
        if message == b"close":
            ours.port.connectionLost()
            ours.listen("::1")
        answer(app, message)

    ours = crowd(Shared(onMessage=reply))
    ours.send(*[b"x"] * CROWD)
    ours.turn()
    ours.send(b"a", b"close", b"b", b"c")
    ours.turn()
    while ours.peers:
        ours.peers.pop().close()
    for _ in range(3):
        ours.send(*[b"y"] * CROWD, peers=2)
        ours.turn()
        assert ours.heard(CROWD) == ours.heard(CROWD, 1) == [b"<y>"] * CROWD
    before, after = ours.sessions.appFactory.apps  # type: ignore[attr-defined]
    assert before.messages == [b"x"] * CROWD + [b"a", b"close"]
    assert after.messages == [b"y"] * 6 * CROWD


@pytest.mark.parametrize("errno", [EPERM, ENOSYS])
def test_aSystemThatForbidsTheCallIsServedAsWell(
    crowd: Callable[..., Crowd], monkeypatch: pytest.MonkeyPatch, errno: int
) -> None:
    ours = crowd()

    class Refusing(Receiver):
        def __call__(self, fd: int) -> Any:
            ours.calls += 1
            raise OSError(errno, "on purpose")

    monkeypatch.setattr(datagrams, "Receiver", Refusing)
    for calls in (0, AT_ONCE, 2 * AT_ONCE):
        ours.send(*[b"%d" % each for each in range(CROWD)])
        ours.turn()
        assert ours.heard(CROWD) == [b"<%d>" % each for each in range(CROWD)]
        assert ours.calls == calls


def test_anotherSystemIsServedAsWell(
    crowd: Callable[..., Crowd], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = crowd()
    monkeypatch.setattr(sys, "platform", "freebsd14")
    for _ in range(3):
        ours.send(*[b"%d" % each for each in range(CROWD)])
        ours.turn()
        assert ours.heard(CROWD) == [b"<%d>" % each for each in range(CROWD)]
    assert ours.calls == 0
