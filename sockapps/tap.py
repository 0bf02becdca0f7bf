"""
What C{twistd sockapps} takes, and the service it makes of that.
"""

from __future__ import annotations

from typing import Any

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import AuthOptionMixin
from twisted.python import usage

from sockapps.datagram import DatagramOptions
from sockapps.globalreactor import globalReactor
from sockapps.listening import AllOrNone, StartError, listenings
from sockapps.registry import findApps
from sockapps.settings import (
    Key,
    ServiceSettings,
    SettingsError,
    keysOf,
    parseService,
    readConfig,
    serviceSettings,
)
from sockapps.stream import StreamOptions

_EXAMPLES = """
With no option, every app starts on its default endpoint, on loopback.

Examples:
  twistd -n sockapps
  twistd -n sockapps --service=echo --service=upper
  twistd -n sockapps --service=command:root=/srv/pub:framing=line
  twistd -n sockapps --service=echo --listen=tcp:7000 --listen=udp:7000
  twistd -n sockapps --service=login --auth=accounts:/var/lib/sockapps/accounts.db
  twistd -n sockapps --config=sockapps.toml
"""


class Options(usage.Options, AuthOptionMixin):
    """What C{twistd sockapps} takes."""

    synopsis = "[--service=NAME[:key=value…] [--listen=ENDPOINT…] [--auth=KIND…]]… [--config=FILE]"
    supportedInterfaces = (IUsernamePassword,)

    def __init__(self) -> None:
        super().__init__()
        self["config"] = None
        self["services"] = []
        self._named: list[tuple[str, dict[str, Any]]] = []

    def opt_service(self, text: str) -> None:
        """
        Start this app, and only those named so: NAME, or NAME:key=value:key=value with its options
        (repeatable)
        """
        self._named.append(parseService(text))

    opt_s = opt_service

    def opt_listen(self, description: str) -> None:
        """
        Where the service named before it listens, in place of its default endpoint: tcp:PORT,
        tls:…, ssl:…, unix:PATH, systemd:…, udp:PORT, each with :interface=ADDRESS (repeatable)
        """
        if not self._named:
            raise SettingsError("--listen: it follows the --service it is for")
        self._named[-1][1].setdefault("listen", []).append(description)

    opt_l = opt_listen

    def opt_auth(self, description: str) -> None:
        """
        Who decides about logins to the service named before it, or to login where none is: see
        --help-auth (repeatable; the first that accepts decides)
        """
        if not self._named:
            self._named.append(("login", {}))
        self._named[-1][1].setdefault("auth", []).append(description)

    def opt_config(self, path: str) -> None:
        """
        Read the services from this TOML file, one table each; --service then chooses among them
        """
        self["config"] = path

    opt_c = opt_config

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
        """Say what there is to choose from, too."""
        return f"{super().getUsage(width)}\n{_EXAMPLES}\n{describeApps()}"

    def _settle(self) -> list[ServiceSettings]:
        path = self["config"]
        tables = readConfig(path) if path else {name: {} for name in findApps()}
        if not self._named:
            return [
                serviceSettings(name, table, f"{path}: {name}" if path else None)
                for name, table in tables.items()
            ]
        taken: dict[str, int] = {}
        settled = []
        for name, values in self._named:
            taken[name] = taken.get(name, 0) + 1
            alias = name if taken[name] == 1 else f"{name}-{taken[name]}"
            base = {"app": name} if alias != name else {}
            settled.append(serviceSettings(alias, {**base, **tables.get(name, {}), **values}, name))
        return settled


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


def describeApps() -> str:
    """Describe every app and every key, for people who read on a terminal."""
    lines = ["Apps:"]
    for app in findApps().values():
        lines.append(f"  {app.name:<12}{app.listens:<32}{app.summary}")
        try:
            keys = keysOf(app.loadFactory())
        except ImportError as error:
            lines.append(f"      (cannot be loaded: {error})")
            continue
        lines += [_describeKey(key) for key in keys.values()]
    lines += ["", "Keys of every service:"]
    lines += ["      listen           the endpoint, or a list of them (TOML), or --listen"]
    lines += ["      app              the app, where the service's name is another (TOML)"]
    for owner in (StreamOptions, DatagramOptions):
        lines += [_describeKey(key) for key in keysOf(owner).values()]
    return "\n".join(lines) + "\n"


def _describeKey(key: Key) -> str:
    default = key.default
    if isinstance(default, dict):
        default = ",".join(f"{word}={text}" for word, text in default.items())
    elif isinstance(default, tuple):
        default = ",".join(default)
    elif isinstance(default, float):
        default = f"{default:g}"
    return f"      {key.name:<17}{key.help} [{default}]"
