"""
Tests for L{sockapps.apps.upper}.
"""

from __future__ import annotations

import random
import sys

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from sockapps.apps.upper import upper, upperWithin
from tests.peers import TCP, UDP, serving
from tests.sockets import Connect, Speak


class UpperTests(SynchronousTestCase):
    """The pure functions."""

    def test_textIsUpperCasedAsTextAndOtherBytesAsASCII(self) -> None:
        for message, reply in [
            (b"", b""),
            (b"Hello, 1", b"HELLO, 1"),
            ("grüße".encode(), "GRÜSSE".encode()),
            ("ﬃ".encode(), b"FFI"),
            (b"\xe4\xf6 latin", b"\xe4\xf6 LATIN"),
            (b"ok \xc3\xa4 \xff", b"OK \xc3\xa4 \xff"),
            (b"\xed\xa0\x80a", b"\xed\xa0\x80A"),  # a surrogate is no UTF-8
        ]:
            assert upper(message) == reply

    def test_whereTheTextWouldGrowOnlyASCIIIsUpperCased(self) -> None:
        assert upper("aΐ".encode()) == "aΐ".upper().encode()
        assert upperWithin("aΐ".encode()) == "Aΐ".encode()
        assert upperWithin("aß".encode()) == "Aß".encode()  # as long in bytes, not in letters

    def test_noCodePointGrowsWithin(self) -> None:
        grown = 0
        for code in range(sys.maxunicode + 1):
            if 0xD800 <= code < 0xE000:
                continue
            message = chr(code).encode()
            reply = upperWithin(message)
            assert len(reply) <= len(message), hex(code)
            grown += len(upper(message)) > len(message)
            assert reply in (upper(message), message.upper())
        assert grown > 100  # the rule was needed

    @given(st.one_of(st.binary(), st.text().map(str.encode)))
    def test_nothingGrowsWithin(self, message: bytes) -> None:
        assert len(upperWithin(message)) <= len(message)

    @given(st.text(st.characters(codec="utf-8")))
    def test_upperIsPythonsOwn(self, text: str) -> None:
        assert upper(text.encode()).decode() == text.upper()


@pytest_twisted.ensureDeferred
async def test_aDatagramIsAnsweredWithNoneLongerWhateverItHolds(speaking: Speak) -> None:
    chance = random.Random("upper")
    growing = "".join(
        c for c in map(chr, range(1, 0xD800)) if len(c.upper().encode()) > len(c.encode())
    )
    async with serving("upper", UDP) as served:
        peer = speaking(served)
        for _ in range(200):
            message = chance.choice(
                [
                    chance.randbytes(chance.randint(1, 300)),
                    chance.choice(growing).encode() * 3 + b"x",
                ]
            )
            peer.send(message)
            reply = await peer.receive()
            assert reply == upperWithin(message)
            assert len(reply) <= len(message)


@pytest.mark.parametrize("name", ["upper-tcp", "upper"])
@pytest_twisted.ensureDeferred
async def test_onAStreamAReplyMayGrow(name: str, connected: Connect) -> None:
    async with serving(name, TCP) as served:
        peer = await connected(served)
        peer.send("ΐ\n".encode())
        assert (await peer.receiveUntil(b"\n")).decode() == "ΐ\n".upper()
