"""
Tests for L{sockapps.apps.hello} and L{sockapps.apps.echo}: what they do with datagrams.
"""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.peers import TCP, UDP, serving
from tests.sockets import Connect, Speak


@pytest_twisted.ensureDeferred
async def test_overUDPHelloNeverSaysMoreThanItWasTold(speaking: Speak) -> None:
    async with serving("hello-udp", UDP) as served:
        peer = speaking(served)
        for datagram in (b"x", b"\n", b"\xff", b"\0", b"12", b"y", b"\r\n"):
            peer.send(datagram)
        assert [await peer.receive() for _ in range(2)] == [b"hi", b"hi"]
        peer.send(b"the last")
        assert await peer.receive() == b"hi"
        assert peer.received == []


@pytest.mark.parametrize("message", [b"\n", b"x\n", b"\r\n", b"a long message\n"])
@pytest_twisted.ensureDeferred
async def test_onAStreamHelloAnswersWhateverItIsTold(message: bytes, connected: Connect) -> None:
    async with serving("hello-udp", TCP) as served:
        peer = await connected(served)
        peer.send(message)
        assert await peer.rest() == b"hi\n"


@pytest_twisted.ensureDeferred
async def test_overUDPAllPeersHaveTheirOwnEcho(speaking: Speak) -> None:
    async with serving("echo", UDP) as served:
        peers = [speaking(served) for _ in range(5)]
        for number, peer in enumerate(peers):
            peer.send(b"%d\r\n" % number)
        for number, peer in enumerate(peers):
            assert await peer.receive() == b"Echo=>%d" % number
        assert served.sessions == {}
