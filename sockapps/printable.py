"""
Showing text that came from elsewhere.
"""

from __future__ import annotations

import unicodedata
from typing import Any

# Controls (ESC, C1 and DEL too), format characters (those that turn the direction of text),
# surrogates, line and paragraph separators.
_ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def shown(text: str) -> str:
    """Make any text safe to print: what would act on a terminal or a log becomes its escape."""
    if text.isprintable():
        return text
    return "".join(
        each.encode("unicode_escape").decode("ascii")
        if unicodedata.category(each) in _ESCAPED
        else each
        for each in text
    )


def placeOf(address: Any) -> str | None:
    """
    Write where somebody is: C{host:port}, or a UNIX socket's path; C{None} where it has none.

    @param address: An L{IAddress<twisted.internet.interfaces.IAddress>}.
    """
    host = getattr(address, "host", None)
    if host is not None:
        return shown(f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}")
    name = getattr(address, "name", None)
    if not name:
        return None
    return shown(name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name))
