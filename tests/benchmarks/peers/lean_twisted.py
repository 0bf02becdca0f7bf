"""
Twisted on our reactor: the very protocols of L{stock_twisted}, and nothing else of ours.

Usage: C{lean_twisted.py tcp|tls|udp PORT [PEM]}
"""

from __future__ import annotations

import sys

from stock_twisted import serve

import sockapps.reactor

if __name__ == "__main__":
    sockapps.reactor.install()
    serve(*sys.argv[1:])
