"""
An endpoint description becomes a service that listens there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError, ConnectionDone, ReactorNotRunning
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from sockapps.datagrams import DatagramSessions, isLocal
from sockapps.guard import OwnAddresses
from sockapps.limits import Admission, Sources
from sockapps.options import ProcessOptions
from sockapps.printable import placeOf
from sockapps.sessionlog import SessionLog
from sockapps.settings import ServiceSettings, SettingsError, splitDescription
from sockapps.streams import StreamSessions

BACKLOG = 511
"""
Connections that wait to be accepted, as in nginx and Redis. Twisted's 50 are soon too few: who
comes then tries again after a second (tcp(7)).
"""

_QUEUEING = ("tcp", "tcp4", "tcp6", "ssl", "tls", "unix")

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

    @ivar service: The service's name.
    @ivar app: The name of its app.
    @ivar description: The endpoint's description.
    @ivar sessions: What shelters the app there; C{None} where that is no app's.
    @ivar port: The port, while it listens.
    """

    _log = Logger()

    def __init__(
        self,
        service: str,
        description: str,
        framing: str,
        listen: Callable[[], Any],
        reactor: Any,
        app: str = "",
        sessions: StreamSessions | DatagramSessions | None = None,
    ) -> None:
        self.service = service
        self.app = app
        self.description = description
        self.framing = framing
        self.sessions = sessions
        self.port: Any = None
        self._listen = listen
        self._reactor = reactor
        self._attempt: object | None = None

    def privilegedStartService(self) -> None:
        """
        Listen.

        An endpoint may need time to do so. Where it fails later, the reactor stops: half a daemon
        helps nobody.

        @raise StartError: that is not possible, as when the port is in use.
        """
        attempt = self._attempt = object()
        refusals: list[str] = []
        late = False

        def began(port: IListeningPort) -> None:
            if self._attempt is attempt:
                self._began(port)
            else:
                port.stopListening()  # nobody wants it any more

        def failed(failure: Failure) -> None:
            if self._attempt is not attempt:
                return
            self._attempt = None
            _unlock(failure.value)
            # The reason comes first: twistd cuts what a daemon's parent prints at 100 characters.
            refusals.append(
                f"{self.service} cannot listen: {_why(failure.value)} ({self.description})"
            )
            if late:
                self._log.critical("{refusal}; stopping", refusal=refusals[0])
                self._reactor.callWhenRunning(self._stopReactor)

        maybeDeferred(self._listen).addCallbacks(began, failed)
        late = True
        if refusals:
            raise StartError(refusals[0])

    def startService(self) -> None:
        """
        Listen, unless L{privilegedStartService} has begun to.

        @raise StartError: see L{privilegedStartService}.
        """
        if self._attempt is None:
            self.privilegedStartService()
        super().startService()

    def stopService(self) -> Deferred[None]:
        """Stop listening."""
        super().stopService()
        port, self.port, self._attempt = self.port, None, None
        return maybeDeferred(port.stopListening if port is not None else lambda: None)

    def giveUp(self) -> None:
        """Stop listening where no reactor will run: take a UNIX socket's file away too."""
        if hasattr(self.port, "connectionLost"):
            port, self.port = self.port, None
            port.connectionLost(Failure(ConnectionDone()))
        self.stopService()

    def _began(self, port: IListeningPort) -> None:
        self.port = port
        if isinstance(self.sessions, StreamSessions):
            self.sessions.wrapped = getattr(port, "factory", None) is not self.sessions
        self._log.info(
            "{service} listens on {description} at {address}, framing {framing}",
            service=self.service,
            description=self.description,
            address=placeOf(port.getHost()) or port.getHost(),
            framing=self.framing,
        )

    def _stopReactor(self) -> None:
        with suppress(ReactorNotRunning):  # another one has failed too
            self._reactor.stop()


class AllOrNone(Service):
    """
    Several listenings that start together, or not at all.
    """

    def __init__(self, listenings: Iterable[Listening]) -> None:
        self.listenings = list(listenings)

    def privilegedStartService(self) -> None:
        """
        Listen everywhere.

        @raise StartError: one cannot; those that had begun have stopped again.
        """
        self._start(Listening.privilegedStartService)

    def startService(self) -> None:
        """
        Listen everywhere, unless L{privilegedStartService} has begun to.

        @raise StartError: see L{privilegedStartService}.
        """
        self._start(Listening.startService)
        super().startService()

    def stopService(self) -> Deferred[Any]:
        """Stop them all."""
        super().stopService()
        return DeferredList([listening.stopService() for listening in self.listenings])

    def _start(self, start: Callable[[Listening], None]) -> None:
        try:
            for listening in self.listenings:
                start(listening)
        except StartError:
            for listening in self.listenings:
                listening.giveUp()
            raise


@attrs.frozen
class Process:
    """
    What all services of one process share.

    @ivar sources: What is known of those who come.
    @ivar own: Where datagrams are listened for.
    @ivar tell: Of which sessions the log tells, see L{SessionLog}.
    """

    sources: Sources
    own: OwnAddresses
    tell: str

    @classmethod
    def make(cls, options: ProcessOptions, tell: str, reactor: Any) -> Process:
        """Begin to know, with nobody known."""
        return cls(Sources(options, reactor.seconds), OwnAddresses(isLocal), tell)


def listenings(
    settings: ServiceSettings, reactor: Any, process: Process | None = None
) -> list[Listening]:
    """
    Make what listens for one service, at each of its endpoints; they share its app's factory.

    @param process: What it shares with others; without one it is alone, and no log hears of it.
    @raise SettingsError: an option of the app, or an endpoint, cannot be used.
    """
    process = process or Process.make(ProcessOptions(), "none", reactor)
    shared = _Shared(
        settings.makeFactory(),
        Admission(settings.admission, process.sources),
        SessionLog(
            settings.name, process.tell, reactor.seconds, reactor.callLater, settings.app.name
        ),
        process.own,
    )
    return [_listening(settings, description, reactor, shared) for description in settings.listen]


@attrs.frozen
class _Shared:
    """What all endpoints of one service share."""

    factory: IProtocolFactory
    admission: Admission
    log: SessionLog
    own: OwnAddresses


def _listening(
    settings: ServiceSettings, description: str, reactor: Any, shared: _Shared
) -> Listening:
    factory, admission, log = shared.factory, shared.admission, shared.log
    sessions: StreamSessions | DatagramSessions
    try:
        if description.startswith("udp:"):
            port, interface = _parseUDP(description)
            framing = "datagram"
            sessions = datagrams = DatagramSessions(
                factory, settings.datagram, reactor, admission, log, shared.own
            )

            def listen() -> Any:
                return reactor.listenUDP(port, datagrams, interface, UDP_PACKET)

        else:
            _needCertificates(description)
            endpoint = serverFromString(reactor, _withBacklog(description))
            framing = settings.stream.framing
            sessions = streams = StreamSessions(factory, settings.stream, reactor, admission, log)

            def listen() -> Any:
                return endpoint.listen(streams)

    except Exception as error:
        # Each kind of endpoint has its own way to refuse, and files of its own to miss.
        raise SettingsError(
            f"{settings.listenPlace}: {description!r} cannot be used: {_why(error)}; "
            "twistd sockapps --help shows the endpoints"
        ) from None
    return Listening(
        settings.name, description, framing, listen, reactor, settings.app.name, sessions
    )


def _parseUDP(description: str) -> tuple[int, str]:
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
        raise ValueError(
            "it is written udp:PORT or udp:PORT:interface=ADDRESS, PORT from 0 to 65535"
        )
    if not (isIPAddress(interface) or isIPv6Address(interface)):
        raise ValueError(f"{interface!r} is no IP address")
    return int(port), interface


def _withBacklog(description: str) -> str:
    """Let as many wait to be accepted as a busy minute brings, where nobody says how many."""
    kind, *parts = splitDescription(description)
    inOrder = sum("=" not in part for part in parts)
    if kind not in _QUEUEING or inOrder > 2 or any(p.startswith("backlog=") for p in parts):
        return description
    return f"{description}:backlog={BACKLOG}"


def _needCertificates(description: str) -> None:
    """
    See that C{tls:FOLDER…} has certificates; Twisted's endpoint would start without, and fail
    every handshake.
    """
    kind, *parts = splitDescription(description)
    if kind != "tls" or not parts:
        return
    named = [part.removeprefix("path=") for part in parts if part.startswith("path=")]
    folder = (named or parts)[0]
    if not any(Path(folder).rglob("*.pem")):
        raise ValueError(f"no certificate: there is no .pem file in the folder {folder!r}")


def _why(error: BaseException | None) -> str:
    """Say in a few words what a reactor or an endpoint has refused."""
    if isinstance(error, CannotListenError):
        if not isinstance(error.socketError, OSError):
            # A UNIX socket's lock; the whole error reads "Couldn't listen on any:b'/path': …".
            return f"{error.socketError}, another program listens there"
        error = error.socketError
    if isinstance(error, OSError) and error.strerror:
        name = error.filename2 or error.filename
        return f"{error.strerror}: {os.fsdecode(name)}" if name else error.strerror
    if isinstance(error, LookupError):
        return f"there is no {error.args[0]!r}" if isinstance(error, KeyError) else "no such index"
    said = str(error)
    # Some name the function that would not take its arguments.
    for pattern, plain in (
        (r"^\w+\(\):? ", ""),
        (r"^invalid literal for int\(\) with base \d+: (.*)", r"\1 is no number"),
    ):
        said = re.sub(pattern, plain, said)
    return said or type(error).__name__


def _unlock(error: BaseException | None) -> None:
    """Take away the lock that Twisted leaves where it has it, but cannot make the UNIX socket."""
    if (
        isinstance(error, CannotListenError)
        and isinstance(error.port, bytes)
        and isinstance(error.socketError, OSError)
    ):
        lock = error.port + b".lock"
        with suppress(OSError):  # it was to have none
            if os.readlink(lock) == b"%d" % os.getpid():
                os.unlink(lock)
