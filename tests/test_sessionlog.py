"""
What the log tells of sessions, how often, and that each line is safe whatever peers are called.
"""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import formatEvent

from sockapps.counts import DROPS, ENDINGS, REFUSALS, USUAL
from sockapps.logformat import humanLogObserver, jsonLogObserver
from sockapps.printable import shown
from sockapps.sessionlog import SessionLog
from tests.peers import Logged, logged

ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of what may act on a terminal, or end a line."""


@dataclass
class Peer:
    """A session as the log sees it."""

    number: int = 17
    began: float = 0.0
    messages: int = 3
    received: int = 120
    sent: int = 141
    peer: Any = field(default_factory=lambda: IPv4Address("TCP", "127.0.0.1", 4711))

    def getPeer(self) -> Any:
        return self.peer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> Iterator[Logged]:
    with logged() as events:
        yield events


def facts(events: Logged) -> list[dict[str, Any]]:
    """The fields of what was logged, and the text and level; then forget it."""
    told = [
        {key: value for key, value in event.items() if not key.startswith("log_")}
        | {"text": formatEvent(event), "level": event["log_level"].name}
        for event in events
    ]
    events.clear()
    return told


def texts(events: Logged) -> list[str]:
    return [each["text"] for each in facts(events)]


def test_a_usual_session_is_two_lines_where_all_are_told(clock: Clock, log: Logged) -> None:
    sessions = SessionLog("echo", "all", clock.seconds, app="echo-app")
    sessions.began(Peer())
    clock.advance(2.4)
    sessions.ended(Peer(), "peer")
    who = {"service": "echo", "app": "echo-app", "session": 17, "source": "127.0.0.1:4711"}
    assert facts(log) == [
        {
            **who,
            "event": "began",
            "level": "info",
            "text": "echo: session 17 from 127.0.0.1:4711 began",
        },
        {
            **who,
            "event": "ended",
            "why": "peer",
            "stands_for": 1,
            "messages": 3,
            "received": 120,
            "sent": 141,
            "duration": 2.4,
            "level": "info",
            "text": "echo: session 17 from 127.0.0.1:4711 ended: the peer closed; "
            "3 messages, 120 B in, 141 B out, 2.4 s",
        },
    ]


def test_where_all_are_told_each_unusual_ending_is(clock: Clock, log: Logged) -> None:
    sessions = SessionLog("echo", "all", clock.seconds)
    for number in range(3):
        sessions.ended(Peer(number), "stalled")
    assert [(each["session"], each["stands_for"]) for each in facts(log)] == [
        (0, 1),
        (1, 1),
        (2, 1),
    ]


@pytest.mark.parametrize("why", sorted(ENDINGS))
def test_only_unusual_endings_are_told_where_those_are_wanted(
    clock: Clock, log: Logged, why: str
) -> None:
    sessions = SessionLog("echo", "unusual", clock.seconds)
    sessions.began(Peer())
    sessions.ended(Peer(), why)
    told = [(each["why"], each["level"]) for each in facts(log)]
    assert told == ([] if why in USUAL else [(why, "warn")])


def test_nothing_is_told_where_nothing_is_wanted(clock: Clock, log: Logged) -> None:
    sessions = SessionLog("echo", "none", clock.seconds, clock.callLater)
    sessions.began(Peer())
    for why in [*ENDINGS, "novel"]:
        sessions.ended(Peer(), why)
    for why in REFUSALS:
        sessions.refused(why, "192.0.2.1")
    for why in DROPS:
        sessions.dropped(why, "192.0.2.1")
    sessions.flush()
    assert not log
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize("which", ["all", "unusual"])
def test_who_is_turned_away_is_told_with_the_reason(clock: Clock, log: Logged, which: str) -> None:
    sessions = SessionLog("upper", which, clock.seconds)
    sessions.refused("penalty", "2001:db8::1")
    sessions.refused("service", None)
    sessions.dropped("port", "192.0.2.1")
    told = facts(log)
    assert [each["text"] for each in told] == [
        "upper: refused 2001:db8::1: the source is being penalized",
        "upper: refused unix: the service has max_connections",
        "upper: dropped a datagram of 192.0.2.1: its source port is below min_source_port",
    ]
    assert told[0] == {
        "event": "refused",
        "service": "upper",
        "source": "2001:db8::1",
        "why": "penalty",
        "stands_for": 1,
        "level": "warn",
        "text": told[0]["text"],
    }


def test_of_a_flood_one_line_a_second_is_told_and_stands_for_all(clock: Clock, log: Logged) -> None:
    sessions = SessionLog("echo", "unusual", clock.seconds)
    for _ in range(2500):
        sessions.refused("rate", "192.0.2.1")
        sessions.dropped("empty", "192.0.2.2")
        sessions.ended(Peer(), "too_long")
        clock.advance(0.001953125)  # 512 in a second, exactly
    told = facts(log)
    for event, rest in [("refused", 451), ("dropped", 451), ("ended", 451)]:
        counts = [each["stands_for"] for each in told if each["event"] == event]
        assert counts == [1, 512, 512, 512, 512]
        assert 2500 - sum(counts) == rest
    assert told[3]["text"].endswith("(one of 512)")
    sessions.flush()
    assert [(each["event"], each["stands_for"], each["text"]) for each in facts(log)] == [
        ("refused", 451, "echo: 451 more refused: the source begins more than connection_rate"),
        ("dropped", 451, "echo: 451 more dropped: it holds nothing"),
        ("ended", 451, "echo: 451 more ended: a message was over max_message"),
    ]
    sessions.flush()
    assert not log


def test_each_reason_has_a_line_of_its_own(clock: Clock, log: Logged) -> None:
    sessions = SessionLog("echo", "unusual", clock.seconds)
    for why in REFUSALS:
        sessions.refused(why, "192.0.2.1")
    for why in DROPS:
        sessions.dropped(why, "192.0.2.1")
    assert len(log) == len(REFUSALS) + len(DROPS)


def test_the_last_of_a_burst_are_told_without_another_event(clock: Clock, log: Logged) -> None:
    sessions = SessionLog("echo", "unusual", clock.seconds, clock.callLater)
    for _ in range(5):
        sessions.refused("rate", "192.0.2.1")
        sessions.dropped("own", "192.0.2.1")
    assert len(clock.getDelayedCalls()) == 1
    assert len(facts(log)) == 2
    clock.advance(1.5)
    sessions.dropped("own", "192.0.2.1")
    sessions.dropped("own", "192.0.2.1")
    assert [each["stands_for"] for each in facts(log)] == [5]
    clock.advance(0.5)
    assert texts(log) == ["echo: 4 more refused: the source begins more than connection_rate"]
    clock.advance(2)
    assert texts(log) == ["echo: 1 more dropped: it seems to come from here"]
    assert not clock.getDelayedCalls()


def test_a_rest_that_was_told_counts_for_the_second_after_it(clock: Clock, log: Logged) -> None:
    sessions = SessionLog("echo", "unusual", clock.seconds, clock.callLater)
    sessions.refused("rate", "192.0.2.1")
    sessions.refused("rate", "192.0.2.1")
    clock.advance(2)
    assert len(facts(log)) == 2
    sessions.refused("rate", "192.0.2.1")
    assert not log
    clock.advance(1)
    sessions.refused("rate", "192.0.2.1")
    assert [each["stands_for"] for each in facts(log)] == [2]


def test_flushing_leaves_no_call_behind(clock: Clock, log: Logged) -> None:
    sessions = SessionLog("echo", "unusual", clock.seconds, clock.callLater)
    for _ in range(2):
        sessions.refused("rate", "192.0.2.1")
    sessions.flush()
    assert [each["stands_for"] for each in facts(log)] == [1, 1]
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize(
    ("address", "source"),
    [
        (IPv4Address("TCP", "192.0.2.1", 80), "192.0.2.1:80"),
        (IPv6Address("UDP", "2001:db8::1", 80), "[2001:db8::1]:80"),
        (UNIXAddress(b"/run/a\x1b[2J\xff"), "/run/a\\x1b[2J\\xff"),
        (UNIXAddress(None), "unix"),
        (UNIXAddress(b""), "unix"),
        (None, "unix"),
    ],
)
def test_a_peer_is_told_by_address_or_path(
    clock: Clock, log: Logged, address: Any, source: str
) -> None:
    SessionLog("echo", "all", clock.seconds).began(Peer(peer=address))
    [told] = facts(log)
    assert told["source"] == source
    assert told["text"] == f"echo: session 17 from {source} began"


@pytest.mark.parametrize(
    ("messages", "received", "lasted", "end"),
    [
        (1, 0, 0.04, "1 message, 0 B in, 141 B out, 0.0 s"),
        (0, 1023, 59.9, "0 messages, 1023 B in, 141 B out, 59.9 s"),
        (2, 1024, 60, "2 messages, 1.0 KiB in, 141 B out, 1 min"),
        (2, 64 << 20, 3599, "2 messages, 64.0 MiB in, 141 B out, 59 min"),
        (2, 3 << 40, 86400, "2 messages, 3.0 TiB in, 141 B out, 24 h 0 min"),
        (2, 5000 << 40, 5400, "2 messages, 5000.0 TiB in, 141 B out, 1 h 30 min"),
    ],
)
def test_amounts_are_written_for_people(
    clock: Clock, log: Logged, messages: int, received: int, lasted: float, end: str
) -> None:
    clock.advance(lasted)
    SessionLog("echo", "all", clock.seconds).ended(
        Peer(messages=messages, received=received), "app"
    )
    [told] = facts(log)
    assert told["text"].endswith(f"the app closed; {end}")
    assert (told["received"], told["duration"]) == (received, round(lasted, 3))


@given(st.text(), st.text(), st.text(), st.text(), st.binary(min_size=1), st.integers())
def test_whatever_things_are_called_a_line_is_one_safe_line(
    service: str, app: str, host: str, why: str, path: bytes, port: int
) -> None:
    human, machine = io.StringIO(), io.StringIO()
    clock = Clock()
    sessions = SessionLog(service, "all", clock.seconds, app=app)
    with logged() as events:
        sessions.began(Peer(peer=UNIXAddress(path)))
        sessions.ended(Peer(peer=IPv4Address("TCP", host, port)), why)
        sessions.refused(why, host)
        sessions.dropped(why, host)
        sessions.dropped(why, host)
        sessions.flush()
    for event in events:
        # Observers that escape nothing get the same events.
        assert not {unicodedata.category(each) for each in formatEvent(event)} & ACTING
        told = [event[key] for key in ("service", "app", "source", "why") if key in event]
        assert told == [shown(each) for each in told]
        humanLogObserver(human)(event)
        jsonLogObserver(machine)(event)
    for text in (human.getvalue(), machine.getvalue()):
        assert len(text.split("\n")) == 6
        assert {each for each in text if unicodedata.category(each) in ACTING} == {"\n"}
    objects = [json.loads(line) for line in machine.getvalue().splitlines()]
    assert [each["event"] for each in objects] == [
        "began",
        "ended",
        "refused",
        "dropped",
        "dropped",
    ]
