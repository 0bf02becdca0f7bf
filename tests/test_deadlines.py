"""
Many waits of one length: who is told, when, and with how many timers.
"""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from sockapps.deadlines import Deadlines


class DeadlinesTests(SynchronousTestCase):
    """On a clock of the test's own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.missed: list[tuple[str, float]] = []
        self.waits: Deadlines[str] = Deadlines(
            self.clock, 5, lambda who: self.missed.append((who, self.clock.seconds()))
        )

    def test_eachIsToldWhenItHasWaitedSoLong(self) -> None:
        self.waits.begin("a")
        self.clock.advance(2)
        self.waits.begin("b")
        self.clock.pump([1] * 10)
        assert self.missed == [("a", 5), ("b", 7)]
        assert self.clock.getDelayedCalls() == []

    def test_whoIsCalledOffIsNotTold(self) -> None:
        self.waits.begin("a")
        self.clock.advance(1)
        self.waits.begin("b")
        self.waits.end("a")
        self.waits.end("nobody")
        assert ("a" in self.waits, "b" in self.waits, len(self.waits)) == (False, True, 1)
        self.clock.pump([1] * 10)
        assert self.missed == [("b", 6)]

    def test_beginningAgainDoesNotMakeAWaitLonger(self) -> None:
        self.waits.begin("a")
        self.clock.advance(4)
        self.waits.begin("a")
        self.clock.advance(1)
        assert self.missed == [("a", 5)]

    def test_oneTimerIsEnoughForAll(self) -> None:
        for number in range(1000):
            self.waits.begin(str(number))
            self.waits.end(str(number - 1))
        assert len(self.clock.getDelayedCalls()) == 1
        self.clock.advance(5)
        assert self.missed == [("999", 5)]
        assert self.clock.getDelayedCalls() == []

    def test_whoIsToldMayBeginAgain(self) -> None:
        waits: Deadlines[str] = Deadlines(self.clock, 5, lambda who: waits.begin(who))
        waits.begin("a")
        self.clock.pump([1] * 12)
        assert "a" in waits
        assert len(self.clock.getDelayedCalls()) == 1
