"""
Each app bare, with nothing of ours around it: a Twisted factory that anybody can serve, which then
behaves as the tutorial's server does. The first test is the whole of what that takes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet.endpoints import TCP4ServerEndpoint, serverFromString
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from sockapps.apps.chat import ChatFactory
from sockapps.apps.command import CommandFactory
from sockapps.apps.echo import EchoFactory
from sockapps.apps.gate import GateFactory
from sockapps.apps.hello import HelloFactory
from sockapps.apps.login import LoginFactory
from sockapps.apps.upper import UpperFactory, UpperOnceFactory
from tests.peers import inThread, tutorialClient, tutorialVisitor
from tests.sockets import Connect, Listen, until


@pytest_twisted.ensureDeferred
async def test_anAppIsAFactoryForAnyEndpoint() -> None:
    from twisted.internet import reactor

    port = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(EchoFactory())
    address = ("127.0.0.1", port.getHost().port)
    assert await deferToThread(tutorialClient, address, [b"hello"]) == [b"Echo=>hello"]
    await port.stopListening()


def login() -> LoginFactory:
    return LoginFactory(checkers=[InMemoryUsernamePasswordDatabaseDontUse(alice=b"123")])


YES, NO = "登录成功!".encode(), "用户名或密码错误!".encode()


@pytest.mark.parametrize(
    ("make", "exchanges"),
    [
        (EchoFactory, [(b"hello", b"Echo=>hello"), (b"a\nb\r\n", b"Echo=>a\nb\r\n")]),
        (UpperFactory, [(b"hello", b"HELLO"), ("ß\n".encode(), b"SS\n")]),
        (
            CommandFactory,
            [
                (b"os", f"[{os.name}]".encode()),
                (b"ls", b"[.]"),
                (b"ls sub", b"[['a']]"),
                (b"ls ..", b"[error: no way up from here]"),
                (b"ls sub", b"[['a']]"),
                (b"os\n", b"welcome"),
            ],
        ),
        (login, [(b"{'alice': '123'}", YES), (b"{'alice': '1'}", NO), (b"{'bob': '123'}\n", NO)]),
        (ChatFactory, [(b"you sb\n", b"you alexsb\n"), (b"byebye", b"")]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_anAppWithASession(
    make: Any,
    exchanges: list[tuple[bytes, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from twisted.internet import reactor

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").touch()
    monkeypatch.chdir(tmp_path)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(make())
    address = ("127.0.0.1", port.getHost().port)
    replies = await inThread(tutorialClient, address, [message for message, _ in exchanges])
    assert replies == [reply for _, reply in exchanges]
    await port.stopListening()


@pytest.mark.parametrize(
    ("make", "message", "reply"),
    [
        (UpperOnceFactory, b"hello\n", b"HELLO\n"),
        (HelloFactory, b"x", b"hi"),
        (GateFactory, b"1", b"welcome to server!"),
        (GateFactory, b"1\n", b"please go out!"),
        (GateFactory, b"2", b"please go out!"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_anAppThatAnswersOnceThenCloses(
    make: Any, message: bytes, reply: bytes, listening: Listen
) -> None:
    port = listening(make()).getHost().port
    assert await inThread(tutorialVisitor, ("127.0.0.1", port), message) == (reply, b"")


@pytest_twisted.ensureDeferred
async def test_aGateClosesOnSilence(listening: Listen, connected: Connect) -> None:
    clock = Clock()
    peer = await connected(listening(GateFactory(reactor=clock)))
    await until(clock.getDelayedCalls, "the gate waits")
    clock.advance(5)
    assert await peer.rest() == b""


@pytest_twisted.ensureDeferred
async def test_aLoginClosesAfterThreeFailures(listening: Listen, connected: Connect) -> None:
    peer = await connected(listening(login()))
    for _ in range(3):
        peer.send(b"{'alice': 'x'}")
        assert await peer.receive(len(NO)) == NO
    assert await peer.rest() == b""
