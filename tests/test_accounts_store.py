"""
Tests for L{sockapps.accounts.store}, on real files.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sockapps.accounts.store import (
    _NEW_FILE,
    Account,
    AccountsError,
    AccountStore,
    defaultFile,
)

HASH = "$argon2id$one"
OTHER = "$argon2id$other"


def run(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Do something to a file as another program would."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        return db.execute(sql).fetchall()


def mode(path: Path) -> int:
    """Find who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def store(tmp_path: Path) -> AccountStore:
    """A prepared store whose clock stands at 1000."""
    made = AccountStore(tmp_path / "accounts.db", clock=lambda: 1000.9)
    made.prepare()
    return made


def test_prepareMakesTheFoldersAndTheFileForTheirOwnerAlone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "sockapps" / "accounts.db"
    before = os.umask(0)
    try:
        AccountStore(path).prepare()
    finally:
        os.umask(before)
    assert [mode(each) for each in (path.parent.parent, path.parent, path)] == [
        0o700,
        0o700,
        0o600,
    ]
    assert os.listdir(path.parent) == ["accounts.db"]


def test_theFileIsWALAndEveryCommitReachesTheDisk(store: AccountStore) -> None:
    assert run(Path(store.path), "PRAGMA journal_mode") == [("wal",)]
    with store._connection(store.path) as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert db.execute("PRAGMA busy_timeout").fetchone() == (5000,)


def test_prepareKeepsWhatIsThereAndMakesItWALAgain(store: AccountStore) -> None:
    store.add("bob", HASH)
    run(Path(store.path), "PRAGMA journal_mode=DELETE")
    store.prepare()
    assert store.names() == ["bob"]
    assert run(Path(store.path), "PRAGMA journal_mode") == [("wal",)]


def test_processesThatPrepareAtOnceMakeOneFile(tmp_path: Path) -> None:
    path = tmp_path / "state" / "accounts.db"
    code = (
        "import sys; from sockapps.accounts.store import AccountStore\n"
        "store = AccountStore(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
        "store.prepare(); store.add(sys.argv[2], '$argon2id$')"
    )
    names = ["a", "b", "c", "d"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, path, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in names
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        process.communicate(b"\n", timeout=30)
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert AccountStore(path).names() == names
    assert os.listdir(path.parent) == ["accounts.db"]


def test_whoMakesTheFileSecondLeavesTheFirstOnesAlone(store: AccountStore) -> None:
    store.add("bob", HASH)
    store._makeFile()
    assert store.names() == ["bob"]
    assert os.listdir(os.path.dirname(store.path)) == ["accounts.db"]


def test_whatIsAcknowledgedOutlivesAKilledProcess(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    code = (
        "import os, signal, sys; from sockapps.accounts.store import AccountStore\n"
        "store = AccountStore(sys.argv[1]); store.prepare()\n"
        "with store._checked():  # so that this process is killed with the WAL still there\n"
        "    store.add('张三', '$argon2id$one'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], timeout=30).returncode == -9
    assert mode(tmp_path / "accounts.db-wal") == 0o600
    assert run(path, "SELECT name, hash FROM account") == [("张三", HASH)]


def test_anAccountIsAddedChangedAndRemoved(tmp_path: Path) -> None:
    now = 1000.9
    store = AccountStore(tmp_path / "accounts.db", clock=lambda: now)
    store.prepare()
    store.add("张三", HASH)
    store.add("bob", HASH)
    now = 2000.0
    store.setPassword("张三", OTHER)
    assert store.accounts() == [Account("bob", 1000, 1000), Account("张三", 1000, 2000)]
    assert (store.hashOf("张三"), store.hashOf("bob"), store.hashOf("eve")) == (OTHER, HASH, None)
    store.remove("bob")
    assert store.names() == ["张三"]


def test_aNameIsOneNameInEveryUnicodeForm(store: AccountStore) -> None:
    composed = "Zoë"
    decomposed = unicodedata.normalize("NFD", composed)
    assert decomposed != composed
    store.add(decomposed, HASH)
    assert store.names() == [composed]
    assert store.hashOf(decomposed) == store.hashOf(composed) == HASH
    with pytest.raises(AccountsError, match=r"^there is an account 'Zoë' already$"):
        store.add(composed, OTHER)
    assert store.hashOf(composed) == HASH
    store.remove(decomposed)


@pytest.mark.parametrize("change", ["setPassword", "remove"])
def test_anUnknownNameCannotBeChanged(store: AccountStore, change: str) -> None:
    with pytest.raises(AccountsError, match=r"^there is no account 'eve'$"):
        getattr(store, change)("eve", *([OTHER] if change == "setPassword" else []))


def test_aPasswordHandedOverAsAHashIsNeitherStoredNorShown(store: AccountStore) -> None:
    store.add("bob", HASH)
    for change in (store.add, store.setPassword):
        with pytest.raises(AccountsError) as caught:
            change("bob", "hunter2")
        assert "hunter2" not in str(caught.value)
    assert store.hashOf("bob") == HASH


def test_anImpossibleNameIsRefusedByEveryCall(store: AccountStore) -> None:
    for ask in (
        store.hashOf,
        store.remove,
        lambda name: store.add(name, HASH),
        lambda name: store.setPassword(name, HASH),
    ):
        with pytest.raises(AccountsError, match=r"the name 'a\\x1b' has characters"):
            ask("a\x1b")


def garbage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def folder(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.touch()


def foreign(path: Path) -> None:
    run(path, "CREATE TABLE account (name TEXT)")


def newer(path: Path) -> None:
    AccountStore(path).prepare()
    run(path, "PRAGMA user_version=2")


def damaged(path: Path) -> None:
    AccountStore(path).prepare()
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * (path.stat().st_size - 100))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (garbage, "file is not a database"),
        (folder, "it is a folder, not a file"),
        (empty, "it is no accounts file of sockapps"),
        (foreign, "it is no accounts file of sockapps"),
        (newer, r"it was written by a newer sockapps \(schema 2, this one knows 1\)"),
        (damaged, "database disk image is malformed"),
    ],
)
def test_aFileThatIsNoneOfOursIsNamedAndLeftAlone(
    tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / "accounts.db"
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    store = AccountStore(path)
    for ask in (store.prepare, store.names, lambda: store.add("bob", HASH)):
        if spoil is damaged and ask == store.prepare:
            continue  # what prepare reads of it is whole
        with pytest.raises(AccountsError, match=rf"^accounts file {path}: {says}$"):
            ask()
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.parametrize("below", ["accounts.db", "folder/accounts.db"])
def test_aPathBelowAFileCannotBePrepared(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / below
    with pytest.raises(AccountsError, match=rf"^accounts file {path}: Not a directory$"):
        AccountStore(path).prepare()


def test_aMissingFileIsNotMadeByAsking(tmp_path: Path) -> None:
    path = tmp_path / "accounts.db"
    with pytest.raises(AccountsError, match=r"there is no such file; adding an account makes it$"):
        AccountStore(path).names()
    assert not path.exists()


def test_pathsMayHoldAnything(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"?mode=memory#%41 \xff\x1b") / "accounts.db"
    store = AccountStore(path)
    store.prepare()
    store.add("bob", HASH)
    assert AccountStore(path).names() == ["bob"]
    path.write_bytes(b"x" * 1000)
    with pytest.raises(AccountsError, match=r"#%41 \\udcff\\x1b/accounts.db: file is not"):
        store.names()


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        (
            {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/x", "HOME": "/h"},
            "/var/lib/a/accounts.db",
        ),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/sockapps/accounts.db"),
        (
            {"STATE_DIRECTORY": "", "XDG_STATE_HOME": "relative", "HOME": "/h"},
            "/h/.local/state/sockapps/accounts.db",
        ),
    ],
)
def test_defaultFileIsTheServicesOrThePersons(environ: dict[str, str], path: str) -> None:
    assert defaultFile(environ) == Path(path)


def test_defaultFileOfWhoHasNoHomeIsAnError() -> None:
    with pytest.raises(AccountsError, match=r"no home folder .* name a file"):
        defaultFile({"HOME": "nowhere"})


def test_aFileThatIsMadeIsWholeWithoutItsWAL(tmp_path: Path) -> None:
    # A failing disk can leave it so: SQLite closes quietly even where it cannot tidy a WAL up.
    draft = tmp_path / "draft"
    draft.touch()
    store = AccountStore(tmp_path / "accounts.db")
    with store._connection(str(draft)) as db:
        db.executescript(_NEW_FILE)
        shutil.copy(draft, store.path)
    store.add("bob", HASH)
    assert store.names() == ["bob"]


def test_whatCannotBeMadeLeavesNothingBehind(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from sockapps.accounts.store import AccountStore\n"
        "soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))\n"
        "try:\n"
        "    AccountStore(sys.argv[1]).prepare()\n"
        "finally:\n"  # what measures coverage writes a file of its own at the end
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))\n"
    )
    path = tmp_path / "accounts.db"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, timeout=30)
    assert done.stderr.splitlines()[-1].startswith(b"sockapps.accounts.names.AccountsError: ")
    assert os.listdir(tmp_path) == []
