"""
What C{twistd sockapps} takes, and the service it makes of that.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable
from importlib.metadata import version
from io import TextIOWrapper
from typing import Any, NoReturn

import attrs
import click
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin
from twisted.logger import Logger
from twisted.python import usage

from sockapps.admin import AdminOptions, makeAdmin
from sockapps.descriptors import makeRoom
from sockapps.globalreactor import globalReactor
from sockapps.limits import Sources
from sockapps.listening import AllOrNone, Listening, Process, StartError, listenings
from sockapps.logformat import FORMATS, logAs, settleFormat
from sockapps.manual import PROCESS_TABLES, manual
from sockapps.options import ProcessOptions
from sockapps.output import printing
from sockapps.registry import findApps
from sockapps.sessionlog import WHICH
from sockapps.settings import (
    ServiceSettings,
    SettingsError,
    parseService,
    readConfig,
    serviceSettings,
    tableSettings,
)

_log = Logger()

WRITTEN = {
    "service": "-s, --service=NAME:KEY=VALUE:…",
    "listen": "-l, --listen=ENDPOINT",
    "auth": "--auth=KIND:ARGUMENT",
    "config": "-c, --config=FILE",
    "log-format": "--log-format=FORMAT",
    "log-sessions": "--log-sessions=WHICH",
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
        self["limits"] = ProcessOptions()
        self["admin"] = AdminOptions()
        self["log-format"] = None
        self["log-sessions"] = None
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

    def opt_log_format(self, form: str) -> None:
        """
        How the log is written: human, or json, one object a line.
        """
        self["log-format"] = _among(FORMATS, form, "--log-format")

    def opt_log_sessions(self, which: str) -> None:
        """
        Of which sessions the log tells: all, unusual (those that a limit, an error or a lost
        connection ended), or none. By default all with json, else unusual.
        """
        self["log-sessions"] = _among(WHICH, which, "--log-sessions")

    def opt_help(self) -> None:
        """
        Show this and exit.
        """
        if isinstance(sys.stdout, TextIOWrapper):
            # Not every terminal's encoding has the replies of login.
            sys.stdout.reconfigure(errors="backslashreplace")
        with printing():
            super().opt_help()

    def opt_help_auth(self) -> None:
        """
        Show all authentication methods available.
        """
        with printing():
            super().opt_help_auth()

    def opt_help_auth_type(self, authType: str) -> None:
        """
        Show help for a particular authentication type.
        """
        with printing():
            super().opt_help_auth_type(authType)

    def opt_version(self) -> NoReturn:
        """
        Show the versions of sockapps and Twisted and exit.
        """
        with printing():
            click.echo(f"sockapps {version('sockapps')}, Twisted {version('twisted')}")
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
        """Settle what every service is to be, and how the log is written."""
        self["services"] = self._settle()
        try:
            self["log-format"] = settleFormat(self["log-format"], self.parent)
        except ValueError as error:
            raise SettingsError(f"--log-format: {error}") from None
        if self["log-sessions"] is None:
            self["log-sessions"] = "all" if self["log-format"] == "json" else "unusual"

    def getUsage(self, width: int | None = None) -> str:
        """Say all there is to choose from."""
        return manual({written: self.docs[option] for option, written in WRITTEN.items()})

    def _settle(self) -> list[ServiceSettings]:
        path = self["config"]
        tables = {} if path is None else readConfig(path)
        for name, owner in PROCESS_TABLES.items():
            self[name] = tableSettings(owner, tables.pop(name, {}), f"{path}: {name}")
        if not tables:
            path, tables = None, {name: {} for name in findApps()}
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


def _among(known: Collection[str], word: str, where: str) -> str:
    """
    Take one of some words.

    @raise SettingsError: it is none of them.
    """
    if word not in known:
        raise SettingsError(f"{where}: must be one of {', '.join(known)}, not {word!r}")
    return word


class Daemon(AllOrNone):
    """
    Everything that one process serves, and what its log looks like.
    """

    def __init__(self, listenings: Iterable[Listening], options: Options) -> None:
        super().__init__(listenings)
        self._options = options

    def setServiceParent(self, parent: Any) -> None:
        """Become part of an application, which then logs as the options say."""
        logAs(self._options["log-format"], self._options.parent, parent)
        super().setServiceParent(parent)


def makeService(options: Options) -> Daemon:
    """
    Make the service that C{twistd} runs.

    @raise StartError: an option of an app, or an endpoint, cannot be used.
    """
    reactor = globalReactor()
    process = Process.make(_withinSystem(options["limits"]), options["log-sessions"], reactor)
    try:
        made = [
            listening
            for settings in options["services"]
            for listening in listenings(settings, reactor, process)
        ]
        admin = options["admin"]
        if admin.listen:
            made.append(_admin(admin, made, process.sources, reactor, options["config"]))
    except SettingsError as error:
        raise StartError(f"sockapps: {error}") from None
    return Daemon(made, options)


def _admin(
    options: AdminOptions, made: list[Listening], sources: Sources, reactor: Any, path: str
) -> Listening:
    try:
        return makeAdmin(options, list(made), sources, reactor)
    except ValueError as error:
        raise SettingsError(f"{path}: admin.{error}") from None


def _withinSystem(limits: ProcessOptions) -> ProcessOptions:
    """Let no more connections in than the system lets this process have."""
    possible = makeRoom(limits.maxConnections, limits.reservedFiles)
    if possible < limits.maxConnections != ProcessOptions().maxConnections:
        # Somebody has asked for so many.
        _log.warn(
            "the system's limit of open files leaves room for {possible} connections, not for "
            "{wanted}; ulimit -n, or LimitNOFILE= under systemd, raises it",
            possible=possible,
            wanted=limits.maxConnections,
        )
    return attrs.evolve(limits, maxConnections=possible)
