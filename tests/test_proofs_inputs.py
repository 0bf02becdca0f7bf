"""
Tests for L{tests.proofs.inputs}: its seeds hold, and what does not hold is noticed.
"""

from __future__ import annotations

import pytest

import sockapps.apps.login
import sockapps.framing
import sockapps.networks
import sockapps.settings
from tests.proofs.inputs import TARGETS, Draws


@pytest.mark.parametrize("name", TARGETS)
def test_everySeedHolds(name: str) -> None:
    for seed in (b"", *TARGETS[name].seeds):
        TARGETS[name].feed(seed)


def test_choicesAreMadeOfTheFirstBytes() -> None:
    draws = Draws(b"\x05\x00rest\xff")
    assert [draws.number(3), draws.number(3)] == [2, 0]
    assert draws.text() == "rest\udcff"
    assert Draws(b"").number(3) == 0


class Forgetful(sockapps.framing.LineFraming):
    """Loses what it holds."""

    def feed(self, data: bytes) -> list[bytes]:
        messages = super().feed(data)
        self._held = b""
        return messages


class Hoarding(sockapps.framing.LineFraming):
    """Holds whatever comes."""

    def feed(self, data: bytes) -> list[bytes]:
        self._held = bytes(self._held) + data
        return []


@pytest.mark.parametrize("bad", [Forgetful, Hoarding])
def test_aBadFramingIsNoticed(
    bad: type[sockapps.framing.LineFraming], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sockapps.framing.FRAMINGS, "line", bad)
    with pytest.raises(AssertionError):
        TARGETS["framing"].feed(bytes((2, 2, 2, 3, 255)) + b"a line\n" * 100)


def broken(*_: object) -> None:
    """Fail as nothing may."""
    raise KeyError("broken")


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("credentials", sockapps.apps.login, "parseCredentials"),
        ("settings", sockapps.settings, "parseService"),
        ("networks", sockapps.networks, "sourceOf"),
    ],
)
def test_whatIsUnhandledIsNoticed(
    name: str, module: object, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, function, broken)
    with pytest.raises(KeyError):
        TARGETS[name].feed(TARGETS[name].seeds[0])
