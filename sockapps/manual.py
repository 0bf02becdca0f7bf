"""
What C{twistd sockapps --help} says, at the width of a small terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from unicodedata import east_asian_width

from sockapps.admin import AdminOptions
from sockapps.options import AdmissionOptions, DatagramOptions, ProcessOptions, StreamOptions
from sockapps.registry import findApps
from sockapps.settings import Key, keysOf

PROCESS_TABLES: dict[str, type] = {"limits": ProcessOptions, "admin": AdminOptions}
"""What in a file is no service: the process's own tables, by their names."""

WIDTH = 79
"""Columns that a line takes at most."""

INTRODUCTION = """
Start small socket apps. With no option, every app starts on the endpoint where
it listens by default, on loopback.

Options:
"""

EXAMPLES = """
Examples:
  twistd -n sockapps
  twistd -n sockapps --service=echo --service=upper
  twistd -n sockapps --service=command:root=/srv/pub:framing=line
  twistd -n sockapps --service=echo --listen=tcp:7000 --listen=udp:7000
  twistd -n sockapps --service=login --auth=accounts:/var/lib/accounts.db
  twistd -n sockapps --config=sockapps.toml

The last one reads a file such as this:
  [echo]
  listen = ["tcp:7000:interface=127.0.0.1", "udp:7000"]

  [public]
  app = "command"
  root = "/srv/pub"
  max_message = 1024

Endpoints:
  tcp:PORT:interface=ADDRESS    without an address: on every interface
  tcp6:PORT:interface=ADDRESS   the same over IPv6; \\: is a colon in an address
  udp:PORT:interface=ADDRESS    without an address: on 127.0.0.1
  unix:PATH:mode=660            a UNIX socket; without a mode, for everybody
  tls:FOLDER:PORT:interface=ADDRESS
                                TLS, with the keys and certificates (*.pem) of
                                a folder like certbot's
  ssl:PORT:privateKey=FILE:certKey=FILE
                                TLS, with one key and its certificate
  systemd:domain=INET:name=NAME
                                a socket inherited from systemd
"""

SERVICE_KEYS = {
    "app=NAME": "the app, where the service's name is another",
    "listen=ENDPOINT": "where it listens; in a file, a list of several",
}


def manual(options: Mapping[str, str]) -> str:
    """
    Describe all there is to choose from.

    @param options: What each option of the command line does, by how it is written.
    """
    lines = [line for written, does in options.items() for line in _entry(2, written, does)]
    parts = [INTRODUCTION + "\n".join(lines), EXAMPLES, *_apps(), "", *_keys(), "", *_tables()]
    return "\n".join(parts) + "\n"


def _apps() -> Iterator[str]:
    yield "Apps, where each listens by default, and its keys with their defaults:"
    for app in findApps().values():
        yield f"\n  {app.name:<12}{app.listens}"
        yield from _wrapped(14, app.summary)
        try:
            keys = keysOf(app.loadFactory())
        except ImportError as error:
            yield from _wrapped(14, f"(it cannot be loaded: {error})")
            continue
        yield from _describe(keys.values())


def _keys() -> Iterator[str]:
    yield "Keys of every service, with their defaults:"
    for written, means in SERVICE_KEYS.items():
        yield from _entry(6, written, means)
    for owner in (AdmissionOptions, StreamOptions, DatagramOptions):
        yield from _describe(keysOf(owner).values())


def _tables() -> Iterator[str]:
    yield "Of numbers that limit something, 0 means no limit, where it is taken."
    for name, owner in PROCESS_TABLES.items():
        yield f"\nKeys of the table [{name}] in a file, with their defaults:"
        yield from _describe(keysOf(owner).values())


def _describe(keys: Iterable[Key]) -> Iterator[str]:
    for key in keys:
        yield from _entry(6, f"{key.name}={_default(key)}", key.help)


def _default(key: Key) -> str:
    """Write a key's default as C{--service=NAME:key=default} would."""
    if key.needed:
        return "…"
    default = key.default
    if isinstance(default, Mapping):
        return ",".join(f"{word}={text}" for word, text in default.items())
    if isinstance(default, tuple | list):
        return ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def _entry(indent: int, head: str, text: str) -> list[str]:
    """Set a text beside its head, or below it where the head is long."""
    lines = _wrapped(28, text)
    columns = indent + sum(2 if east_asian_width(each) in "WF" else 1 for each in head)
    if columns > 26:
        return [" " * indent + head, *lines]
    return [" " * indent + head + lines[0][columns:], *lines[1:]]


def _wrapped(indent: int, text: str) -> list[str]:
    margin = " " * indent
    text = " ".join(text.split())  # a docstring is indented itself
    return textwrap.wrap(
        text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False
    )
