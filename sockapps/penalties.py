"""
Sources that misused a service, in the manner of OpenSSH's C{PerSourcePenalties}.

An offence adds seconds to its source's penalty, which passes as time does. Once more than the
threshold has come together, the source is refused until all of it has passed; one failed login
alone costs nobody anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

OFFENCES = ("login", "long", "fault", "deadline")
"""What a source is penalized for: C{penalty_login} and so on say how much."""

OVERFLOWS = ("permissive", "deny-all")
"""What can be done when there is no room for one more penalized source."""


class PenaltyOptions(Protocol):
    """
    What is asked of a L{sockapps.options.ProcessOptions}; C{penaltyLogin} and so on as well.
    """

    @property
    def maxSources(self) -> int: ...
    @property
    def penaltyThreshold(self) -> float: ...
    @property
    def penaltyMax(self) -> float: ...
    @property
    def penaltyOverflow(self) -> str: ...


class _Ends:
    """
    When which penalty ends, with the first at hand, however many there are and however often one
    is put off: a heap that knows where in it each source is.
    """

    __slots__ = ("_at", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._at: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def after(self, now: float) -> int:
        """How many are yet to end."""
        return sum(end > now for end, _ in self._heap)

    def __contains__(self, source: str) -> bool:
        return source in self._at

    def of(self, source: str) -> float:
        """When that of a source ends, which has one."""
        return self._heap[self._at[source]][0]

    def first(self) -> float:
        """When the first one ends."""
        return self._heap[0][0]

    def pop(self) -> str:
        """Forget the one that ends first: whose was it?"""
        source = self._heap[0][1]
        del self._at[source]
        last = self._heap.pop()
        if self._heap:
            self._sink(0, last)
        return source

    def add(self, source: str, end: float) -> None:
        """Note a source that has none yet."""
        heap, entry = self._heap, (end, source)
        at = len(heap)
        heap.append(entry)
        while at and entry < heap[above := (at - 1) >> 1]:
            self._put(at, heap[above])
            at = above
        self._put(at, entry)

    def putOff(self, source: str, end: float) -> None:
        """Note a later end."""
        self._sink(self._at[source], (end, source))

    def _sink(self, at: int, entry: tuple[float, str]) -> None:
        """Put an entry there, or below those that end before it."""
        heap = self._heap
        while (below := 2 * at + 1) < len(heap):
            if below + 1 < len(heap) and heap[below + 1] < heap[below]:
                below += 1
            if entry <= heap[below]:
                break
            self._put(at, heap[below])
            at = below
        self._put(at, entry)

    def _put(self, at: int, entry: tuple[float, str]) -> None:
        self._heap[at] = entry
        self._at[entry[1]] = at


class Penalties:
    """
    Remember until when whom to refuse.

    Nothing is ever swept: each new penalty clears away two that are over, if there are.

    @ivar options: What is decided by, from now on.
    @ivar counts: How many penalties there have been, by kind.
    """

    def __init__(self, options: PenaltyOptions, seconds: Callable[[], float]) -> None:
        self.options = options
        self.counts: Counter[str] = Counter()
        self._seconds = seconds
        self._ends = _Ends()
        self._refused: set[str] = set()

    def __len__(self) -> int:
        return self._ends.after(self._seconds())

    def penalize(self, source: str, kind: str) -> None:
        """
        Hold something against a source that is not exempt.

        @param kind: One of L{OFFENCES}.
        @raise ValueError: it is none of them.
        """
        if kind not in OFFENCES:
            raise ValueError(f"{kind!r} is no offence; these are: {', '.join(OFFENCES)}")
        options = self.options
        cost: float = getattr(options, f"penalty{kind.capitalize()}")
        if not cost:
            return
        self.counts[kind] += 1
        now, ends = self._seconds(), self._ends
        for _ in range(2):
            if ends and ends.first() <= now:
                self._forgetFirst()
        known = source in ends
        begin = max(now, ends.of(source)) if known else now
        end = begin + cost
        if options.penaltyMax:
            end = max(begin, min(end, now + options.penaltyMax))
        if known:
            if begin == now:
                self._refused.discard(source)
            ends.putOff(source, end)
        else:
            while self._isFull(now):
                if options.penaltyOverflow == "deny-all":
                    return
                self._forgetFirst()
            ends.add(source, end)
        if end - now > options.penaltyThreshold:
            self._refused.add(source)

    def refuses(self, source: str) -> bool:
        """Tell whether a source is to be turned away now."""
        if not self._ends:
            return False
        now = self._seconds()
        if self.options.penaltyOverflow == "deny-all" and self._isFull(now):
            return True
        return source in self._refused and self._ends.of(source) > now

    def _isFull(self, now: float) -> bool:
        """Tell whether one more takes the place of one that is not over."""
        while len(self._ends) >= self.options.maxSources:
            if self._ends.first() > now:
                return True
            self._forgetFirst()
        return False

    def _forgetFirst(self) -> None:
        """Forget the penalty that ends first."""
        self._refused.discard(self._ends.pop())
