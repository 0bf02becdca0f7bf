"""
Tests for L{tests.proofs.ledger}: what it is to notice it notices.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sockapps.accounts.passwords import hashPassword
from sockapps.accounts.store import AccountStore
from tests.proofs.ledger import Ledger, exactly, hashOf

HASH, OTHER = "$argon2id$one", "$argon2id$other"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in which bob has an account."""
    store = AccountStore(tmp_path / "accounts.db")
    store.prepare()
    store.add("bob", HASH)
    return Path(store.path)


def bobs() -> Ledger:
    """A ledger that knows of bob."""
    return Ledger({"bob": HASH})


def findings(ledger: Ledger, path: Path) -> tuple[int, int, int]:
    ledger.audit(path)
    return ledger.lost, ledger.strange, len(ledger.broken)


def test_whatIsOwedAndThereIsNoFinding(path: Path) -> None:
    assert findings(bobs(), path) == (0, 0, 0)


@pytest.mark.parametrize(
    ("name", "stored"), [("eve", HASH), ("bob", OTHER), ("bob", None)], ids=["add", "set", "remove"]
)
def test_anAcknowledgedChangeThatIsNotThereIsLost(
    path: Path, name: str, stored: str | None
) -> None:
    ledger = bobs()
    ledger.tries(name, exactly(stored))
    ledger.acknowledged(stored)
    assert findings(ledger, path) == (1, 0, 0)
    assert findings(ledger, path) == (1, 0, 0)  # it goes on from what is there


def test_whatWasFoundAfterAnAcknowledgementMustFitIt(path: Path) -> None:
    ledger = bobs()
    ledger.tries("eve", hashOf("secret"))
    ledger.acknowledged(None)
    assert ledger.lost == 1
    assert hashOf("secret")(hashPassword("secret"))
    assert not hashOf("secret")(hashPassword("other"))


@pytest.mark.parametrize(("stored", "done"), [(HASH, 0), (OTHER, 1)])
def test_aChangeInDoubtMayBeThereOrNot(path: Path, stored: str, done: int) -> None:
    AccountStore(path).setPassword("bob", stored)
    ledger = bobs()
    ledger.tries("bob", exactly(OTHER))
    assert findings(ledger, path) == (0, 0, 0)
    assert (ledger.inDoubt, ledger.done) == (1, done)


def test_aChangeInDoubtMayNotBeSomethingElse(path: Path) -> None:
    AccountStore(path).setPassword("bob", OTHER)
    ledger = bobs()
    ledger.tries("bob", exactly("$argon2id$third"))
    assert findings(ledger, path) == (0, 1, 0)


@pytest.mark.parametrize("change", ["add", "remove", "missing"])
def test_whatNobodyTriedIsStrange(path: Path, change: str) -> None:
    if change == "add":
        AccountStore(path).add("eve", OTHER)
    elif change == "remove":
        AccountStore(path).remove("bob")
    else:
        path.unlink()
    assert findings(bobs(), path) == (0, 1, 0)


def test_aDamagedFileIsBroken(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=DELETE")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 100)
    assert findings(bobs(), path)[2] > 0
