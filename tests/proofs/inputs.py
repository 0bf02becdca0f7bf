"""
What is done with any input whatever, and what must hold then.

As a program, C{python -m tests.proofs.inputs TARGET}, it feeds a target with what libFuzzer finds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import ModuleType

from attrs import frozen

LENGTHS = (1, 2, 16, 64, 300)
"""What C{maxMessage} is."""

NEGOTIATION = 520
"""Bytes that may be held of telnet's negotiation, whatever C{maxMessage} is: 256, or pairs."""


class Draws:
    """Make choices of an input's first bytes."""

    def __init__(self, data: bytes) -> None:
        self.rest = data

    def number(self, below: int) -> int:
        """Draw a number from 0."""
        drawn, self.rest = self.rest[:1], self.rest[1:]
        return int.from_bytes(drawn, "big") % below

    def text(self) -> str:
        """Have the rest as text."""
        return self.rest.decode("utf-8", "surrogateescape")


def framing(data: bytes) -> None:
    """Any stream in any segments: the same messages and fault as at once, and little is held."""
    from sockapps.framing import FRAMINGS

    draws = Draws(data)
    kind = sorted(FRAMINGS)[draws.number(len(FRAMINGS))]
    most = LENGTHS[draws.number(len(LENGTHS))]
    sizes = [draws.number(256) for _ in range(draws.number(8))]
    stream, segments = draws.rest, []
    for size in sizes:
        segments.append(stream[:size])
        stream = stream[size:]
    segments = [each for each in (*segments, stream) if each]
    inParts = _fed(FRAMINGS[kind](most), segments, most, kind)
    atOnce = _fed(FRAMINGS[kind](most), [draws.rest] if draws.rest else [], most, kind)
    # Over its limit before an LF, auto knows no lines yet, nor what CR NUL and negotiation mean.
    undecided = kind == "auto" and len(draws.rest) > most and b"\n" not in draws.rest[: most + 1]
    if kind in ("line", "netstring", "auto") and not undecided:
        assert inParts == atOnce, (kind, most, inParts, atOnce)
    elif inParts[1] is None and atOnce[1] is None and not undecided:
        assert b"".join(inParts[0]) == b"".join(atOnce[0]) == draws.rest


def _fed(
    framing: object, segments: Iterable[bytes], most: int, kind: str
) -> tuple[list[bytes], str | None]:
    from typing import Any

    fed: Any = framing
    messages: list[bytes] = []
    for segment in segments:
        messages += fed.feed(segment)
        held = len(getattr(fed.settled or fed, "_held", None) or b"")
        # A CR that may end it, or a netstring's length and comma.
        assert held <= max(most, NEGOTIATION) + 12, (kind, most, held)
    messages += fed.finish()
    if kind != "raw":
        assert all(len(message) <= most for message in messages)
    fed.frame(b"".join(messages))
    return messages, fed.fault


def credentials(data: bytes) -> None:
    """Any message: two texts that can be credentials, which come back as they were, or None."""
    from sockapps.apps.login import MAX_CREDENTIALS, LoginClient, parseCredentials

    found = parseCredentials(data)
    if found is not None:
        name, password = found
        assert b"\0" not in name.encode() + password.encode()
        for again in (repr({name: password}), json.dumps({"username": name, "password": password})):
            if len(again.encode()) <= MAX_CREDENTIALS:
                assert parseCredentials(again.encode()) == found
        assert LoginClient.compose(name, password) == repr({name: password}).encode()


def settings(data: bytes) -> None:
    """Any option or file: settings, or the one error that says what is wrong."""
    from sockapps.manual import PROCESS_TABLES
    from sockapps.settings import (
        SettingsError,
        parseService,
        readConfig,
        serviceSettings,
        tableSettings,
    )

    draws = Draws(data)
    names = _names()
    shape = draws.number(4)
    if shape == 0:
        with suppress(SettingsError):
            name, values = parseService(os.fsdecode(draws.rest))
            serviceSettings(name, values)
        return
    if shape == 1:
        written = draws.rest
    else:
        name = names[draws.number(len(names))]
        keys = _keys(name)
        lines = [f"[{name}]".encode()]
        for value in draws.rest.split(b"\n", 3):
            key = Draws(value)
            lines.append(keys[key.number(len(keys))].encode() + b" = " + key.rest)
        written = b"\n".join(lines)
    path = _scratch()
    path.write_bytes(written)
    tables = {}
    with suppress(SettingsError):
        tables = readConfig(str(path))
    for name, table in tables.items():
        with suppress(SettingsError):
            if name in PROCESS_TABLES:
                tableSettings(PROCESS_TABLES[name], table, f"{path}: {name}")
            else:
                serviceSettings(name, table, f"{path}: {name}")


@cache
def _names() -> list[str]:
    from sockapps.manual import PROCESS_TABLES
    from sockapps.settings import findApps

    return [*PROCESS_TABLES, *findApps()]


@cache
def _keys(name: str) -> list[str]:
    from sockapps.manual import PROCESS_TABLES
    from sockapps.options import AdmissionOptions, DatagramOptions, StreamOptions
    from sockapps.settings import findApps, keysOf

    if name in PROCESS_TABLES:
        return list(keysOf(PROCESS_TABLES[name]))
    owners = (findApps()[name].loadFactory(), AdmissionOptions, StreamOptions, DatagramOptions)
    return ["listen", "app", *(key for owner in owners for key in keysOf(owner))]


@cache
def _scratch() -> Path:
    return Path(tempfile.mkdtemp(), "sockapps.toml")


def networks(data: bytes) -> None:
    """Any text, and any address: what it counts as, or a ValueError."""
    from sockapps.networks import Networks, sourceOf

    draws = Draws(data)
    shape = draws.number(3)
    if shape == 0:
        text = draws.text()
        with suppress(ValueError):
            assert sourceOf(sourceOf(text)) == sourceOf(text)
        with suppress(ValueError):
            assert text in Networks([text])
        with suppress(ValueError):
            Networks(text.split(","))
        return
    length = draws.number(129)
    packed = draws.rest[:16].ljust(16, b"\0")
    address = IPv6Address(packed) if shape == 1 else IPv4Address(packed[:4])
    host = str(address)
    source = sourceOf(host)
    assert sourceOf(source) == source
    with suppress(ValueError):  # more bits than it has, or host bits
        assert host in Networks([f"{host}/{length}"])
    assert host in Networks([host])
    assert host in Networks([source])
    mapped = isinstance(address, IPv6Address) and address.ipv4_mapped
    assert (host in Networks(["0.0.0.0/0"])) == bool(mapped or shape == 2)


@frozen
class Target:
    """
    One thing that is fuzzed.

    @ivar feed: What is done with an input; it raises where something does not hold.
    @ivar seeds: Inputs to begin with.
    """

    feed: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


TARGETS = {
    "framing": Target(
        framing,
        (
            *(bytes((kind, 3, 2, 3, 5)) + b"a line\r\nanother\n\nlast" for kind in range(5)),
            *(bytes((kind, 4, 3, 1, 2, 9)) + b"3:abc,0:,12:0123456789ab," for kind in range(5)),
            bytes((2, 2, 2, 1, 4)) + b"\xff\xfb\x01\xff\xfa\x18\0xterm\xff\xf0hello\r\0you\r\0\n",
            bytes((0, 2, 2, 1, 4)) + b"\xff\xfd\x03\xff\xfd\x01hello\r\n",
        ),
    ),
    "credentials": Target(
        credentials,
        (
            "{'张三': '123'}".encode(),
            b"""{"a'b": 'c"d\\x41\\u0042\\U00000043\\n', }""",
            b'{"username": "bob", "password": "\\ud83d\\ude00"}',
            b'{"username": [], "username": {}, "password": 1e9}',
            b"{" * 300,
        ),
    ),
    "settings": Target(
        settings,
        (
            b"\0login:listen=tcp\\:7000:auth=file\\:/x:max_message=10:quiet=.5",
            b"\1[echo]\nlisten = ['tcp:1', 'udp:2']\nmax_message = 0x10\nquiet = nan\n",
            b"\1[one]\napp = 'command'\nroot = '/'\n[two.a.b]\nc = 1979-05-27T07:32:00Z\n",
            b"\1[limits]\nexempt = ['10.0.0.0/8']\n[admin]\nlisten = 'unix:/x:mode=600'\n",
            b"\2\0\x02['::1']\n\x000.5\n\x011",
            b"\2\1\0'tcp:1:interface=127.0.0.1'\n\1'x'",
            b"\2\3\x051\n\x06'line'\n\x07[1, [2]]\n\x08{a = 'b'}",
            b"\2\4\x02true\n\x03inf\n\x04\"\\u0000\"\n\x00['a']",
        ),
    ),
    "networks": Target(
        networks,
        (
            *(b"\0" + each for each in (b"192.0.2.7", b"2001:db8::/32", b"fe80::1%eth0")),
            *(b"\0" + each for each in (b"::ffff:192.0.2.7", b"::ffff:10.0.0.0/104", b"10/8,::/0")),
            b"\1\x40 \x01\r\xb8" + bytes(12),
            b"\1\x60" + bytes(10) + b"\xff\xff\xc0\0\2\7",
            b"\2\x18\xc0\0\2\0",
        ),
    ),
}
"""Everything that is fuzzed, by name."""


def _main(target: Target) -> None:
    atheris: ModuleType
    import atheris

    with atheris.instrument_imports(include=["sockapps", "tomllib"]):
        import sockapps.apps.login
        import sockapps.framing
        import sockapps.networks
        import sockapps.settings

    # Once: looking for them takes longer than all else.
    apps = sockapps.settings.findApps()
    sockapps.settings.findApps = lambda: apps
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target.feed)
    atheris.Fuzz()


if __name__ == "__main__":
    _main(TARGETS[sys.argv[1]])
