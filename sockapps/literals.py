"""
Reading texts as Python's C{repr} writes them, without evaluating anything.
"""

from __future__ import annotations

import re

# No prefix, no line end, no \N{…}: only what repr writes.
TEXT = r"""(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
"""The regular expression of one text in quotes, in no group."""

_ESCAPE = re.compile(
    r"\\(?:([\\'\"nrt])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4})"
    r"|(.?))"
)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}


def unquote(literal: str) -> str:
    """
    Read one text in quotes.

    @param literal: What L{TEXT} matches.
    @raise ValueError: it has an escape that C{repr} does not write.
    """

    def character(escape: re.Match[str]) -> str:
        plain, *codes, unknown = escape.groups()
        if unknown is not None:
            raise ValueError(f"no escape that repr writes: \\{unknown}")
        if plain is not None:
            return _CONTROLS.get(plain, plain)
        return chr(int(next(filter(None, codes)), 16))

    return _ESCAPE.sub(character, literal[1:-1])
