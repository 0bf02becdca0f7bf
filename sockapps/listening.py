"""
An endpoint description becomes a service that listens there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from sockapps.datagram import DatagramSessions
from sockapps.settings import ServiceSettings, SettingsError, splitDescription
from sockapps.stream import StreamSessions

UDP_PACKET = 65536
"""Bytes to read at once: more than any datagram has, so that none is cut short."""


class StartError(SystemExit, Exception):
    """
    Something could not start, in one line.

    As a L{SystemExit} it ends a program with that line and exit code 1, and no traceback; as an
    L{Exception} it lets C{twistd} take its pidfile away and tell the parent of a daemon.
    """


class Listening(Service):
    """
    One service at one endpoint.

    @ivar description: The endpoint's description.
    @ivar port: The port, while it listens.
    """

    _log = Logger()

    def __init__(self, service: str, description: str, framing: str, listen: Any) -> None:
        self.setName(f"{service} {description}")
        self.service = service
        self.description = description
        self.framing = framing
        self._listen = listen
        self._listening: Deferred[IListeningPort] | None = None
        self.port: Any = None

    def privilegedStartService(self) -> None:
        """
        Listen.

        @raise StartError: that is not possible, as when the port is in use.
        """
        failures: list[Failure] = []
        self._listening = listening = maybeDeferred(self._listen)
        listening.addCallbacks(self._began, failures.append)
        if failures:
            self._listening = None
            raise StartError(
                f"{self.service}: cannot listen on {self.description}: {_why(failures[0].value)}"
            )
        listening.addErrback(
            lambda failure: self._log.failure("{name} cannot listen", failure, name=self.name)
        )

    def startService(self) -> None:
        """Listen, unless L{privilegedStartService} has begun to."""
        super().startService()
        if self._listening is None:
            self.privilegedStartService()

    def stopService(self) -> Deferred[None]:
        """Stop listening."""
        super().stopService()
        port, self.port, self._listening = self.port, None, None
        return maybeDeferred(port.stopListening if port is not None else lambda: None)

    def giveUp(self) -> None:
        """Stop listening where no reactor will run: take a UNIX socket's file away too."""
        if self.port is not None:
            port = self.port
            self.stopService()
            if hasattr(port, "connectionLost"):
                port.connectionLost(Failure(ConnectionDone()))

    def _began(self, port: IListeningPort) -> None:
        self.port = port
        self._log.info(
            "{service} listens on {description} at {address}, framing {framing}",
            service=self.service,
            description=self.description,
            address=_address(port.getHost()),
            framing=self.framing,
        )


class AllOrNone(Service):
    """
    Several listenings that start together, or not at all.
    """

    def __init__(self, listenings: Iterable[Listening]) -> None:
        self.listenings = list(listenings)

    def privilegedStartService(self) -> None:
        """
        Start them all.

        @raise StartError: one cannot; those that had begun have stopped again.
        """
        try:
            for listening in self.listenings:
                listening.privilegedStartService()
        except StartError:
            for listening in self.listenings:
                listening.giveUp()
            raise

    def startService(self) -> None:
        """Start them all, unless L{privilegedStartService} has."""
        super().startService()
        if all(listening.port is None for listening in self.listenings):
            self.privilegedStartService()
        for listening in self.listenings:
            listening.startService()

    def stopService(self) -> Deferred[Any]:
        """Stop them all."""
        super().stopService()
        return DeferredList([listening.stopService() for listening in self.listenings])


def listenings(settings: ServiceSettings, reactor: Any) -> list[Listening]:
    """
    Make what listens for one service, at each of its endpoints; they share its app's factory.

    @raise SettingsError: an option of the app, or an endpoint, cannot be used.
    """
    factory = settings.makeFactory()
    return [_listening(settings, factory, description, reactor) for description in settings.listen]


def _listening(
    settings: ServiceSettings, factory: IProtocolFactory, description: str, reactor: Any
) -> Listening:
    if description.startswith("udp:"):
        port, interface = _parseUDP(settings.name, description)
        datagrams = DatagramSessions(factory, settings.datagram, reactor)
        return Listening(
            settings.name,
            description,
            "datagram",
            lambda: reactor.listenUDP(port, datagrams, interface, UDP_PACKET),
        )
    streams = StreamSessions(factory, settings.stream, reactor)
    try:
        endpoint = serverFromString(reactor, description)
    except Exception as error:
        # Each kind of endpoint has its own way to refuse, and files of its own to miss.
        raise SettingsError(
            f"{settings.name}.listen: {description!r} cannot be used: {_why(error)}; endpoints are "
            "like tcp:7000:interface=127.0.0.1, unix:/run/app.sock, udp:7000"
        ) from None
    return Listening(
        settings.name, description, settings.stream.framing, lambda: endpoint.listen(streams)
    )


def _parseUDP(service: str, description: str) -> tuple[int, str]:
    """
    Read C{udp:PORT[:interface=ADDRESS]}; without an interface it is loopback.

    Twisted has no endpoint strings for UDP (U{https://github.com/twisted/twisted/issues/4471}).
    """
    _, port, *rest = splitDescription(description)
    interface = "127.0.0.1"
    if len(rest) == 1 and rest[0].startswith("interface="):
        interface = rest[0].removeprefix("interface=")
    elif rest:
        port = ""
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise SettingsError(
            f"{service}.listen: {description!r} cannot be used; "
            "it is written udp:PORT or udp:PORT:interface=ADDRESS, PORT from 0 to 65535"
        )
    return int(port), interface


def _why(error: BaseException | None) -> str:
    if isinstance(error, CannotListenError):
        error = error.socketError
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _address(address: Any) -> str:
    if hasattr(address, "port"):
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"{host}:{address.port}"
    name = getattr(address, "name", address)
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)
