"""
What loads are made of: plain sockets, many of them, watched by one epoll.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.benchmarks.load import PATIENCE, connect, echoed
from tests.proofs.figures import Failed

BURST = 25
"""
Connections that are made before the server must have accepted them all; more than its queue has
room for would wait for a second, until their SYN is sent again.
"""

SPARE = 300
"""File descriptors that a process needs besides its peers'."""


def ask(connection: socket.socket, line: bytes) -> None:
    """
    Send a line to an echo service, and take the reply.

    @raise OSError: If it does not come, or is another.
    """
    connection.sendall(line + b"\n")
    owed, said = echoed(line), b""
    while said != owed:
        more = connection.recv(65536)
        said += more
        if not more or not owed.startswith(said):
            raise ConnectionError(f"{said[:80]!r} came, not {owed[:80]!r}")


@contextmanager
def connections(
    port: int,
    count: int,
    say: Callable[[str], None],
    connect: Callable[[int], socket.socket] = connect,
) -> Iterator[list[socket.socket]]:
    """
    Have so many connections, in one process, until the block ends.

    @param connect: What makes one.
    @raise Failed: If there cannot be so many.
    """
    made: list[socket.socket] = []
    began = time.monotonic()
    try:
        try:
            while len(made) < count:
                made.append(connect(port))
                if len(made) % BURST == 0:
                    with connect(port) as last:
                        ask(last, b"are the others in?")
        except OSError as error:
            raise Failed(f"only {len(made):,} of {count:,} could connect: {error}") from error
        say(f"{count:,} connections made in {time.monotonic() - began:.1f} s")
        yield made
    finally:
        for connection in made:
            connection.close()


def gone(connection: socket.socket) -> bool:
    """Whether the other side has closed a connection; what it has said is thrown away."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


class Watched:
    """
    Connections of which it is known when each was cut.

    @ivar cut: When each was whose other side has closed it, on the monotonic clock.
    @ivar open: Those that are not, by file descriptor.
    """

    def __init__(self, peers: list[socket.socket], events: int) -> None:
        self.cut: dict[socket.socket, float] = {}
        self.open = {peer.fileno(): peer for peer in peers}
        self._epoll = select.epoll()
        for fileno, peer in self.open.items():
            peer.setblocking(False)
            self._epoll.register(fileno, events | select.EPOLLRDHUP)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._epoll.close()

    def poll(self, seconds: float) -> list[socket.socket]:
        """Wait for events, note who has been cut, and return the others to whom any happened."""
        happened = self._epoll.poll(max(0.0, seconds), 1024)
        return [self.open[fileno] for fileno, event in happened if not self._cut(fileno, event)]

    def rest(self, peer: socket.socket) -> None:
        """Wait for nothing more than that a peer is cut."""
        self._epoll.modify(peer.fileno(), select.EPOLLRDHUP)

    def note(self, peer: socket.socket) -> None:
        """Note that a peer has just been cut."""
        self._epoll.unregister(peer.fileno())
        del self.open[peer.fileno()]
        self.cut[peer] = time.monotonic()
        peer.close()

    def _cut(self, fileno: int, event: int) -> bool:
        if not event & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
            return False
        self.note(self.open[fileno])
        return True


__all__ = ["PATIENCE", "SPARE", "Watched", "ask", "connect", "connections", "gone"]
