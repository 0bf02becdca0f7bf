"""
File descriptors: having as many as connections may need, and some more than that.
"""

from __future__ import annotations

import os
import resource

OTHERS = 64
"""What a process has open besides connections: listenings, logs, folders being listed."""


def makeRoom(connections: int, reserved: int) -> int:
    """
    Raise this process's limit of open files (setrlimit(2)) as far as that is needed and allowed.

    @param connections: How many connections there are to be at most; 0: as many as there can be.
    @param reserved: How many descriptors to keep for the admin listener and the like.
    @return: How many connections there can be.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    besides = reserved + OTHERS
    wanted = connections + besides if connections else hard
    if soft != infinite and (wanted == infinite or soft < wanted):
        soft = wanted if hard == infinite else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == infinite:
        return connections or os.sysconf("SC_OPEN_MAX")
    possible = max(1, soft - besides)
    return min(connections, possible) if connections else possible
