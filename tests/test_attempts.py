"""
Tests for L{sockapps.attempts}: who waits for how long before a guess is looked at.
"""

from __future__ import annotations

import gc
import tracemalloc
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from sockapps.attempts import BACKOFF, FORGIVING, PAIRS, Attempt, Attempts, growing

HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"
NO, YES = False, True


class _Clocked(SynchronousTestCase):
    """Attempts on a clock of the test's own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.attempts = Attempts(self.clock.seconds)
        self.guesses = 0

    def begin(self, source: str | None = HERE, account: str | None = "张三") -> Attempt:
        """Begin an attempt with a password that nobody has tried."""
        self.guesses += 1
        attempt = self.attempts.begin(source, account, b"%d" % self.guesses)
        assert attempt is not None
        return attempt

    def goOn(self, attempt: Attempt) -> float:
        """Wait until an attempt's turn has come, and say for how long that was."""
        began = self.clock.seconds()
        while seconds := self.attempts.takeTurn(attempt):
            self.clock.advance(seconds)
        return self.clock.seconds() - began

    def tried(
        self,
        verdict: bool | None = NO,
        source: str | None = HERE,
        account: str | None = "张三",
        secret: bytes = b"",
    ) -> float:
        """Make an attempt, and say how long it had to wait."""
        self.guesses += 1
        attempt = self.attempts.begin(source, account, secret or b"%d" % self.guesses)
        assert attempt is not None
        seconds = self.goOn(attempt)
        self.attempts.end(attempt, verdict)
        return round(seconds, 3)


class GrowingTests(SynchronousTestCase):
    """L{growing}."""

    def test_itDoublesUpToTheLongest(self) -> None:
        assert growing(2, 15) == (0, 2, 4, 8, 15)
        assert growing(2, 8) == (0, 2, 4, 8)
        assert growing(20, 15) == (0, 15)

    def test_zeroIsNone(self) -> None:
        assert growing(0, 15) == growing(2, 0) == (0,)


class SourceTests(_Clocked):
    """What a source's failures cost it."""

    def test_theDelayGrowsWithFailuresTo15SecondsAndNoFurther(self) -> None:
        assert [self.tried() for _ in range(7)] == [0, 2, 4, 8, 15, 15, 15]

    def test_aRightPasswordWaitsAsLongAndForgivesNothing(self) -> None:
        verdicts = [NO, YES, NO, YES, NO]
        assert [self.tried(verdict) for verdict in verdicts] == [0, 2, 2, 4, 4]

    def test_whatCouldNotBeCheckedCountsAsNothing(self) -> None:
        assert [self.tried(None) for _ in range(3)] == [0, 0, 0]

    def test_aFailureHereDelaysNobodyElsewhere(self) -> None:
        assert [self.tried(account="eve") for _ in range(3)] == [0, 2, 4]
        assert self.tried(source=ELSEWHERE) == 0

    def test_eachMinuteWithoutAFailureForgetsOne(self) -> None:
        for _ in range(4):
            self.tried(account=None)
        for expected in (8, 4, 2, 0, 0):
            self.clock.advance(FORGIVING - self.tried(YES, account=None))
            assert self.tried(YES, account=None) == expected

    def test_manyFailuresAreForgottenAsSoonAsAFew(self) -> None:
        for _ in range(50):
            self.tried(account=None)
        self.clock.advance(4 * FORGIVING)
        assert self.tried(account=None) == 0

    def test_theSameWrongPairAgainRaisesNothingAndWaitsToo(self) -> None:
        assert [self.tried(secret=b"old") for _ in range(4)] == [0, 2, 2, 2]
        assert [self.tried(secret=b"new"), self.tried(secret=b"old")] == [2, 4]

    def test_theSameWrongPairAgainKeepsFailuresFromBeingForgotten(self) -> None:
        self.tried(secret=b"old")
        for _ in range(3):
            self.clock.advance(FORGIVING - 3)
            assert self.tried(secret=b"old") == 2

    def test_asManyWrongPairsAreKnownAgainAsItSays(self) -> None:
        for again in (False, True):
            delays = [self.tried(secret=b"p%d" % number) for number in range(PAIRS)]
            assert delays == ([15] * 4 if again else [0, 2, 4, 8])
        self.clock.advance(3 * FORGIVING)
        assert self.tried(secret=b"p1") == 2  # it was in the table
        self.tried(secret=b"a new one, for which p0 makes room")
        assert [self.tried(secret=b"p0"), self.tried(secret=b"p3")] == [4, 8]

    def test_aPairIsTheNameAndThePassword(self) -> None:
        for account, secret in (("a", b"bc"), ("ab", b"c"), (None, b"abc"), ("", b"1:ab")):
            before = self.tried(None)
            self.tried(account=account, secret=secret)
            assert self.tried(None) > before

    def test_onlyFourAreInProgress(self) -> None:
        first, _, _, _ = [self.begin() for _ in range(4)]
        assert self.attempts.begin(HERE, "张三", b"") is None
        assert self.attempts.begin(ELSEWHERE, "张三", b"") is not None
        assert self.attempts.begin(None, "张三", b"") is not None
        self.attempts.end(first, None)
        assert self.attempts.begin(HERE, "张三", b"") is not None
        assert self.attempts.begin(HERE, "张三", b"") is None

    def test_whoHasNotFailedIsVerifiedAtOnceInParallel(self) -> None:
        assert [self.attempts.takeTurn(self.begin()) for _ in range(4)] == [0, 0, 0, 0]

    def test_afterAFailureOneGoesAfterTheOtherInOrderEachAfterTheDelayOfItsTime(self) -> None:
        self.tried()
        waiting = [self.begin() for _ in range(4)]
        assert [self.attempts.takeTurn(each) for each in waiting] == [2, 4, 6, 8]
        waits = []
        for each in waiting:
            waits.append(self.goOn(each))
            self.attempts.end(each, NO)
        assert waits == [2, 4, 8, 15]

    def test_whoGivesUpWaitingMakesRoomAndDelaysNobody(self) -> None:
        self.tried()
        first, second = self.begin(), self.begin()
        self.attempts.end(first, None)
        assert self.goOn(second) == 2

    def test_anAttemptWaitsFromWhenItCame(self) -> None:
        self.tried()
        self.clock.advance(30)
        assert self.tried() == 2

    def test_aSlowVerificationDelaysTheNextFromItsEnd(self) -> None:
        self.tried()
        slow = self.begin()
        self.goOn(slow)
        self.clock.advance(10)
        next_ = self.begin()
        self.clock.advance(1)
        self.attempts.end(slow, NO)
        assert self.goOn(next_) == 4

    def test_whileOneIsVerifiedTheNextWaitsForItsDelayOnly(self) -> None:
        self.tried()
        verified, next_ = self.begin(), self.begin()
        assert self.goOn(verified) == 2
        assert self.attempts.takeTurn(next_) == 2

    def test_exemptSourcesHaveNoLimits(self) -> None:
        attempts = [self.begin(None) for _ in range(100)]
        for each in attempts:
            assert self.attempts.takeTurn(each) == 0
            self.attempts.end(each, NO)
        assert self.tried(source=ELSEWHERE) == 0

    def test_zeroTurnsEachLimitOff(self) -> None:
        self.attempts = Attempts(self.clock.seconds, most=0)
        assert len([self.begin() for _ in range(100)]) == 100
        for off in (
            Attempts(self.clock.seconds, delay=0),
            Attempts(self.clock.seconds, longestDelay=0),
        ):
            self.attempts = off
            assert [self.tried() for _ in range(5)] == [0] * 5

    def test_atMostTenGuessesAMinuteAreLookedAtHoweverManyAreMadeAtOnce(self) -> None:
        looked: list[float] = []
        asked: list[Attempt] = []
        while self.clock.seconds() < 900:
            while (attempt := self.attempts.begin(HERE, "张三", b"%d" % len(looked))) is not None:
                asked.append(attempt)
            if 400 < self.clock.seconds() < 400 + 5 * FORGIVING:
                # Now it leaves, for long enough to be forgiven everything.
                for each in asked:
                    self.attempts.end(each, None)
                asked.clear()
            for each in asked[:]:
                if self.attempts.takeTurn(each) == 0:
                    looked.append(self.clock.seconds())
                    self.attempts.end(each, NO)
                    asked.remove(each)
            self.clock.advance(0.25)
        busiest = max(sum(start <= each < start + 60 for each in looked) for start in looked)
        assert 7 <= busiest <= 10
        assert len(looked) < 60

    @settings(max_examples=50)
    @given(st.lists(st.sampled_from(["begin", "right", "wrong", "none", "leave", "wait"])))
    def test_whateverHappensEverybodysTurnComesInTime(self, steps: list[str]) -> None:
        self.setUp()
        waiting: list[Attempt] = []
        verifying: list[Attempt] = []
        for step in steps:
            if step == "begin" and len(waiting) + len(verifying) < 4:
                waiting.append(self.begin())
            elif step == "wait":
                self.clock.advance(2.5)
            elif step == "leave" and waiting:
                self.attempts.end(waiting.pop(), None)
            elif step in ("right", "wrong", "none") and verifying:
                self.attempts.end(verifying.pop(0), {"right": YES, "wrong": NO}.get(step))
            for each in waiting[:]:
                if self.attempts.takeTurn(each) == 0:
                    waiting.remove(each)
                    verifying.append(each)
        for each in verifying:
            self.attempts.end(each, NO)
        for each in waiting:
            assert self.goOn(each) <= 15
            self.attempts.end(each, NO)


class AccountTests(_Clocked):
    """What guesses at an account cost those who come from elsewhere."""

    def guess(self, number: int, account: str = "张三") -> None:
        """Have sources guess that are never seen again."""
        for _ in range(number):
            self.tried(source=f"198.51.100.{self.guesses}", account=account)

    def owner(self, verdict: bool = YES, account: str = "张三") -> float:
        """Let the owner log in from somewhere new."""
        return self.tried(verdict, f"203.0.113.{self.guesses}", account)

    def test_theBackOffGrowsToASecondAndNoFurther(self) -> None:
        delays = []
        for _ in range(5):
            delays.append(self.owner())
            self.guess(1)
        self.guess(1000)
        assert [*delays, self.owner()] == [0, 0.25, 0.5, 1, 1, BACKOFF]

    def test_itIsForgottenWithTime(self) -> None:
        self.guess(3)
        for expected in (1, 0.5, 0.25, 0):
            assert self.owner() == expected
            self.clock.advance(FORGIVING - expected)

    def test_itKeepsNobodyOutHoweverManyGuessMeanwhile(self) -> None:
        self.guess(3)
        owners = self.begin(HERE)
        for _ in range(20):
            self.clock.advance(0.05)
            self.guess(1)
        assert self.attempts.takeTurn(owners) == 0

    def test_whereTheOwnerHasLoggedInBeforeThereIsNone(self) -> None:
        assert self.tried(YES) == 0
        self.guess(3)
        assert [self.tried(YES), self.owner()] == [0, 1]

    def test_thatHoldsForThisAccountOnly(self) -> None:
        self.tried(YES, account="bob")
        self.guess(3)
        assert self.tried(YES) == 1

    def test_otherAccountsHaveNone(self) -> None:
        self.guess(3)
        assert self.owner(account="bob") == 0

    def test_anAccountIsTheSameInAnySpelling(self) -> None:
        for name in ("José", "Jose\u0301", "JOSÉ"):
            self.guess(1, name)
        assert self.owner(account="josé") == 1

    def test_whatHasNoNameDelaysNoAccount(self) -> None:
        for number in range(4):
            self.tried(source=f"198.51.100.{number}", account=None)
        assert self.owner(account="") == 0

    def test_theSameWrongPairFromOneSourceCountsOnce(self) -> None:
        for _ in range(4):
            self.tried(secret=b"old")
        assert self.owner() == 0.25


class RememberingTests(_Clocked):
    """What is kept, and how much of it."""

    def test_theLeastRecentlySeenSourceIsForgottenFirst(self) -> None:
        self.attempts = Attempts(self.clock.seconds, remembered=3)
        for source in ("a", "b", "c", "a", "d"):
            self.tried(source=source, account=None)
        assert [self.tried(None, source, None) for source in "abcd"] == [4, 0, 2, 2]

    def test_whoeverTriesIsSeen(self) -> None:
        self.attempts = Attempts(self.clock.seconds, remembered=2)
        for source, verdict in (("a", NO), ("b", NO), ("a", None), ("c", NO)):
            self.tried(verdict, source, None)
        assert [self.tried(None, source, None) for source in "abc"] == [2, 0, 2]

    def test_whoeverIsForgottenWhileWaitingGoesOn(self) -> None:
        self.attempts = Attempts(self.clock.seconds, remembered=1)
        self.tried()
        waiting = self.begin()
        self.tried(source=ELSEWHERE)
        assert self.goOn(waiting) < 2
        self.attempts.end(waiting, NO)

    def test_aMillionSourcesAndNamesTakeBoundedMemory(self) -> None:
        most = 1000
        self.attempts = Attempts(self.clock.seconds, remembered=most)
        used = []
        tracemalloc.start()
        try:
            for batch in range(4):
                for number in range(2 * most):
                    who = f"{batch}-{number}"
                    self.attempts.end(self.begin(f"no {who}", "n" * 900 + who), NO)
                    self.attempts.end(self.begin(f"yes {who}", "y" * 900 + who), YES)
                gc.collect()
                used.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert used[0] < 1500 * most
        assert all(later - earlier < 100 * most for earlier, later in pairwise(used))

    def test_noPasswordIsKept(self) -> None:
        secret = b"geheim-0815"
        for verdict in (NO, YES, None):
            self.tried(verdict, secret=secret)
        held: list[object] = [self.attempts, self.attempts.begin(HERE, "张三", secret)]
        seen: set[int] = set()
        while held:
            each = held.pop()
            if id(each) not in seen and not isinstance(each, type) and not callable(each):
                seen.add(id(each))
                assert not isinstance(each, bytes | str) or "geheim" not in repr(each)
                held += gc.get_referents(each)
        assert len(seen) > 20

    def test_aDigestOfAPairTellsNothingInAnotherProcess(self) -> None:
        pairs = {
            attempt.pair
            for attempts in (self.attempts, Attempts(self.clock.seconds))
            for _ in range(2)
            if (attempt := attempts.begin(HERE, "张三", b"geheim-0815"))
        }
        assert len(pairs) == 2
