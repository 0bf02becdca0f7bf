"""
What a program calls to speak to an app::

    echo = await connect("echo", "tcp:127.0.0.1:50007")
    await echo.echo("hello")

It gives the app's own client protocol, over streams and datagrams alike, to servers of ours and,
with C{framing="chunk"}, to plain ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import clientFromString, quoteStringArgument
from twisted.internet.interfaces import IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory

from sockapps.clientprotocol import DEFAULT_TIMEOUT, ClientProtocol
from sockapps.datagramclient import DatagramClient
from sockapps.interfaces import ISocketApp
from sockapps.options import StreamOptions
from sockapps.registry import findApps
from sockapps.settings import splitDescription
from sockapps.stream import StreamSession
from sockapps.streams import StreamSessions

CLIENT_FRAMINGS = ("line", "chunk", "netstring")
"""How a client may speak; which of them, it has to know: there is nothing to wait and see."""

MAX_REPLY = 64 * 1024 * 1024
"""Bytes of one reply at most; a server that sends more is left."""

UDP_PACKET = 65536

_KINDS = ("tcp", "tls", "ssl", "unix", "udp")


def connect(
    app: str,
    endpoint: str | IStreamClientEndpoint | None = None,
    *,
    framing: str = "line",
    timeout: float | None = DEFAULT_TIMEOUT,
    reactor: Any = None,
) -> Deferred[ClientProtocol]:
    """
    Connect to an app.

    @param app: The app's name.
    @param endpoint: Where its server is: a Twisted client string like C{tcp:HOST:PORT},
        C{udp:HOST:PORT}, C{HOST:PORT} over the transport the app has by default, or an endpoint.
        By default where the app listens by default.
    @param framing: One of L{CLIENT_FRAMINGS}; C{chunk} is what plain servers speak. Datagrams need
        none.
    @param timeout: Seconds that connecting, and then each reply, may take; C{None} is no limit.
    @return: A Deferred of the app's client protocol. It fails with what the endpoint fails with:
        L{twisted.internet.error.ConnectError}, L{twisted.internet.error.DNSLookupError},
        L{twisted.internet.defer.TimeoutError}.
    @raise ValueError: there is no such app or framing, or C{endpoint} is not written like one.
    """
    if reactor is None:
        from twisted.internet import reactor
    found = findApp(app)
    if framing not in CLIENT_FRAMINGS:
        raise ValueError(f"a client's framing is {', '.join(CLIENT_FRAMINGS)}, not {framing!r}")
    where = whereIs(found, endpoint) if endpoint is None or isinstance(endpoint, str) else endpoint
    clients = _Clients(cast(type[ClientProtocol], found.loadClient()), timeout, reactor)
    if isinstance(where, str) and where.startswith("udp:"):
        connected = _connectUDP(clients, *_parseUDP(where), reactor)
    else:
        clients.pipelines = framing != "chunk"
        clients.objection = _OBJECTIONS.get(framing)
        connected = _connectStream(clients, where, framing, reactor)
    if timeout is not None:
        connected.addTimeout(timeout, reactor)
    return connected


def findApp(name: str) -> ISocketApp:
    """
    Find an app by its name.

    @raise ValueError: there is none.
    """
    apps = findApps()
    if name not in apps:
        raise ValueError(f"there is no app {name!r}; there are {', '.join(apps)}")
    return apps[name]


def whereIs(app: ISocketApp, endpoint: str | None) -> str:
    """
    Say where to connect to.

    @param endpoint: What the caller says of it: a client string, C{HOST:PORT}, or nothing.
    @return: A client string, or C{udp:HOST:PORT}.
    @raise ValueError: nothing is said, and the app's default endpoint does not tell.
    """
    kind, *rest = splitDescription(app.listens)
    if endpoint is None:
        if kind == "unix":
            return str(app.listens)
        if kind not in ("tcp", "udp"):
            raise ValueError(f"say where {app.name} is; its default endpoint does not tell")
        interfaces = [part for part in rest[1:] if part.startswith("interface=")]
        host = interfaces[0].removeprefix("interface=") if interfaces else "127.0.0.1"
        return f"{kind}:{quoteStringArgument(host)}:{rest[0]}"
    if re.fullmatch(r"[^:]+:[0-9]+", endpoint) and endpoint.partition(":")[0] not in _KINDS:
        return f"{'udp' if kind == 'udp' else 'tcp'}:{endpoint}"
    return endpoint


def _objectToLine(message: bytes) -> str | None:
    if b"\n" in message or b"\r\0" in message or message.endswith(b"\r"):
        return "a message with a line end in it cannot be sent as a line; netstring framing can"
    return None


def _objectToChunk(message: bytes) -> str | None:
    return None if message else "an empty message cannot be sent without line or netstring framing"


_OBJECTIONS = {"line": _objectToLine, "chunk": _objectToChunk}


class _Clients(Factory[ClientProtocol]):
    """Make client protocols that know how to speak here."""

    noisy = False
    pipelines = False
    # What goes for chunks goes for datagrams too: nobody answers an empty one.
    objection: Callable[[bytes], str | None] | None = staticmethod(_objectToChunk)

    def __init__(
        self, kind: type[ClientProtocol], timeout: float | None, reactor: IReactorTime
    ) -> None:
        self.kind = kind
        self.timeout = timeout
        self.reactor = reactor

    def buildProtocol(self, addr: Any) -> ClientProtocol:
        client = self.kind()
        client.factory = self
        client.pipelines = self.pipelines
        client.objection = self.objection
        client.timeout = self.timeout
        client.reactor = self.reactor
        return client


_PATIENT: dict[str, Any] = dict.fromkeys(
    ("firstMessageTimeout", "messageTimeout", "idleTimeout", "sessionTimeout", "stallTimeout"), 0.0
)
"""No time limits but the client protocol's own: a server owes nothing until it is asked."""


class _ClientSessions(StreamSessions):
    explainsFaults = False


def _connectStream(
    clients: _Clients, where: str | IStreamClientEndpoint, framing: str, reactor: Any
) -> Deferred[ClientProtocol]:
    endpoint = where
    if isinstance(endpoint, str):
        try:
            endpoint = clientFromString(reactor, endpoint)
        except Exception as error:
            # Each kind of endpoint has its own way to refuse what it cannot read.
            raise ValueError(
                f"{where!r} cannot be connected to: {error}; endpoints are like tcp:HOST:PORT, "
                "tls:HOST:PORT, unix:PATH, udp:HOST:PORT"
            ) from None
    options = StreamOptions(framing=framing, maxMessage=MAX_REPLY, linger=1.0, **_PATIENT)
    connecting: Deferred[Any] = cast(Any, endpoint).connect(
        _ClientSessions(clients, options, reactor)
    )
    return connecting.addCallback(_clientWithin)


def _clientWithin(session: StreamSession) -> ClientProtocol:
    return cast(ClientProtocol, session.app)


def _connectUDP(clients: _Clients, host: str, port: int, reactor: Any) -> Deferred[ClientProtocol]:
    def begin(address: str) -> ClientProtocol:
        client = clients.buildProtocol(IPv4Address("UDP", address, port))
        interface = "::" if isIPv6Address(address) else ""
        datagrams = DatagramClient(cast(IProtocol, client), address, port)
        reactor.listenUDP(0, datagrams, interface, UDP_PACKET)
        return client

    numeric = isIPAddress(host) or isIPv6Address(host)
    resolving: Deferred[str] = succeed(host) if numeric else reactor.resolve(host)
    return resolving.addCallback(begin)


def _parseUDP(where: str) -> tuple[str, int]:
    _, *parts = splitDescription(where)
    if len(parts) != 2 or not re.fullmatch("[0-9]{1,5}", parts[1]) or int(parts[1]) > 65535:
        raise ValueError(f"{where!r} is not written udp:HOST:PORT")
    return parts[0], int(parts[1])
