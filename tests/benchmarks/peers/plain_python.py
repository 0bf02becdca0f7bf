"""
Python without any library: one socket, one loop.

Usage: C{plain_python.py udp PORT}
"""

from __future__ import annotations

import socket
import sys


def serve(transport: str, port: str, pem: str = "") -> None:
    """Serve until the process ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", int(port)))
        while True:
            data, peer = listening.recvfrom(65536)
            listening.sendto(data.upper(), peer)


if __name__ == "__main__":
    serve(*sys.argv[1:])
