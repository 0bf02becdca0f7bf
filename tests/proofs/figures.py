"""
What comes out of a proof: figures, what they must be, and a table of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from attrs import define, evolve, frozen

SLACK = 10
"""How many times longer an answer may take in a smoke test: whatever runs it does more besides."""


class CannotRun(Exception):
    """Say what a machine lacks that a proof needs."""


class Failed(Exception):
    """Say why a proof came to no figures: something went wrong that it is not about."""


@frozen
class Figure:
    """
    One thing that a proof has seen; made by what says what it must be.

    @ivar what: What it is of.
    @ivar least: What it must reach, if anything.
    @ivar most: What it must not exceed, if anything.
    """

    what: str
    seen: float
    unit: str = ""
    least: float | None = None
    most: float | None = None

    @classmethod
    def atMost(cls, what: str, seen: float, most: float, unit: str = "") -> Figure:
        """Have something that must not be more than that."""
        return cls(what, seen, unit, most=most)

    @classmethod
    def atLeast(cls, what: str, seen: float, least: float, unit: str = "") -> Figure:
        """Have something that must not be less than that."""
        return cls(what, seen, unit, least=least)

    @classmethod
    def within(cls, what: str, seen: float, least: float, most: float, unit: str = "") -> Figure:
        """Have something that must be neither less nor more than that."""
        return cls(what, seen, unit, least, most)

    @classmethod
    def worthKnowing(cls, what: str, seen: float, unit: str = "") -> Figure:
        """Have something that may be what it is."""
        return cls(what, seen, unit)

    def of(self, what: str) -> Figure:
        """Say of which part of a proof it is."""
        return evolve(self, what=f"{what}: {self.what}")

    @property
    def holds(self) -> bool:
        """Whether it is what it must be; what is no number is not, whatever it must be."""
        return (
            not math.isnan(self.seen)
            and (self.least is None or self.seen >= self.least)
            and (self.most is None or self.seen <= self.most)
        )

    @property
    def target(self) -> str:
        """What it must be, or C{""} where it is only worth knowing."""
        bounds = (("≥", self.least), ("≤", self.most))
        return " ".join(f"{sign} {number(bound)}" for sign, bound in bounds if bound is not None)


@define
class Outcome:
    """
    What became of one proof.

    @ivar skipped: What is missing, where it could not run.
    @ivar failed: What went wrong, where it came to no figures.
    """

    proof: str
    title: str
    figures: Sequence[Figure] = ()
    skipped: str = ""
    failed: str = ""
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether everything is as it must be; where it could not run nothing says otherwise."""
        return not self.failed and all(figure.holds for figure in self.figures)


def number(value: float) -> str:
    """Write a number with as many digits as matter."""
    if math.isnan(value) or value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """
    Say what so many percent of the values do not exceed.

    @raise Failed: If there are no values.
    """
    if not values:
        raise Failed("there is nothing to take a percentile of")
    return sorted(values)[max(0, math.ceil(len(values) * share / 100) - 1)]


def table(outcomes: Sequence[Outcome]) -> str:
    """Write everything down for people, in Markdown that needs no rendering to be read."""
    rows = [("proof", "figure", "seen", "target", "holds")]
    for outcome in outcomes:
        for figure in outcome.figures:
            seen = f"{number(figure.seen)} {figure.unit}".rstrip()
            holds = ("yes" if figure.holds else "NO") if figure.target or not figure.holds else ""
            rows.append((outcome.proof, figure.what, seen, figure.target, holds))
        if outcome.skipped:
            rows.append((outcome.proof, f"left out: {outcome.skipped}", "", "", ""))
        if outcome.failed:
            rows.append((outcome.proof, f"failed: {outcome.failed.splitlines()[0]}", "", "", "NO"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]  # five too
    return "\n".join("| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows)


def asData(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Make everything what JSON can hold."""
    return [
        {
            "proof": outcome.proof,
            "title": outcome.title,
            "holds": outcome.holds,
            "skipped": outcome.skipped,
            "failed": outcome.failed,
            "took_seconds": round(outcome.seconds, 1),
            "figures": [
                {
                    "figure": figure.what,
                    "seen": None if math.isnan(figure.seen) else figure.seen,
                    "unit": figure.unit,
                    "at_least": figure.least,
                    "at_most": figure.most,
                    "holds": figure.holds,
                }
                for figure in outcome.figures
            ],
        }
        for outcome in outcomes
    ]
