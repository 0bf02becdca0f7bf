"""
How often somebody may guess: delays that grow for a source, and a short back-off for an account.

A delay is served before anybody looks at the password, so it is the same for a right one and a
wrong one and tells nothing. Nothing here waits: an attempt says for how long somebody has to.
"""

from __future__ import annotations

import os
import unicodedata
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import TypeVar

V = TypeVar("V")

REMEMBERED = 65_536
"""Entries of a table; the least recently used makes room."""

FORGIVING = 60.0
"""Seconds without a failure after which one of those before is forgotten."""

PAIRS = 4
"""Wrong pairs of one source that are known again: as many devices may have an old password."""

BACKOFF = 1.0
"""Seconds that guesses from elsewhere make an account's owner wait at most."""

BACKOFF_SHARE = 8
"""A back-off begins at this part of what a source's delay begins at."""


def growing(first: float, longest: float) -> tuple[float, ...]:
    """
    Say how long to wait after no failure, after one, and so on: twice as long each time.

    >>> growing(2, 15)
    (0.0, 2, 4, 8, 15)
    """
    delays = [0.0]
    if first > 0 and longest > 0:
        while first < longest:
            delays.append(first)
            first *= 2
        delays.append(longest)
    return tuple(delays)


class _Failures:
    """
    What has failed lately, as an index of its table of delays.
    """

    __slots__ = ("_count", "_since")

    def __init__(self) -> None:
        self._count = 0
        self._since = 0.0

    def count(self, now: float) -> int:
        return max(0, self._count - int((now - self._since) / FORGIVING))

    def add(self, number: int, now: float, most: int) -> None:
        self._count = min(self.count(now) + number, most)
        self._since = now


class _SourceFailures(_Failures):
    """
    What a source has failed with lately.

    @ivar last: When one of its attempts last began to be verified, or failed.
    @ivar pairs: Digests of its latest wrong pairs.
    """

    __slots__ = ("last", "pairs")

    def __init__(self) -> None:
        super().__init__()
        self.last = 0.0
        self.pairs: tuple[bytes, ...] = ()


class _Recent(OrderedDict[object, V]):
    """A table that has an end."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def recall(self, key: object) -> V | None:
        found = self.get(key)
        if found is not None:
            self.move_to_end(key)
        return found

    def keep(self, key: object, value: V) -> V:
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)
        return value


class Attempt:
    """
    One attempt, in progress until it ends.

    @ivar source: Whose it is; C{None} is exempt.
    @ivar account: What its account is known by here; empty where none could be read.
    @ivar pair: What name and password are known by here.
    @ivar began: When.
    @ivar notBefore: When the account lets it go on.
    @ivar verifying: Whether its turn has come.
    """

    __slots__ = ("account", "began", "notBefore", "pair", "source", "verifying")

    def __init__(self, source: str | None, began: float) -> None:
        self.source = source
        self.account = self.pair = b""
        self.began = self.notBefore = began
        self.verifying = False


class Attempts:
    """
    Everybody's attempts at one service.

    Of passwords it keeps nothing but keyed digests of the wrong ones, with a key that nobody
    knows and that ends with the process.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        most: int = 4,
        delay: float = 2.0,
        longestDelay: float = 15.0,
        remembered: int = REMEMBERED,
    ) -> None:
        """
        @param seconds: The clock, which never goes back.
        @param most: Attempts that one source may have in progress; 0 is no limit.
        @param delay: Seconds before an attempt from a source that has failed once; 0 is none.
        @param longestDelay: Seconds up to which that grows; 0 is none either.
        @param remembered: How many sources, and how many accounts, are remembered.
        """
        self._seconds = seconds
        self._most = most
        self._delays = growing(delay, longestDelay)
        self._backoffs = growing(delay / BACKOFF_SHARE, min(longestDelay, BACKOFF))
        self._key = os.urandom(blake2b.MAX_KEY_SIZE)
        self._inProgress: dict[str, list[Attempt]] = {}
        self._sources: _Recent[_SourceFailures] = _Recent(remembered)
        self._accounts: _Recent[_Failures] = _Recent(remembered)
        self._welcome: _Recent[bool] = _Recent(remembered)

    def begin(self, source: str | None, account: str | None, secret: bytes) -> Attempt | None:
        """
        Begin an attempt.

        @param source: Whose it is; C{None} is exempt from everything here.
        @param account: The account's name; C{None} where none could be read.
        @param secret: The password, or what else was said.
        @return: C{None} where too many from that source are in progress.
        """
        attempt = Attempt(source, self._seconds())
        if source is None:
            return attempt
        inProgress = self._inProgress.get(source, [])
        if len(inProgress) >= self._most > 0:
            return None
        attempt.pair = self._digest(account or "", secret)
        if account is not None:
            # In any spelling: which of them are one account is up to who checks.
            spelling = unicodedata.normalize("NFC", account.casefold())
            attempt.account = self._digest(spelling, b"")
            failures = self._accounts.recall(attempt.account)
            if failures is not None and not self._welcome.recall((source, attempt.account)):
                attempt.notBefore += self._backoffs[failures.count(attempt.began)]
        self._sources.recall(source)
        inProgress.append(attempt)
        self._inProgress[source] = inProgress
        return attempt

    def takeTurn(self, attempt: Attempt) -> float:
        """
        Go on with an attempt, if it may.

        @return: Seconds after which to ask again; 0.0 where its turn has come, and is taken.
        """
        if attempt.source is None:
            return 0.0
        now = self._seconds()
        due = attempt.notBefore
        failures = self._sources.get(attempt.source)
        if failures is not None and (delay := self._delays[failures.count(now)]):
            # One after the other, each after a delay of its own: the first may raise it for the
            # second.
            waiting = [each for each in self._inProgress[attempt.source] if not each.verifying]
            turn = 1 + waiting.index(attempt)
            due = max(due, max(attempt.began, failures.last) + turn * delay)
        if due > now:
            return due - now
        attempt.verifying = True
        if failures is not None:
            failures.last = now
        return 0.0

    def end(self, attempt: Attempt, accepted: bool | None) -> None:
        """
        End an attempt.

        @param accepted: The verdict; C{None} where there is none, which counts as nothing.
        """
        source = attempt.source
        if source is None:
            return
        inProgress = self._inProgress[source]
        inProgress.remove(attempt)
        if not inProgress:
            del self._inProgress[source]
        if accepted:
            self._welcome.keep((source, attempt.account), True)
        elif accepted is not None:
            self._failed(source, attempt)

    def _failed(self, source: str, attempt: Attempt) -> None:
        now = self._seconds()
        failures = self._sources.recall(source) or self._sources.keep(source, _SourceFailures())
        failures.last = now
        # Who says the same again learns nothing by it: a program with an old password, mostly.
        new = attempt.pair not in failures.pairs
        failures.add(new, now, len(self._delays) - 1)
        if new:
            failures.pairs = (*failures.pairs, attempt.pair)[-PAIRS:]
            if attempt.account:
                account = attempt.account
                known = self._accounts.recall(account) or self._accounts.keep(account, _Failures())
                known.add(1, now, len(self._backoffs) - 1)

    def _digest(self, account: str, secret: bytes) -> bytes:
        name = account.encode()
        told = b"%d:%b%b" % (len(name), name, secret)
        return blake2b(told, digest_size=16, key=self._key).digest()
