"""
A leaner reactor for Linux: Twisted's epoll reactor, less what a small request does not need.

Stock Twisted sends no reply when it is written. It arms EPOLLOUT, goes round its loop, sends, and
disarms: two more system calls and a second dispatch for each small request. This reactor lets a
transport write as soon as it has dealt with what it read, and arms EPOLLOUT only where the system
did not take everything. Its clock is C{time.monotonic}, so no step of the wall clock fires a timer
early, or never.

It is for any Twisted program, and needs nothing else of sockapps::

    from sockapps.reactor import install
    install()

or C{twistd --reactor=lean}, C{trial --reactor=lean}. Connections over TCP and UNIX sockets, either
side, TLS over them, and UDP are lean; whatever else a reactor has is L{EPollReactor}'s.
"""

from __future__ import annotations

import socket
import sys
import time
from collections import deque
from errno import EAGAIN, ECONNREFUSED, ENOBUFS, EPIPE
from select import EPOLLIN
from typing import Any

from twisted.internet import main, tcp, udp, unix
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.base import ReactorBase
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.logger import Logger
from twisted.python import context, log
from twisted.python.components import globalRegistry
from twisted.python.failure import Failure
from zope.interface import providedBy

__all__ = ["LEANS_ON", "LeanReactor", "install"]

LEANS_ON: dict[type, tuple[str, ...]] = {
    ReactorBase: (
        "_cancellations",
        "_justStopped",
        "_newTimedCalls",
        "_pendingTimedCalls",
        "_started",
    ),
    EPollReactor: (
        "_disconnectSelectable",
        "_doReadOrWrite",
        "_poller",
        "_reads",
        "_selectables",
        "_writes",
    ),
    tcp.Connection: (
        "_aborting",
        "_closeSocket",
        "_closeWriteConnection",
        "_maybePauseProducer",
        "_postLoseConnection",
        "_tempDataBuffer",
        "_tempDataLen",
        "_writeDisconnected",
        "_writeDisconnecting",
    ),
    tcp.Server: ("_addressType", "_fromConnectedSocket", "_getLogPrefix"),
    tcp.Port: (
        "_addressType",
        "_buildAddr",
        "_fromListeningDescriptor",
        "_logger",
        "_realPortNumber",
    ),
    tcp.Client: ("_connectDone",),
    tcp.Connector: ("_makeTransport",),
    unix.Server: ("_fromConnectedSocket",),
    unix.Port: ("_fromListeningDescriptor",),
    unix.Client: ("_connectDone", "_sendmsgQueue"),
    unix.Connector: ("_makeTransport",),
    udp.Port: ("_connectedAddr", "_fromListeningDescriptor"),
    socket.socket: ("_accept",),
}
"""Every private name of others that this module uses, by the class that has it."""

_log = Logger(namespace="twisted.internet.base")
_ANY_FAILURE = _log.failureHandler("Unexpected error in main loop")
_ADAPTERS: Any = globalRegistry
_DONE = Failure(main.CONNECTION_DONE)

LONG = 3600.0
"""Seconds of a wait that is left to Twisted's own loop, which knows how long one can be at all."""

PACKETS = 64
"""Datagrams that one port takes before the others have their turn, empty ones too."""


class LeanReactor(EPollReactor):
    """Twisted's epoll reactor, with connections that write at the end of their own turn."""

    seconds = staticmethod(time.monotonic)
    _turns = 0
    _sent = False
    _turn: Any = None
    _contexts: Any = None

    def __init__(self) -> None:
        self._due: deque[Any] = deque()
        super().__init__()

    # The loop

    def mainLoop(self) -> None:
        """Go round until the reactor is stopped; a turn in which nothing is due costs little."""
        self._contexts = context.theContextTracker.currentContext().contexts
        while self._started:
            with _ANY_FAILURE:
                while self._started:
                    timed = self._pendingTimedCalls
                    if (
                        self._due
                        or self.threadCallQueue
                        or self._newTimedCalls
                        or self._justStopped
                        or self._cancellations > 50
                        or not self.running
                    ):
                        self.runUntilCurrent()
                        timeout = self.running and self.timeout()
                    elif timed:
                        timeout = timed[0].time - self.seconds()
                        if timeout <= 0 or timeout > LONG:
                            self.runUntilCurrent()
                            timeout = self.running and self.timeout()
                    else:
                        timeout = None
                    self.doIteration(timeout)
        self._contexts = None
        _log.info("Main loop terminated.")

    def iterate(self, delay: float = 0.0) -> None:
        """See L{IReactorCore}: to have sent something is an event, too, and not waited after."""
        self._sent = False
        self.runUntilCurrent()
        self.doIteration(0 if self._sent else delay)

    def runUntilCurrent(self) -> None:
        """Run what is due, then send what that has written."""
        self._endTurn()
        super().runUntilCurrent()
        if self._due:
            self._sent = True
            self._writeDue()
            if self._justStopped or self.threadCallQueue:
                # Who was told something just now has stopped the reactor, or let it go round and
                # so wake up for a thread's call; nothing else would wake it for that.
                super().runUntilCurrent()

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events, and deal with them."""
        selectables = self._selectables
        if self._turn is not None:
            self._endTurn()  # of whom it is that has the loop go round within his turn
        if self._due:
            self._writeDue()  # by who goes round with this alone
            timeout = 0
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, len(selectables) or 1)
        except InterruptedError:
            return
        self._turns += 1
        doReadOrWrite = self._doReadOrWrite
        # What is logged is asked for its prefix where it is logged, not before.
        contexts = self._contexts or context.theContextTracker.currentContext().contexts
        place = len(contexts)
        contexts.append(_NOBODY)
        try:
            for fd, event in events:
                selectable = selectables.get(fd)
                if selectable is None:
                    continue  # closed by an event before this one
                if not isinstance(selectable, _Lean):
                    self._turn = None
                    contexts[place] = _NOBODY
                    log.callWithLogger(selectable, doReadOrWrite, selectable, fd, event)
                    continue
                contexts[place] = self._turn = selectable
                try:
                    if event == EPOLLIN:
                        inRead = True
                        try:
                            why = selectable.doRead()
                        except BaseException:
                            why = sys.exc_info()[1]
                            inRead = False  # the connection is lost, not only its one half
                            log.err()
                        if why:
                            self._disconnectSelectable(selectable, why, inRead)
                    else:
                        doReadOrWrite(selectable, fd, event)
                    if selectable._due:
                        self._letWrite(selectable)
                except KeyboardInterrupt:
                    self._endTurn()
                    raise
                except BaseException:
                    self._endTurn()
                    log.err()
        finally:
            self._turn = None
            del contexts[place:]

    doIteration = doPoll

    def _endTurn(self) -> None:
        """Let it write later who was to write when his turn ends."""
        turn, self._turn = self._turn, None
        if turn is not None and turn._due:
            self._due.append(turn)

    def _writeDue(self) -> None:
        """Let those write that were written to outside of their own turn."""
        due = self._due
        contexts = context.theContextTracker.currentContext().contexts
        place = len(contexts)
        contexts.append(_NOBODY)
        try:
            for _ in range(len(due)):
                if not due:
                    break  # what was called has let the reactor go round by itself
                transport = due.popleft()
                if transport._due:
                    contexts[place] = transport
                    try:
                        self._letWrite(transport)
                    except KeyboardInterrupt:
                        raise
                    except BaseException:
                        log.err()
        finally:
            del contexts[place:]

    def _letWrite(self, transport: Any) -> None:
        try:
            why = transport.doWrite()
        except BaseException:
            why = sys.exc_info()[1]
            log.err()
        if why is main.CONNECTION_LOST and transport._due and transport.fileno() in self._reads:
            # What has come before the end is still to be read: epoll tells of both, in that order.
            self.addWriter(transport)
        elif why:
            self._disconnectSelectable(transport, why, False)
        elif transport._due:
            # The system did not take everything, or there is more by now.
            self.addWriter(transport)

    def _disconnectSelectable(  # type: ignore[override]  # nobody brings failures of his own
        self, selectable: Any, why: Any, isRead: bool
    ) -> None:
        if why is not main.CONNECTION_DONE or not isinstance(selectable, LeanServer):
            super()._disconnectSelectable(selectable, why, isRead)
        elif isRead:
            selectable.readConnectionLost(_DONE)
        else:
            selectable.connectionLost(_DONE)

    def _ignore(self, transport: Any) -> None:
        """Read no more from a connection that is there."""
        fd = transport.fileno()
        if fd in self._reads and fd not in self._writes:
            self._poller.unregister(fd)
            self._reads.discard(fd)
            del self._selectables[fd]
        else:
            self.removeReader(transport)

    def _forget(self, transport: Any) -> None:
        """Neither read from a connection nor write to it any more."""
        fd = transport.fileno()
        if fd in self._reads or fd in self._writes:
            self._poller.unregister(fd)
        elif fd == -1:
            # Somebody has closed its socket, and so epoll has forgotten it.
            fd = next((fd for fd, each in self._selectables.items() if each is transport), fd)
        self._selectables.pop(fd, None)
        self._reads.discard(fd)
        self._writes.discard(fd)
        transport._due = False

    # What others ask of it

    def addWriter(self, writer: Any) -> None:
        """See L{IReactorFDSet}."""
        super().addWriter(writer)
        if isinstance(writer, _LeanConnection):
            writer._due = False
            writer._armed = True

    def removeWriter(self, writer: Any) -> None:
        """See L{IReactorFDSet}."""
        if isinstance(writer, _LeanConnection):
            writer._due = writer._armed = False
        super().removeWriter(writer)

    def getWriters(self) -> list[Any]:
        """Those that are to write, whatever they wait for."""
        self._armDue()
        return list(super().getWriters())

    def removeAll(self) -> list[Any]:
        """Forget all selectables, and return them."""
        self._armDue()
        return list(super().removeAll())

    def _armDue(self) -> None:
        self._endTurn()
        while self._due:
            transport = self._due.popleft()
            if transport._due:
                self.addWriter(transport)

    # What it makes

    def listenTCP(self, port: Any, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        """See L{IReactorTCP}."""
        listening = LeanPort(port, factory, backlog, interface, self)
        listening.startListening()
        return listening

    def connectTCP(
        self, host: Any, port: Any, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Any:
        """See L{IReactorTCP}."""
        connector = LeanConnector(host, port, factory, timeout, bindAddress, self)
        connector.connect()
        return connector

    def listenUNIX(
        self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: Any = 0
    ) -> Any:
        """See L{IReactorUNIX}."""
        listening = LeanUNIXPort(address, factory, backlog, mode, self, wantPID)
        listening.startListening()
        return listening

    def connectUNIX(
        self, address: Any, factory: Any, timeout: float = 30, checkPID: Any = 0
    ) -> Any:
        """See L{IReactorUNIX}."""
        connector = LeanUNIXConnector(address, factory, timeout, self, checkPID)
        connector.connect()
        return connector

    def listenUDP(
        self, port: Any, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> Any:
        """See L{IReactorUDP}."""
        listening = LeanUDPPort(port, protocol, interface, maxPacketSize, self)
        listening.startListening()
        return listening

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> Any:
        """See L{IReactorSocket}."""
        if addressFamily not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            return super().adoptStreamPort(fileDescriptor, addressFamily, factory)
        if addressFamily == socket.AF_UNIX:
            listening = LeanUNIXPort._fromListeningDescriptor(self, fileDescriptor, factory)
        else:
            listening = LeanPort._fromListeningDescriptor(
                self, fileDescriptor, addressFamily, factory
            )
        listening.startListening()
        return listening

    def adoptStreamConnection(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> Any:
        """See L{IReactorSocket}."""
        if addressFamily not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            return super().adoptStreamConnection(fileDescriptor, addressFamily, factory)
        if addressFamily == socket.AF_UNIX:
            return LeanUNIXServer._fromConnectedSocket(fileDescriptor, factory, self)
        return LeanServer._fromConnectedSocket(fileDescriptor, addressFamily, factory, self)

    def adoptDatagramPort(
        self, fileDescriptor: int, addressFamily: Any, protocol: Any, maxPacketSize: int = 8192
    ) -> Any:
        """See L{IReactorSocket}."""
        if addressFamily not in (socket.AF_INET, socket.AF_INET6):
            return super().adoptDatagramPort(fileDescriptor, addressFamily, protocol, maxPacketSize)
        listening = LeanUDPPort._fromListeningDescriptor(
            self, fileDescriptor, addressFamily, protocol, maxPacketSize=maxPacketSize
        )
        listening.startListening()
        return listening


_NOBODY: dict[Any, Any] = {}


class _Lean:
    """
    What stands in the stack of contexts while its events are dealt with.

    Each selectable stands there itself: a thread that is started meanwhile keeps it, and must find
    the same one later.
    """

    _due = False
    doRead: Any
    logPrefix: Any

    def __getitem__(self, key: Any) -> Any:
        if key is log.ILogContext:
            return {"system": self.logPrefix()}
        raise KeyError(key)


class _LeanConnection(_Lean):
    """
    A connection that writes at the end of its turn, in place of the next one.

    @ivar _due: Whether it is to write when its turn, or this round of the loop, ends.
    @ivar _armed: Whether epoll tells when it can write.
    @ivar _plain: Whether C{write} has nothing to heed but the buffer's size.
    """

    _armed = False
    _plain = False
    _reset = False  # a write was told so, and no read will be

    connected: Any
    disconnecting: Any
    dataBuffer: bytes
    offset: int
    bufferSize: int
    producer: Any
    producerPaused: Any
    reactor: Any
    socket: Any
    protocol: Any
    streamingProducer: Any
    _tempDataBuffer: list[bytes]
    _tempDataLen: int
    _writeDisconnected: Any
    _writeDisconnecting: Any
    _maybePauseProducer: Any
    _postLoseConnection: Any

    def startWriting(self) -> None:
        if self._due or self._armed:
            return
        if self.connected:
            self._due = True
            if self.reactor._turn is not self:
                self.reactor._due.append(self)
        else:
            # It becomes writable when it is connected.
            self.reactor.addWriter(self)

    def stopWriting(self) -> None:
        if self._armed:
            self.reactor.removeWriter(self)
        else:
            self._due = False

    def write(self, data: bytes) -> None:
        if type(data) is not bytes or not self._plain:
            super().write(data)  # type: ignore[misc]  # the class that this is mixed into has it
        elif data:
            if self.dataBuffer or self._tempDataLen:
                self._tempDataBuffer.append(data)
                self._tempDataLen += len(data)
                if self.producer is not None:
                    self._maybePauseProducer()
            else:
                self.dataBuffer = data
                if len(data) > self.bufferSize:
                    self._maybePauseProducer()
            if not self._due and not self._armed:
                self._due = True
                if self.reactor._turn is not self:
                    self.reactor._due.append(self)

    def doWrite(self) -> Any:
        if self.offset or not self._plain:
            return super().doWrite()  # type: ignore[misc]  # as above
        data = self.dataBuffer
        if self._tempDataBuffer:
            data = self.dataBuffer = b"".join([data, *self._tempDataBuffer])
            self._tempDataBuffer.clear()
            self._tempDataLen = 0
        try:
            # Nothing, too, is sent: only so does it show that the connection was reset.
            sent = self.socket.send(data)
        except OSError as error:
            if error.errno not in (EAGAIN, ENOBUFS):
                self._reset = error.errno != EPIPE
                return main.CONNECTION_LOST
            sent = 0
        if sent < len(data):
            self.offset = sent
            return None
        self.dataBuffer = b""
        if self._armed:
            self.stopWriting()
        else:
            self._due = False
        if self.producer is not None and (not self.streamingProducer or self.producerPaused):
            self.producerPaused = False
            self.producer.resumeProducing()
        elif self.disconnecting:
            return self._postLoseConnection()
        elif self._writeDisconnecting:
            self._writeDisconnected = True
            return self._closeWriteConnection()
        return None

    def registerProducer(self, producer: Any, streaming: Any) -> None:
        if streaming and self._plain and self.producer is None:
            self.producer = producer
            self.streamingProducer = streaming
        else:
            super().registerProducer(producer, streaming)  # type: ignore[misc]  # as above

    def unregisterProducer(self) -> None:
        if self._plain and not self.disconnecting:
            self.producer = None
        else:
            super().unregisterProducer()  # type: ignore[misc]  # as above

    def startTLS(self, *args: Any, **kwargs: Any) -> Any:
        self._plain = False
        return super().startTLS(*args, **kwargs)  # type: ignore[misc]  # as above

    def connectionLost(self, reason: Failure) -> None:
        self._plain = False
        super().connectionLost(reason)  # type: ignore[misc]  # as above

    def _closeWriteConnection(self) -> Any:
        self._plain = False
        return super()._closeWriteConnection()  # type: ignore[misc]  # as above


class _LeanReading:
    """Reading from a socket that nothing but bytes come from."""

    SEND_LIMIT: int
    bufferSize: int
    protocol: Any
    socket: Any
    _reset: bool

    def doRead(self) -> Any:
        try:
            data = self.socket.recv(self.bufferSize)
        except OSError as error:
            return None if error.errno == EAGAIN else main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_LOST if self._reset else main.CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def writeSomeData(self, data: Any) -> Any:
        try:
            return self.socket.send(memoryview(data)[: self.SEND_LIMIT])
        except OSError as error:
            if error.errno in (EAGAIN, ENOBUFS):
                return 0
            self._reset = error.errno != EPIPE
            return main.CONNECTION_LOST


class LeanServer(_LeanReading, _LeanConnection, tcp.Server):
    """One connection that a TCP port has accepted."""

    _ownLogstr: str | None = None
    _ownRepstr: str | None = None
    _lastNames: tuple[str, str, Any] | None = None
    _peerEnds = False

    def __init__(
        self, sock: Any, protocol: Any, client: Any, server: Any, sessionno: int, reactor: Any
    ) -> None:
        self.reactor = reactor
        self._tempDataBuffer = []
        self._tempDataLen = 0
        self.socket = sock
        sock.setblocking(False)
        self.fileno = sock.fileno
        self.protocol = protocol
        if len(client) != 2:
            self._addressType = IPv6Address
        self.server = server
        self.client = client
        self.sessionno = sessionno
        self.hostname = client[0]
        fd = sock.fileno()
        reactor._poller.register(fd, EPOLLIN)
        reactor._reads.add(fd)
        reactor._selectables[fd] = self
        self.connected = 1
        self._plain = True

    # Asked for by logs, and by nothing else while a connection lasts.

    @property
    def logstr(self) -> str:
        if self._ownLogstr is None:
            prefix, _, _ = self._names()
            own = self._ownLogstr  # what is wrong with the prefix, if something is
            self._ownLogstr = own or f"{prefix},{self.sessionno},{self.hostname}"
        return self._ownLogstr

    @logstr.setter
    def logstr(self, logstr: str) -> None:
        self._ownLogstr = logstr

    @property
    def repstr(self) -> str:
        if self._ownRepstr is not None:
            return self._ownRepstr
        _, name, number = self._names()
        return f"<{name} #{self.sessionno} on {number}>"

    @repstr.setter
    def repstr(self, repstr: str) -> None:
        self._ownRepstr = repstr

    def _names(self) -> tuple[str, str, Any]:
        """What both are made of: what the protocol calls itself, its class, the port's number."""
        if self._lastNames is not None:
            return self._lastNames
        prefix = ""
        if self._ownLogstr is None:
            self._ownLogstr = "Uninitialized"  # for what is logged by whom is asked
            try:
                prefix = self._getLogPrefix(self.protocol)
                self._ownLogstr = None
            except Exception:
                self._ownLogstr = "(buggy logPrefix method)"
                log.err()
        number = getattr(self.server, "_realPortNumber", None)
        if number is None and self.socket.fileno() != -1:
            number = self.socket.getsockname()[1]  # the port has closed, and forgotten it
        return prefix, self.protocol.__class__.__name__, number

    def startTLS(self, *args: Any, **kwargs: Any) -> Any:
        self._lastNames = self._names()  # they stay those of the protocol that it had first
        return super().startTLS(*args, **kwargs)

    # The end. These do what the stock ones do, less what a connection over TCP does not need.

    def loseConnection(self) -> None:
        if self._peerEnds and self._plain and not self._tempDataBuffer and not self.dataBuffer:
            self.disconnecting = 1
            self.startWriting()  # soon: see readConnectionLost
        else:
            super().loseConnection()

    def readConnectionLost(self, reason: Failure) -> None:
        protocol: Any = self.protocol
        provided = providedBy(protocol)
        if provided.isOrExtends(IHalfCloseableProtocol):
            self.reactor._ignore(self)
            self._peerEnds = True
            try:
                protocol.readConnectionLost()
            except BaseException:
                log.err()
                self.connectionLost(Failure())
                return
            finally:
                self._peerEnds = False
            if self.disconnecting and self._due and not self._aborting:
                if self.producer is None and not self._tempDataBuffer and not self.dataBuffer:
                    # Both sides have closed, and nothing is left to send.
                    self.connectionLost(reason)
                else:
                    self._due = False
                    self.startWriting()
        elif hasattr(protocol, "__conform__") or _ADAPTERS.lookup1(
            provided, IHalfCloseableProtocol
        ):
            self.stopReading()
            super().readConnectionLost(reason)
        else:
            self.connectionLost(reason)

    def connectionLost(self, reason: Failure) -> None:
        if not hasattr(self, "socket"):
            return
        protocol = self.protocol
        self._lastNames = self._names()
        self._plain = False
        self.disconnected = 1
        self.connected = 0
        self.reactor._forget(self)
        if self.producer is not None:
            self.producer.stopProducing()
            self.producer = None
        self._closeSocket(reason is _DONE or not reason.check(ConnectionAborted))
        del self.protocol
        del self.socket
        del self.fileno
        protocol.connectionLost(reason)


# CPython gives an instance a dictionary of its own for an attribute that none of the first few of
# its class had: here, where many connect before one of them ends, for what it gets when it ends.
_first = LeanServer.__new__(LeanServer)
for _name in ("_due", "disconnected", "disconnecting", "_lastNames", "_peerEnds"):
    setattr(_first, _name, None)


class _SaidSeldom:
    """
    What a port that is out of file descriptors says of it: a line a second, not two for each
    connection that it has no room for.
    """

    namespace = tcp.Port._logger.namespace

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._closed = 0
        self._next = 0.0

    def observer(self, event: Any) -> None:
        """Say it, or count it."""
        if "address" in event:
            self._closed += 1
        now = self._reactor.seconds()
        if now < self._next:
            return
        self._next = now + 1
        if self._closed:
            event["closed"], self._closed = self._closed, 0
            event["log_format"] += " ({closed} connections closed since it was last said)"
        tcp.Port._logger.observer(event)


class _LeanListening:
    """What all ports that accept connections have of ours."""

    reactor: Any
    _logger: Any

    def startListening(self) -> None:
        self._logger = _SaidSeldom(self.reactor)
        super().startListening()  # type: ignore[misc]  # what this is mixed into has it


class LeanPort(_LeanListening, _Lean, tcp.Port):
    """
    A TCP port that accepts lean connections.

    @ivar _filled: The turn of the reactor in which it last accepted as many as it was to.
    """

    transport = LeanServer
    _filled = 0

    def doRead(self) -> None:
        listening: Any = self.socket
        factory: Any = self.factory
        reactor: Any = self.reactor
        family = self.addressFamily
        kind: Any = self._addressType
        most = self.numberAccepts
        accepted = 0
        try:
            while accepted < most:
                try:
                    fd, addr = listening._accept()
                except OSError as error:
                    if error.errno == EAGAIN:
                        break
                    super().doRead()  # finds the same, and knows what to do about it
                    return
                accepted += 1
                sock = socket.socket(family, socket.SOCK_STREAM, 0, fd)
                if len(addr) == 4:
                    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
                    addr = (socket.getnameinfo(addr, numeric)[0], *addr[1:])  # with its scope
                if kind is IPv4Address:
                    # What it is made of needs no validation.
                    address = kind.__new__(kind)
                    address.type = "TCP"
                    address.host, address.port = addr
                else:
                    address = self._buildAddr(addr)
                protocol = factory.buildProtocol(address)
                if protocol is None:
                    sock.close()
                    continue
                number = self.sessionno
                self.sessionno = number + 1
                protocol.makeConnection(self.transport(sock, protocol, addr, self, number, reactor))
            if accepted < most:
                self.numberAccepts = max(1, accepted)
            else:
                # To ask in vain whether another one waits costs as much as to read and deliver a
                # request, and epoll tells it for nothing: take more only where it told so at once.
                turn = reactor._turns
                if turn == self._filled + 1:
                    self.numberAccepts = most + 20
                self._filled = turn
        except BaseException:
            log.err()


class LeanClient(_LeanReading, _LeanConnection, tcp.Client):
    """One connection to a TCP port."""

    def _connectDone(self) -> None:
        super()._connectDone()
        self._plain = bool(self.connected and not self.TLS and not self._writeDisconnected)


class LeanConnector(tcp.Connector):
    """A connector that makes lean connections over TCP."""

    def _makeTransport(self) -> Any:
        return LeanClient(self.host, self.port, self.bindAddress, self, self.reactor)


class LeanUNIXServer(_LeanConnection, unix.Server):
    """One connection that a UNIX socket has accepted."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._plain = True

    def sendFileDescriptor(self, fileno: int) -> None:
        self._plain = False  # from now on descriptors may go along with the bytes
        super().sendFileDescriptor(fileno)


class LeanUNIXPort(_LeanListening, unix.Port):
    """A UNIX socket that accepts lean connections."""

    transport = LeanUNIXServer


class LeanUNIXClient(_LeanConnection, unix.Client):
    """One connection to a UNIX socket."""

    def _connectDone(self) -> None:
        super()._connectDone()
        self._plain = bool(
            self.connected and not (self.TLS or self._writeDisconnected or self._sendmsgQueue)
        )

    def sendFileDescriptor(self, fileno: int) -> None:
        self._plain = False  # as above
        super().sendFileDescriptor(fileno)


class LeanUNIXConnector(unix.Connector):
    """A connector that makes lean connections over UNIX sockets."""

    def _makeTransport(self) -> Any:
        return LeanUNIXClient(self.address, self, self.reactor, self.checkPID)


class LeanUDPPort(_Lean, udp.Port):
    """
    A UDP port that answers whom it has just heard without looking at the address again.
    """

    _heard: Any = None

    def doRead(self) -> None:
        receive = self.socket.recvfrom
        size = self.maxPacketSize
        long = self.addressFamily == socket.AF_INET6
        for _ in range(PACKETS):
            try:
                data, addr = receive(size)
            except OSError as error:
                if error.errno == EAGAIN:
                    return
                if error.errno == ECONNREFUSED:
                    if self._connectedAddr:
                        self.protocol.connectionRefused()
                    return
                raise
            if long:
                addr = addr[:2]
            self._heard = addr
            try:
                self.protocol.datagramReceived(data, addr)
            except BaseException:
                log.err()
            if not self.connected:
                return

    def write(self, datagram: bytes, addr: Any = None) -> Any:
        if addr is self._heard and addr is not None and not self._connectedAddr:
            try:
                return self.socket.sendto(datagram, addr)
            except OSError:
                pass  # what to do about it, the other one knows
        return super().write(datagram, addr)


def install() -> None:
    """
    Make a L{LeanReactor} the reactor of this program.

    @raise twisted.internet.error.ReactorAlreadyInstalledError: it has one.
    """
    main.installReactor(LeanReactor())
