"""
Who asks: one lean loop of raw sockets, the same for every server, that checks every reply.

Only the server's CPU counts, so that a load need not be fast; but it is kept short, lest the
server sleeps more than it works.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from errno import EADDRINUSE, EADDRNOTAVAIL
from itertools import count
from typing import Any, Protocol

MESSAGE = b"what does a reply cost?"
"""What every request says; C{upper} needs lower case."""

PATIENCE = 10.0
"""Seconds that a server may be silent."""

PORTS = range(10_000, 60_000)
"""From which ports to connect, where the system is not to choose them."""

REUSE = 1.1
"""
Seconds until a place that a connection was closed from is used again.

Linux remembers each for a minute, all processes are slower where it has many to remember, and it
has room for so many only. Over loopback it lets go of one after a second (C{tcp_tw_reuse}).
"""

_connections = count()


class WrongReply(Exception):
    """Say that a server did not give the bytes that it owed."""


class Load(Protocol):
    """Something that asks."""

    def run(self, seconds: float) -> int:
        """
        Ask for some seconds, going on where the last run ended.

        @return: How many requests were answered rightly.
        """

    def close(self) -> None:
        """Close every socket."""


def echoed(line: bytes) -> bytes:
    """Say what an echo owes for a line."""
    return b"Echo=>" + line + b"\n"


def ownAddress() -> tuple[str, int]:
    """Say from where to connect next: one of many addresses of loopback, lest ports run short."""
    return f"127.0.0.{2 + next(_connections) // 1000 % 250}", 0


def connect(port: int, tls: ssl.SSLContext | None = None) -> socket.socket:
    """
    Connect to a server, from an address of our own.

    @param tls: How to speak TLS, if at all; the handshake is over when this returns.
    """
    connection = socket.socket()
    try:
        connection.settimeout(PATIENCE)
        connection.bind(ownAddress())
        connection.connect(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return tls.wrap_socket(connection, server_hostname="localhost") if tls else connection
    except BaseException:
        connection.close()
        raise


def connectDatagrams(port: int) -> socket.socket:
    """
    Make a socket that asks a server by datagrams, from an address of our own.

    From the server's, the system might choose the very port that the server has yet to take, and
    a socket that is connected to itself answers itself.
    """
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.settimeout(PATIENCE)
    asking.bind(ownAddress())
    asking.connect(("127.0.0.1", port))
    return asking


class _Loop:
    """
    Sockets that each have something in flight, and one loop over them.

    @ivar _request: What each of them sends.
    @ivar _owed: What it gets for it.
    """

    def __init__(self, request: bytes, owed: bytes, each: int = 1) -> None:
        self._request = request
        self._owed = owed
        self._each = each
        self._sockets: dict[int, Any] = {}
        self._epoll = select.epoll()

    def _add(self, asking: Any) -> None:
        asking.setblocking(False)
        self._sockets[asking.fileno()] = asking
        self._epoll.register(asking.fileno(), select.EPOLLIN)
        asking.send(self._request)

    def run(self, seconds: float) -> int:
        poll, receive, sockets = self._epoll.poll, self._receive, self._sockets
        again, clock = self._again, time.monotonic
        answered = 0
        end = clock() + seconds
        while clock() < end:
            events = poll(PATIENCE)
            if not events:
                raise WrongReply(f"nothing came for {PATIENCE:g} seconds")
            for fileno, _ in events:
                asked = sockets[fileno]
                if receive(asked):
                    answered += 1
                    again(asked)
        return answered * self._each

    def _receive(self, asked: Any) -> bool:
        """Read, and say whether all is there that was owed."""
        raise NotImplementedError

    def _again(self, asked: Any) -> None:
        """Ask once more, the last request having been answered."""
        asked.send(self._request)

    def close(self) -> None:
        self._epoll.close()
        for each in self._sockets.values():
            each.close()


class Datagrams(_Loop):
    """Datagrams of several sockets, one of each in flight."""

    def __init__(self, port: int, sockets: int) -> None:
        super().__init__(MESSAGE, MESSAGE.upper())
        for _ in range(sockets):
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            asking.connect(("127.0.0.1", port))
            self._add(asking)

    def _receive(self, asked: Any) -> bool:
        data = asked.recv(65536)
        if data != self._owed:
            raise WrongReply(f"{data[:80]!r} came, not {self._owed[:80]!r}")
        return True


class Lines(_Loop):
    """
    Connections that each send some lines at once, and the next ones when all are answered.

    @ivar _partial: By socket, what has come of replies that are not complete yet.
    """

    def __init__(self, port: int, connections: int, depth: int = 1) -> None:
        line = MESSAGE + b"\n"
        super().__init__(line * depth, echoed(MESSAGE) * depth, depth)
        self._partial: dict[Any, bytes] = {}
        self._port = port
        for _ in range(connections):
            self._add(self._connect())

    def _connect(self) -> socket.socket:
        return connect(self._port)

    def _receive(self, asked: Any) -> bool:
        data = asked.recv(65536)
        if data == self._owed:
            return True
        data = self._partial.pop(asked, b"") + data
        if data == self._owed:
            return True
        if not self._owed.startswith(data) or not data:
            raise WrongReply(f"{data[-80:]!r} came, not {self._owed[-80:]!r}")
        self._partial[asked] = data
        return False


class EncryptedLines(Lines):
    """Lines over TLS."""

    def __init__(self, port: int, connections: int, tls: ssl.SSLContext) -> None:
        self._tls = tls
        super().__init__(port, connections)

    def _connect(self) -> socket.socket:
        return connect(self._port, self._tls)

    def _receive(self, asked: Any) -> bool:
        try:
            # What is decrypted already wakes no epoll: read until there is no more.
            while not super()._receive(asked):
                pass
        except ssl.SSLWantReadError:
            return False
        return True


class Churn:
    """
    Lines that have a connection each, which the asking side closes.

    To connect costs who asks as much as to accept costs the server, so it does nothing besides. It
    deals with one half of its connections, in the order in which they were made, while the server
    has the other half.

    @ivar _asked: The connections, the oldest first, and from where they are.
    @ivar _left: Places that connections were closed from, and when.
    """

    def __init__(self, port: int, connections: int) -> None:
        self._port = port
        self._request, self._owed = MESSAGE + b"\n", echoed(MESSAGE)
        self._left: deque[tuple[float, tuple[str, int]]] = deque()
        self._places = ((f"127.1.0.{host}", port) for host in range(256) for port in PORTS)
        self._asked: deque[tuple[socket.socket, tuple[str, int]]] = deque()
        for _ in range(connections):
            self._ask()

    def run(self, seconds: float) -> int:
        asked, left, clock = self._asked, self._left, time.monotonic
        half = (len(asked) + 1) // 2
        answered = 0
        end = clock() + seconds
        while clock() < end:
            self._wait(asked[half - 1][0])
            for _ in range(half):
                connection, place = asked.popleft()
                with connection:
                    self._receive(connection)
                left.append((clock(), place))
                self._ask()
            answered += half
        return answered

    def _ask(self) -> None:
        """Connect, and send one line."""
        left = self._left
        while True:
            if left and left[0][0] < time.monotonic() - REUSE:
                place = left.popleft()[1]
            else:
                place = next(self._places)
            connection = socket.socket()
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                connection.bind(place)
                connection.connect(("127.0.0.1", self._port))
                connection.send(self._request)
            except OSError as error:
                connection.close()
                if error.errno not in (EADDRINUSE, EADDRNOTAVAIL):
                    raise
            else:
                self._asked.append((connection, place))
                return

    def _receive(self, connection: socket.socket) -> None:
        data = b""
        while data != self._owed:
            try:
                more = connection.recv(len(self._owed) + 1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._wait(connection)
                continue
            data += more
            if not more or not self._owed.startswith(data):
                raise WrongReply(f"{data!r} came, not {self._owed!r}")

    def _wait(self, connection: socket.socket) -> None:
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        if not poll.poll(1000 * PATIENCE):
            raise WrongReply(f"nothing came for {PATIENCE:g} seconds")

    def close(self) -> None:
        for connection, _ in self._asked:
            connection.close()


def idle(port: int, connections: int) -> Callable[[], None]:
    """
    Open connections that each say one line, and then nothing.

    @return: What closes them.
    """
    line, owed = MESSAGE + b"\n", echoed(MESSAGE)
    with ExitStack() as opened:
        for _ in range(connections):
            one = opened.enter_context(connect(port))
            one.sendall(line)
            if (data := one.recv(65536)) != owed:
                raise WrongReply(f"{data[:80]!r} came, not {owed[:80]!r}")
        return opened.pop_all().close
    raise AssertionError("an ExitStack swallows nothing")
