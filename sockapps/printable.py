"""
Showing text that came from elsewhere.
"""

from __future__ import annotations

import unicodedata

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
