"""
What stands between an app and a datagram port: who is answered, and by which session.

An app whose messages stand alone shares one session among all peers; any other gets one for each
peer, in a table with a cap and an idle expiry.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from contextlib import suppress
from errno import EAGAIN, ECONNREFUSED
from itertools import repeat
from operator import length_hint
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory, IReactorTime
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from sockapps.counts import Counts
from sockapps.datagram import DatagramSession, addressOf
from sockapps.framing import LF
from sockapps.guard import Address, Allowance, Guard, OwnAddresses
from sockapps.interfaces import IDatagramApp
from sockapps.limits import Admission, Sources
from sockapps.options import AdmissionOptions, DatagramOptions, ProcessOptions
from sockapps.recvmmsg import Receiver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sockapps.sessionlog import SessionLog

PACKETS = 64
"""Datagrams that one port takes before the others have their turn, empty ones too."""

CROWD = 8
"""After a turn with so many datagrams the next ones are taken all at once."""

_NOBODY: Any = SimpleNamespace(free=False)
"""Whose turn it is where no session serves all."""

CLIENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Where Linux says which ports it gives to clients; elsewhere it is from 32768 on as well."""


class DatagramSessions(DatagramProtocol):
    """
    Shelter any protocol factory on a datagram port.

    @param admission: Who may come; C{None}: whoever the default options let in.
    @param log: Who is told of conversations and drops; C{None}: nobody.
    @param own: Where the process listens, all its services together; C{None}: here only.
    @ivar sessions: The conversations that are open now, the longest silent first.
    @ivar standsAlone: Whether one session serves all peers.
    @ivar host: Where it listens.
    @ivar send: Sends a datagram to an address.
    @ivar counts: What was dropped, and what the sessions that have ended did.
    """

    noisy = False
    transport: Any
    host: Any = None
    send: Any
    _port: Any
    _crowded: bool
    _receive: Receiver | None
    _left: Iterator[tuple[bytes, Any]]
    _log = Logger()

    def __init__(
        self,
        factory: IProtocolFactory,
        options: DatagramOptions,
        reactor: IReactorTime,
        admission: Admission | None = None,
        log: SessionLog | None = None,
        own: OwnAddresses | None = None,
    ) -> None:
        self.appFactory = factory
        self.reactor = reactor
        if admission is None:
            admission = Admission(AdmissionOptions(), Sources(ProcessOptions(), reactor.seconds))
        self.admission = admission
        self.log = log
        self.counts = Counts()
        traits = IDatagramApp(factory, None)
        self.standsAlone = traits is not None and bool(traits.standsAlone)
        self._lines = traits is None or not traits.wholeDatagrams
        self._shared: DatagramSession | None = None
        self._sweep: IDelayedCall | None = None
        self.sessions: OrderedDict[Address, DatagramSession] = OrderedDict()
        self._own = OwnAddresses(isLocal) if own is None else own
        self.guard = Guard(
            options, admission, self.standsAlone, reactor.seconds, self._own, firstClientPort()
        )
        # What every datagram is asked about, at hand.
        self._free = admission.free
        self._ownPorts = self._own.hosts
        self._clients = self.guard.clients

    @property
    def options(self) -> DatagramOptions:
        """What is decided by, from now on."""
        return self.guard.options

    @options.setter
    def options(self, options: DatagramOptions) -> None:
        self.guard.options = options
        self._clients = self.guard.clients

    def logPrefix(self) -> str:
        """Speak in the log under the app's name."""
        return self.appFactory.__class__.__name__

    def startProtocol(self) -> None:
        self.host = self.transport.getHost()
        # Straight from the socket: the port's own way to write looks at the address again, which
        # here is always one that the socket has heard.
        self.send = self.transport.getHandle().sendto
        self._port = self.transport
        self._port.doRead = self._read
        self._crowded, self._receive, self._left = False, None, iter(())
        self._own.add(self.host.host, self.host.port)
        self.appFactory.doStart()

    def stopProtocol(self) -> None:
        del self._port.doRead, self._port
        self._own.remove(self.host.host, self.host.port)
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for session in self.open():
            session.cut("shutdown")
        if self.log is not None:
            self.log.flush()
        self.appFactory.doStop()

    def _read(self) -> None:
        """
        Deliver what has come, as the port's own C{doRead} would, but no more than a turn's worth,
        and with less to do for each datagram where one session serves all.
        """
        free, clients, ownPorts, lines = self._free, self._clients, self._ownPorts, self._lines
        port, shared, long = self._port, self._shared or _NOBODY, ":" in self.host.host
        messages = others = received = 0
        try:
            for datagram, addr in self._arrived():
                if long:
                    addr = addr[:2]
                host, number = addr
                if (
                    shared.free
                    and host in free
                    and number >= clients
                    and number not in ownPorts
                    and datagram
                ):
                    # A client that is exempt: what the guard would find, without asking it.
                    if lines and datagram[-1] == LF:
                        datagram = withoutLineEnd(datagram)
                    messages += 1
                    received += len(datagram)
                    shared.addr = addr
                    shared.allowance = None
                    try:
                        shared.app.dataReceived(datagram)
                    except Exception:
                        shared.fail("failed on a message")
                elif port.connected:  # else the last one's app has closed it
                    others += 1
                    try:
                        self.datagramReceived(datagram, addr)
                    except Exception:
                        # Else the reactor would close the port.
                        self._log.failure("{app} failed on a datagram", app=self.logPrefix())
                    shared = self._shared or _NOBODY
        except OSError as error:
            if error.errno not in (EAGAIN, ECONNREFUSED) and port.connected:
                raise
        self._crowded = messages + others >= CROWD
        self.counts.messages += messages
        self.counts.received += received

    def _arrived(self) -> Iterator[tuple[bytes, Any]]:
        """
        Take a turn's worth of what has come, at once where it was much the last time.

        @return: Datagrams, each with whom it is from, as the socket says it.
        @raise OSError: By the iterator, where there is no more.
        """
        port = self._port
        if length_hint(self._left):
            # An app has the reactor go round while it is given a message: these came first.
            return self._left
        if self._crowded:
            # If it fails, that may be the socket, which the other way finds out too, or this call.
            with suppress(OSError):
                if self._receive is None:
                    self._receive = Receiver(port.addressFamily, port.maxPacketSize, PACKETS)
                self._left = iter(self._receive(port.socket.fileno()))
                return self._left
        return map(port.socket.recvfrom, repeat(port.maxPacketSize, PACKETS))

    def datagramReceived(self, datagram: bytes, addr: Address) -> None:
        """Deliver one message to the session of its sender."""
        allowance = self.guard.judge(datagram, addr)
        if isinstance(allowance, str):
            self.drop(allowance, addr[0])
            return
        if self._lines and datagram[-1] == LF:
            datagram = withoutLineEnd(datagram)
        session = self._shared if self.standsAlone else self.sessions.get(addr)
        if session is None:
            session = self._begin(addr, allowance)
            if session is None:
                return
        elif not self.standsAlone:
            self.sessions.move_to_end(addr)
            session.lastHeard = self.reactor.seconds()
        session.deliver(datagram, addr, allowance)

    def open(self) -> list[DatagramSession]:
        """Find the sessions that are open now, the longest silent first."""
        return [*self.sessions.values(), *filter(None, [self._shared])]

    def drop(self, why: str, host: str) -> None:
        """
        Note that a datagram, or the reply to one, goes no further.

        @param why: One of L{sockapps.counts.DROPS}.
        @param host: Where it came from, or was to go.
        """
        self.counts.dropped[why] += 1
        if self.log is not None:
            self.log.dropped(why, host)

    def forget(self, session: DatagramSession, why: str) -> None:
        """
        Have the next message from there begin a new session, and keep what this one did.

        @param why: One of L{sockapps.counts.ENDINGS}.
        """
        counts = self.counts
        counts.ended[why] += 1
        counts.messages += session.messages
        counts.received += session.received
        counts.sent += session.sent
        if session.shared:
            self._shared = None
            return
        del self.sessions[session.addr]
        if self.log is not None:
            self.log.ended(session, why)

    def _begin(self, addr: Address, allowance: Allowance | None) -> DatagramSession | None:
        """
        Begin a conversation.

        @return: C{None} where the app's factory wants none with that peer.
        """
        app = self.appFactory.buildProtocol(cast(IAddress, addressOf(addr)))
        if app is None:
            return None
        session = DatagramSession(self, addr, app)
        self.counts.opened += 1
        if session.shared:
            self._shared = session
        else:
            while len(self.sessions) >= self.options.maxPeers:
                next(iter(self.sessions.values())).cut("evicted")
            self.sessions[addr] = session
            if self._sweep is None:
                self._sweepLater(self.options.peerTimeout)
            if self.log is not None:
                # One that serves everybody is nobody's, and not told of.
                self.log.began(session)
        session.begin(allowance)
        return session

    def _sweepLater(self, wait: float) -> None:
        self._sweep = self.reactor.callLater(wait, self._expire)

    def _expire(self) -> None:
        """End the conversations that have been silent for too long."""
        self._sweep = None
        now = self.reactor.seconds()
        while self.sessions:
            session = next(iter(self.sessions.values()))
            end = session.lastHeard + self.options.peerTimeout
            if end > now:
                self._sweepLater(end - now)
                break
            session.cut("expired")


def withoutLineEnd(datagram: bytes) -> bytes:
    """Leave out one trailing LF or CRLF."""
    if datagram.endswith(b"\n"):
        return datagram[: -2 if datagram.endswith(b"\r\n") else -1]
    return datagram


def firstClientPort() -> int:
    """Find from which port on the system gives them to clients."""
    with suppress(OSError, ValueError):
        return int(CLIENT_PORTS.read_text().split()[0])
    return 32768


def isLocal(host: str) -> bool:
    """Tell whether an address is one of this machine: whether one can listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
