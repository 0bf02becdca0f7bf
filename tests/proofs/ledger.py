"""
What an accounts file owes after whatever has happened to who wrote it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from attrs import define, field

from sockapps.accounts.passwords import fits, passwordBytes

Stored = str | None
"""What is stored of an account's password; None where there is no account."""


@define
class Ledger:
    """
    The changes that were acknowledged, and the one that nobody has answered for yet.

    @ivar accounts: What is owed: a hash for each name.
    @ivar owed: How many changes were acknowledged.
    @ivar lost: How many acknowledged changes were not there.
    @ivar strange: How many other things were there, or not there any more.
    @ivar broken: What C{integrity_check} said instead of C{ok}.
    @ivar inDoubt: How many changes were under way when their writer ended.
    @ivar done: How many of those are there.
    """

    accounts: dict[str, str] = field(factory=dict)
    owed: int = 0
    lost: int = 0
    strange: int = 0
    broken: list[str] = field(factory=list)
    inDoubt: int = 0
    done: int = 0
    _pending: tuple[str, Callable[[Stored], bool]] | None = None
    _fresh: set[str] = field(factory=set)

    def tries(self, name: str, fitting: Callable[[Stored], bool]) -> None:
        """
        Expect a change of one account.

        @param fitting: Whether what is stored is what the change makes of it.
        """
        self._pending = (name, fitting)

    def acknowledged(self, stored: Stored) -> None:
        """Owe the change that was expected: this is what it has stored, or what is found."""
        assert self._pending is not None
        name, fitting = self._pending
        self.owed += 1
        self.lost += not fitting(stored)
        self._fresh.add(name)
        self._set(name, stored)
        self._pending = None

    def audit(self, path: Path) -> None:
        """
        Compare with a file, whose writers have ended, and go on from what it holds.

        A change that was tried and not acknowledged may be there or not, but nothing between.
        """
        there = self._read(path)
        if self._pending is not None:
            name, fitting = self._pending
            self.inDoubt += 1
            # Where it makes no difference, it is as good as not done.
            if there.get(name) != self.accounts.get(name) and fitting(there.get(name)):
                self.done += 1
                self._set(name, there.get(name))
        for name in {*there, *self.accounts}:
            if there.get(name) != self.accounts.get(name):
                self.lost += name in self._fresh
                self.strange += name not in self._fresh
        self.accounts = there
        self._pending = None
        self._fresh.clear()

    def _set(self, name: str, stored: Stored) -> None:
        if stored is None:
            self.accounts.pop(name, None)
        else:
            self.accounts[name] = stored

    def _read(self, path: Path) -> dict[str, str]:
        if not os.path.lexists(path):
            return {}
        try:
            with closing(sqlite3.connect(path, isolation_level=None)) as db:
                said = [str(row[0]) for row in db.execute("PRAGMA integrity_check")]
                self.broken += [each for each in said if each != "ok"]
                return {str(row[0]): str(row[1]) for row in db.execute("SELECT * FROM account")}
        except sqlite3.Error as error:
            self.broken.append(str(error))
            return {}


def exactly(stored: Stored) -> Callable[[Stored], bool]:
    """Make the test for a change whose result is known."""
    return lambda found: found == stored


def hashOf(password: str) -> Callable[[Stored], bool]:
    """Make the test for a change that stores some hash of this password."""
    return lambda found: found is not None and fits(found, passwordBytes(password))
