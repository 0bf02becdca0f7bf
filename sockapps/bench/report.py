"""
What a run has shown: as a table and a histogram for people, as one JSON object for programs.
"""

from __future__ import annotations

import math
from typing import Any

from sockapps.bench.load import Load
from sockapps.bench.tally import KINDS, UNANSWERED, UNIT
from sockapps.printable import shown

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
ROWS = 12
WIDTH = 40


def figures(load: Load, cpu: float) -> dict[str, Any]:
    """
    Sum a run up.

    @param cpu: Seconds of processor time that this process has used for it.
    """
    plan, tally, seconds = load.plan, load.tally, load.seconds
    histogram = tally.histogram
    answered = tally.answered
    sent = answered + sum(tally.errors[kind] for kind in UNANSWERED)
    received = (answered - tally.looseReplies) * len(plan.reply or b"") + tally.looseBytes
    latency: dict[str, float | None] = dict.fromkeys(("min", "mean", *PERCENTILES, "max"))
    if answered:
        latency["min"] = _us(histogram.get_min_value())
        latency["mean"] = round(histogram.get_mean_value() * UNIT / 1000, 1)
        for name, percentile in PERCENTILES.items():
            latency[name] = _us(histogram.get_value_at_percentile(percentile))
        latency["max"] = _us(histogram.get_max_value())
    return {
        "app": plan.app,
        "endpoint": plan.where,
        "framing": "datagram" if plan.datagrams else plan.framing,
        "connections": plan.connections,
        "depth": plan.depth,
        "churn": plan.churn,
        "rate": plan.rate,
        "size": plan.size,
        "verified": plan.expected is not None,
        "interrupted": load.interrupted,
        "seconds": round(seconds, 3),
        "messages": answered,
        "per_second": round(answered / seconds, 1) if seconds else 0.0,
        "bytes_sent": sent * len(plan.request),
        "bytes_received": received,
        "errors": {kind: tally.errors[kind] for kind in KINDS},
        "no_connection": tally.why,
        "latency_us": latency,
        "cpu_us_per_message": round(cpu * 1e6 / answered, 2) if answered else None,
        "histogram": [
            {"from_us": low, "to_us": high, "messages": count}
            for low, high, count in bars(histogram)
        ],
    }


def _us(units: float) -> float:
    return round(units * UNIT / 1000, 1)


def bars(histogram: Any) -> list[tuple[float, float, int]]:
    """
    Divide latencies into a few ranges that grow by one factor.

    @return: Each range's ends in microseconds, and how many messages are in it.
    """
    if not histogram.get_total_count():
        return []
    low, high = histogram.get_min_value(), histogram.get_max_value()
    factor = (high / low) ** (1 / ROWS)
    edges = sorted({_rounded(low * factor**row) for row in range(1, ROWS)} - {0})
    edges = [edge for edge in edges if low < edge < high]
    ends = [*edges, math.inf]
    counts = [0] * len(ends)
    row = 0
    for item in histogram.get_recorded_iterator():
        while item.value_iterated_to > ends[row]:
            row += 1
        counts[row] += item.count_added_in_this_iter_step
    froms = [low, *edges]
    tos = [*edges, high]
    return [
        (_us(begin), _us(end), count) for begin, end, count in zip(froms, tos, counts, strict=True)
    ]


def _rounded(value: float) -> int:
    """Round to two digits, for people to read."""
    step = int(10 ** max(0, math.floor(math.log10(value)) - 1))
    return round(value / step) * step


def duration(us: float) -> str:
    """Write a latency for people."""
    if us < 999.5:
        return f"{us:.3g} µs"
    if us < 999_500:
        return f"{us / 1000:.3g} ms"
    return f"{us / 1e6:.3g} s" if us < 999.5e6 else f"{us / 1e6:.0f} s"


def lines(found: dict[str, Any]) -> list[str]:
    """Write for people what was found."""
    rate = "" if found["rate"] is None else f", {found['rate']:g} due a second"
    churn = ", each message its own connection" if found["churn"] else ""
    rows = [
        ("messages", f"{found['messages']:,}", f"{found['per_second']:,.0f} a second"),
        ("bytes", f"{found['bytes_sent']:,} sent", f"{found['bytes_received']:,} received"),
    ]
    for kind, count in found["errors"].items():
        if count:
            rows.append(("errors", f"{count:,}", kind.replace("_", " ")))
    if not any(found["errors"].values()):
        rows.append(("errors", "none", "" if found["verified"] else "any reply counts"))
    for name, value in found["latency_us"].items():
        if value is not None:
            rows.append((name.replace("_", "."), duration(value), ""))
    if found["cpu_us_per_message"] is not None:
        rows.append(("own CPU", f"{found['cpu_us_per_message']:g} µs", "a message"))
    width = max(len(figure) for _, figure, _ in rows)
    table = [f"{name:8}  {figure:{width}}  {note}".rstrip() for name, figure, note in rows]
    most = max((bar["messages"] for bar in found["histogram"]), default=0)
    chart = [
        f"to {duration(bar['to_us']):>7}  {bar['messages'] / found['messages']:6.1%}  "
        f"{'█' * round(bar['messages'] / most * WIDTH)}".rstrip()
        for bar in found["histogram"]
    ]
    what = f"{found['app']} at {shown(found['endpoint'])}, {found['framing']}"
    how = f"{found['connections']} × {found['depth']}{rate}{churn}, {found['seconds']:g} s"
    return [f"{what}: {how}", *table, *chart]
