"""
What came of the messages of a run: counted cheaply while it lasts, summed up at its end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

UNREACHED = ("refused", "unreachable", "tls")
"""Kinds of errors of those who did not even get a connection."""

UNANSWERED = ("reset", "broken_off", "timeout", "wrong_reply")
"""Kinds of errors of messages that were sent."""

KINDS = (*UNREACHED, *UNANSWERED, "unsent")
"""All kinds of errors; C{unsent} is a message that was due and never got its turn."""

UNIT = 100
"""Nanoseconds: how exactly latencies are counted."""

HIGHEST = 3600 * 1_000_000_000 // UNIT
DIGITS = 3
CROWDED = 50_000


class Tally:
    """
    Count.

    @ivar took: How many messages took so long, by units of L{UNIT}. Whoever gets replies counts
        here itself: no call is as cheap as none.
    @ivar errors: How many messages failed, by kind.
    @ivar why: What the first of those who got no connection was told.
    @ivar looseReplies: How many replies were not of the length that all expected ones have,
        C{looseBytes} bytes together.
    """

    def __init__(self) -> None:
        from hdrh.histogram import (  # type: ignore[import-untyped]  # it has no types
            HdrHistogram,
        )

        self.took: defaultdict[int, int] = defaultdict(int)
        self.errors: Counter[str] = Counter()
        self.why: str | None = None
        self.looseReplies = 0
        self.looseBytes = 0
        self._histogram: Any = HdrHistogram(1, HIGHEST, DIGITS)

    def settle(self, anyway: bool = False) -> None:
        """Move what was counted to the histogram, where it takes much room."""
        if len(self.took) > CROWDED or anyway:
            record = self._histogram.record_value
            for units, count in self.took.items():
                record(min(max(units, 1), HIGHEST), count)
            self.took.clear()

    @property
    def answered(self) -> int:
        """How many messages had their right reply."""
        return int(self._histogram.get_total_count()) + sum(self.took.values())

    @property
    def failed(self) -> int:
        """How many had not."""
        return self.errors.total()

    @property
    def histogram(self) -> Any:
        """The latencies, in units of L{UNIT}."""
        self.settle(True)
        return self._histogram

    @property
    def unreached(self) -> bool:
        """Whether nobody ever got as far as a connection."""
        kinds = {kind for kind, count in self.errors.items() if count}
        return bool(kinds) and kinds <= set(UNREACHED) and not self.answered
