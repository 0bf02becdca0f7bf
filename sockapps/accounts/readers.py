"""
Looking accounts up without making the reactor wait.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from twisted.enterprise import adbapi

from sockapps.accounts.store import LOCK_WAIT, fileURI

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


class _BriefConnection(adbapi.Connection):
    """
    A connection for one look-up, which costs little beside a hash.

    One that stays open keeps an account alive whose file was removed or restored, and a WAL that
    SQLite would apply to the file put in its place.
    """

    def commit(self) -> None:
        """End the look-up: nothing was written."""
        self._pool.disconnect(self._connection)

    rollback = commit


class Readers(adbapi.ConnectionPool):
    """Two threads that look accounts up in a file, stopped with the reactor."""

    connectionFactory = _BriefConnection

    def __init__(self, path: str, reactor: Any = None) -> None:
        super().__init__(
            "sqlite3",
            fileURI(path),
            uri=True,
            timeout=LOCK_WAIT,
            isolation_level=None,
            cp_min=1,
            cp_max=2,
            cp_openfun=_readOnly,
            cp_reactor=reactor,
        )

    def lookUp(self, name: str) -> Deferred[str | None]:
        """
        Find what is stored of an account's password.

        @return: A Deferred of it, or of L{None} where there is no such account; it fails with
            L{sqlite3.Error} where the file cannot be read.
        """
        found: Deferred[str | None] = self.runWithConnection(_hashOf, name)
        return found


def _hashOf(connection: sqlite3.Connection, name: str) -> str | None:
    sql = "SELECT CAST(hash AS TEXT) FROM account WHERE name = ?"
    row = connection.execute(sql, (name,)).fetchone()
    return None if row is None else str(row[0])


def _readOnly(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only=1")
