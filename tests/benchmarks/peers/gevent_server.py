"""
gevent: C{StreamServer}, a greenlet per connection.

Usage: C{gevent_server.py tcp|tls PORT [PEM]}
"""

from __future__ import annotations

import sys
from typing import Any

from gevent.server import StreamServer


def echo(connection: Any, address: Any) -> None:
    """Answer each line until the peer closes."""
    rest = b""
    while data := connection.recv(65536):
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            connection.sendall(b"".join([b"Echo=>" + line + b"\n" for line in lines]))


def serve(transport: str, port: str, pem: str = "") -> None:
    """Serve until the process ends."""
    tls = {"certfile": pem} if transport == "tls" else {}
    StreamServer(("127.0.0.1", int(port)), echo, **tls).serve_forever()


if __name__ == "__main__":
    serve(*sys.argv[1:])
