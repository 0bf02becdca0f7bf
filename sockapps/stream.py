"""
What stands between an app and a stream: TCP, TLS, UNIX sockets, inherited ones.

L{StreamSession} is a protocol toward the network and the transport toward the app, as Twisted's own
TLS layer is. It serves both roles: around an app's protocol on the server side, and around a
client protocol on the other.
"""

from __future__ import annotations

from collections import deque
from operator import length_hint
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    IHalfCloseableProtocol,
    ILoggingContext,
    IProtocol,
    IPushProducer,
    ISSLTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from zope.interface import alsoProvides, implementer

from sockapps.counts import nextNumber
from sockapps.framing import (
    CR,
    IAC,
    LF,
    PIECE,
    AutoFraming,
    Framing,
    LineFraming,
    RawFraming,
    tooLong,
)
from sockapps.interfaces import IAccountable
from sockapps.sendqueue import waiting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure

    from sockapps.limits import Standing
    from sockapps.streams import StreamSessions

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


_GONE: Any = Protocol()
"""
Who an ended session's app is: the two knew each other, and so only the garbage collector could
have freed them.
"""


@implementer(
    IAccountable,
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

    @ivar messages: How many the app was given.
    @ivar received: Bytes that came.
    @ivar sent: Bytes of the app's replies, without their framing.
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
        "_later",
        "_meter",
        "_number",
        "_pending",
        "_quick",
        "_readingHeld",
        "_replies",
        "_seen",
        "_seenAt",
        "_sessions",
        "_since",
        "_standing",
        "_stop",
        "_unfed",
        "_why",
        "app",
        "disconnecting",
        "messages",
        "received",
        "sent",
        "transport",
    )

    _log = Logger()

    def __init__(
        self, app: IProtocol, sessions: StreamSessions, standing: Standing | None = None
    ) -> None:
        self.app = app
        self._sessions = sessions
        self._standing = standing
        # What its messages are taken from, where its source may send so many a second.
        self._meter = standing.messages if standing is not None and standing.limited else None
        self._number: int | None = None
        self._why: str | None = None
        self.messages = self.received = self.sent = 0
        # When the message began that is not complete yet.
        self._since: float | None = None
        # What a sweep saw: how many bytes had gone to and fro, and since when it is so many.
        self._seen = 0
        self._seenAt: float | None = None
        self._framing = sessions.blank
        # What follows a reply; None where writing takes more than that.
        self._ending = sessions.ending
        # What a whole line must be shorter than to be delivered as it comes; 0 where none may.
        self._quick = 0
        self._pending: deque[bytes] = _NOTHING
        # What came and is no messages yet; C{None} in it is the end of what the peer sends.
        self._unfed: deque[bytes | None] | None = None
        self._delivering = False
        self._replies: list[bytes] | None = None
        self._stop = 0
        self._appProduces = False
        self._ended = False
        self._endTold = False
        self._readingHeld = False
        # The end of a first message with no LF, or the next turn: never both.
        self._later: IDelayedCall | None = None
        self.disconnecting = False

    def logPrefix(self) -> str:
        """Speak in the log under the app's name."""
        return self.app.__class__.__name__

    @property
    def number(self) -> int:
        """Its number, which no other session of this process has."""
        if self._number is None:
            self._number = nextNumber()
        return self._number

    @property
    def began(self) -> float:
        """When it began, by the reactor's clock."""
        return self._sessions.sessions[self]

    @property
    def source(self) -> str | None:
        """See L{IAccountable}."""
        return self._standing.source if self._standing is not None else None

    def penalize(self, kind: str) -> None:
        """See L{IAccountable}."""
        self._sessions.penalize(self._standing, kind)

    # From the network

    def makeConnection(self, transport: Any) -> None:
        """Begin, with the connection's own transport."""
        self.transport = transport
        if type(transport) is not self._sessions.plainKind:
            if ISSLTransport.providedBy(transport):
                alsoProvides(self, ISSLTransport)
            else:
                self._sessions.plainKind = type(transport)
        self._sessions.begin(self)
        transport.registerProducer(_WriteGate(self), True)
        try:
            self.app.makeConnection(self)
        except Exception:
            self._fail("failed to begin")
            self._close()
        if not self._stop:
            self._quick = self._sessions.quick

    def connectionMade(self) -> None:
        """Nothing: L{makeConnection} has told the app."""

    def dataReceived(self, data: bytes) -> None:
        """Deliver the messages that these bytes complete."""
        size = len(data)
        self.received += size
        if size < self._quick and data[-1] == LF and CR not in data:
            # Whole lines, and nothing before them: most requests are one such.
            if not self.messages:
                if data[0] == IAC:
                    self._take(data)
                    return
                self._framing = self._sessions.line
                if self._ending is not None:
                    self._ending = b"\n"
            message = data[:-1]
            if LF in message:
                if size > PIECE:
                    self._take(data)
                    return
                self._quick = 0
                self._deliver(message.split(b"\n"))
                return
            if self._meter is not None and not self._meter.take():
                self.cut("rate")
                return
            self.messages += 1
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
        if self._quick and not self._appProduces:
            # Nothing is owed, and nothing waits: what follows below comes to just this.
            self._quick = 0
            self._stop |= _CLOSING | _CLOSED
            self.disconnecting = True
            self._ending = None
            self._why = "peer"
            self._sessions.closings.begin(self)
            transport = self.transport
            transport.unregisterProducer()
            transport.loseConnection()
            return
        if self._stop & _CLOSING:
            if not self._appProduces:
                self.transport.loseConnection()
            return
        self._quick = 0
        if self._unfed:
            self._unfed.append(None)
        else:
            self._takeEnd()
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
        self._stop |= _CLOSING | _ABORTED
        self._quick = 0
        self._ending = self._replies = None
        self.disconnecting = True
        self._appProduces = False
        self._pending = _NOTHING
        self._unfed = None
        if self._later is not None and self._later.active():
            self._later.cancel()
        why = self._why
        if why is None:
            if reason.check(ConnectionDone):
                why = "peer"
            else:
                why = "shutdown" if self._sessions.stopped else "lost"
        self._sessions.end(self, why, self._standing)
        app, self.app = self.app, _GONE
        app.connectionLost(reason)

    # From the app: its transport

    def write(self, data: bytes) -> None:
        """Send one reply."""
        if type(data) is not bytes:
            raise TypeError(f"a reply is bytes, not {type(data).__name__}")
        replies = self._replies
        if replies is not None:
            replies.append(data)
            if len(data) > LARGE:
                self._flush()
            return
        self.sent += len(data)
        if self._ending is not None:
            self.transport.write(data + self._ending)
        else:
            self._writeOtherwise(data)

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Send one reply, given in pieces."""
        self.write(b"".join(iovec))

    def loseConnection(self) -> None:
        """Close when what was written is sent; abort if that takes too long."""
        self._lose("app")

    def abortConnection(self) -> None:
        """Close at once, and lose what was not sent."""
        self.cut("app")

    def cut(self, why: str) -> None:
        """
        Close at once, for a reason of ours.

        @param why: One of L{sockapps.counts.ENDINGS}.
        """
        if self._stop & _ABORTED:
            return
        if self._why is None or why == "close_timeout":
            self._why = why
        self._halt(_CLOSING | _ABORTED)
        self._appProduces = False
        self.transport.abortConnection()

    def overdue(self, now: float, began: float) -> str | None:
        """
        Look for a deadline that was missed, some part of it too late at worst.

        @return: Which, one of L{sockapps.counts.ENDINGS}; or C{None}.
        """
        if self._stop & _CLOSING:
            return None  # there are deadlines for that
        options = self._sessions.options
        moved = self.received + self.sent
        if self._stop or self._readingHeld:
            # It is not the peer that is waited for, or not for its messages.
            self._seenAt = now
            if self._since is not None:
                self._since = now
        elif self._since is not None and 0 < options.messageTimeout <= now - self._since:
            return "message_timeout"
        elif not self.messages and 0 < options.firstMessageTimeout <= now - began:
            return "first_message_timeout"
        elif moved != self._seen:
            self._seen = moved
            self._seenAt = now
        elif 0 < options.idleTimeout <= now - (began if self._seenAt is None else self._seenAt):
            return "idle_timeout"
        return "session_timeout" if 0 < options.sessionTimeout <= now - began else None

    def miss(self, why: str) -> None:
        """Close because a deadline was missed; who sends too slowly is told."""
        if why in ("message_timeout", "first_message_timeout"):
            self.penalize("deadline")
        if why == "message_timeout" and self._sessions.explainsFaults:
            seconds = self._sessions.options.messageTimeout
            self.write(b"[error: message not complete within %g seconds]" % seconds)
        self._lose(why)

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
                self._sessions.mended(self)
                self._yield()
        if streaming:
            producer = _AppGate(self, producer)
        self.transport.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Take the app's writing under control again."""
        if not self._appProduces:
            return
        self._appProduces = False
        self.transport.unregisterProducer()
        self._sessions.mended(self)
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
        self._quick = 0
        framing = self._framing = self._sessions.ownFraming(self._framing)
        if self._unfed:
            self._unfed.extend(framing.pieces(data))
            self._holdReading()
            return
        if len(data) > PIECE:
            data, *rest = framing.pieces(data)
            if rest:
                self._unfed = deque(rest)
        self._feed(data)

    def _takeEnd(self) -> None:
        """Nothing more comes; perhaps that completes a message."""
        self._since = None
        messages = self._framing.finish()
        if self._framing.settled is not None:
            self._settle(self._framing.settled)
        self._wait(messages)

    def _feed(self, data: bytes) -> None:
        """Deliver the messages that these bytes complete, or let them wait."""
        framing = self._framing
        messages = framing.feed(data)
        settled = framing.settled
        if settled is not framing:
            if settled is None:
                if self._since is None:
                    self._since = self._sessions.reactor.seconds()
                self._awaitQuiet()
                return
            self._settle(settled)
            framing = settled
        unfed = self._unfed
        while unfed and len(messages) < TURN and framing.fault is None:
            piece = unfed[0]
            if piece is None:
                break
            del unfed[0]
            messages += framing.feed(piece)
        if not framing.holding:
            self._since = None
        elif messages or self._since is None:
            self._since = self._sessions.reactor.seconds()
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
        if self._meter is not None and not self._meter.take(min(len(messages), TURN)):
            self.cut("rate")
            return
        self._delivering = True
        if self._ending is not None:
            # Framing them is but to put something after each.
            self._replies = []
        receive = self.app.dataReceived
        turn = messages if len(messages) <= TURN else messages[:TURN]
        left = iter(turn)
        try:
            for message in left:
                receive(message)
                if self._stop:
                    break
            self._collectNoMore()
        except Exception:
            self._fail("failed on a message")
        self.messages += len(turn) - length_hint(left)
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
            self.sent -= len(data)  # the app has said its last word before
        elif (
            self._stop & _BLOCKED
            and 0 < self._sessions.options.maxUnsent < waiting(self.transport)
            and not isinstance(self._framing, RawFraming)
        ):
            self.cut("unsent")
        else:
            self.transport.write(self._framing.frame(data))

    def _collectNoMore(self) -> None:
        """Send what was collected; from now on each reply goes to the transport by itself."""
        self._flush()
        self._replies = None

    def _flush(self) -> None:
        """Send the replies collected so far."""
        if self._replies:
            replies, self._replies = self._replies, []
            ending = cast(bytes, self._framing.ending)
            data = ending.join(replies) + ending
            self.sent += len(data) - len(replies) * len(ending)
            self.transport.write(data)

    def _fail(self, what: str) -> None:
        """The app is at fault, not the peer: say so in the log, and let the peer go."""
        self._log.failure("{app} {what}", app=self.logPrefix(), what=what)
        if self._why is None:
            self._why = "failed"
        self._halt(_CLOSING)

    def _afterDelivery(self) -> None:
        """Decide what follows a turn: another one, more reading, or the end."""
        if self._pending or (self._unfed and self._framing.fault is None):
            self._holdReading()
            if not self._stop:
                self._yield()
        elif self._stop & _PAUSED:
            pass  # reading goes on: a lost connection is noticed while the app takes its time
        elif self._framing.fault is not None:
            self._refuse(self._framing.fault)
        elif self._ended:
            self._finish()
        elif not self._stop:
            if self._readingHeld:
                self._readingHeld = False
                self.transport.resumeProducing()
            framing = self._framing
            if isinstance(framing, LineFraming) and framing.clean:
                self._quick = framing.maxMessage + 2  # its LF too

    def _refuse(self, fault: str) -> None:
        """Tell the peer what was wrong with what it sent, and close."""
        long = fault == tooLong(self._sessions.options.maxMessage)
        self.penalize("long" if long else "fault")
        if self._sessions.explainsFaults:
            self.write(b"[error: %b]" % fault.encode())
        self._lose("too_long" if long else "fault")

    def _yield(self) -> None:
        """Go on when the other sessions have had their turn."""
        if not self._stop & _YIELDED:
            self._halt(_YIELDED)
            self._later = self._sessions.reactor.callLater(0, self._proceed, _YIELDED)

    def _proceed(self, reason: int) -> None:
        """Go on where C{reason} was the last that kept messages from the app."""
        self._stop &= ~reason
        if reason & _BLOCKED:
            self._sessions.mended(self)
            if not self._stop & _CLOSING and not self._appProduces:
                self._ending = self._framing.ending
        if not self._delivering:
            self._continue()

    def _continue(self) -> None:
        if self._stop:
            return
        pending, unfed = self._pending, self._unfed
        if pending:
            self._deliver([pending.popleft() for _ in range(min(len(pending), TURN))])
            return
        self._pending = _NOTHING
        if not unfed:
            self._afterDelivery()
            return
        piece = unfed.popleft()
        if not unfed:
            self._unfed = None
        if piece is None:
            self._takeEnd()
            self._continue()
        else:
            self._feed(piece)

    def _finish(self) -> None:
        """Everything the peer sent is answered, and it sends no more."""
        if isinstance(self._framing, RawFraming) and IHalfCloseableProtocol.providedBy(self.app):
            if not self._endTold:
                self._endTold = True
                cast(IHalfCloseableProtocol, self.app).readConnectionLost()
        else:
            self._lose("peer")

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
        self._ending = None  # what the app still writes is looked at one by one
        self._sessions.blocked(self)

    def _awaitQuiet(self) -> None:
        if self._later is None:
            sessions = self._sessions
            self._later = sessions.reactor.callLater(sessions.options.quiet, self._quiet)
        else:
            self._later.reset(self._sessions.options.quiet)

    def _quiet(self) -> None:
        """Nothing more came for a while: what has come is the first message."""
        auto = cast(AutoFraming, self._framing)
        messages = auto.quiet()
        self._since = None
        self._sessions.counts.decidedByQuiet += 1
        self._settle(cast(Framing, auto.settled))
        self._wait(messages)
        self._continue()

    def _settle(self, framing: Framing) -> None:
        self._framing = framing
        if self._ending is not None:
            self._ending = framing.ending
        self._stopWaiting()

    def _stopWaiting(self) -> None:
        if self._later is not None:
            if self._later.active():
                self._later.cancel()
            self._later = None

    def _lose(self, why: str) -> None:
        """Close in order, for the first reason that there is."""
        if self._stop & _CLOSING:
            return
        if self._why is None:
            self._why = why
        self._halt(_CLOSING)
        if not self._delivering:
            self._close()

    def _close(self) -> None:
        """Close the connection, once, when everything written is sent; abort it if that drags."""
        if self._stop & (_CLOSED | _ABORTED):
            return
        self._stop |= _CLOSED
        self._pending = _NOTHING
        self._unfed = None
        self._stopWaiting()
        self._sessions.mended(self)  # from now on it is the close that must not take too long
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
        if (
            self._ended
            or isinstance(self._framing, RawFraming)
            or ISSLTransport.providedBy(transport)
            or not IHalfCloseableDescriptor.providedBy(transport)
        ):
            transport.loseConnection()
        else:
            cast(Any, transport).loseWriteConnection()


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


@implementer(IPushProducer)
class _AppGate:
    """
    What stands before an app's own producer, to notice a peer that leaves everything unread.
    """

    __slots__ = ("_producer", "_session")

    def __init__(self, session: StreamSession, producer: Any) -> None:
        self._session = session
        self._producer = producer

    def pauseProducing(self) -> None:
        self._session._sessions.blocked(self._session)
        self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        self._session._sessions.mended(self._session)
        self._producer.resumeProducing()

    def stopProducing(self) -> None:
        self._producer.stopProducing()
