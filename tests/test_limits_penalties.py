"""
Penalties: when a source is refused, and until when, on a clock of the tests' own.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from sockapps.limits import OFFENCES, OVERFLOWS, Sources
from sockapps.options import ProcessOptions

COSTS = {"login": 10.0, "long": 17.0, "fault": 31.0}


class PenaltiesTests(SynchronousTestCase):
    """By default, 10 seconds an offence; refused over 15; 600 at most."""

    def sources(self, **options: Any) -> Sources:
        self.clock = Clock()
        return Sources(ProcessOptions(**options), self.clock.seconds)

    def test_oneOffenceRefusesNobodyAndTwoDoUntilAllHasPassed(self) -> None:
        sources = self.sources()
        sources.penalize("a", "login")
        assert not sources.refuses("a")
        self.clock.advance(1)
        sources.penalize("a", "long")
        assert sources.refuses("a")
        assert not sources.refuses("b")
        self.clock.advance(18.75)
        assert sources.refuses("a")
        self.clock.advance(0.25)
        assert not sources.refuses("a")

    def test_penaltiesAtTheThresholdRefuseNobody(self) -> None:
        sources = self.sources()
        sources.penalize("a", "fault")
        self.clock.advance(5)
        sources.penalize("a", "fault")
        assert not sources.refuses("a")

    def test_whatHasPassedIsNotHeldAgainstAnybodyAgain(self) -> None:
        sources = self.sources()
        for _ in range(10):
            sources.penalize("a", "deadline")
            assert not sources.refuses("a")
            self.clock.advance(10)

    def test_whoWasRefusedLongAgoBeginsAnewHoweverManyOthersDo(self) -> None:
        sources = self.sources()
        for source in "abcdeabcde":
            sources.penalize(source, "login")
        self.clock.advance(100)
        sources.penalize("e", "login")
        assert not sources.refuses("e")
        assert sources.penalized == 1

    def test_penaltiesGrowNoLongerThanTheirMaximum(self) -> None:
        for most, end in ((600.0, 600.0), (0.0, 1000.0)):
            sources = self.sources(penaltyMax=most)
            for _ in range(100):
                sources.penalize("a", "login")
            self.clock.advance(end - 0.5)
            assert sources.refuses("a")
            self.clock.advance(0.5)
            assert not sources.refuses("a")

    def test_eachKindHasItsOwnSecondsAndIsCounted(self) -> None:
        seconds = dict(zip(OFFENCES, (20.0, 21.0, 22.0, 23.0), strict=True))
        sources = self.sources(**{f"penalty{kind.title()}": s for kind, s in seconds.items()})
        for kind, ends in seconds.items():
            sources.penalize(kind, kind)
            assert sources.refuses(kind)
            self.clock.advance(ends - 0.5)
            assert sources.refuses(kind)
            self.clock.advance(0.5)
            assert not sources.refuses(kind)
        assert sources.penalties == dict.fromkeys(OFFENCES, 1)

    def test_whatCostsNothingIsNotCounted(self) -> None:
        sources = self.sources(penaltyLogin=0.0, penaltyThreshold=0.0)
        sources.penalize("a", "login")
        assert (sources.refuses("a"), sources.penalized, sources.penalties) == (False, 0, {})

    def test_aThresholdOf0RefusesFromTheFirstOffence(self) -> None:
        sources = self.sources(penaltyThreshold=0.0)
        sources.penalize("a", "login")
        assert sources.refuses("a")

    def test_somethingElseThanAnOffenceIsAnError(self) -> None:
        known = "'max' is no offence; these are: login, long, fault, deadline"
        with pytest.raises(ValueError, match=known):
            self.sources().penalize("a", "max")

    def test_thePenalizedAreCountedUntilTheirPenaltiesHavePassed(self) -> None:
        sources = self.sources()
        for source in "aab":
            sources.penalize(source, "login")
        counted = []
        for _ in range(5):
            counted.append(sources.penalized)
            self.clock.advance(5)
        assert counted == [2, 2, 1, 1, 0]

    def test_withoutRoomThePenaltyThatEndsFirstIsForgotten(self) -> None:
        sources = self.sources(maxSources=2, penaltyThreshold=0.0)
        for source in "abac":
            sources.penalize(source, "login")
        assert {s: sources.refuses(s) for s in "abc"} == {"a": True, "b": False, "c": True}
        assert sources.penalized == 2

    def test_theOneThatEndsFirstIsFoundAmongMany(self) -> None:
        sources = self.sources(
            maxSources=100, penaltyThreshold=0.0, penaltyLong=17.0, penaltyFault=31.0
        )
        chance = Random(4)
        ends: dict[str, float] = {}
        for number in range(2000):
            source, kind = str(chance.randrange(150)), chance.choice(["login", "long", "fault"])
            sources.penalize(source, kind)
            if source not in ends and len(ends) == 100:
                del ends[min(ends, key=lambda each: (ends[each], each))]
            ends[source] = ends.get(source, number / 1000) + COSTS[kind]
            ends[source] = min(ends[source], number / 1000 + 600)
            assert {s for s in map(str, range(150)) if sources.refuses(s)} == set(ends)
            self.clock.advance(0.001)

    def test_thoseThatAreOverAreNotKept(self) -> None:
        sources = self.sources()
        for number in range(1000):
            sources.penalize(str(number), "login")
            self.clock.advance(1)
        assert len(sources._penalties._ends) == 10

    def test_denyAllRefusesEverybodyUntilThereIsRoom(self) -> None:
        sources = self.sources(maxSources=2, penaltyOverflow="deny-all")
        sources.penalize("a", "login")
        assert not sources.refuses("z")
        self.clock.advance(1)
        sources.penalize("b", "login")
        sources.penalize("c", "login")
        assert [sources.refuses(s) for s in "abcz"] == [True] * 4
        self.clock.advance(9)
        assert [sources.refuses(s) for s in "abcz"] == [False] * 4
        assert sources.penalized == 1

    def test_otherOptionsShortenNoPenaltyThereIs(self) -> None:
        sources = self.sources()
        for _ in range(5):
            sources.penalize("a", "login")
        sources.options = ProcessOptions(penaltyMax=20.0, penaltyLogin=15.0)
        sources.penalize("a", "login")
        sources.penalize("b", "login")
        assert not sources.refuses("b")
        sources.penalize("b", "login")
        self.clock.advance(20)
        assert (sources.refuses("a"), sources.refuses("b")) == (True, False)
        self.clock.advance(30)
        assert not sources.refuses("a")

    def test_roomThatIsMadeSmallerIsKeptAtTheNextPenalty(self) -> None:
        sources = self.sources()
        for number in range(10):
            sources.penalize(str(number), "login")
            self.clock.advance(0.5)
        sources.options = ProcessOptions(maxSources=3, penaltyThreshold=0.0)
        sources.penalize("new", "login")
        assert sources.penalized == 3
        assert sources.refuses("new")


steps = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from("abcdef"), st.sampled_from(OFFENCES)), max_size=60
)


@given(steps, st.integers(1, 5), st.sampled_from(OVERFLOWS), st.sampled_from([0, 10, 30]))
def test_penaltiesAreThoseOfASimpleModel(
    steps: list[tuple[int, str, str]], room: int, overflow: str, most: int
) -> None:
    """The model keeps a list and looks through all of it each time."""
    clock = Clock()
    options = ProcessOptions(
        maxSources=room,
        penaltyOverflow=overflow,
        penaltyMax=most,
        penaltyLogin=1,
        penaltyLong=2,
        penaltyFault=5,
        penaltyDeadline=0,
        penaltyThreshold=4,
    )
    costs = {"login": 1, "long": 2, "fault": 5, "deadline": 0}
    sources = Sources(options, clock.seconds)
    until: dict[str, float] = {}
    refused: set[str] = set()
    for wait, source, kind in steps:
        clock.advance(wait)
        now = clock.seconds()
        sources.penalize(source, kind)
        until = {s: end for s, end in until.items() if end > now}
        refused &= set(until)
        full = source not in until and len(until) == room
        if costs[kind] and not (full and overflow == "deny-all"):
            if full:
                first = min(until, key=lambda s: (until[s], s))
                del until[first]
                refused.discard(first)
            until[source] = until.get(source, now) + costs[kind]
            if most:
                until[source] = min(until[source], now + most)
            if until[source] - now > 4:
                refused.add(source)
        assert sources.penalized == len(until) <= room
        all_ = overflow == "deny-all" and len(until) == room
        assert {s for s in "abcdef" if sources.refuses(s)} == (set("abcdef") if all_ else refused)
