"""
What the log tells of sessions: who came, how it ended, and who was turned away.

Every line is one event of L{twisted.logger}, with its facts as fields, so that a log in JSON has
them. None has a word of what was said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger, LogLevel

from sockapps.counts import DROPS, ENDINGS, REFUSALS, USUAL
from sockapps.printable import placeOf, shown

WHICH = ("all", "unusual", "none")
"""Of which sessions a log tells."""

INTERVAL = 1.0
"""Seconds between two lines that tell of the same, where anybody can make it happen often."""

_UNSAID = {"all": frozenset[str](), "unusual": frozenset(USUAL), "none": frozenset(ENDINGS)}

_REASONS = {"refused": REFUSALS, "dropped": DROPS, "ended": ENDINGS}


class Session(Protocol):
    """What the log wants to know of a session."""

    @property
    def number(self) -> int: ...
    @property
    def began(self) -> float: ...

    messages: int
    received: int
    sent: int

    def getPeer(self) -> Any:
        """Say who is at the other end."""


class _Kind:
    """
    Lines that tell of the same, as that connections were refused for one reason.

    @ivar due: When there may be the next one.
    @ivar untold: How many events no line has stood for yet.
    """

    __slots__ = ("due", "untold")

    def __init__(self) -> None:
        self.due = float("-inf")
        self.untold = 0


class SessionLog:
    """
    Tell of one service's sessions.

    Beginnings and endings are told one by one where all are. Else, and of what is refused and
    dropped always, there is at most one line in L{INTERVAL} for each reason, and it says how many
    it stands for.

    @ivar all: Whether beginnings are told of, and every ending.
    @ivar unsaid: The kinds of endings that are not told of.
    """

    _log = Logger()

    def __init__(
        self,
        service: str,
        which: str,
        seconds: Callable[[], float],
        callLater: Callable[..., IDelayedCall] | None = None,
        app: str | None = None,
    ) -> None:
        """
        @param which: One of L{WHICH}.
        @param seconds: The clock by which sessions have begun.
        @param callLater: What tells of the last events of a burst; without it that is left to the
            next event, and to L{flush}.
        """
        self._fields = {"service": shown(service)}
        if app is not None:
            self._fields["app"] = shown(app)
        self.all = which == "all"
        self._quiet = which == "none"
        self.unsaid = _UNSAID[which]
        self._seconds = seconds
        self._callLater = callLater
        self._flushCall: IDelayedCall | None = None
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def began(self, session: Session) -> None:
        """Tell of a session that begins."""
        if self.all:
            source = placeOf(session.getPeer()) or _UNIX
            text = f"session {session.number} from {source} began"
            self._say("began", text, session=session.number, source=source)

    def ended(self, session: Session, why: str) -> None:
        """
        Tell of a session that has ended.

        @param why: One of L{ENDINGS}.
        """
        if why in self.unsaid:
            return
        count = 1 if self.all else self._count("ended", why)
        if not count:
            return
        source = placeOf(session.getPeer()) or _UNIX
        duration = self._seconds() - session.began
        self._say(
            "ended",
            f"session {session.number} from {source} ended: {_reason('ended', why)}; "
            f"{session.messages} message{'' if session.messages == 1 else 's'}, "
            f"{_size(session.received)} in, {_size(session.sent)} out, {_time(duration)}"
            f"{_oneOf(count)}",
            why=why,
            stands_for=count,
            session=session.number,
            source=source,
            messages=session.messages,
            received=session.received,
            sent=session.sent,
            duration=round(duration, 3),
        )

    def refused(self, why: str, host: str | None) -> None:
        """
        Tell of a connection that was turned away.

        @param why: One of L{REFUSALS}.
        @param host: Where it came from; C{None} for a UNIX socket.
        """
        if count := self._count("refused", why):
            source = _UNIX if host is None else shown(host)
            text = f"refused {source}: {_reason('refused', why)}{_oneOf(count)}"
            self._say("refused", text, why=why, stands_for=count, source=source)

    def dropped(self, why: str, host: str) -> None:
        """
        Tell of a datagram that was dropped, or the reply to it.

        @param why: One of L{DROPS}.
        @param host: Where it came from.
        """
        if count := self._count("dropped", why):
            source = shown(host)
            text = f"dropped a datagram of {source}: {_reason('dropped', why)}{_oneOf(count)}"
            self._say("dropped", text, why=why, stands_for=count, source=source)

    def flush(self) -> None:
        """Tell of everything that no line has stood for yet, as when the service stops."""
        call, self._flushCall = self._flushCall, None
        if call is not None and call.active():
            call.cancel()
        self._tellRest(float("inf"))

    def _count(self, event: str, why: str) -> int:
        """
        Note one more event.

        @return: How many a line now stands for; 0 where there may be none now.
        """
        if self._quiet:
            return 0
        kind = self._kinds.get((event, why))
        if kind is None:
            kind = self._kinds[event, why] = _Kind()
        kind.untold += 1
        now = self._seconds()
        if now < kind.due:
            self._flushLater()
            return 0
        kind.due = now + INTERVAL
        untold, kind.untold = kind.untold, 0
        return untold

    def _flushLater(self) -> None:
        if self._flushCall is None and self._callLater is not None:
            # While the same goes on happening the next one is told of with its source; only the
            # last ones of a burst wait for this call.
            self._flushCall = self._callLater(2 * INTERVAL, self._flushDue)

    def _flushDue(self) -> None:
        self._flushCall = None
        if self._tellRest(self._seconds()):
            self._flushLater()

    def _tellRest(self, now: float) -> bool:
        """
        Tell of the events whose lines are due.

        @return: Whether there are others.
        """
        others = False
        for (event, why), kind in self._kinds.items():
            if not kind.untold:
                continue
            if now < kind.due:
                others = True
                continue
            untold, kind.untold = kind.untold, 0
            kind.due = self._seconds() + INTERVAL
            text = f"{untold} more {event}: {_reason(event, why)}"
            self._say(event, text, why=why, stands_for=untold)
        return others

    def _say(self, event: str, text: str, why: str | None = None, **facts: Any) -> None:
        if why is not None:
            facts = {"why": shown(why), **facts}
        self._log.emit(
            LogLevel.info if why is None or why in USUAL else LogLevel.warn,
            "{log_text}",
            log_text=f"{self._fields['service']}: {text}",
            event=event,
            **self._fields,
            **facts,
        )


_UNIX = "unix"
"""Who has no address: the peers of a UNIX socket, mostly."""


def _reason(event: str, why: str) -> str:
    return shown(_REASONS[event].get(why, why))


def _oneOf(count: int) -> str:
    return "" if count == 1 else f" (one of {count})"


def _size(size: int) -> str:
    if size < 1024:
        return f"{size} B"
    amount, unit = size / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
