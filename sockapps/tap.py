"""
What C{twistd sockapps} takes, and the service it makes of that.
"""

from __future__ import annotations

import sys
from collections import Counter
from importlib.metadata import version
from io import TextIOWrapper
from typing import Any, NoReturn

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin
from twisted.python import usage

from sockapps.globalreactor import globalReactor
from sockapps.listening import AllOrNone, StartError, listenings
from sockapps.manual import manual
from sockapps.registry import findApps
from sockapps.settings import (
    ServiceSettings,
    SettingsError,
    parseService,
    readConfig,
    serviceSettings,
)

WRITTEN = {
    "service": "-s, --service=NAME:KEY=VALUE:…",
    "listen": "-l, --listen=ENDPOINT",
    "auth": "--auth=KIND:ARGUMENT",
    "config": "-c, --config=FILE",
    "help": "--help",
    "help-auth": "--help-auth",
    "help-auth-type": "--help-auth-type=KIND",
    "version": "--version",
}
"""How each option is written, in the order in which the help has them."""


class Options(usage.Options, AuthOptionMixin):
    """What C{twistd sockapps} takes."""

    synopsis = "[options]"
    supportedInterfaces = (IUsernamePassword,)

    def __init__(self) -> None:
        super().__init__()
        _chooseReactor()
        self["config"] = None
        self["services"] = []
        self._named: list[tuple[str, dict[str, Any]]] = []
        self._auth: list[str] = []

    def opt_service(self, text: str) -> None:
        """
        Start this app, and only those named so, with options of its own: see its keys below. A
        colon in a value is written \\: (repeatable).
        """
        self._named.append(parseService(text))

    opt_s = opt_service

    def opt_listen(self, description: str) -> None:
        """
        Where the service named before it listens, in place of its default: see the endpoints below
        (repeatable).
        """
        if not self._named:
            raise SettingsError("--listen: it follows the --service it is for")
        self._add("listen", description)

    opt_l = opt_listen

    def opt_auth(self, description: str) -> None:
        """
        Who decides about logins to the service named before it, or to login where none is named:
        see --help-auth (repeatable: the first that accepts decides).
        """
        if self._named:
            self._add("auth", description)
        else:
            self._auth.append(description)

    def opt_config(self, path: str) -> None:
        """
        Read the services from this file, in TOML; --service then chooses among them, and can
        change them.
        """
        self["config"] = path

    opt_c = opt_config

    def opt_help(self) -> None:
        """
        Show this and exit.
        """
        if isinstance(sys.stdout, TextIOWrapper):
            # Not every terminal's encoding has the replies of login.
            sys.stdout.reconfigure(errors="backslashreplace")
        super().opt_help()

    def opt_version(self) -> NoReturn:
        """
        Show the versions of sockapps and Twisted and exit.
        """
        print(f"sockapps {version('sockapps')}, Twisted {version('twisted')}")  # noqa: T201  # it is asked to
        raise SystemExit(0)

    def parseArgs(self, *args: str) -> None:
        """
        Take nothing but options.

        @raise UsageError: there is something else, which stays unsaid: it may be a secret.
        """
        if args:
            raise usage.UsageError("it takes options only; --service=NAME starts an app")

    def parseOptions(self, options: Any = None) -> None:
        """
        Read the command line.

        @raise StartError: something in it, or in the file it names, cannot be used.
        """
        try:
            super().parseOptions(options)
        except SettingsError as error:
            raise StartError(f"sockapps: {error}") from None
        except usage.UsageError as error:
            raise StartError(f"sockapps: {error}; see twistd sockapps --help") from None

    def postOptions(self) -> None:
        """Settle what every service is to be."""
        self["services"] = self._settle()

    def getUsage(self, width: int | None = None) -> str:
        """Say all there is to choose from."""
        return manual({written: self.docs[option] for option, written in WRITTEN.items()})

    def _settle(self) -> list[ServiceSettings]:
        path = self["config"]
        tables = {name: {} for name in findApps()} if path is None else readConfig(path)
        named = self._named or [(name, {}) for name in tables]
        if self._auth:
            if self._named:
                raise SettingsError("--auth: it follows the --service it is for")
            if "login" not in tables:
                raise SettingsError(f"--auth: {path} has no service login; name one by --service")
            named = [(name, {"auth": self._auth} if name == "login" else {}) for name in tables]
        taken: Counter[str] = Counter()
        settled = []
        for name, values in named:
            taken[name] += 1
            alias = name if taken[name] == 1 else f"{name}-{taken[name]}"
            table = tables.get(name, {})
            place = name if path is None else f"{path}: {name}"
            settled.append(
                serviceSettings(
                    alias,
                    {"app": name, **table, **values},
                    name if self._named else place,
                    dict.fromkeys({"app", *table} - {*values}, place) if name in tables else {},
                )
            )
        return settled

    def _add(self, key: str, description: str) -> None:
        """Give the service named last one more; those that C{--service} itself names give way."""
        values = self._named[-1][1]
        before = values.get(key)
        values[key] = [*(before if isinstance(before, list) else []), description]


def _chooseReactor() -> None:
    """
    Take the lean reactor where nobody has taken one.

    C{twistd} has dealt with its own C{--reactor} by now, and does not need a reactor yet.
    """
    if sys.platform == "linux" and "twisted.internet.reactor" not in sys.modules:
        from sockapps.reactor import install

        install()


def makeService(options: Options) -> AllOrNone:
    """
    Make the service that C{twistd} runs.

    @raise StartError: an option of an app, or an endpoint, cannot be used.
    """
    reactor = globalReactor()
    try:
        return AllOrNone(
            listening
            for settings in options["services"]
            for listening in listenings(settings, reactor)
        )
    except SettingsError as error:
        raise StartError(f"sockapps: {error}") from None
