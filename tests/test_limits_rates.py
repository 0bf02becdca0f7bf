"""
Token buckets, on a clock of the tests' own; with fractions, so that nothing is rounded.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from sockapps.limits import TokenBucket

rates = st.fractions(Fraction(1, 10), 50, max_denominator=12)
waits = st.fractions(0, 3, max_denominator=24)


class ExactClock:
    """A clock that rounds nothing."""

    def __init__(self) -> None:
        self.now = Fraction(0)

    def seconds(self) -> float:
        return cast(float, self.now)


class TokenBucketTests(SynchronousTestCase):
    """What may be taken, and when."""

    def setUp(self) -> None:
        self.clock = Clock()

    def taken(self, bucket: TokenBucket) -> int:
        """Take one at a time, for as long as there are any."""
        return next(n for n in range(10_000) if not bucket.take())

    def test_oneSecondsWorthIsThereAtOnceAndComesBackAsTimePasses(self) -> None:
        bucket = TokenBucket(8, self.clock.seconds)
        taken = [self.taken(bucket)]
        for wait in (0.125, 0.25, 0.0625, 0.0625, 1, 100):
            self.clock.advance(wait)
            taken.append(self.taken(bucket))
        assert taken == [8, 1, 2, 0, 1, 8, 8]

    def test_rate0IsNoLimit(self) -> None:
        bucket = TokenBucket(0, self.clock.seconds)
        assert all(bucket.take(1000) for _ in range(1000))

    def test_belowOneASecondOneMayBeTakenAtOnce(self) -> None:
        bucket = TokenBucket(0.25, self.clock.seconds)
        taken = []
        for _ in range(9):
            taken.append(self.taken(bucket))
            self.clock.advance(1)
        assert taken == [1, 0, 0, 0, 1, 0, 0, 0, 1]

    def test_severalAreTakenAllOrNone(self) -> None:
        bucket = TokenBucket(8, self.clock.seconds)
        assert [bucket.take(n) for n in (9, 5, 4, 3, 1)] == [False, True, False, True, False]

    def test_nothingDriftsOverManyTakesFarFromTheClocksBeginning(self) -> None:
        self.clock.advance(2**30)
        bucket = TokenBucket(7.3, self.clock.seconds)
        taken = 0
        for _ in range(200_000):
            taken += bucket.take()
            self.clock.advance(0.015625)
        assert taken == floor(7.3 + 7.3 * (200_000 - 1) * 0.015625)


@given(rates, st.lists(st.tuples(waits, st.integers(1, 20)), max_size=40))
def test_aBucketIsOneThatIsFilledAsTimePasses(
    rate: Fraction, steps: list[tuple[Fraction, int]]
) -> None:
    clock = ExactClock()
    bucket = TokenBucket(cast(float, rate), clock.seconds)
    tokens = burst = max(Fraction(1), rate)
    for wait, n in steps:
        clock.now += wait
        tokens = min(burst, tokens + wait * rate)
        assert bucket.take(n) == (n <= tokens)
        if n <= tokens:
            tokens -= n


@given(rates, st.lists(waits, max_size=30))
def test_inNoTimeIsMoreTakenThanTheBurstAndTheRate(rate: Fraction, gaps: list[Fraction]) -> None:
    clock = ExactClock()
    bucket = TokenBucket(cast(float, rate), clock.seconds)
    taken: list[Fraction] = []
    for gap in gaps:
        clock.now += gap
        while bucket.take():
            taken.append(clock.now)
    burst = max(Fraction(1), rate)
    for first, begin in enumerate(taken):
        # What falls between any two takes, these among it: the last of them says it for all.
        assert len(taken) - first <= burst + rate * (taken[-1] - begin)
    for last, end in enumerate(taken):
        assert last + 1 <= burst + rate * (end - taken[0])


@given(rates, st.lists(waits, max_size=40))
def test_nobodyBelowTheRateIsRefused(rate: Fraction, spare: list[Fraction]) -> None:
    clock = ExactClock()
    bucket = TokenBucket(cast(float, rate), clock.seconds)
    for more in spare:
        assert bucket.take()
        clock.now += 1 / rate + more / 1000
