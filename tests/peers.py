"""
Services as C{twistd} runs them, and plain blocking programs that speak to them or are spoken to.

The programs use nothing but L{socket}, as the tutorials do: one C{send}, one C{recv}.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, globalLogPublisher

from sockapps.datagrams import DatagramSessions
from sockapps.listening import Listening, listenings
from sockapps.settings import serviceSettings
from tests.sockets import PATIENCE, bounded, until

TCP = "tcp:0:interface=127.0.0.1"
UDP = "udp:0"

PASSWORD = "geheim-0815"
"""The password of 张三, in ASCII, so that no escaping can hide it from a search."""

ACCOUNTS = f"memory:张三:{PASSWORD}"


class Served:
    """
    One service that runs, at one endpoint.

    @ivar address: Where, as L{socket} wants it.
    """

    def __init__(self, listening: Listening) -> None:
        self.sheltering: Any = listening.sessions
        self.port = listening.port
        self.host = listening.port.getHost()
        unix = hasattr(self.host, "name")
        self.address = self.host.name if unix else (self.host.host, self.host.port)

    @property
    def sessions(self) -> Any:
        """The sessions that are open now."""
        return self.sheltering.sessions

    @property
    def appFactory(self) -> Any:
        """The app's factory."""
        return self.sheltering.appFactory

    def getHost(self) -> Any:
        """Say where, so that the fixtures C{connected} and C{speaking} take it."""
        return self.host


@asynccontextmanager
async def serving(name: str, listen: str = TCP, **options: object) -> AsyncIterator[Served]:
    """Run one service as C{twistd sockapps --service=name} does, until the block ends."""
    from twisted.internet import reactor

    given: dict[str, object] = {"auth": ACCOUNTS, **options} if name == "login" else options
    [listening] = listenings(serviceSettings(name, {"listen": listen, **given}), reactor)
    listening.privilegedStartService()
    listening.startService()
    served = Served(listening)
    try:
        yield served
    finally:
        await listening.stopService()
        if not isinstance(listening.sessions, DatagramSessions):
            for session in list(served.sessions):
                session.abortConnection()
            await until(lambda: not served.sessions, "every session ended")


def inThread(work: Callable[..., Any], *args: Any) -> Deferred[Any]:
    """Run a blocking program beside the reactor; it may take L{PATIENCE}."""
    return bounded(deferToThread(work, *args), lambda: f"the program {work.__name__}")


def plainSocket(kind: str, address: Any, certificate: Path | None = None) -> socket.socket:
    """Connect a blocking socket: C{tcp}, C{tls}, C{unix} or C{udp}."""
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
    made.settimeout(PATIENCE)
    made.connect(address)
    if kind == "tls":
        return ssl.create_default_context(cafile=certificate).wrap_socket(
            made, server_hostname="localhost"
        )
    return made


def tutorialClient(
    address: Any, messages: Sequence[bytes], kind: str = "tcp", certificate: Path | None = None
) -> list[bytes]:
    """
    Do what a tutorial's client does: for each message one C{send}, then one C{recv(1024)}.

    @return: What each C{recv} gave.
    """
    replies = []
    with closing(plainSocket(kind, address, certificate)) as client:
        for message in messages:
            client.send(message)
            replies.append(client.recv(1024))
    return replies


def tutorialVisitor(address: Any, message: bytes) -> tuple[bytes, bytes]:
    """
    Do what a tutorial's client of one message does, and wait for the server to close.

    @return: What one C{recv(1024)} gave, and what came after it until the end.
    """
    with closing(plainSocket("tcp", address)) as client:
        client.send(message)
        return client.recv(1024), b"".join(iter(lambda: client.recv(1024), b""))


@contextmanager
def tutorialServer(answer: Callable[[bytes], bytes], once: bool = False) -> Iterator[int]:
    """
    Run what a tutorial's server is, in a thread, for one client: C{accept}, then C{recv(1024)} and
    C{send} in turn.

    @param once: It closes after one answer.
    @return: Its port.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(PATIENCE)

        def serve() -> None:
            client, _ = server.accept()
            with closing(client):
                client.settimeout(PATIENCE)
                while message := client.recv(1024):
                    client.send(answer(message))
                    if once:
                        break

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the tutorial's server has not ended"


class Logged(list[LogEvent]):
    """Every event that was logged, at any level."""

    @property
    def grave(self) -> list[str]:
        """Those that tell of an error, as text."""
        return [
            eventAsText(event)
            for event in self
            if event["log_level"] >= LogLevel.error or "log_failure" in event
        ]

    def tells(self, secret: str) -> list[str]:
        """Those that a secret can be read from, as text or in any value that they hold."""
        return [
            shown
            for event in self
            if secret in (shown := f"{eventAsText(event)}\n{event!r}\n{_values(event)}")
        ]


def _values(event: LogEvent) -> str:
    return "\n".join(
        f"{value!r} {value!s} {getattr(value, '__dict__', '')}" for value in event.values()
    )


@contextmanager
def logged() -> Iterator[Logged]:
    """Note everything that is logged."""
    events = Logged()
    observer = cast(ILogObserver, events.append)
    globalLogPublisher.addObserver(observer)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(observer)
