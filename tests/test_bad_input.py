"""
What a bad peer gets, from every app: an answer or a close, as the wire contract says, while an
honest peer is served and nothing that is logged is an error.
"""

from __future__ import annotations

import gc
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_twisted

from sockapps.apps.upper import upper, upperWithin
from tests.peers import TCP, UDP, Served, logged, serving
from tests.sockets import Connect, DatagramPeer, Peer, Speak, turns, until

# What an honest peer says to each app, and is answered; and whether that was all.
HONEST: dict[str, tuple[bytes, bytes, bool]] = {
    "chat": (b"you sb", b"you alexsb", False),
    "command": (b"os", b"[posix]", False),
    "echo": (b"hello", b"Echo=>hello", False),
    "gate": (b"1", b"welcome to server!", True),
    "hello": (b"hello", b"hi", True),
    "hello-udp": (b"hello", b"hi", True),
    "login": (b"{}", "用户名或密码错误!".encode(), False),
    "upper": (b"hello", b"HELLO", False),
    "upper-once": (b"hello", b"HELLO", True),
    "upper-tcp": (b"hello", b"HELLO", False),
}
CAP = 16 * 1024
TOO_LONG = b"[error: message longer than 16384 bytes]"

everyApp = pytest.mark.parametrize("name", HONEST)


@asynccontextmanager
async def withAnHonestPeer(name: str, connected: Connect, root: Path) -> AsyncIterator[Served]:
    """
    Serve an app while an honest peer is connected, which is answered after all, and see that
    nothing grave is logged.
    """
    message, reply, _ = HONEST[name]
    options = {"root": str(root)} if name == "command" else {}
    with logged() as events:
        async with serving(name, TCP, **options) as served:
            honest = await connected(served)
            yield served
            honest.send(message + b"\n")
            assert await honest.receive(len(reply) + 1) == reply + b"\n"
            honest.close()
            await until(lambda: not served.sessions, "every session ended")
        gc.collect()  # a Deferred that failed with nobody to care logs when it is freed
    assert events.grave == []


def randomMessages(name: str, number: int, longest: int) -> list[bytes]:
    """Random bytes, the same at every run; some of few kinds, so that they mean something."""
    chance = random.Random(f"sockapps {name}")
    kinds = [bytes(range(256)), b"\n\r\0a1", b"{}'\":,\\ux \n", b"ls ./\0\n", b"\xff\xfb\xfa\xf0\n"]
    return [
        bytes(chance.choices(chance.choice(kinds), k=chance.randint(1, longest)))
        for _ in range(number)
    ]


def lines(stream: bytes) -> list[bytes]:
    """Split a stream that begins with no telnet command, as the contract says."""
    unified = stream.replace(b"\r\0\n", b"\r\n").replace(b"\r\0", b"\r\n")
    messages = unified.split(b"\n")
    return [m.removesuffix(b"\r") for m in messages[:-1]] + ([messages[-1]] if messages[-1] else [])


@everyApp
@pytest_twisted.ensureDeferred
async def test_randomBytesAreAnsweredAndTheConnectionEnds(
    name: str, connected: Connect, tmp_path: Path
) -> None:
    async with withAnHonestPeer(name, connected, tmp_path) as served:
        for stream in randomMessages(name, 30, 400):
            peer = await connected(served)
            peer.send(stream)
            peer.halfClose()
            answered = await peer.rest()
            if b"\n" not in stream:
                messages, end = [stream], b""
            else:
                messages, end = lines(stream), b"\n"
            if name == "echo" and b"\xff" not in stream:
                assert answered == b"".join(b"Echo=>" + m + end for m in messages)
            elif name in ("upper", "upper-tcp") and b"\xff" not in stream:
                assert answered == b"".join(upper(m) + end for m in messages)
            elif b"\xff" not in stream:
                assert answered
                assert answered.endswith(end)


@everyApp
@pytest.mark.parametrize("before", [b"", b"\n"], ids=["chunk", "line"])
@pytest_twisted.ensureDeferred
async def test_aGiantMessageIsAnsweredWithOneErrorThenTheClose(
    name: str, before: bytes, connected: Connect, tmp_path: Path
) -> None:
    message, reply, closes = HONEST[name]
    first = message + before if before else b""
    async with withAnHonestPeer(name, connected, tmp_path) as served:
        peer = await connected(served, closesToo=False)
        peer.send(first + b"x" * (1024 * 1024))
        expected = reply + b"\n" if before else b""
        if not (before and closes):
            expected += TOO_LONG + before
        assert await peer.rest() == expected
        peer.send(message + b"\n")  # it is not heard any more
        peer.close()
        await peer.closed
        assert peer.total == len(expected)


@everyApp
@pytest_twisted.ensureDeferred
async def test_aMessageAsLongAsTheCapIsNoGiant(
    name: str, connected: Connect, tmp_path: Path
) -> None:
    async with withAnHonestPeer(name, connected, tmp_path) as served:
        peer = await connected(served)
        peer.send(b"x" * CAP + b"\n")
        peer.halfClose()
        reply = await peer.rest()
        assert reply.endswith(b"\n")
        assert b"longer" not in reply


@everyApp
@pytest_twisted.ensureDeferred
async def test_aMessageByteAtATimeIsOneMessage(
    name: str, connected: Connect, tmp_path: Path
) -> None:
    message, reply, _ = HONEST[name]
    async with withAnHonestPeer(name, connected, tmp_path) as served:
        peer = await connected(served)
        peer.transport.setTcpNoDelay(True)
        for at in range(len(message)):
            peer.send(message[at : at + 1])
            await turns(2)
        peer.send(b"\n")
        peer.halfClose()
        assert await peer.rest() == reply + b"\n"


@everyApp
@pytest_twisted.ensureDeferred
async def test_whoSaysNothingAndHalfClosesIsAnsweredNothing(
    name: str, connected: Connect, tmp_path: Path
) -> None:
    async with withAnHonestPeer(name, connected, tmp_path) as served:
        peer = await connected(served)
        peer.halfClose()
        assert await peer.rest() == b""


@everyApp
@pytest.mark.parametrize("sent", [b"", b"half", b"x\n" * 300 + b"half"], ids=["0", "half", "many"])
@pytest_twisted.ensureDeferred
async def test_aResetInTheMiddleEndsOneSession(
    name: str, sent: bytes, connected: Connect, tmp_path: Path
) -> None:
    async with withAnHonestPeer(name, connected, tmp_path) as served:
        peer = await connected(served)
        await until(lambda: len(served.sessions) == 2, "both are connected")
        peer.pause()
        peer.send(sent)
        await turns(3)
        peer.reset()
        await until(lambda: len(served.sessions) == 1, "its session has ended")


async def _served(peer: DatagramPeer, name: str) -> None:
    message, reply, _ = HONEST[name]
    peer.send(message)
    assert await peer.receive() == reply


@everyApp
@pytest_twisted.ensureDeferred
async def test_badDatagramsAreAnsweredAsTheContractSays(
    name: str, speaking: Speak, tmp_path: Path
) -> None:
    options = {"root": str(tmp_path)} if name == "command" else {}
    with logged() as events:
        async with serving(name, UDP, **options) as served:
            honest = speaking(served)
            for datagram in [b"", *randomMessages(name, 30, 400), b"x" * 65507, b"\0" * 20_000]:
                bad = speaking(served)
                bad.send(datagram)
                silent = len(datagram) < (2 if name in ("hello", "hello-udp") else 1)
                if not silent:
                    reply = await bad.receive()
                    assert reply
                    message = datagram.removesuffix(b"\n")
                    message = message.removesuffix(b"\r") if message != datagram else message
                    if name.startswith("upper"):
                        assert reply == upperWithin(datagram)
                    elif name == "echo" and len(datagram) < 60_000:
                        assert reply == b"Echo=>" + message
                    elif name == "echo":
                        assert reply == b"[error: the reply is longer than a datagram]"
                await _served(honest, name)
                assert bad.received == []
        gc.collect()
    assert events.grave == []


@pytest.mark.parametrize("framing", ["netstring", "chunk", "line"])
@everyApp
@pytest_twisted.ensureDeferred
async def test_inAFixedFramingTooBadInputEndsInAnAnswerOrAClose(
    name: str, framing: str, connected: Connect
) -> None:
    with logged() as events:
        async with serving(name, TCP, framing=framing) as served:
            for stream in randomMessages(f"{name} {framing}", 8, 200):
                peer: Peer = await connected(served)
                peer.send(stream)
                peer.halfClose()
                answered = await peer.rest()
                assert answered or framing == "line" or name == "chat"
                if framing == "netstring":
                    size, colon, rest = answered.partition(b":")
                    assert colon
                    assert rest[int(size) :].startswith(b",")
        gc.collect()
    assert events.grave == []
