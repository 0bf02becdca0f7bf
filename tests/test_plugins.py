"""
What sockapps adds to Twisted's plugins is what it says it is, and light.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from twisted.application.service import IServiceMaker
from twisted.cred.strcred import ICheckerFactory
from twisted.internet.interfaces import IProtocolFactory
from twisted.plugin import IPlugin, getPlugins
from zope.interface.verify import verifyClass, verifyObject

from sockapps.clientprotocol import ClientProtocol
from sockapps.framing import FRAMINGS
from sockapps.interfaces import IDatagramApp, ISocketApp
from sockapps.registry import DEFAULT_CLIENT, SocketApp, findApps
from sockapps.tap import Options, makeService
from tests.daemons import PYTHON, finish

APPS = findApps()


def test_every_app_of_wire_md_is_found() -> None:
    assert {
        *("chat", "command", "echo", "gate", "hello", "hello-udp", "login"),
        *("upper", "upper-once", "upper-tcp"),
    } <= set(APPS)
    assert list(APPS) == sorted(APPS)


@pytest.mark.parametrize("app", APPS.values(), ids=list(APPS))
def test_an_app_is_what_it_is_declared_to_be(
    app: ISocketApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))  # for the accounts of login
    assert verifyObject(ISocketApp, app)
    assert verifyObject(IPlugin, app)
    assert app.framing in FRAMINGS
    assert app.summary
    assert not app.summary.endswith(".")
    factory = app.loadFactory()()
    assert verifyObject(IProtocolFactory, factory)
    if IDatagramApp.providedBy(factory):
        assert verifyObject(IDatagramApp, factory)
    client = app.loadClient()
    assert issubclass(client, ClientProtocol)
    assert client is not ClientProtocol


def test_an_app_without_a_client_of_its_own_has_one_that_asks() -> None:
    app = SocketApp("mine", "does what I want", "tcp:0", "sockapps.apps.echo.EchoFactory")
    assert app.client == DEFAULT_CLIENT
    assert app.loadClient() is ClientProtocol
    assert verifyClass(ISocketApp, SocketApp)


def test_the_service_maker_makes_our_services() -> None:
    [maker] = [each for each in getPlugins(IServiceMaker) if each.tapname == "sockapps"]
    assert verifyObject(IServiceMaker, maker)
    assert verifyObject(IPlugin, maker)
    assert maker.options is Options
    assert maker.makeService is makeService


def test_the_accounts_are_a_kind_of_auth() -> None:
    [accounts] = [each for each in getPlugins(ICheckerFactory) if each.authType == "accounts"]
    assert verifyObject(ICheckerFactory, accounts)
    assert verifyObject(IPlugin, accounts)


LOADED = """
import json, sys
before = set(sys.modules)
from twisted.plugins import sockapps_dropin
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_the_dropin_imports_nothing_heavy(tmp_path: Path) -> None:
    loaded = json.loads(finish(PYTHON, "-c", LOADED, folder=tmp_path).stdout)
    assert "sockapps.registry" in loaded
    heavy = (
        *("twisted.internet.reactor", "twisted.internet.endpoints", "OpenSSL", "cryptography"),
        *("sockapps.apps", "sockapps.stream", "sockapps.settings", "sockapps.tap"),
        *("sockapps.accounts.store", "sockapps.accounts.checker", "argon2", "sqlite3", "cattrs"),
        *("click", "rich", "prompt_toolkit"),
    )
    assert [name for name in loaded if name.startswith(heavy)] == []
