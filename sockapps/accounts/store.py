"""
Keeping the accounts of one machine: a SQLite file that survives a crash after any answer.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from urllib.parse import quote

import attrs

from sockapps.accounts.names import AccountsError, normalName
from sockapps.printable import shown

__all__ = ["Account", "AccountStore", "AccountsError", "defaultFile", "fileError", "fileURI"]

SCHEMA = 1
APPLICATION_ID = 0x736B6170
"""In the file's header: it is ours, whatever its name."""

# WAL comes last: what is only in a WAL would not be in the file that gets its name.
_NEW_FILE = f"""
BEGIN;
CREATE TABLE account (
    name TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL,
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA};
COMMIT;
PRAGMA journal_mode = WAL;
"""

LOCK_WAIT = 5.0
"""For how many seconds a locked file is waited for."""


def defaultFile(environ: Mapping[str, str]) -> Path:
    """
    Where the accounts are if nobody says: the service's state folder, or else the person's.

    @raise AccountsError: there is no such folder.
    """
    service = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if service:
        return Path(service, "accounts.db")
    state = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        home = environ.get("HOME") or os.path.expanduser("~")
        if not os.path.isabs(home):
            raise AccountsError("there is no home folder to keep accounts in; name a file")
        state = os.path.join(home, ".local", "state")
    return Path(state, "sockapps", "accounts.db")


def fileURI(path: str) -> str:
    """Name a file to SQLite so that it is never created by opening it."""
    return f"file:{quote(os.fsencode(path))}?mode=rw"


def fileError(path: str, reason: Exception | str) -> AccountsError:
    """Say in one sentence what is wrong with an accounts file."""
    if isinstance(reason, sqlite3.Error) and not os.path.lexists(path):
        reason = "there is no such file; adding an account makes it"
    elif isinstance(reason, sqlite3.Error) and os.path.isdir(path):
        reason = "it is a folder, not a file"
    elif isinstance(reason, OSError):
        reason = reason.strerror or str(reason)
    return AccountsError(f"accounts file {shown(path)}: {reason}")


@attrs.frozen
class Account:
    """What may be shown of an account; the times are seconds since 1970."""

    name: str
    created: int
    changed: int


class AccountStore:
    """
    The accounts in one file, for who can wait: every call opens it, and is done when it returns.

    So nothing of it is open while a daemon forks, and what was changed is on the disk.

    @ivar path: The file, absolute.
    """

    def __init__(
        self, path: str | os.PathLike[str], clock: Callable[[], float] = time.time
    ) -> None:
        self.path = os.path.abspath(path)
        self._clock = clock

    def prepare(self) -> None:
        """
        Make the folder and the file where they are missing, and see that the file is ours.

        @raise AccountsError: it cannot be used.
        """
        if not os.path.lexists(self.path):
            try:
                self._makeFile()
            except OSError as error:
                raise fileError(self.path, error) from error
        with self._checked() as db:
            db.execute("PRAGMA journal_mode=WAL")

    def add(self, name: str, passwordHash: str) -> None:
        """
        Make an account.

        @param passwordHash: What L{sockapps.accounts.passwords.hashPassword} returned.
        @raise AccountsError: the name is taken or impossible, or the file cannot be used.
        """
        name, now = normalName(name), int(self._clock())
        sql = "INSERT INTO account VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
        if not self._change(sql, name, _checkedHash(passwordHash), now, now):
            raise AccountsError(f"there is an account '{name}' already")

    def setPassword(self, name: str, passwordHash: str) -> None:
        """
        Give an account another password.

        @raise AccountsError: there is no such account, or the file cannot be used.
        """
        sql = "UPDATE account SET hash = ?, changed = ? WHERE name = ?"
        name = normalName(name)
        if not self._change(sql, _checkedHash(passwordHash), int(self._clock()), name):
            raise AccountsError(f"there is no account '{name}'")

    def remove(self, name: str) -> None:
        """
        Take an account away.

        @raise AccountsError: there is no such account, or the file cannot be used.
        """
        name = normalName(name)
        if not self._change("DELETE FROM account WHERE name = ?", name):
            raise AccountsError(f"there is no account '{name}'")

    def hashOf(self, name: str) -> str | None:
        """
        Find what is stored of an account's password; L{None} where there is no such account.

        @raise AccountsError: the name is impossible, or the file cannot be used.
        """
        name = normalName(name)
        with self._checked() as db:
            row = db.execute("SELECT hash FROM account WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def accounts(self) -> list[Account]:
        """
        Find all accounts, in the order of their names.

        @raise AccountsError: the file cannot be used.
        """
        sql = "SELECT name, created, changed FROM account ORDER BY name"
        with self._checked() as db:
            return [Account(*row) for row in db.execute(sql)]

    def names(self) -> list[str]:
        """
        Find the names of all accounts, in order.

        @raise AccountsError: the file cannot be used.
        """
        return [account.name for account in self.accounts()]

    def _change(self, sql: str, *values: object) -> bool:
        """Run one statement, which is one transaction, and say whether it changed anything."""
        with self._checked() as db:
            return db.execute(sql, values).rowcount > 0

    @contextmanager
    def _checked(self) -> Iterator[sqlite3.Connection]:
        with self._connection(self.path) as db:
            self._check(db)
            yield db

    @contextmanager
    def _connection(self, path: str) -> Iterator[sqlite3.Connection]:
        try:
            connecting = sqlite3.connect(
                fileURI(path), uri=True, timeout=LOCK_WAIT, isolation_level=None
            )
            with closing(connecting) as db:
                db.execute("PRAGMA synchronous=FULL")
                yield db
        except sqlite3.Error as error:
            raise fileError(self.path, error) from error

    def _check(self, db: sqlite3.Connection) -> None:
        if _pragma(db, "application_id") != APPLICATION_ID:
            raise fileError(self.path, "it is no accounts file of sockapps")
        version = _pragma(db, "user_version")
        if version > SCHEMA:
            raise fileError(
                self.path,
                f"it was written by a newer sockapps (schema {version}, this one knows {SCHEMA})",
            )

    def _makeFile(self) -> None:
        """
        Make the file complete in a folder of its own, for its owner alone, then give it its place.

        Several processes may do so at once: one wins, and nobody meets half a file.
        """
        folder = os.path.dirname(self.path)
        _makeFolder(folder)
        drafts = mkdtemp(prefix=".accounts-", dir=folder)
        try:
            draft = os.path.join(drafts, "draft")
            os.close(os.open(draft, os.O_CREAT | os.O_EXCL, 0o600))
            with self._connection(draft) as db:
                db.executescript(_NEW_FILE)
            with suppress(FileExistsError):
                os.link(draft, self.path)
        finally:
            rmtree(drafts, ignore_errors=True)
        _syncFolder(folder)


def _checkedHash(passwordHash: str) -> str:
    # Whoever hands over the password itself must not find it stored.
    if not passwordHash.startswith("$argon2id$"):
        raise AccountsError("what is to be stored is not an argon2id hash")
    return passwordHash


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _makeFolder(folder: str) -> None:
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(folder)
    _makeFolder(parent)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        # Somebody else was faster; if it is no folder, making the file in it says so.
        return
    _syncFolder(parent)


def _syncFolder(folder: str) -> None:
    folderFile = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(folderFile)
    finally:
        os.close(folderFile)
