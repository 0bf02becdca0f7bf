"""
The reactor for who was given none.
"""

from __future__ import annotations

from typing import Any


def globalReactor() -> Any:
    """
    Find the installed reactor; where there is none yet, the first call installs the default one.

    So it is called when something is made, never when a module is loaded.
    """
    from twisted.internet import reactor

    return reactor
