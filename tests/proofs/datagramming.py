"""
Asking over UDP: many datagrams at a time, but never more than the server's socket holds.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

WINDOW = 64
"""Datagrams that are on their way at once, where they are small."""

SMALL = 1500
"""Bytes of a datagram that is."""

PATIENCE = 2.0
"""Seconds that a reply may take before it counts as lost."""


def listen(service: str, host: str = "127.0.0.1", port: int = 0) -> str:
    """Write what has C{twistd sockapps} serve something over UDP."""
    return rf"--service={service}:listen=udp\:{port}\:interface={host}"


@contextmanager
def sockets(port: int, count: int, host: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """Have so many sockets that speak to one port until the block ends."""
    with ExitStack() as open_:
        made = []
        for _ in range(count):
            one = open_.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            one.settimeout(PATIENCE)
            one.connect((host, port))
            made.append(one)
        yield made


def answers(
    asking: socket.socket, requests: Sequence[bytes]
) -> Iterator[tuple[bytes, bytes | None]]:
    """
    Ask for everything, and take the reply to each; C{None}: none came.

    It is for a service that answers everything, in the order in which it comes.
    """
    for start in range(0, len(requests), WINDOW):
        window = requests[start : start + WINDOW]
        for request in window:
            asking.send(request)
        for request in window:
            try:
                reply = asking.recv(65536)
            except TimeoutError:
                yield request, None
            else:
                yield request, reply


def lost(port: int) -> int:
    """Say how many datagrams the system has dropped because a port's socket was full."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            return int(fields[-1])
    return 0
