"""
Tests for L{sockapps.framing}: it is pure, so they call it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from sockapps.framing import (
    DEFAULT_MAX_MESSAGE,
    FRAMINGS,
    PIECE,
    AutoFraming,
    ChunkFraming,
    Framing,
    LineFraming,
    NetstringFraming,
    RawFraming,
)

MAX = 12
"""The longest message in these tests."""

BEGINNING = 520
"""Bytes of a telnet command without an end that are held at most."""

IAC, SB, SE, WILL, DO = b"\xff", b"\xfa", b"\xf0", b"\xfb", b"\xfd"
NEGOTIATION = [
    IAC + WILL + b"\x01",
    IAC + DO + b"\xff",
    IAC + b"\xfc\n",
    IAC + b"\xfe\x03",
    IAC + b"\xf1",
    IAC + SB + b"\x18\x00xterm\n" + IAC + SE,
    IAC + SB + IAC + IAC + SE + b"\x01" + IAC + SE,
]

pieces = st.sampled_from(
    [b"\n", b"\r\n", b"\r\0", b"\r\0\n", b"\r", b"\0", b"a", b"xyz", b"y" * MAX]
)
lineStreams = st.lists(pieces | st.binary(max_size=MAX + 3), max_size=12).map(b"".join)
telnetStreams = st.builds(
    lambda commands, rest: b"".join(commands) + rest,
    st.lists(st.sampled_from([*NEGOTIATION, IAC, IAC + SB, IAC + IAC]), max_size=4),
    lineStreams,
)
netstringStreams = st.lists(
    st.binary(max_size=MAX + 1).map(lambda m: b"%d:%b," % (len(m), m))
    | st.sampled_from([b"0:,", b"1:a,", b"1", b"01:a,", b":", b"2:ab;", b"99999999999:"]),
    max_size=8,
).map(b"".join)
cuts = st.lists(st.integers(0, 60), max_size=10)


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut a stream into segments; as a socket does, none is empty."""
    ends = sorted({*(place for place in places if place < len(stream)), len(stream)})
    return [s for s in map(lambda a, b: stream[a:b], [0, *ends], ends) if s]


def take(framing: Framing, segments: Iterable[bytes]) -> tuple[list[bytes], str | None]:
    """Feed segments and the end, the way a session does; nothing unbounded is held meanwhile."""
    messages = []
    for segment in segments:
        messages += framing.feed(segment)
        framing = framing.settled or framing
        assert len(framing._held) <= max(MAX + 12, BEGINNING)  # type: ignore[attr-defined]
    messages += framing.finish()
    fault = framing.fault
    assert fault is None or framing.feed(b"more\n") == framing.finish() == []
    return messages, fault


def bySplitting(stream: bytes) -> tuple[list[bytes], str | None]:
    """Say what the messages of a line stream are, in another way."""
    lines = re.split(rb"\r\0\n?|\r?\n", stream)
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines):
        if len(line) > MAX:
            return lines[:number], f"message longer than {MAX} bytes"
    return lines, None


class LineTests(SynchronousTestCase):
    """A message is the bytes before LF, CRLF or CR NUL."""

    @given(lineStreams, cuts)
    @example(b"x\r\r\0", [3])
    @example(b"x\r\r\0y\r\0\n\n", [2, 3, 4, 7])
    @example(b"x" * MAX + b"\r", [])
    @example(b"x" * MAX + b"\r\n", [MAX, MAX + 1])
    def test_anySegmentationGivesTheMessagesThatSplittingGives(
        self, stream: bytes, places: list[int]
    ) -> None:
        assume(not stream.startswith(IAC))
        assert take(LineFraming(MAX), cut(stream, places)) == bySplitting(stream)

    @given(telnetStreams, cuts)
    @example(IAC + b"\n", [1])
    @example(IAC + SB + b"x" * 300 + b"\n", [258, 259, 260])
    def test_anySegmentationGivesTheSameMessagesBehindNegotiation(
        self, stream: bytes, places: list[int]
    ) -> None:
        whole = take(LineFraming(MAX), cut(stream, []))
        assert take(LineFraming(MAX), cut(stream, places)) == whole

    @given(st.lists(st.sampled_from(NEGOTIATION)), cuts)
    def test_negotiationBeforeTheFirstMessageIsLeftOut(
        self, commands: list[bytes], places: list[int]
    ) -> None:
        segments = cut(b"".join(commands) + b"date\r\0", places)
        assert take(LineFraming(MAX), segments) == ([b"date"], None)

    def test_negotiationAloneIsNoMessage(self) -> None:
        assert take(LineFraming(MAX), NEGOTIATION) == ([], None)

    def test_aDoubledIACIsData(self) -> None:
        assert LineFraming().feed(IAC + IAC + b"x\n") == [IAC + IAC + b"x"]

    def test_negotiationAfterTheFirstByteIsData(self) -> None:
        command = NEGOTIATION[0]
        assert LineFraming().feed(b"a" + command + b"\n") == [b"a" + command]
        framing = LineFraming()
        framing.feed(b"first\n")
        assert framing.feed(command + b"\n") == [command]

    def test_aSubnegotiationWithoutAnEndIsDataAtLast(self) -> None:
        endless = IAC + SB + b"x" * BEGINNING
        framing = LineFraming()
        assert framing.feed(endless + b"\n") == [endless]

    def test_anEmptyLineIsAMessage(self) -> None:
        assert LineFraming().feed(b"\n\r\n\r\x00") == [b"", b"", b""]

    def test_messagesBeforeTheOneThatIsTooLongCount(self) -> None:
        framing = LineFraming(3)
        assert framing.feed(b"abc\nabcd\nabc\n") == [b"abc"]
        assert framing.fault == "message longer than 3 bytes"

    def test_aLineWithoutAnEndIsAFaultWhenItIsTooLong(self) -> None:
        framing = LineFraming(3)
        framing.feed(b"abc")
        assert framing.fault is None
        framing.feed(b"d")
        assert framing.fault == "message longer than 3 bytes"
        assert (framing.feed(b"\nx\n"), framing.finish()) == ([], [])

    def test_aSegmentOfLineEndsIsSplitAtOnceAndNothingIsHeld(self) -> None:
        framing = LineFraming()
        assert framing.feed(b"\r\n" * 32768) == [b""] * 32768
        assert framing.finish() == []

    def test_aReplyIsALine(self) -> None:
        assert LineFraming().frame(b"hi") == b"hi\n"


class ChunkTests(SynchronousTestCase):
    """A message is one segment."""

    def test_aSegmentIsAMessageAsItIs(self) -> None:
        framing = ChunkFraming(MAX)
        assert framing.feed(b"a\r\n\x00") == [b"a\r\n\x00"]
        assert (framing.finish(), framing.frame(b"hi\n")) == ([], b"hi\n")

    def test_aSegmentThatIsTooLongIsAFaultAndNoMessageFollows(self) -> None:
        framing = ChunkFraming(MAX)
        assert framing.feed(b"x" * MAX) == [b"x" * MAX]
        assert framing.feed(b"x" * MAX + b"x") == []
        assert framing.fault == "message longer than 12 bytes"
        assert framing.feed(b"x") == []


class NetstringTests(SynchronousTestCase):
    """A message is one netstring."""

    @given(st.lists(st.binary(max_size=MAX)), cuts)
    def test_whatIsFramedComesBackInAnySegmentation(
        self, messages: list[bytes], places: list[int]
    ) -> None:
        framing = NetstringFraming(MAX)
        segments = cut(b"".join(map(framing.frame, messages)), places)
        assert take(framing, segments) == (messages, None)

    @given(netstringStreams, cuts)
    def test_anySegmentationGivesTheSameMessagesAndFault(
        self, stream: bytes, places: list[int]
    ) -> None:
        whole = take(NetstringFraming(MAX), cut(stream, []))
        assert take(NetstringFraming(MAX), cut(stream, places)) == whole

    def test_faultsSayWhatIsWrong(self) -> None:
        for stream, fault in [
            (b"13:", "message longer than 12 bytes"),
            (b"1:ab", "netstring does not end with a comma"),
            (b"hello", "netstring does not begin with its length"),
            (b"01:a,", "netstring does not begin with its length"),
            (b"12345678901", "netstring does not begin with its length"),
            (b"3:ab", "netstring is not complete"),
            (b"3", "netstring is not complete"),
        ]:
            assert take(NetstringFraming(MAX), [b"1:x,", stream]) == ([b"x"], fault)


class AutoTests(SynchronousTestCase):
    """The peer's first message decides."""

    @given(lineStreams, cuts)
    def test_anLFMakesItLineInAnySegmentation(self, stream: bytes, places: list[int]) -> None:
        assume(b"\n" in stream[:MAX] and not stream.startswith(IAC))
        framing = AutoFraming(MAX)
        assert take(framing, cut(stream, places)) == bySplitting(stream)
        assert isinstance(framing.settled, LineFraming)

    def test_untilItIsDecidedNothingIsAMessageAndRepliesGoOutBare(self) -> None:
        framing = AutoFraming()
        assert (framing.feed(b"da"), framing.feed(b"te")) == ([], [])
        assert framing.settled is None
        assert framing.frame(b"hello") == b"hello"

    def test_quietMakesWhatCameOneMessageAndTheConnectionChunk(self) -> None:
        framing = AutoFraming()
        framing.feed(b"da")
        framing.feed(b"te")
        assert framing.quiet() == [b"date"]
        assert isinstance(framing.settled, ChunkFraming)
        assert framing.feed(b"one\ntwo\n") == [b"one\ntwo\n"]
        assert (framing.frame(b"hi"), framing.finish()) == (b"hi", [])

    def test_quietWithNothingReceivedDecidesNothing(self) -> None:
        framing = AutoFraming()
        assert (framing.quiet(), framing.finish(), framing.settled) == ([], [], None)

    def test_theEndMakesItChunk(self) -> None:
        framing = AutoFraming()
        framing.feed(b"date")
        assert framing.finish() == [b"date"]
        assert isinstance(framing.settled, ChunkFraming)

    def test_anLFMakesItLineToItsEnd(self) -> None:
        framing = AutoFraming()
        assert framing.feed(b"one\ntw") == [b"one"]
        assert (framing.feed(b"o"), framing.frame(b"hi")) == ([], b"hi\n")
        assert framing.finish() == [b"two"]

    def test_negotiationIsToleratedWhereAnLFFollows(self) -> None:
        framing = AutoFraming()
        assert framing.feed(NEGOTIATION[0]) == []
        assert framing.feed(b"date\r\n") == [b"date"]

    def test_tooMuchBeforeItIsDecidedIsAFault(self) -> None:
        framing = AutoFraming(MAX)
        framing.feed(b"x" * MAX)
        assert framing.fault is None
        assert framing.feed(b"x") == []
        assert framing.fault == "message longer than 12 bytes"
        assert framing.frame(b"[error]") == b"[error]"

    def test_aFaultAfterItIsDecidedIsItsFault(self) -> None:
        framing = AutoFraming(MAX)
        assert framing.feed(b"a\n") == [b"a"]
        framing.feed(b"x" * MAX + b"x")
        assert framing.fault == "message longer than 12 bytes"

    def test_aCRThatMayBeginALineEndDoesNotCountAsMessage(self) -> None:
        framing = AutoFraming(MAX)
        assert framing.feed(b"x" * MAX + b"\r") == []
        assert framing.feed(b"\n") == [b"x" * MAX]
        framing = AutoFraming(MAX)
        framing.feed(b"x" * MAX + b"\r")
        assert (framing.quiet(), framing.fault) == ([], "message longer than 12 bytes")


@pytest.mark.parametrize(
    "data",
    [
        b"\n" * 65536,
        b"x\r\n" * 21845,
        b"x" * 5000 + b"\n" + b"y\n" * 5000,
        b"x" * 10_000,
        b"".join(b"%d:%b," % (size, b"z" * size) for size in range(300)),
        IAC + DO + b"\x01" + b"x\n" * 10_000,
    ],
    ids=["line ends", "short", "long, then short", "no LF", "netstrings", "telnet"],
)
@pytest.mark.parametrize("kind", FRAMINGS)
def test_piecesOfAReadGiveTheSameMessagesAndFewAtOnce(kind: str, data: bytes) -> None:
    whole, divided = FRAMINGS[kind](20_000), FRAMINGS[kind](20_000)
    messages = whole.feed(data)
    parts = divided.pieces(data)
    assert b"".join(parts) == data
    given = [divided.feed(part) for part in parts]
    assert [message for some in given for message in some] == messages
    assert (divided.fault, divided.holding) == (whole.fault, whole.holding)
    assert max(map(len, given)) <= PIECE
    assert divided.finish() == whole.finish()


def test_rawPassesBytesThroughWithoutALimit() -> None:
    framing = RawFraming(1)
    data = b"\xff\n\0" * 40000
    assert framing.feed(data) == [data]
    assert (framing.finish(), framing.frame(data), framing.fault) == ([], data, None)


@pytest.mark.parametrize(("name", "make"), FRAMINGS.items())
def test_everyFramingButAutoIsSettledFromTheBeginning(
    name: str, make: Callable[[int], Any]
) -> None:
    framing = make(DEFAULT_MAX_MESSAGE)
    assert framing.settled is (None if name == "auto" else framing)
