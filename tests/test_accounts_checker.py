"""
Tests for L{sockapps.accounts.checker} and L{sockapps.accounts.readers}, with real threads.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import defer
from twisted.logger import LogLevel, capturedLogs
from zope.interface.verify import verifyObject

from sockapps.accounts.checker import AccountChecker
from sockapps.accounts.passwords import fits, hashPassword
from sockapps.accounts.store import AccountsError, AccountStore
from sockapps.workers import Busy, Workers

SECRET = "geheim-0815-é"


class CountingWorkers(Workers):
    """Workers that note what they were asked to do."""

    def __init__(self) -> None:
        super().__init__(2, 64, "password")
        self.jobs: list[tuple[Callable[..., Any], object]] = []

    def run(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> defer.Deferred[Any]:
        """Note the job and the stored hash it has, and do it."""
        self.jobs.append((work, args[0]))
        return super().run(work, *args, **kwargs)


@pytest.fixture
def store(tmp_path: Path) -> AccountStore:
    """A store in which 张三 has an account."""
    made = AccountStore(tmp_path / "accounts.db")
    made.prepare()
    made.add("张三", hashPassword(SECRET))
    return made


@pytest.fixture
def checker(store: AccountStore) -> AccountChecker:
    """A checker of that store."""
    return AccountChecker(store.path)


@pytest.fixture
def logged() -> Iterator[Sequence[dict[str, Any]]]:
    """What a test logs, in which no password may be."""
    with capturedLogs() as events:
        yield events
    for event in events:
        assert "geheim" not in repr(event)


def login(checker: AccountChecker, name: Any, password: Any) -> Any:
    """Ask a checker as a server does."""
    return checker.requestAvatarId(UsernamePassword(name, password))


def test_itIsACredentialsChecker(checker: AccountChecker) -> None:
    assert verifyObject(ICredentialsChecker, checker)
    assert "geheim" not in repr(checker)


@pytest_twisted.ensureDeferred
async def test_aRightPasswordGivesTheAccountsNameInEveryForm(
    checker: AccountChecker, logged: Sequence[dict[str, Any]]
) -> None:
    expected = "张三".encode()
    assert await login(checker, "张三".encode(), SECRET.encode()) == expected
    assert await login(checker, "张三", unicodedata.normalize("NFD", SECRET)) == expected
    assert logged == []


@pytest.mark.parametrize(
    ("name", "password", "stored"),
    [
        pytest.param("张三".encode(), b"geheim", True, id="wrong password"),
        pytest.param(b"eve", SECRET.encode(), False, id="unknown name"),
        pytest.param("张三".encode(), b"geheim\xff", False, id="password not UTF-8"),
        pytest.param(b"\xff", SECRET.encode(), False, id="name not UTF-8"),
        pytest.param("张三", "geheim\udcff", False, id="surrogate in the password"),
        pytest.param("张三".encode(), b"geheim" * 200, False, id="password over 1 KiB"),
        pytest.param(b"x" * 65, SECRET.encode(), False, id="name over 64 characters"),
        pytest.param(b"x" * 5000, SECRET.encode(), False, id="name over 1 KiB"),
        pytest.param("张三".encode(), b"", False, id="no password"),
        pytest.param(b"", SECRET.encode(), False, id="no name"),
        pytest.param("张三\n".encode(), SECRET.encode(), False, id="name with a newline"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_everyRefusalIsTheSameAndCostsOneComparison(
    checker: AccountChecker,
    store: AccountStore,
    logged: Sequence[dict[str, Any]],
    name: bytes | str,
    password: bytes | str,
    stored: bool,
) -> None:
    checker.workers = CountingWorkers()
    with pytest.raises(UnauthorizedLogin) as caught:
        await login(checker, name, password)
    assert caught.value.args == ()
    assert checker.workers.jobs == [(fits, store.hashOf("张三") if stored else None)]
    assert logged == []


@pytest_twisted.ensureDeferred
async def test_whatTheStoreChangesCountsFromTheNextLogin(
    checker: AccountChecker, store: AccountStore
) -> None:
    store.add("bob", hashPassword("one"))
    assert await login(checker, b"bob", b"one") == b"bob"
    store.setPassword("bob", hashPassword("two"))
    assert await login(checker, b"bob", b"two") == b"bob"
    store.remove("bob")
    with pytest.raises(UnauthorizedLogin):
        await login(checker, b"bob", b"two")


@pytest_twisted.ensureDeferred
async def test_fullWorkersAreAnHonestAnswer(checker: AccountChecker) -> None:
    release = threading.Event()
    jobs = [checker.workers.run(release.wait) for _ in range(66)]
    try:
        with pytest.raises(Busy):
            await login(checker, "张三", SECRET)
    finally:
        release.set()
        await defer.gatherResults(jobs)
    assert await login(checker, "张三", SECRET) == "张三".encode()


@pytest_twisted.ensureDeferred
async def test_lookUpsAreBoundedTooAndGivingUpFreesNone(checker: AccountChecker) -> None:
    waiting = [login(checker, "张三", SECRET) for _ in range(66)]
    for each in waiting:
        each.cancel()
        with pytest.raises(defer.CancelledError):
            await each
    over = login(checker, "张三", SECRET)
    assert isinstance(over.result.value, Busy)
    with pytest.raises(Busy):
        await over

    # Every look-up ends in one of two threads: one more in each, and all before are over.
    assert checker._readers is not None
    barrier = threading.Barrier(2, timeout=10)
    await defer.gatherResults(
        [checker._readers.runWithConnection(lambda _: barrier.wait()) for _ in range(2)]
    )
    assert await login(checker, "张三", SECRET) == "张三".encode()


def remove(store: AccountStore) -> None:
    os.unlink(store.path)


def dropTable(store: AccountStore) -> None:
    with closing(sqlite3.connect(store.path)) as db:
        db.execute("DROP TABLE account")


def becomeFolder(store: AccountStore) -> None:
    os.unlink(store.path)
    os.mkdir(store.path)


def becomeGarbage(store: AccountStore) -> None:
    os.unlink(store.path)
    Path(store.path).write_bytes(b"no database" * 1000)


def breakHash(store: AccountStore) -> None:
    with closing(sqlite3.connect(store.path, isolation_level=None)) as db:
        db.execute("UPDATE account SET hash = x'ff'")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (remove, "there is no such file"),
        (dropTable, "no such table: account"),
        (becomeFolder, "it is a folder, not a file"),
        (becomeGarbage, "file is not a database"),
        (breakHash, "Could not decode to UTF-8"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_aFileThatBreaksWhileRunningIsAnErrorLoggedOnceEachTimeUntilItIsBack(
    store: AccountStore,
    checker: AccountChecker,
    logged: Sequence[dict[str, Any]],
    spoil: Callable[[AccountStore], None],
    says: str,
) -> None:
    good = store.hashOf("张三")
    assert good is not None
    assert await login(checker, "张三", SECRET) == "张三".encode()
    spoil(store)
    for occurrence in (1, 2):
        with pytest.raises(AccountsError) as caught:
            await login(checker, "张三", SECRET)
        assert str(caught.value).startswith(f"accounts file {store.path}: {says}")
        assert caught.value.__suppress_context__
        assert [event["log_level"] for event in logged] == [LogLevel.error] * occurrence
        assert logged[-1]["broken"] is caught.value

    # A file restored under the name is the one that counts.
    fresh = AccountStore(store.path + ".restored")
    fresh.prepare()
    fresh.add("李四", good)
    if os.path.isdir(store.path):
        os.rmdir(store.path)
    os.replace(fresh.path, store.path)
    assert await login(checker, "李四", SECRET) == "李四".encode()
    with pytest.raises(UnauthorizedLogin):
        await login(checker, "张三", SECRET)


@pytest_twisted.ensureDeferred
async def test_aHashThatIsNoneIsAnErrorAndNoRefusal(
    store: AccountStore, checker: AccountChecker, logged: Sequence[dict[str, Any]]
) -> None:
    store.setPassword("张三", "$argon2id$junk")
    with pytest.raises(AccountsError, match="a stored hash cannot be used"):
        await login(checker, "张三", SECRET)
    assert len(logged) == 1


@pytest_twisted.ensureDeferred
async def test_betweenLoginsNothingIsOpenSoThatTheFileMayBeCopiedAndReplaced(
    store: AccountStore, checker: AccountChecker
) -> None:
    await login(checker, "张三", SECRET)
    assert os.listdir(os.path.dirname(store.path)) == ["accounts.db"]


@pytest_twisted.ensureDeferred
async def test_itsConnectionsCannotChangeTheFile(checker: AccountChecker) -> None:
    await login(checker, "张三", SECRET)
    assert checker._readers is not None
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await checker._readers.runWithConnection(
            lambda connection: connection.execute("DELETE FROM account")
        )
