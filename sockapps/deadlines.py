"""
Many waits of one length, with one timer for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.interfaces import IReactorTime

T = TypeVar("T")


class Deadlines(Generic[T]):
    """
    Call off most waits before they end, at the cost of a dictionary entry each.

    A timer of the reactor costs some microseconds to make and to cancel, and nearly every one of a
    connection is cancelled. Waits of one length end in the order in which they began, so one timer,
    for the oldest, is enough; it is left to run when that one is called off.

    @param seconds: How long each wait is.
    @param missed: Called with who has waited so long.
    """

    __slots__ = ("_missed", "_reactor", "_running", "_seconds", "_waiting")

    def __init__(
        self, reactor: IReactorTime, seconds: float, missed: Callable[[T], object]
    ) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._missed = missed
        self._running = False
        self._waiting: dict[T, float] = {}

    def __contains__(self, who: T) -> bool:
        return who in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, who: T) -> None:
        """Begin a wait; who waits already goes on from before."""
        if who not in self._waiting:
            self._waiting[who] = self._reactor.seconds() + self._seconds
            if not self._running:
                self._running = True
                self._reactor.callLater(self._seconds, self._sweep)

    def end(self, who: T) -> bool:
        """
        Call off a wait.

        @return: Whether there was one.
        """
        return self._waiting.pop(who, None) is not None

    def _sweep(self) -> None:
        """Tell those who have waited so long, and look again when the next will have."""
        now = self._reactor.seconds()
        while self._waiting:
            who, when = next(iter(self._waiting.items()))
            if when > now:
                self._reactor.callLater(when - now, self._sweep)
                return
            del self._waiting[who]
            self._missed(who)
        self._running = False
