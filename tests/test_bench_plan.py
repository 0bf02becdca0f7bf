"""
What a run sends, awaits and counts, before any socket: plans, schedules, tallies and reports.
"""

from __future__ import annotations

from typing import Any

import pytest

from sockapps.bench.load import Load, parseUDP
from sockapps.bench.plan import SECOND, Schedule, filled, makePlan
from sockapps.bench.report import bars, duration, figures, lines
from sockapps.bench.tally import CROWDED, HIGHEST, Tally
from sockapps.globalreactor import globalReactor

LINE = "this message cannot be sent with line framing; netstring can"


@pytest.mark.parametrize(
    ("app", "wanted", "why"),
    [
        ("ecko", {}, "there is no app 'ecko'"),
        ("echo", {"message": b"x", "size": 3}, "give it or --size, not both"),
        ("echo", {"message": b"two\nlines"}, LINE),
        ("echo", {"message": b"a return\r"}, LINE),
        ("echo", {"size": 0, "framing": "chunk"}, "an empty message cannot be sent without"),
        ("upper", {"size": 0}, "an empty datagram gets no reply"),
        ("upper", {"size": 65508}, "a message of 65508 bytes; a datagram carries 65507"),
        ("chat", {"message": b"byebye"}, "this message ends a conversation with chat"),
        ("echo", {"churn": True, "depth": 2}, "--churn sends one message on each connection, so"),
        ("gate", {"depth": 2}, "gate closes after one reply, so --depth can only be 1"),
        ("echo", {"framing": "chunk", "depth": 2}, "chunk framing does not tell one reply from"),
        ("upper", {"churn": True}, "there are no connections over UDP"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(app: str, wanted: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        makePlan(app, **wanted)


@pytest.mark.parametrize(
    ("app", "to", "message", "expected"),
    [
        ("echo", None, b"x", b"Echo=>x"),
        ("echo", "udp:127.0.0.1:1", b"x", b"Echo=>x"),
        ("echo", "udp:127.0.0.1:1", b"x\n", None),
        ("upper", "tcp:127.0.0.1:1", "straße".encode(), b"STRASSE"),
        ("upper", "udp:127.0.0.1:1", "straße".encode(), "STRAßE".encode()),
        ("gate", None, b"1", b"welcome to server!"),
        ("gate", None, b"2", b"please go out!"),
        ("hello", None, b"x", b"hi"),
        ("login", None, b"{'a': 'b'}", None),
        ("command", None, b"date", None),
    ],
)
def test_the_reply_is_known_where_the_message_tells(
    app: str, to: str | None, message: bytes, expected: bytes | None
) -> None:
    assert makePlan(app, to, message=message).expected == expected


@pytest.mark.parametrize(
    ("framing", "request_", "reply"),
    [
        ("line", b"abc\n", b"ABC\n"),
        ("chunk", b"abc", b"ABC"),
        ("netstring", b"3:abc,", b"3:ABC,"),
    ],
)
def test_messages_and_replies_are_framed(framing: str, request_: bytes, reply: bytes) -> None:
    plan = makePlan("upper-tcp", message=b"abc", framing=framing)
    assert (plan.request, plan.reply) == (request_, reply)


def test_what_nobody_says_is_sensible() -> None:
    plan = makePlan("echo")
    assert (plan.duration, plan.messages, plan.request) == (10.0, None, b"hello\n")
    plan = makePlan("echo", messages=3, connections=50)
    assert (plan.duration, plan.connections) == (None, 3)
    assert makePlan("gate").churn
    assert filled(40) == b"0123456789abcdefghijklmnopqrstuvwxyz0123"


def test_over_udp_each_message_in_flight_has_a_socket_of_its_own() -> None:
    plan = makePlan("upper", connections=5, depth=4)
    assert (plan.connections, plan.depth, plan.framing) == (20, 1, "chunk")


def test_messages_are_due_at_their_rate_however_late_one_looks() -> None:
    schedule = Schedule(4, 1000, None, 1000 + SECOND)
    assert schedule.take(999) == []
    assert schedule.next == 1000
    assert schedule.take(1000) == [1000]
    # Nobody looked for a minute: each was due when it was due all the same.
    assert schedule.take(60 * SECOND) == [1000 + SECOND * n // 4 for n in (1, 2, 3)]
    assert schedule.next is None


def test_rounding_does_not_add_up() -> None:
    schedule = Schedule(3, 0, 300_001, None)
    assert schedule.take(10**5 * SECOND)[-1] == 10**5 * SECOND
    assert schedule.next is None


@pytest.mark.parametrize("where", ["udp:127.0.0.1", "udp:127.0.0.1:x", "udp:127.0.0.1:65536"])
def test_udp_is_written_one_way(where: str) -> None:
    with pytest.raises(ValueError, match=r"not written udp:HOST:PORT"):
        parseUDP(where)
    assert parseUDP(r"udp:\:\:1:53") == ("::1", 53)


def test_an_endpoint_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="'carrier:pigeon' cannot be connected to"):
        Load(makePlan("echo", "carrier:pigeon"), globalReactor())


def test_a_tally_that_grows_is_settled_and_loses_nothing() -> None:
    tally = Tally()
    tally.took.update((units, 1) for units in range(CROWDED))
    tally.settle()
    assert len(tally.took) == CROWDED
    tally.took[HIGHEST * 2] = 2
    tally.settle()
    assert not tally.took
    assert tally.answered == CROWDED + 2
    assert tally.histogram.get_value_at_percentile(50) == pytest.approx(CROWDED / 2, rel=0.001)
    assert tally.histogram.get_max_value() == pytest.approx(HIGHEST, rel=0.001)


def found(**took: int) -> dict[str, Any]:
    """What is found of a run in which so many messages took so many microseconds."""
    load = Load(makePlan("echo", messages=9, rate=2), globalReactor())
    load.begun, load.ended = 0, SECOND
    load.took.update({int(us[1:]) * 10: count for us, count in took.items()})
    return figures(load, 0.001)


def test_figures_are_what_was_counted() -> None:
    told = found(_100=989, _2000=10, _900000=1)
    latency = told["latency_us"]
    for name, us in {"min": 100, "p50": 100, "p90": 100, "p99": 2000, "max": 900_000}.items():
        assert latency[name] == pytest.approx(us, rel=0.001), name
    assert latency["p99_9"] == pytest.approx(2000, rel=0.001)
    assert latency["mean"] == pytest.approx((98_900 + 20_000 + 900_000) / 1000, rel=0.001)
    assert (told["messages"], told["per_second"], told["cpu_us_per_message"]) == (1000, 1000.0, 1.0)
    assert (told["bytes_sent"], told["bytes_received"]) == (6000, 12000)
    assert sum(bar["messages"] for bar in told["histogram"]) == 1000
    ends = [bar["to_us"] for bar in told["histogram"]]
    assert ends == sorted(set(ends))
    assert ends[-1] == latency["max"]


def test_a_histogram_of_nothing_or_of_one_latency_has_no_ranges_to_speak_of() -> None:
    assert bars(Tally().histogram) == []
    [only] = found(_7=3)["histogram"]
    assert (only["from_us"], only["to_us"], only["messages"]) == (7.0, 7.0, 3)


@pytest.mark.parametrize(
    ("us", "text"),
    [(0.1, "0.1 µs"), (12.34, "12.3 µs"), (999.4, "999 µs"), (1234, "1.23 ms"), (2.5e6, "2.5 s")],
)
def test_latencies_are_written_for_people(us: float, text: str) -> None:
    assert duration(us) == text


def test_people_see_a_table_and_a_histogram() -> None:
    told = found(_100=75, _200000=25)
    told["errors"]["wrong_reply"] = 3
    first, *rest = [" ".join(line.split()) for line in lines(told)]
    assert first == "echo at tcp:127.0.0.1:50007, line: 1 × 1, 2 due a second, 1 s"
    assert "messages 100 100 a second" in rest
    assert "errors 3 wrong reply" in rest
    assert {"p50 100 µs", "p99.9 200 ms", "own CPU 10 µs a message"} <= set(rest)
    assert f"to 200 ms 25.0% {'█' * 13}" in rest


def test_nothing_answered_is_shown_too() -> None:
    told = found() | {"churn": True, "verified": False}
    text = "\n".join(lines(told))
    assert "each message its own connection" in text
    assert "any reply counts" in text
