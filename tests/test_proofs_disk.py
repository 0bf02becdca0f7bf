"""
Tests for L{tests.proofs.disk}: troubles are what they seem, and end.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sockapps.accounts.store import AccountsError, AccountStore
from tests.proofs import disk
from tests.proofs.figures import CannotRun


def test_withoutStraceItSaysWhatIsMissing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CannotRun, match="needs strace"):
        disk.run(True, lambda words: None)


def test_aFullDiskTakesNoChangeUntilItHasRoomAgain(tmp_path: Path) -> None:
    with disk._tmpfs(tmp_path / "small", lambda words: None) as small:
        if small is None:
            pytest.skip("no disk may be mounted here")
        store = AccountStore(small / "accounts.db")
        store.prepare()
        with disk._filled(small):
            assert os.statvfs(small).f_bavail == 0
            with pytest.raises(AccountsError):
                store.add("bob", "$argon2id$")
        store.add("bob", "$argon2id$")
        assert store.names() == ["bob"]
    assert os.listdir(tmp_path / "small") == []


@pytest.mark.parametrize("content", [None, b"garbage"])
def test_whatIsReplacedComesBack(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "accounts.db"
    path.write_bytes(b"kept")
    with disk._replaced(path, content):
        assert (path.read_bytes() if path.exists() else None) == content
    assert path.read_bytes() == b"kept"
    assert os.listdir(tmp_path) == ["accounts.db"]
