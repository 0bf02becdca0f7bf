"""
Who is admitted, in which order the limits speak, and what is remembered of whom.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from sockapps.counts import REFUSALS
from sockapps.limits import Admission, Sources, Standing
from sockapps.options import AdmissionOptions, ProcessOptions

HERE = "127.0.0.1"


class Desk:
    """An admission with a clock, and the standings of those who are in."""

    def __init__(self, process: dict[str, Any], **options: Any) -> None:
        self.clock = Clock()
        self.sources = Sources(ProcessOptions(**process), self.clock.seconds)
        self.admission = self.service(**options)
        self.inside: list[tuple[str | None, Standing]] = []

    def service(self, **options: Any) -> Admission:
        return Admission(AdmissionOptions(**options), self.sources)

    def come(self, *hosts: str | None) -> list[str]:
        """Let them come one after another: "in", or why not."""
        said = []
        for host in hosts:
            standing = self.admission.admit(host)
            if isinstance(standing, Standing):
                self.inside.append((host, standing))
                said.append("in")
            else:
                assert standing in REFUSALS
                said.append(standing)
        return said

    def go(self, *hosts: str | None) -> None:
        """Let one of each leave."""
        for host in hosts:
            index = [who for who, _ in self.inside].index(host)
            self.admission.leave(self.inside.pop(index)[1])

    def standing(self, host: str) -> Standing:
        standing = self.admission.hear(host)
        assert isinstance(standing, Standing)
        return standing


class MaximumsTests(SynchronousTestCase):
    """How many connections there may be."""

    def test_ofOneSource(self) -> None:
        desk = Desk({}, maxConnectionsPerSource=2)
        assert desk.come("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2") == [
            "in",
            "in",
            "source",
            "in",
        ]
        desk.go("192.0.2.1")
        assert desk.come("192.0.2.1", "192.0.2.1") == ["in", "source"]

    def test_anIPv6NetworkOf64BitsIsOneSource(self) -> None:
        desk = Desk({}, maxConnectionsPerSource=2)
        assert desk.come("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1") == [
            "in",
            "in",
            "source",
            "in",
        ]

    def test_ofAService(self) -> None:
        desk = Desk({}, maxConnections=2)
        assert desk.come("192.0.2.1", HERE, "192.0.2.3", HERE, None) == [
            *("in", "in", "service", "service", "service")
        ]
        desk.go(HERE)
        assert desk.come(None, HERE) == ["in", "service"]

    def test_ofTheProcessWithAllItsServices(self) -> None:
        desk = Desk({"maxConnections": 2})
        other = desk.service()
        standing = other.admit(HERE)
        assert isinstance(standing, Standing)
        assert desk.come(None, "192.0.2.1") == ["in", "process"]
        assert (desk.sources.connections, other.connections, desk.admission.connections) == (
            *(2, 1, 1),
        )
        other.leave(standing)
        assert desk.come("192.0.2.1") == ["in"]

    def test_eachServiceCountsASourceForItself(self) -> None:
        desk = Desk({}, maxConnectionsPerSource=1)
        assert isinstance(desk.service(maxConnectionsPerSource=1).admit("192.0.2.1"), Standing)
        assert desk.come("192.0.2.1", "192.0.2.1") == ["in", "source"]

    def test_0IsNoLimit(self) -> None:
        desk = Desk(
            {"maxConnections": 0}, maxConnections=0, maxConnectionsPerSource=0, connectionRate=0
        )
        assert set(desk.come(*["192.0.2.1"] * 300)) == {"in"}

    def test_datagramsCountAsNoConnections(self) -> None:
        desk = Desk({"maxConnections": 1}, maxConnections=1, maxConnectionsPerSource=1)
        desk.come("192.0.2.1")
        assert desk.standing("192.0.2.1") is desk.inside[0][1]
        assert desk.standing("192.0.2.2").limited
        assert desk.admission.connections == desk.sources.connections == 1


class RatesTests(SynchronousTestCase):
    """How many a second there may be."""

    def test_ofNewConnectionsFromASource(self) -> None:
        desk = Desk({}, connectionRate=4)
        assert Counter(desk.come(*["192.0.2.1"] * 10)) == {"in": 4, "rate": 6}
        assert desk.come("192.0.2.2") == ["in"]
        desk.clock.advance(0.25)
        assert desk.come("192.0.2.1", "192.0.2.1") == ["in", "rate"]

    def test_leavingGivesNoneBack(self) -> None:
        desk = Desk({}, connectionRate=1)
        desk.come("192.0.2.1")
        desk.go("192.0.2.1")
        assert desk.come("192.0.2.1") == ["rate"]

    def test_whoIsRefusedForSomethingElseUsesNoneUp(self) -> None:
        desk = Desk({}, connectionRate=2, maxConnectionsPerSource=1)
        assert desk.come(*["192.0.2.1"] * 5) == ["in", *["source"] * 4]
        desk.go("192.0.2.1")
        assert desk.come("192.0.2.1") == ["in"]

    def test_messagesOfASourceAreCountedTogether(self) -> None:
        desk = Desk({}, messageRate=3)
        desk.come("192.0.2.1", "192.0.2.1", "192.0.2.2")
        one, same, other = (standing for _, standing in desk.inside)
        assert [one.messages.take(), same.messages.take(2), one.messages.take()] == [
            *(True, True, False)
        ]
        assert not desk.standing("192.0.2.1").messages.take()
        assert other.messages.take(3)


class AllowDenyTests(SynchronousTestCase):
    """Who may come at all."""

    def test_denyWinsOverAllow(self) -> None:
        desk = Desk({}, allow=["192.0.2.0/24", "::1"], deny=["192.0.2.7", "2001:db8::/32"])
        for host, said in (
            ("192.0.2.1", "in"),
            ("::ffff:192.0.2.1", "in"),
            ("192.0.2.7", "denied"),
            ("::ffff:192.0.2.7", "denied"),
            ("198.51.100.1", "denied"),
            ("2001:db8::1", "denied"),
            ("::1", "in"),
            (HERE, "denied"),
            (None, "in"),
        ):
            assert desk.come(host) == [said], host
            if host is not None:
                assert (desk.admission.hear(host) == "denied") == (said == "denied")

    def test_withoutAllowEverybodyMayWhoIsNotDenied(self) -> None:
        desk = Desk({}, deny=["2001:db8::7"])
        assert desk.come("192.0.2.1", "2001:db8::7", "2001:db8::8") == ["in", "denied", "in"]


class ExemptTests(SynchronousTestCase):
    """Who has no limits of their own."""

    def test_loopbackIsByDefault(self) -> None:
        desk = Desk({}, maxConnectionsPerSource=1, connectionRate=1)
        hosts = [HERE, "127.8.8.8", "::1", "::ffff:127.0.0.1", None] * 10
        assert set(desk.come(*hosts)) == {"in"}
        for _, standing in desk.inside:
            assert (standing.source, standing.limited) == (None, False)
        assert desk.come("::2", "::3") == ["in", "source"]

    def test_theMaximumsHoldForThemToo(self) -> None:
        assert Desk({"maxConnections": 1}).come(HERE, HERE) == ["in", "process"]

    def test_exemptNetworksCanBeOthers(self) -> None:
        desk = Desk({"exempt": ["192.0.2.0/24"]}, connectionRate=1)
        assert desk.come("192.0.2.1", "192.0.2.1", HERE, HERE) == ["in", "in", "in", "rate"]

    def test_denyAllDoesNotRefuseThem(self) -> None:
        desk = Desk({"maxSources": 1, "penaltyOverflow": "deny-all"})
        desk.sources.penalize("192.0.2.1", "login")
        assert desk.come("198.51.100.1", HERE, None) == ["penalty", "in", "in"]


class RefusalsTests(SynchronousTestCase):
    """In which order the limits speak."""

    def test_theFirstThatHoldsIsTheAnswer(self) -> None:
        desk = Desk(
            {"maxConnections": 5, "penaltyThreshold": 0.0},
            maxConnections=4,
            maxConnectionsPerSource=2,
            connectionRate=2,
            deny=["192.0.2.9"],
        )
        other = desk.service()
        desk.sources.penalize("192.0.2.9", "login")
        desk.sources.penalize("192.0.2.8", "login")
        assert desk.come("192.0.2.1", "192.0.2.1", "192.0.2.1") == ["in", "in", "source"]
        desk.go("192.0.2.1")
        assert desk.come("192.0.2.1", HERE, HERE, HERE) == ["rate", "in", "in", "in"]
        assert desk.come("192.0.2.1", HERE) == ["service", "service"]
        other.admit(HERE)
        assert desk.come("192.0.2.1", "192.0.2.8", "192.0.2.9") == ["process", "penalty", "denied"]
        assert desk.admission.hear("192.0.2.8") == "penalty"
        desk.clock.advance(10)
        assert desk.come("192.0.2.8") == ["process"]
        desk.go(HERE)
        assert desk.come("192.0.2.8") == ["in"]

    def test_penaltiesHoldInEveryService(self) -> None:
        desk = Desk({"penaltyThreshold": 0.0})
        desk.come("192.0.2.1")
        desk.sources.penalize("192.0.2.1", "fault")
        assert desk.service().admit("::ffff:192.0.2.1") == "penalty"


class OtherOptionsTests(SynchronousTestCase):
    """Options that are replaced while the service runs."""

    def test_lowerMaximumsLetNobodyInAndKeepWhoIs(self) -> None:
        changes: list[tuple[dict[str, Any], dict[str, Any], str]] = [
            ({"maxConnections": 1}, {}, "process"),
            ({}, {"maxConnections": 1}, "service"),
            ({}, {"maxConnectionsPerSource": 1}, "source"),
        ]
        for process, service, said in changes:
            desk = Desk({})
            desk.come(*["192.0.2.1"] * 3)
            desk.sources.options = ProcessOptions(**process)
            desk.admission.options = AdmissionOptions(**service)
            assert desk.come("192.0.2.1") == [said]
            assert desk.inside[0][1].connections == desk.admission.connections == 3
            desk.go(*["192.0.2.1"] * 2)
            assert desk.come("192.0.2.1") == [said]
            desk.go("192.0.2.1")
            assert desk.come("192.0.2.1", "192.0.2.1") == ["in", said]

    def test_ratesHoldForNewConnectionsAndTheirMessagesOnlyOnceAllAreGone(self) -> None:
        desk = Desk({}, messageRate=4, connectionRate=4)
        desk.come("192.0.2.1")
        desk.standing("192.0.2.2")
        desk.admission.options = AdmissionOptions(messageRate=2, connectionRate=2)
        assert desk.come("192.0.2.1", "192.0.2.1", "192.0.2.1") == ["in", "in", "rate"]
        assert desk.inside[-1][1].messages.take(4)
        assert [desk.standing("192.0.2.2").messages.take(n) for n in (3, 2)] == [False, True]
        desk.go(*["192.0.2.1"] * 3)
        assert [desk.standing("192.0.2.1").messages.take(n) for n in (3, 2)] == [False, True]

    def test_othersAreDeniedOrExempt(self) -> None:
        desk = Desk({}, connectionRate=1)
        assert desk.come("192.0.2.1", "192.0.2.1", HERE) == ["in", "rate", "in"]
        desk.sources.options = ProcessOptions(exempt=["192.0.2.1"])
        assert desk.come("192.0.2.1", "192.0.2.1", HERE, HERE) == ["in", "in", "in", "rate"]
        desk.admission.options = AdmissionOptions(connectionRate=1, deny=["192.0.2.1"])
        assert desk.come("192.0.2.1", HERE) == ["denied", "in"]
        desk.admission.options = AdmissionOptions(connectionRate=1)
        assert desk.come("192.0.2.1") == ["in"]

    def test_badNetworksChangeNothing(self) -> None:
        desk = Desk({}, maxConnections=1)
        before = desk.admission.options
        bad = AdmissionOptions()
        object.__setattr__(bad, "deny", ["nowhere"])
        with pytest.raises(ValueError, match="nowhere"):
            desk.admission.options = bad
        assert desk.admission.options is before
        assert desk.come(HERE, HERE) == ["in", "service"]


class RememberedTests(SynchronousTestCase):
    """Of how many sources something is remembered."""

    def test_theLongestUnseenMakesRoom(self) -> None:
        desk = Desk({"maxSources": 2}, messageRate=1)
        first, second = desk.standing("192.0.2.1"), desk.standing("192.0.2.2")
        assert desk.standing("192.0.2.1") is first
        desk.standing("192.0.2.3")
        assert desk.standing("192.0.2.1") is first
        assert desk.standing("192.0.2.2") is not second

    def test_whoHasConnectionsIsRememberedWhoeverElseComes(self) -> None:
        desk = Desk({"maxSources": 2}, maxConnectionsPerSource=1)
        hosts = [f"192.0.2.{number}" for number in range(5)]
        assert set(desk.come(*hosts)) == {"in"}
        for number in range(100):
            desk.standing(f"198.51.100.{number}")
        assert set(desk.come(*hosts)) == {"source"}

    def test_whoHasLeftIsRememberedForAWhile(self) -> None:
        desk = Desk({"maxSources": 2}, connectionRate=1)
        desk.come("192.0.2.1", "192.0.2.2", "192.0.2.3")
        desk.go("192.0.2.1", "192.0.2.2", "192.0.2.3")
        assert desk.come("192.0.2.3", "192.0.2.2", "192.0.2.1") == ["rate", "rate", "in"]


hosts = st.sampled_from(
    [None, HERE, *(f"192.0.2.{n}" for n in range(5)), "::ffff:192.0.2.1", "2001:db8::1"]
)


@given(
    st.lists(st.tuples(st.sampled_from(["come", "go", "hear"]), hosts), max_size=120),
    st.integers(1, 4),
    st.tuples(st.integers(0, 8), st.integers(0, 6), st.integers(0, 3)),
)
def test_countsAreThoseOfASimpleModelAndReturnToZero(
    steps: list[tuple[str, str | None]], room: int, most: tuple[int, int, int]
) -> None:
    process, service, source = most
    desk = Desk(
        {"maxConnections": process, "maxSources": room},
        maxConnections=service,
        maxConnectionsPerSource=source,
        connectionRate=0,
    )
    inside: Counter[str] = Counter()
    for what, host in steps:
        who = (host or "").removeprefix("::ffff:")
        limited = who not in ("", HERE)
        if what == "come":
            total = inside.total()
            expected = (
                "process"
                if process and total >= process
                else "service"
                if service and total >= service
                else "source"
                if source and limited and inside[who] >= source
                else "in"
            )
            assert desk.come(host) == [expected]
            inside[who] += expected == "in"
        elif what == "hear" and host is not None:
            assert desk.standing(host).connections == (inside[who] if limited else 0)
        elif any(each == host for each, _ in desk.inside):
            desk.go(host)
            inside[who] -= 1
        assert desk.admission.connections == desk.sources.connections == inside.total()
        busy = sum(1 for each, count in inside.items() if count and each not in ("", HERE))
        # One more than there is room for, where all that is remembered has connections.
        assert len(desk.admission._standings) <= max(room, busy + 1)
        assert len(desk.admission._idle) == len(desk.admission._standings) - busy
    standings = [standing for _, standing in desk.inside]
    desk.go(*(host for host, _ in desk.inside))
    assert desk.admission.connections == desk.sources.connections == 0
    assert {standing.connections for standing in standings} <= {0}
    assert len(desk.admission._standings) <= room
