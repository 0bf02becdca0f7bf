"""
All sessions of one service over streams: who may begin one, and which have lasted too long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IProtocol, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory, Protocol

from sockapps.counts import Counts
from sockapps.deadlines import Deadlines
from sockapps.framing import FRAMINGS, Framing, LineFraming
from sockapps.options import StreamOptions
from sockapps.sendqueue import undelivered
from sockapps.stream import RawSession, StreamSession

if TYPE_CHECKING:
    from sockapps.limits import Admission, Standing
    from sockapps.sessionlog import SessionLog

ROUGHLY = 40
"""Into how many parts the shortest time limit is divided: a sweep may notice a part too late."""

LOOKS = 5
"""How often a peer that leaves its replies unread is looked at until it is cut off."""


class StreamSessions(Factory):
    """
    Shelter any protocol factory: each connection gets a session around its protocol.

    @param admission: Who may come; C{None} for a client's own sessions, which all may.
    @param log: Who is told of beginnings and ends; C{None}: nobody.
    @ivar sessions: Those that are open now, and when each began; the oldest first.
    @ivar closings: Those that are sending their last replies.
    @ivar lingerings: Those whose peer has everything, and has not closed yet.
    @ivar stalls: Those whose peer has left its replies unread since.
    @ivar counts: What those that have ended did.
    @ivar wrapped: Whether something stands between this and the port, as TLS does, which knows no
        factory that declines.
    """

    noisy = False
    wrapped = False
    explainsFaults = True
    """Whether a peer is told why its session ends; a client leaves its server in peace."""

    def __init__(
        self,
        factory: IProtocolFactory,
        options: StreamOptions,
        reactor: IReactorTime,
        admission: Admission | None = None,
        log: SessionLog | None = None,
    ) -> None:
        self.appFactory = factory
        self.options = options
        self.reactor = reactor
        self.admission = admission
        self.log = log
        self.counts = Counts()
        self.stopped = False
        # Framings that hold nothing, for all sessions that have nothing to hold: most of them.
        self.blank: Framing = FRAMINGS[options.framing](options.maxMessage)
        self.ending = self.blank.ending
        self.line = LineFraming.begun(options.maxMessage)
        self.quick = options.maxMessage + 2 if options.framing in ("auto", "line") else 0
        # The last kind of transport that was seen to be no TLS: what all of a port's are, or none.
        self.plainKind: type | None = None
        self.makeSession = RawSession if options.framing == "raw" else StreamSession
        self.sessions: dict[StreamSession, float] = {}
        self.closings: Deadlines[StreamSession] = Deadlines(
            reactor, options.closeTimeout, lambda session: session.cut("close_timeout")
        )
        self.lingerings: Deadlines[StreamSession] = Deadlines(
            reactor, options.linger, StreamSession.abortConnection
        )
        self.stalls: Deadlines[StreamSession] = Deadlines(
            reactor, options.stallTimeout / LOOKS, self._look
        )
        # How much each had not taken when it last took something, and when that was.
        self._unread: dict[StreamSession, tuple[int, float]] = {}
        self._sweeping = False

    def logPrefix(self) -> str:
        """Speak in the log under the app's name."""
        return self.appFactory.__class__.__name__

    def doStart(self) -> None:
        self.stopped = False
        self.appFactory.doStart()

    def doStop(self) -> None:
        self.stopped = True
        if self.log is not None:
            self.log.flush()
        self.appFactory.doStop()

    def buildProtocol(self, addr: Any) -> IProtocol | None:  # type: ignore[override]  # an IProtocol, which needs no factory
        """
        Make the app's protocol and the session around it.

        @param addr: An L{IAddress}, or C{None}.

        @return: C{None} where there is to be no connection from there; what closes it, over TLS.
        """
        standing = None
        admission = self.admission
        if admission is not None:
            admitted = admission.admit(getattr(addr, "host", None))
            if isinstance(admitted, str):
                self._refuse(admitted, addr)
                return _TURNED_AWAY if self.wrapped else None
            standing = admitted
        app = None
        try:
            app = self.appFactory.buildProtocol(addr)
        finally:
            if app is None and admission is not None and standing is not None:
                admission.leave(standing)
        if app is None:
            return _TURNED_AWAY if self.wrapped else None
        return self.makeSession(app, self, standing)

    def ownFraming(self, framing: Framing) -> Framing:
        """Make what a session needs that has something to hold, in place of one that is shared."""
        most = self.options.maxMessage
        if framing is self.line:
            return LineFraming.begun(most)
        return FRAMINGS[self.options.framing](most) if framing is self.blank else framing

    def open(self) -> list[StreamSession]:
        """Find the sessions that are open now, the oldest first."""
        return list(self.sessions)

    def begin(self, session: StreamSession) -> None:
        """Take a session that has a connection now among those that are open."""
        self.sessions[session] = self.reactor.seconds()
        self.counts.opened += 1
        if not self._sweeping:
            self._sweepLater()
        log = self.log
        if log is not None and log.all:
            log.began(session)

    def end(self, session: StreamSession, why: str, standing: Standing | None) -> None:
        """
        Let a session go, and keep what it did.

        @param why: One of L{sockapps.counts.ENDINGS}.
        """
        if not self.closings.end(session):
            self.lingerings.end(session)
        if self._unread:
            self.mended(session)
        counts = self.counts
        counts.ended[why] += 1
        counts.messages += session.messages
        counts.received += session.received
        counts.sent += session.sent
        log = self.log
        if log is not None and why not in log.unsaid:
            log.ended(session, why)
        del self.sessions[session]
        if standing is not None and self.admission is not None:
            self.admission.leave(standing)

    def penalize(self, standing: Standing | None, kind: str) -> None:
        """Hold something against a peer's source; see L{IAccountable}."""
        if standing is not None and standing.source is not None and self.admission is not None:
            self.admission.sources.penalize(standing.source, kind)

    def blocked(self, session: StreamSession) -> None:
        """A peer leaves its replies unread: see that it does not do so for too long."""
        if self.options.stallTimeout and session not in self.stalls:
            self._unread[session] = undelivered(session.transport), self.reactor.seconds()
            self.stalls.begin(session)

    def mended(self, session: StreamSession) -> None:
        """A peer has taken its replies, or will never."""
        if self._unread:
            self.stalls.end(session)
            self._unread.pop(session, None)

    def _look(self, session: StreamSession) -> None:
        """Cut off who has taken nothing for too long."""
        before, since = self._unread[session]
        unread, now = undelivered(session.transport), self.reactor.seconds()
        # All but the last part of a look: the clock's steps are not quite as long as asked for.
        if unread < before or now - since < self.options.stallTimeout * (1 - 0.1 / LOOKS):
            self._unread[session] = unread, now if unread < before else since
            self.stalls.begin(session)
        else:
            session.penalize("deadline")
            session.cut("stalled")

    def _refuse(self, why: str, addr: Any) -> None:
        self.counts.refused[why] += 1
        if self.log is not None:
            self.log.refused(why, getattr(addr, "host", None))

    # Time limits: one coarse sweep for all sessions, no timer and no clock call for any message.

    def _sweepLater(self) -> None:
        options = self.options
        limits = [
            options.firstMessageTimeout,
            options.messageTimeout,
            options.idleTimeout,
            options.sessionTimeout,
        ]
        shortest = min(filter(None, limits), default=0.0)
        self._sweeping = bool(shortest)
        if shortest:
            self.reactor.callLater(shortest / ROUGHLY, self._sweep)

    def _sweep(self) -> None:
        """Close the sessions that have missed a deadline."""
        now = self.reactor.seconds()
        for session, began in list(self.sessions.items()):
            why = session.overdue(now, began)
            if why is not None:
                session.miss(why)
        if self.sessions:
            self._sweepLater()
        else:
            self._sweeping = False


class _TurnedAway(Protocol):
    """Who a connection gets that is not to be, where somebody must be there."""

    def makeConnection(self, transport: Any) -> None:
        transport.abortConnection()


_TURNED_AWAY = _TurnedAway()
