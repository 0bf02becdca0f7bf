"""
Have Twisted find one more app, without a package that has it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import twisted.plugins


def declareApp(monkeypatch: pytest.MonkeyPatch, folder: Path, factory: str) -> None:
    """
    Declare an app called C{extra}, as a dropin does, until the test ends.

    @param folder: An empty folder for the dropin.
    @param factory: The dotted name of its factory.
    """
    (folder / "extra_dropin.py").write_text(
        "from sockapps.registry import SocketApp\n"
        f"extra = SocketApp('extra', 'one more', 'tcp:0:interface=127.0.0.1', {factory!r})\n"
    )
    monkeypatch.setattr(twisted.plugins, "__path__", [*twisted.plugins.__path__, str(folder)])
    monkeypatch.delitem(sys.modules, "twisted.plugins.extra_dropin", raising=False)
