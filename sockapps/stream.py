"""
What stands between an app and a stream: TCP, TLS, UNIX sockets, inherited ones.

L{StreamSession} is a protocol toward the network and the transport toward the app, as Twisted's own
TLS layer is. It serves both roles: around an app's protocol on the server side, and around a
client protocol on the other.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    ILoggingContext,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from zope.interface import alsoProvides, implementer

from sockapps.deadlines import Deadlines
from sockapps.framing import CR, FRAMINGS, LF, AutoFraming, Framing, LineFraming, RawFraming
from sockapps.options import StreamOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

TURN = 64
"""Messages delivered to one session before the other sessions get their turn."""

LARGE = 4096
"""Bytes of a reply that is sent at once, so that what a turn collects is bounded."""

# Why messages are not delivered now; a session can have several reasons at once.
_PAUSED = 1  # the app asked for time
_BLOCKED = 2  # the peer does not read what it was sent
_YIELDED = 4  # the others have their turn
_CLOSING = 8  # nothing more will be delivered
_CLOSED = 16  # the transport was told to close when everything is sent
_ABORTED = 32  # nothing more will be sent either

_NOTHING: deque[bytes] = deque(maxlen=0)
"""What waits in a session where nothing does: even an empty queue takes hundreds of bytes."""


class StreamSessions(Factory):
    """
    Shelter any protocol factory: each connection gets a session around its protocol.

    @ivar sessions: Those that are open now.
    @ivar closings: Those that are sending their last replies.
    @ivar lingerings: Those whose peer has everything, and has not closed yet.
    @ivar decidedByQuiet: How many connections a gap, not an LF, has shown to be C{chunk}.
    """

    noisy = False
    explainsFaults = True
    """Whether a peer is told why its session ends; a client leaves its server in peace."""

    def __init__(
        self, factory: IProtocolFactory, options: StreamOptions, reactor: IReactorTime
    ) -> None:
        self.appFactory = factory
        self.options = options
        self.reactor = reactor
        self.makeFraming = FRAMINGS[options.framing]
        self.makeSession = RawSession if options.framing == "raw" else StreamSession
        self.sessions: set[StreamSession] = set()
        self.closings: Deadlines[StreamSession] = Deadlines(reactor, options.closeTimeout, _cutOff)
        self.lingerings: Deadlines[StreamSession] = Deadlines(reactor, options.linger, _cutOff)
        self.decidedByQuiet = 0

    def logPrefix(self) -> str:
        """Speak in the log under the app's name."""
        return self.appFactory.__class__.__name__

    def doStart(self) -> None:
        self.appFactory.doStart()

    def doStop(self) -> None:
        self.appFactory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> StreamSession | None:  # type: ignore[override]  # an IProtocol, which needs no factory
        """
        Make the app's protocol and the session around it.

        @return: C{None} where the app's factory wants no connection from there.
        """
        app = self.appFactory.buildProtocol(cast(IAddress, addr))
        return None if app is None else self.makeSession(app, self)


_GONE: Any = Protocol()
"""
Who an ended session's app is: the two knew each other, and so only the garbage collector could
have freed them.
"""


def _cutOff(session: StreamSession) -> None:
    session.transport.abortConnection()


@implementer(
    IHalfCloseableProtocol,
    IProtocol,
    ILoggingContext,
    ITransport,
    IConsumer,
    IPushProducer,
)
class StreamSession:
    """
    One peer's dealings with one service over one connection.

    Toward the app it is a transport: C{write} sends one reply; C{pauseProducing} asks that no
    message be delivered until C{resumeProducing}, and those that arrive meanwhile wait in order;
    C{loseConnection} closes when what was written is sent. The rest of what the transports of TCP
    and TLS have (C{getPeer}, C{setTcpNoDelay}, C{getPeerCertificate}…) is the connection's own.

    What it holds is bounded: one incomplete message, the messages of one read, and the transport's
    write buffer. It reads no further until those are dealt with.
    """

    __slots__ = (
        "__dict__",  # for what zope.interface and hosted factories put on a transport
        "__weakref__",
        "_appProduces",
        "_delivering",
        "_endTold",
        "_ended",
        "_ending",
        "_framing",
        "_pending",
        "_quick",
        "_quietCall",
        "_readingHeld",
        "_replies",
        "_sessions",
        "_stop",
        "_turnCall",
        "app",
        "disconnecting",
        "transport",
    )

    _log = Logger()

    def __init__(self, app: IProtocol, sessions: StreamSessions) -> None:
        self.app = app
        self._sessions = sessions
        self._framing: Framing = sessions.makeFraming(sessions.options.maxMessage)
        # What follows a reply; None where writing takes more than that.
        self._ending = self._framing.ending
        # What a whole line must be shorter than to be delivered as it comes; 0 where none may.
        self._quick = 0
        self._pending: deque[bytes] = _NOTHING
        self._delivering = False
        self._replies: list[bytes] | None = None
        self._stop = 0
        self._appProduces = False
        self._ended = False
        self._endTold = False
        self._readingHeld = False
        self._quietCall: IDelayedCall | None = None
        self._turnCall: IDelayedCall | None = None
        self.disconnecting = False

    def logPrefix(self) -> str:
        """Speak in the log under the app's name."""
        return self.app.__class__.__name__

    # From the network

    def makeConnection(self, transport: Any) -> None:
        """Begin, with the connection's own transport."""
        self.transport = transport
        if ISSLTransport.providedBy(transport):
            alsoProvides(self, ISSLTransport)
        self._sessions.sessions.add(self)
        transport.registerProducer(_WriteGate(self), True)
        try:
            self.app.makeConnection(self)
        except Exception:
            self._fail("failed to begin")
            self._close()

    def connectionMade(self) -> None:
        """Nothing: L{makeConnection} has told the app."""

    def dataReceived(self, data: bytes) -> None:
        """Deliver the messages that these bytes complete."""
        if len(data) < self._quick and data[-1] == LF:
            message = data[:-1]
            if LF not in message and CR not in message:
                # One whole line, and nothing before it: most requests are that.
                try:
                    self.app.dataReceived(message)
                except Exception:
                    self._fail("failed on a message")
                    self._close()
                return
        if not self._stop & _CLOSING:
            # Else the peer is still speaking to somebody who has said goodbye.
            self._take(data)

    def readConnectionLost(self) -> None:
        """Take the peer's half-close: answer what is owed, then close."""
        self._ended = True
        if self._stop & _CLOSING:
            if not self._appProduces:
                self.transport.loseConnection()
            return
        self._quick = 0
        messages = self._framing.finish()
        if self._framing.settled is not None:
            self._settle(self._framing.settled)
        self._wait(messages)
        self._continue()

    def writeConnectionLost(self) -> None:
        """The last reply is sent, and the peer knows that it was the last."""
        sessions = self._sessions
        if self in sessions.closings:
            sessions.closings.end(self)
            sessions.lingerings.begin(self)
        if IHalfCloseableProtocol.providedBy(self.app):
            cast(IHalfCloseableProtocol, self.app).writeConnectionLost()

    def connectionLost(self, reason: Failure) -> None:
        """End, and tell the app."""
        self._halt(_CLOSING | _ABORTED)
        self._appProduces = False
        self._pending = _NOTHING
        for call in (self._quietCall, self._turnCall):
            if call is not None and call.active():
                call.cancel()
        sessions = self._sessions
        sessions.closings.end(self)
        sessions.lingerings.end(self)
        sessions.sessions.discard(self)
        app, self.app = self.app, _GONE
        app.connectionLost(reason)

    # From the app: its transport

    def write(self, data: bytes) -> None:
        """Send one reply."""
        replies = self._replies
        if type(data) is not bytes:
            raise TypeError(f"a reply is bytes, not {type(data).__name__}")
        if replies is not None:
            replies.append(data)
            if len(data) > LARGE:
                self._flush()
        elif self._ending is not None:
            self.transport.write(data + self._ending)
        else:
            self._writeOtherwise(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send one reply, given in pieces."""
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        """Close when what was written is sent; abort if that takes too long."""
        if self._stop & _CLOSING:
            return
        self._halt(_CLOSING)
        if not self._delivering:
            self._close()

    def abortConnection(self) -> None:
        """Close at once, and lose what was not sent."""
        if self._stop & _ABORTED:
            return
        self._halt(_CLOSING | _ABORTED)
        self._appProduces = False
        self.transport.abortConnection()

    def pauseProducing(self) -> None:
        """Deliver no more messages for now."""
        self._halt(_PAUSED)

    def resumeProducing(self) -> None:
        """Deliver messages again, those that waited first."""
        self._proceed(_PAUSED)

    def stopProducing(self) -> None:
        """Close: the app wants nothing more."""
        self.loseConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let the app regulate its own writing."""
        if self._stop & _ABORTED:
            producer.stopProducing()
            return
        if not self._appProduces:
            self.transport.unregisterProducer()
            self._appProduces = True
            self._collectNoMore()
            self._ending = None
            if self._stop & _BLOCKED:
                self._stop &= ~_BLOCKED
                self._yield()
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Take the app's writing under control again."""
        if not self._appProduces:
            return
        self._appProduces = False
        self.transport.unregisterProducer()
        if not self._stop & _CLOSING:
            self._ending = self._framing.ending
            self.transport.registerProducer(_WriteGate(self), True)
        elif self._stop & _CLOSED:
            self._shut()

    def getPeer(self) -> Any:
        """Say who is at the other end."""
        return self.transport.getPeer()

    def getHost(self) -> Any:
        """Say where this end is."""
        return self.transport.getHost()

    def getTcpNoDelay(self) -> Any:
        """See L{ITCPTransport}."""
        return self.transport.getTcpNoDelay()

    def setTcpNoDelay(self, enabled: Any) -> None:
        """See L{ITCPTransport}."""
        self.transport.setTcpNoDelay(enabled)

    def getTcpKeepAlive(self) -> Any:
        """See L{ITCPTransport}."""
        return self.transport.getTcpKeepAlive()

    def setTcpKeepAlive(self, enabled: Any) -> None:
        """See L{ITCPTransport}."""
        self.transport.setTcpKeepAlive(enabled)

    def getHandle(self) -> Any:
        """See L{ISystemHandle}."""
        return self.transport.getHandle()

    def getPeerCertificate(self) -> Any:
        """See L{ISSLTransport}; over TLS only."""
        return self.transport.getPeerCertificate()

    # Within

    def _take(self, data: bytes) -> None:
        """Deliver the messages that these bytes complete, or let them wait."""
        framing = self._framing
        messages = framing.feed(data)
        settled = framing.settled
        if settled is not framing:
            if settled is None:
                self._awaitQuiet()
                return
            self._settle(settled)
        self._quick = 0
        if self._stop or self._pending or self._delivering:
            self._wait(messages)
            self._holdReading()
        elif messages:
            self._deliver(messages)
        else:
            self._afterDelivery()

    def _deliver(self, messages: list[bytes]) -> None:
        """
        Hand the app at most one turn's messages, and send its replies in one write.

        What it does not take now waits before what waits already.
        """
        self._delivering = True
        if self._ending is not None:
            # Framing them is but to put something after each.
            self._replies = []
        receive = self.app.dataReceived
        left = iter(messages if len(messages) <= TURN else messages[:TURN])
        try:
            for message in left:
                receive(message)
                if self._stop:
                    break
            self._collectNoMore()
        except Exception:
            self._fail("failed on a message")
        self._delivering = False
        if self._stop & _CLOSING:
            self._close()
            return
        if self._stop or len(messages) > TURN:
            waiting = deque(left)
            waiting.extend(messages[TURN:])
            waiting.extend(self._pending)
            self._pending = waiting
        self._afterDelivery()

    def _wait(self, messages: list[bytes]) -> None:
        """Let messages wait behind those that do already."""
        if messages:
            if self._pending is _NOTHING:
                self._pending = deque()
            self._pending.extend(messages)

    def _halt(self, reason: int) -> None:
        """Deliver nothing more while there is this reason; write nothing more when closing."""
        self._stop |= reason
        self._quick = 0
        if reason & _CLOSING:
            self._collectNoMore()
            self.disconnecting = True
            self._ending = None

    def _writeOtherwise(self, data: bytes) -> None:
        """Send one reply where that takes more than a few bytes after it."""
        # A producer goes on until it unregisters, and closing waits for it: Twisted's own rule.
        if self._appProduces:
            self.transport.write(self._framing.frame(data))
        elif self._stop & _CLOSING:
            pass  # the app has said its last word
        else:
            self.transport.write(self._framing.frame(data))

    def _collectNoMore(self) -> None:
        """Send what was collected; from now on each reply goes to the transport by itself."""
        self._flush()
        self._replies = None

    def _flush(self) -> None:
        """Send the replies collected so far."""
        replies, ending = self._replies, self._ending
        if replies and ending is not None:
            self._replies = []
            self.transport.write(ending.join(replies) + ending)

    def _fail(self, what: str) -> None:
        """The app is at fault, not the peer: say so in the log, and let the peer go."""
        self._log.failure("{app} {what}", app=self.logPrefix(), what=what)
        self._halt(_CLOSING)

    def _afterDelivery(self) -> None:
        """Decide what follows a turn: another one, more reading, or the end."""
        if self._pending:
            self._holdReading()
            if not self._stop:
                self._yield()
        elif self._stop & _PAUSED:
            pass  # reading goes on: a lost connection is noticed while the app takes its time
        elif self._framing.fault is not None:
            if self._sessions.explainsFaults:
                self.write(b"[error: %b]" % self._framing.fault.encode())
            self.loseConnection()
        elif self._ended:
            self._finish()
        elif not self._stop:
            if self._readingHeld:
                self._readingHeld = False
                self.transport.resumeProducing()
            framing = self._framing
            if isinstance(framing, LineFraming) and framing.clean:
                self._quick = framing.maxMessage + 2  # its LF too

    def _yield(self) -> None:
        """Go on when the other sessions have had their turn."""
        if not self._stop & _YIELDED:
            self._halt(_YIELDED)
            self._turnCall = self._sessions.reactor.callLater(0, self._proceed, _YIELDED)

    def _proceed(self, reason: int) -> None:
        """Go on where C{reason} was the last that kept messages from the app."""
        self._stop &= ~reason
        if not self._delivering:
            self._continue()

    def _continue(self) -> None:
        if self._stop:
            return
        pending = self._pending
        if pending:
            self._deliver([pending.popleft() for _ in range(min(len(pending), TURN))])
        else:
            self._pending = _NOTHING
            self._afterDelivery()

    def _finish(self) -> None:
        """Everything the peer sent is answered, and it sends no more."""
        if isinstance(self._framing, RawFraming) and IHalfCloseableProtocol.providedBy(self.app):
            if not self._endTold:
                self._endTold = True
                cast(IHalfCloseableProtocol, self.app).readConnectionLost()
        else:
            self.loseConnection()

    def _holdReading(self) -> None:
        if not self._readingHeld and not self._ended:
            self._readingHeld = True
            self.transport.pauseProducing()

    def _blocked(self) -> None:
        """
        The peer leaves its replies unread: deliver nothing more, and read no more than once.

        Not even that once is given up here: TLS that was written to before its handshake must
        read to get on.
        """
        self._halt(_BLOCKED)

    def _awaitQuiet(self) -> None:
        if self._quietCall is None:
            sessions = self._sessions
            self._quietCall = sessions.reactor.callLater(sessions.options.quiet, self._quiet)
        else:
            self._quietCall.reset(self._sessions.options.quiet)

    def _quiet(self) -> None:
        """Nothing more came for a while: what has come is the first message."""
        auto = cast(AutoFraming, self._framing)
        messages = auto.quiet()
        self._sessions.decidedByQuiet += 1
        self._settle(cast(Framing, auto.settled))
        self._wait(messages)
        self._continue()

    def _settle(self, framing: Framing) -> None:
        self._framing = framing
        if self._ending is not None:
            self._ending = framing.ending
        self._stopWaiting()

    def _stopWaiting(self) -> None:
        if self._quietCall is not None:
            if self._quietCall.active():
                self._quietCall.cancel()
            self._quietCall = None

    def _close(self) -> None:
        """Close the connection, once, when everything written is sent; abort it if that drags."""
        if self._stop & (_CLOSED | _ABORTED):
            return
        self._stop |= _CLOSED
        self._pending = _NOTHING
        self._stopWaiting()
        self._sessions.closings.begin(self)
        if not self._appProduces:
            self._shut()

    def _shut(self) -> None:
        """
        Let the transport close when it has sent everything.

        A socket closed with input unread resets the connection, and the reset can overtake the
        last reply. So the sending half is closed first, and what the peer still sends is thrown
        away until it closes too (nginx: lingering_close).
        """
        transport: Any = self.transport
        # A producer that was paused would keep the transport from closing.
        transport.unregisterProducer()
        if self._readingHeld and not self._ended:
            transport.resumeProducing()
        # TLS seems to close by halves, because it shows the interfaces of what it wraps. It takes
        # the peer's goodbye before it closes, all the same.
        halves = IHalfCloseableDescriptor.providedBy(transport)
        if ISSLTransport.providedBy(transport) or isinstance(self._framing, RawFraming):
            halves = False
        if self._ended or not halves:
            transport.loseConnection()
        else:
            transport.loseWriteConnection()


class RawSession(StreamSession):
    """
    A session of a hosted factory, which may know its transport better than we do.

    Whatever its protocol asks of its transport, and no session has, is the connection's own. Not
    so in every session: where a class has a C{__getattr__}, CPython 3.11 looks up each of its
    attributes the long way, and a small request looks up a dozen.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        if name == "transport":
            raise AttributeError(name)
        return getattr(self.transport, name)


@implementer(IPushProducer)
class _WriteGate:
    """
    What the connection's transport pauses when its write buffer is full.

    Not the session itself: there, pausing is what the app does.
    """

    __slots__ = ("_session",)

    def __init__(self, session: StreamSession) -> None:
        self._session = session

    def pauseProducing(self) -> None:
        self._session._blocked()

    def resumeProducing(self) -> None:
        self._session._proceed(_BLOCKED)

    def stopProducing(self) -> None:
        """Nothing: the session's connectionLost follows."""
