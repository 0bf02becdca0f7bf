"""
Tests for L{sockapps.accounts.plugin}, as any Twisted program meets it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.cred import strcred
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.plugin import IPlugin
from twisted.python import usage
from zope.interface import Interface, implementer
from zope.interface.verify import verifyObject

from sockapps.accounts.checker import AccountChecker
from sockapps.accounts.passwords import hashPassword
from sockapps.accounts.store import AccountStore


class Options(usage.Options, strcred.AuthOptionMixin):
    """The options of a program that knows nothing of us."""

    supportedInterfaces = (IUsernamePassword,)


@implementer(IRealm)
class Realm:
    """Gives everybody the avatar id as the avatar."""

    def requestAvatar(self, avatarId: bytes | tuple[()], mind: object, *interfaces: Any) -> Any:
        """See L{IRealm.requestAvatar}."""
        return interfaces[0], avatarId, lambda: None


def test_thePluginIsFoundAndWhatItSays() -> None:
    factory = strcred.findCheckerFactory("accounts")
    assert verifyObject(strcred.ICheckerFactory, factory)
    assert IPlugin.providedBy(factory)
    assert factory.credentialInterfaces == AccountChecker.credentialInterfaces
    options = Options()
    options.authOutput = StringIO()
    with pytest.raises(SystemExit):
        options.parseOptions(["--help-auth-type", "accounts"])
    assert "SQLite" in options.authOutput.getvalue()
    assert "WARNING" not in options.authOutput.getvalue()


@pytest_twisted.ensureDeferred
async def test_anyProgramThatTakesAuthLogsPeopleIn(tmp_path: Path) -> None:
    path = tmp_path / "new" / "accounts.db"
    options = Options()
    options.parseOptions(["--auth", f"accounts:{path}"])
    AccountStore(path).add("张三", hashPassword("123"))
    portal = Portal(Realm(), options["credCheckers"])
    right = UsernamePassword("张三".encode(), b"123")
    _, avatar, _ = await portal.login(right, None, Interface)
    assert avatar == "张三".encode()
    with pytest.raises(UnauthorizedLogin):
        await portal.login(UsernamePassword("张三".encode(), b"124"), None, Interface)


@pytest.mark.parametrize("description", ["accounts", "accounts:"])
def test_withoutAFileItTakesTheDefault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, description: str
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    checker = strcred.makeChecker(description)
    assert checker.path == str(tmp_path / "state" / "accounts.db")
    assert os.path.exists(checker.path)


def test_aFileThatCannotBeUsedIsOneClearSentence(tmp_path: Path) -> None:
    says = f"accounts file {tmp_path}: it is a folder, not a file"
    with pytest.raises(strcred.InvalidAuthArgumentString) as caught:
        strcred.makeChecker(f"accounts:{tmp_path}")
    assert str(caught.value) == says
    with pytest.raises(usage.UsageError, match=says):
        Options().parseOptions(["--auth", f"accounts:{tmp_path}"])


DAEMON = """
import os, sys
from twisted.cred import strcred
from twisted.cred.credentials import UsernamePassword

checker = strcred.makeChecker("accounts:accounts.db")
os.chdir("/")
child = os.fork()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

from twisted.internet import reactor

def ask():
    done = checker.requestAvatarId(UsernamePassword(b"bob", b"123"))
    done.addBoth(print).addBoth(lambda _: reactor.stop())

reactor.callWhenRunning(ask)
reactor.run()
"""


def test_itWorksAfterAForkInAnotherFolderAndClosesTheFileWhenTheReactorStops(
    tmp_path: Path,
) -> None:
    store = AccountStore(tmp_path / "accounts.db")
    store.prepare()
    store.add("bob", hashPassword("123"))
    done = subprocess.run(
        [sys.executable, "-c", DAEMON], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "b'bob'\n", "")
    assert os.listdir(tmp_path) == ["accounts.db"]
