"""
How bytes on a stream become messages, and replies become bytes: no I/O, no clock.

========== =================================== ======================
framing    a message is                        a reply is sent as
========== =================================== ======================
line       the bytes before LF or CRLF         the reply and an LF
chunk      one received segment, as it is      the reply, as it is
netstring  one netstring                       one netstring
auto       what the peer's first message shows in the peer's own style
raw        bytes, passed through               bytes, passed through
========== =================================== ======================

A framing is fed what was received and gives back the messages that are complete. It never holds
more than one message of C{maxMessage} bytes; what is over that, or is malformed, becomes its
C{fault}, and it gives no message after that.

Sources: RFC 854 (telnet's commands, and CR NUL for a bare return),
U{https://cr.yp.to/proto/netstrings.txt}.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile
from typing import Protocol

DEFAULT_MAX_MESSAGE = 16 * 1024

# As numbers: looking for those in bytes costs an eighth of looking for bytes.
LF = 0x0A
CR = 0x0D
IAC = 0xFF
"""What a telnet command begins with."""

# A whole telnet command: an option offered or refused, a subnegotiation, or one bare command.
# A doubled IAC is a data byte, and a byte below 240 is no command: both are the peer's message.
# A subnegotiation is short in practice; one without an end must not be held without an end.
_TELNET_COMMAND = re.compile(
    rb"\xff(?:[\xfb-\xfe].|\xfa(?:[^\xff]|\xff[^\xf0]){0,256}\xff\xf0|[\xf1-\xf9])", re.DOTALL
)
# What could still become one with more bytes.
_TELNET_BEGINNING = re.compile(
    rb"\xff(?:[\xfb-\xfe]?|\xfa(?:[^\xff]|\xff[^\xf0]){0,256}\xff?)\Z", re.DOTALL
)


class Framing(Protocol):
    """
    What every framing can do.
    """

    @property
    def fault(self) -> str | None:
        """Why the stream cannot go on, in words for the peer; C{None} while it can."""

    @property
    def ending(self) -> bytes | None:
        """
        What follows a reply on the wire, where that is all there is to framing it; else C{None},
        and C{frame} must be asked.
        """

    @property
    def settled(self) -> Framing | None:
        """What to use from now on: the framing itself, or C{None} while that is undecided."""

    @property
    def holding(self) -> bool:
        """Whether a message has begun that is not complete."""

    def feed(self, data: bytes) -> list[bytes]:
        """
        Take what was received.

        @return: The messages that are complete now, in order.
        """

    def pieces(self, data: bytes) -> list[bytes]:
        """
        Divide what was received into pieces of about L{PIECE} bytes, where that changes no message.

        Each can be fed when the messages of the one before are dealt with: of a read that holds
        nothing but line ends, the messages would take a hundred times its memory.
        """

    def finish(self) -> list[bytes]:
        """
        Take the end of what the peer sends.

        @return: The last message, where the end completes one.
        """

    def frame(self, reply: bytes) -> bytes:
        """Make a reply what goes on the wire."""


PIECE = 4096
"""Bytes that are made messages of at once, where there is a choice."""


def _divided(data: bytes) -> list[bytes]:
    return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]


def tooLong(maxMessage: int) -> str:
    """Say to a peer that its message was too long."""
    return f"message longer than {maxMessage} bytes"


class ChunkFraming:
    """One received segment is one message: what a plain C{recv} and C{send} program expects."""

    __slots__ = ("fault", "maxMessage")

    ending: bytes | None = b""
    holding = False

    def __init__(self, maxMessage: int = DEFAULT_MAX_MESSAGE) -> None:
        self.maxMessage = maxMessage
        self.fault: str | None = None

    @property
    def settled(self) -> Framing:
        return self

    def feed(self, data: bytes) -> list[bytes]:
        if len(data) > self.maxMessage:
            self.fault = tooLong(self.maxMessage)
        return [data] if self.fault is None else []

    def pieces(self, data: bytes) -> list[bytes]:
        return [data]

    def finish(self) -> list[bytes]:
        return []

    def frame(self, reply: bytes) -> bytes:
        return reply


class RawFraming:
    """No messages: bytes pass through to the factory, and back, untouched and without a limit."""

    __slots__ = ()

    fault: str | None = None
    ending: bytes | None = b""
    holding = False

    def __init__(self, maxMessage: int = DEFAULT_MAX_MESSAGE) -> None:
        pass

    @property
    def settled(self) -> Framing:
        return self

    def feed(self, data: bytes) -> list[bytes]:
        return [data]

    def pieces(self, data: bytes) -> list[bytes]:
        return [data]

    def finish(self) -> list[bytes]:
        return []

    def frame(self, reply: bytes) -> bytes:
        return reply


class LineFraming:
    """
    A message is the bytes before LF or CRLF.

    For people with telnet, CR NUL ends a line too, and negotiation before the first message is
    left out.
    """

    __slots__ = ("_afterNul", "_begun", "_held", "fault", "maxMessage")

    ending: bytes | None = b"\n"

    def __init__(self, maxMessage: int = DEFAULT_MAX_MESSAGE) -> None:
        self.maxMessage = maxMessage
        self.fault: str | None = None
        self._held: bytearray | bytes = b""
        self._begun = False
        self._afterNul = False

    @classmethod
    def begun(cls, maxMessage: int) -> LineFraming:
        """Go on from a first message, which was one whole line."""
        framing = cls(maxMessage)
        framing._begun = True
        return framing

    @property
    def settled(self) -> Framing:
        return self

    @property
    def holding(self) -> bool:
        return bool(self._held)

    @property
    def clean(self) -> bool:
        """Whether the next message has not begun, so that one whole line would be one."""
        return self._begun and not self._held and not self._afterNul and self.fault is None

    def feed(self, data: bytes) -> list[bytes]:
        if self.fault is not None:
            return []
        if not self._begun:
            data = self._withoutNegotiation(data)
            if not data:
                return []
        if self._afterNul:
            self._afterNul = False
            if data[0] == LF:
                data = data[1:]
        held = self._held
        size = len(held) + len(data)
        if isinstance(held, bytearray) and held.endswith(b"\r"):
            # A line end can lie across two segments.
            del held[-1]
            data = b"\r" + data
        returns = CR in data
        if returns and b"\r\0" in data:
            self._afterNul = data.endswith(b"\r\0")
            # To CRLF, not to LF: of a CR before it, as of one before CRLF, only one belongs to it.
            data = data.replace(b"\r\0\n", b"\r\n").replace(b"\r\0", b"\r\n")
        messages = data.split(b"\n")
        rest = messages.pop()
        if messages and held:
            messages[0] = bytes(held) + messages[0]
            held = self._held = b""
        if rest:
            if isinstance(held, bytearray):
                held += rest
            else:
                self._held = bytearray(held + rest)
        if returns and messages:
            messages = [m[:-1] if m.endswith(b"\r") else m for m in messages]
        if size > self.maxMessage:
            messages = self._withinLimit(messages)
        return messages

    def pieces(self, data: bytes) -> list[bytes]:
        return _divided(data)

    def finish(self) -> list[bytes]:
        last = bytes(self._held)
        self._held = b""
        if len(last) > self.maxMessage:
            self.fault = tooLong(self.maxMessage)
        return [last] if last and self.fault is None else []

    def frame(self, reply: bytes) -> bytes:
        return reply + b"\n"

    def _withinLimit(self, messages: list[bytes]) -> list[bytes]:
        """Leave out the first message that is too long and all after it."""
        most = self.maxMessage
        within = list(takewhile(lambda message: len(message) <= most, messages))
        # A last CR is the beginning of a line end until the next byte says otherwise.
        rest = len(self._held) - self._held.endswith(b"\r")
        if len(within) < len(messages) or rest > most:
            self.fault = tooLong(most)
            self._held = b""
        return within

    def _withoutNegotiation(self, data: bytes) -> bytes:
        """
        Leave out the telnet commands that the stream begins with.

        @return: What follows them, or nothing while they are not complete.
        """
        if self._held:
            data = bytes(self._held) + data
            self._held = b""
        begin = 0
        while command := _TELNET_COMMAND.match(data, begin):
            begin = command.end()
        rest = data[begin:]
        if _TELNET_BEGINNING.match(rest):
            self._held = rest
            return b""
        self._begun = bool(rest)
        return rest


class NetstringFraming:
    """A message is one netstring: its length in decimal, a colon, the bytes, a comma."""

    __slots__ = ("_held", "fault", "maxMessage")

    ending: bytes | None = None

    _LENGTH = re.compile(rb"(0|[1-9][0-9]{0,9}):")
    _LENGTH_BEGINNING = re.compile(rb"(0|[1-9][0-9]{0,9})?\Z")

    def __init__(self, maxMessage: int = DEFAULT_MAX_MESSAGE) -> None:
        self.maxMessage = maxMessage
        self.fault: str | None = None
        self._held = bytearray()

    @property
    def settled(self) -> Framing:
        return self

    @property
    def holding(self) -> bool:
        return bool(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        if self.fault is not None:
            return []
        held = self._held
        held += data
        messages: list[bytes] = []
        begin = 0
        while length := self._LENGTH.match(held, begin):
            size = int(length[1])
            if size > self.maxMessage:
                return self._fail(tooLong(self.maxMessage), messages)
            end = length.end() + size
            if len(held) <= end:
                break
            if held[end] != 0x2C:
                return self._fail("netstring does not end with a comma", messages)
            messages.append(bytes(held[length.end() : end]))
            begin = end + 1
        else:
            if not self._LENGTH_BEGINNING.match(held, begin):
                return self._fail("netstring does not begin with its length", messages)
        del held[:begin]
        return messages

    def pieces(self, data: bytes) -> list[bytes]:
        return _divided(data)

    def finish(self) -> list[bytes]:
        if self._held and self.fault is None:
            self._fail("netstring is not complete", [])
        return []

    def frame(self, reply: bytes) -> bytes:
        return b"%d:%b," % (len(reply), reply)

    def _fail(self, fault: str, messages: list[bytes]) -> list[bytes]:
        self.fault = fault
        self._held.clear()
        return messages


class AutoFraming:
    """
    The peer's first message decides: C{line} where it holds an LF, C{chunk} where nothing more
    came for a while.

    It knows no clock: who feeds it calls L{quiet} when nothing has come for long enough.
    """

    __slots__ = ("_held", "_settled", "maxMessage")

    def __init__(self, maxMessage: int = DEFAULT_MAX_MESSAGE) -> None:
        self.maxMessage = maxMessage
        self._held: bytearray | None = None
        self._settled: Framing | None = None

    @property
    def ending(self) -> bytes | None:
        # Until the peer has shown its style, what is said goes out bare.
        return b"" if self._settled is None else self._settled.ending

    @property
    def fault(self) -> str | None:
        return None if self._settled is None else self._settled.fault

    @property
    def settled(self) -> Framing | None:
        return self._settled

    @property
    def holding(self) -> bool:
        return self._held is not None if self._settled is None else self._settled.holding

    def feed(self, data: bytes) -> list[bytes]:
        if self._settled is not None:
            return self._settled.feed(data)
        if self._held is not None:
            self._held += data
        elif LF in data:
            return self._settle(LineFraming(self.maxMessage), data)
        else:
            self._held = bytearray(data)
        if LF in data:
            return self._settle(LineFraming(self.maxMessage), bytes(self._held))
        # A last CR is the beginning of a line end until the next byte says otherwise.
        if len(self._held) - self._held.endswith(b"\r") > self.maxMessage:
            return self.quiet()
        return []

    def pieces(self, data: bytes) -> list[bytes]:
        if self._settled is not None:
            return self._settled.pieces(data)
        # Without an LF it is one message; with one, all that follows is lines.
        end = data.find(b"\n") + 1
        return [data[:end], *_divided(data[end:])] if end else [data]

    def quiet(self) -> list[bytes]:
        """
        Take it that nothing more has come for a while.

        @return: What has come so far, as one message.
        """
        if self._held is None:
            return []
        return self._settle(ChunkFraming(self.maxMessage), bytes(self._held))

    def finish(self) -> list[bytes]:
        if self._settled is not None:
            return self._settled.finish()
        return self.quiet()

    def frame(self, reply: bytes) -> bytes:
        return reply if self._settled is None else self._settled.frame(reply)

    def _settle(self, framing: Framing, data: bytes) -> list[bytes]:
        self._held = None
        self._settled = framing
        return framing.feed(data)


FRAMINGS: dict[str, Callable[[int], Framing]] = {
    "auto": AutoFraming,
    "line": LineFraming,
    "chunk": ChunkFraming,
    "netstring": NetstringFraming,
    "raw": RawFraming,
}
"""By the name that settings give it: what makes a framing for messages of so many bytes."""
