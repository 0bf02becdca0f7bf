"""
The wire contract, row by row, on real sockets: what C{twistd} runs, and the tutorials' own clients.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from sockapps.registry import findApps
from sockapps.settings import serviceSettings
from tests.certificates import makeCertificate
from tests.peers import (
    PASSWORD,
    UDP,
    inThread,
    plainSocket,
    serving,
    tutorialClient,
    tutorialVisitor,
)
from tests.sockets import Connect, Speak

CTIME = rb"[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}"
NAME = f"{{'张三': '{PASSWORD}'}}".encode()
YES, NO = "登录成功!".encode(), "用户名或密码错误!".encode()

# What a session is asked, and the regular expression or the bytes of the answer.
Exchange = tuple[bytes, bytes | re.Pattern[bytes]]
SESSIONS: dict[str, list[Exchange]] = {
    "command": [
        (b"date", re.compile(rb"\[%b\] date" % CTIME)),
        (b"os", f"[{os.name}]".encode()),
        (b"ls", b"[.]"),
        (b"ls folder", b"[['a', 'b']]"),
        (b"ls /folder", b"[['a', 'b']]"),
        (b"ls nowhere", b"[error: no such folder]"),
        (b"who are you", b"welcome"),
        (b"date ", b"welcome"),
    ],
    "echo": [
        (b"hello", b"Echo=>hello"),
        (b"\xff\x00 \xe4\xbd\xa0", b"Echo=>\xff\x00 \xe4\xbd\xa0"),
    ],
    "login": [
        (NAME, YES),
        (b"{'\xe5\xbc\xa0\xe4\xb8\x89': '123'}", NO),
        (f'{{"username": "张三", "password": "{PASSWORD}"}}'.encode(), YES),
        (b"__import__('os').abort()", NO),
    ],
    "upper-tcp": [
        (b"hello", b"HELLO"),
        ("grüße".encode(), "GRÜSSE".encode()),
        (b"\xe4a", b"\xe4A"),
    ],
}
VISITS: dict[str, list[Exchange]] = {
    "upper-once": [(b"hello", b"HELLO"), ("ß".encode(), b"SS")],
    "gate": [
        (b"1", b"welcome to server!"),
        (b"2", b"please go out!"),
        (b"11", b"please go out!"),
        (b" 1", b"please go out!"),
    ],
    "hello": [(b"anybody there?", b"hi"), (b"x", b"hi")],
}
DATAGRAMS: dict[str, list[Exchange]] = {
    "upper": [
        (b"hello", b"HELLO"),
        (b"hello\n", b"HELLO\n"),
        (b"hello\r\n", b"HELLO\r\n"),
        ("é".encode(), "É".encode()),
        ("aß".encode(), "Aß".encode()),
        ("aΐ".encode(), "Aΐ".encode()),
    ],
    "hello-udp": [(b"anybody there?", b"hi"), (b"xy", b"hi"), (b"x\n", b"hi")],
    "chat": [
        (b"hello", b"Nobody is on duty; your message is kept."),
        (b"you sb!", b"you alexsb!"),
        (b"you sb!\n", b"you alexsb!"),
    ],
}
ENDPOINTS = {
    "command": ("tcp", 21560),
    "echo": ("tcp", 50007),
    "login": ("tcp", 8083),
    "upper": ("udp", 12000),
    "upper-tcp": ("tcp", 5000),
    "upper-once": ("tcp", 12000),
    "gate": ("tcp", 8001),
    "hello": ("tcp", 8898),
    "hello-udp": ("udp", 9000),
    "chat": ("udp", 8086),
}
APPS = sorted(ENDPOINTS)
ALL: dict[str, list[Exchange]] = {**SESSIONS, **VISITS, **DATAGRAMS}


def matches(reply: bytes, expected: bytes | re.Pattern[bytes]) -> bool:
    return (
        bool(expected.fullmatch(reply)) if isinstance(expected, re.Pattern) else reply == expected
    )


def optionsOf(name: str, root: Path) -> dict[str, Any]:
    if name != "command":
        return {}
    (root / "folder").mkdir()
    for file in ("b", "a"):
        (root / "folder" / file).touch()
    return {"root": str(root)}


def test_everyRowOfTheTableIsAnApp() -> None:
    assert sorted(findApps()) == APPS == sorted(ALL)


@pytest.mark.parametrize("name", APPS)
def test_anAppListensOnLoopbackByDefaultWhereTheContractSays(name: str) -> None:
    kind, port = ENDPOINTS[name]
    settings = serviceSettings(name, {})
    assert settings.listen == (f"{kind}:{port}:interface=127.0.0.1",)
    assert (settings.stream.framing, settings.stream.quiet) == ("auto", 0.05)
    assert settings.stream.maxMessage == 16 * 1024


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"], ids=["bare", "LF", "CRLF"])
@pytest.mark.parametrize("name", SESSIONS)
@pytest_twisted.ensureDeferred
async def test_aTutorialClientHasItsSession(name: str, end: bytes, tmp_path: Path) -> None:
    exchanges = SESSIONS[name]
    async with serving(name, **optionsOf(name, tmp_path)) as served:
        messages = [message + end for message, _ in exchanges]
        replies = await inThread(tutorialClient, served.address, messages)
    replyEnd = b"\n" if end else b""
    for reply, (message, expected) in zip(replies, exchanges, strict=True):
        assert reply.endswith(replyEnd), message
        assert matches(reply.removesuffix(replyEnd), expected), (message, reply)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"], ids=["bare", "LF", "CRLF"])
@pytest.mark.parametrize(
    ("name", "message", "expected"),
    [(name, *exchange) for name, exchanges in VISITS.items() for exchange in exchanges],
)
@pytest_twisted.ensureDeferred
async def test_aTutorialVisitorIsAnsweredOnceThenTheServerCloses(
    name: str, message: bytes, expected: bytes, end: bytes
) -> None:
    async with serving(name) as served:
        reply, rest = await inThread(tutorialVisitor, served.address, message + end)
    assert (reply, rest) == (expected + (b"\n" if end else b""), b"")


@pytest.mark.parametrize("name", DATAGRAMS)
@pytest_twisted.ensureDeferred
async def test_aTutorialClientOfDatagramsIsAnswered(name: str) -> None:
    exchanges = DATAGRAMS[name]
    async with serving(name, UDP) as served:
        messages = [message for message, _ in exchanges]
        replies = await inThread(tutorialClient, served.address, messages, "udp")
    assert replies == [reply for _, reply in exchanges]


@pytest_twisted.ensureDeferred
async def test_helloAnswersNoDatagramShorterThanItsGreeting(speaking: Speak) -> None:
    async with serving("hello-udp", UDP) as served:
        peer = speaking(served)
        for datagram in (b"", b"x", b"\n", b"me too"):
            peer.send(datagram)
        assert await peer.receive() == b"hi"
        peer.send(b"again")
        assert await peer.receive() == b"hi"
        assert peer.received == []


FRAMED: dict[str, Callable[[bytes], bytes]] = {
    "line": lambda message: message + b"\n",
    "chunk": lambda message: message,
    "netstring": lambda message: b"%d:%b," % (len(message), message),
    "raw": lambda message: message,
}


@pytest.mark.parametrize("framing", FRAMED)
@pytest.mark.parametrize("name", SESSIONS | VISITS)
@pytest_twisted.ensureDeferred
async def test_eachFramingOfEachStreamApp(
    name: str, framing: str, tmp_path: Path, connected: Connect
) -> None:
    exchanges = [*SESSIONS.get(name, []), *VISITS.get(name, [])[:1]]
    fixed = [(message, reply) for message, reply in exchanges if isinstance(reply, bytes)]
    framed = FRAMED[framing]
    async with serving(name, framing=framing, **optionsOf(name, tmp_path)) as served:
        peer = await connected(served)
        for message, expected in fixed:
            peer.send(framed(message))
            assert await peer.receive(len(framed(expected))) == framed(expected)
        if name in SESSIONS:
            peer.halfClose()
        assert await peer.rest() == b""


@pytest.mark.parametrize("name", [*SESSIONS, *VISITS])
@pytest.mark.parametrize("end", [b"", b"\n"], ids=["bare", "LF"])
@pytest_twisted.ensureDeferred
async def test_whoHalfClosesAfterItsMessageGetsTheReplyThenTheEnd(
    name: str, end: bytes, tmp_path: Path, connected: Connect
) -> None:
    message, expected = ALL[name][-1]
    async with serving(name, **optionsOf(name, tmp_path)) as served:
        peer = await connected(served)
        peer.send(message + end)
        peer.halfClose()
        assert matches((await peer.rest()).removesuffix(end), expected)


@pytest.mark.parametrize("name", SESSIONS)
@pytest_twisted.ensureDeferred
async def test_pipelinedLinesAreAnsweredInOrder(
    name: str, tmp_path: Path, connected: Connect
) -> None:
    exchanges = SESSIONS[name] * (1 if name == "login" else 20)
    async with serving(name, **optionsOf(name, tmp_path)) as served:
        peer = await connected(served)
        peer.send(b"".join(message + b"\n" for message, _ in exchanges)[:-1])
        peer.halfClose()
        replies = (await peer.rest()).split(b"\n")
    assert replies.pop() == b""
    for reply, (message, expected) in zip(replies, exchanges, strict=True):
        assert matches(reply, expected), message


@pytest.mark.parametrize("name", VISITS)
@pytest_twisted.ensureDeferred
async def test_ofPipelinedLinesAVisitorsFirstIsAnswered(name: str, connected: Connect) -> None:
    message, expected = VISITS[name][0]
    async with serving(name) as served:
        peer = await connected(served)
        peer.send(message + b"\n" + message + b"\nmore")
        assert matches((await peer.rest()).removesuffix(b"\n"), expected)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return makeCertificate(tmp_path_factory.mktemp("tls"))


PYOPENSSL = "ignore:Passing pyOpenSSL:DeprecationWarning"  # Twisted's own calls of it


@pytest.mark.filterwarnings(PYOPENSSL)
@pytest.mark.parametrize("kind", ["tcp", "tls", "unix", "udp"])
@pytest.mark.parametrize("name", APPS)
@pytest_twisted.ensureDeferred
async def test_everyAppRunsOnEveryTransport(
    name: str, kind: str, tmp_path: Path, certificate: Path
) -> None:
    message, expected = ALL[name][0]
    listen = {
        "tcp": "tcp:0:interface=127.0.0.1",
        "tls": f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}",
        "unix": f"unix:{tmp_path}/socket",
        "udp": UDP,
    }[kind]
    async with serving(name, listen, **optionsOf(name, tmp_path)) as served:
        [reply] = await inThread(tutorialClient, served.address, [message], kind, certificate)
    assert matches(reply, expected)


def _overTLS(address: Any, certificate: Path, message: bytes) -> bytes:
    with closing(plainSocket("tls", address, certificate)) as client:
        client.send(message)
        return b"".join(iter(lambda: client.recv(1024), b""))


@pytest.mark.filterwarnings(PYOPENSSL)
@pytest.mark.parametrize("name", VISITS)
@pytest_twisted.ensureDeferred
async def test_anAppThatClosesDoesSoOverTLSWithItsReplyDelivered(
    name: str, certificate: Path
) -> None:
    message, expected = VISITS[name][0]
    listen = f"ssl:0:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}"
    async with serving(name, listen) as served:
        assert await inThread(_overTLS, served.address, certificate, message) == expected


def _splitClient(address: Any, pieces: list[bytes], size: int) -> bytes:
    with closing(plainSocket("tcp", address)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.send(piece)
        with client.makefile("rb") as replies:
            return replies.read(size)


@pytest.mark.parametrize("name", ["echo", "upper-tcp"])
@pytest_twisted.ensureDeferred
async def test_linesInAnySegmentsAreAnsweredAlike(name: str) -> None:
    message, expected = SESSIONS[name][0]
    assert isinstance(expected, bytes)
    stream, answers = (message + b"\r\n") * 20, (expected + b"\n") * 20
    async with serving(name) as served:
        for step in (1, 2, 5, len(stream)):
            pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
            assert await inThread(_splitClient, served.address, pieces, len(answers)) == answers
