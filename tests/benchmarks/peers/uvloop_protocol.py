"""
uvloop: the very protocols of L{asyncio_protocol}, on uvloop.

Usage: C{uvloop_protocol.py tcp|tls|udp PORT [PEM]}
"""

from __future__ import annotations

import sys

import uvloop
from asyncio_protocol import serve

if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
