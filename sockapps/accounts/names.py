"""
What an account may be called.
"""

from __future__ import annotations

import unicodedata

from sockapps.printable import shown

LONGEST_NAME = 64


class AccountsError(Exception):
    """What could not be done with the accounts, in one sentence for a person."""


def normalName(name: str) -> str:
    """
    Bring an account's name into the one form that is stored and compared: NFC.

    @raise AccountsError: no account can be called this.
    """
    normal = unicodedata.normalize("NFC", name)
    if not 1 <= len(normal) <= LONGEST_NAME:
        raise AccountsError(
            f"a name has {len(normal)} characters; it must have 1 to {LONGEST_NAME}"
        )
    # Control, bidi, invisible and surrogate code points are all "not printable" to Python.
    if not normal.isprintable():
        raise AccountsError(f"the name '{shown(normal)}' has characters that do not print")
    return normal
