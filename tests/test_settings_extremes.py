"""
Files that nobody would write: each is one error of one line, which a terminal can show.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sockapps.settings import SettingsError, readConfig, serviceSettings

HUGE = "0x" + "f" * 6000
"""A number that Python does not write in decimal."""

DEEP = ".".join("a" * 5000)
"""A key that makes tables in tables, deeper than most Pythons follow them; 3.13 does."""


def settle(path: Path) -> None:
    """Settle all services of a file."""
    for name, table in readConfig(str(path)).items():
        serviceSettings(name, table)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (f"[echo]\nmax_message = {HUGE}", "max_message: must be a whole number, not this int, too"),
        (f"[echo]\nmax_message = [{HUGE}]", "max_message: must be a whole number, not this list,"),
        ("[echo]\nmax_message = 1000000000000000000", "max_message: must be a whole number, not 1"),
        (f"[echo]\nquiet = {HUGE}", "quiet: must be a number, not this int, too large to be shown"),
        (f"[echo]\nlisten = {HUGE}", "listen: must be an endpoint or a list of them, not this int"),
        (f"[echo]\napp = {HUGE}", "echo: there is no app this int, too large to be shown; there"),
        (f"[echo]\napp.{DEEP} = 1", "echo: there is no app "),
        (f"[echo]\nquiet.{DEEP} = 1", "quiet: must be a number, not "),
        (
            "[echo]\nquiet = '" + "x" * 10**6 + "'",
            "must be a number, not '" + "x" * 99 + "…",
        ),
        ("[echo]\n" + "k" * 10**6 + " = 1", "echo: there is no key '" + "k" * 99 + "…; there are"),
        ('["\\u001b[2J"]', r"\x1b[2J: there is no app '\x1b[2J'; there are"),
        ('"\\u202e\\n" = 1', r"\u202e\n stands in no service's table"),
    ],
)
def test_whatIsTooMuchToShowIsRefusedInOneShortLine(
    tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "extreme.toml"
    path.write_text(content, "utf-8")
    with pytest.raises(SettingsError) as refusal:
        settle(path)
    assert said in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 1000
