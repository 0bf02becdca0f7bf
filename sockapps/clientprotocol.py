"""
What every client protocol can do: ask, and be answered in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone

from sockapps.globalreactor import globalReactor

if TYPE_CHECKING:
    from twisted.python.failure import Failure

DEFAULT_TIMEOUT = 10.0


class UnexpectedReply(Exception):
    """The server's reply is none that its app gives."""


def asText(reply: bytes) -> str:
    """
    Read a reply that is text.

    @raise UnexpectedReply: it is no UTF-8.
    """
    try:
        return reply.decode()
    except UnicodeDecodeError:
        raise UnexpectedReply(f"no UTF-8: {reply[:40]!r}") from None


class ClientProtocol(Protocol):
    """
    Speak to an app: send messages, and match the replies to them in order.

    A subclass adds methods of its own app's words. Around it may stand a session
    (L{sockapps.client.connect} sees to that), or nothing: over a plain connection each received
    segment is one reply, as a plain server's are.

    @ivar pipelines: Whether a message may be sent before the one before it is answered; only
        framings that mark where a reply ends allow it.
    @ivar timeout: Seconds that a reply may take, where the call names no other; C{None} is no
        limit.
    @ivar reactor: The clock for time-outs; by default the global reactor.
    """

    pipelines = False
    timeout: float | None = DEFAULT_TIMEOUT
    reactor: IReactorTime | None = None
    secret = False
    """Whether messages hold secrets: nothing keeps them, a prompt's history neither."""

    closesAfterReply = False
    """Whether the server closes when it has answered one message."""

    words: tuple[str, ...] = ()
    """Messages the app knows, for a prompt to complete."""

    asks: Mapping[str, bool] = {}
    """What a prompt asks for in place of a message, and whether it hides the answer."""

    objection: Callable[[bytes], str | None] | None = None
    """Says why a message cannot be sent as it is; who connects knows the framing."""

    transport: Any

    def __init__(self) -> None:
        self._unsent: deque[tuple[bytes, Deferred[bytes]]] = deque()
        self._unanswered: deque[Deferred[bytes]] = deque()
        self._ended: Failure | None = None
        self._whenEnded: list[Deferred[None]] = []

    # What a subclass may say of its app

    def isRefusal(self, reply: bytes) -> bool:
        """Tell whether the server's reply is a no."""
        return reply.startswith(b"[error: ")

    def isFarewell(self, message: bytes) -> bool:
        """Tell whether a message ends the conversation, so that no reply follows it."""
        return False

    def expected(self, message: bytes, datagrams: bool = False) -> bytes | None:
        """
        Say what the reply to a message must be, as far as the message alone tells.

        @param datagrams: Whether it goes over datagrams; an app may answer otherwise there.
        @return: The reply; C{None} where any may be right.
        """
        return None

    @staticmethod
    def compose(*answers: str) -> bytes:
        """Make one message of the answers to what C{asks} says."""
        return " ".join(answers).encode()

    # What everybody may call

    @property
    def ended(self) -> bool:
        """Whether the connection has ended."""
        return self._ended is not None

    def request(self, message: bytes | str, timeout: float | None = None) -> Deferred[bytes]:
        """
        Send one message.

        Cancelling it, or its time-out, ends the connection: replies carry nothing that would tell
        the late one from the next.

        @param message: The message; text goes out as UTF-8.
        @param timeout: Seconds that the reply may take; by default C{self.timeout}.
        @return: A Deferred of the reply; of nothing, for a farewell that is sent. It fails with
            L{twisted.internet.defer.TimeoutError} after a time-out, with
            L{twisted.internet.error.ConnectionClosed} where the connection ends before the reply,
            and with C{ValueError} where the message cannot be sent: it is too long for a datagram,
            or a line that holds a line end.
        """
        if isinstance(message, str):
            message = message.encode()
        if self._ended is not None:
            return fail(self._ended)
        objection = self.objection(message) if self.objection is not None else None
        if objection is not None:
            return fail(ValueError(objection))
        answer: Deferred[bytes] = Deferred(lambda _: self.transport.abortConnection())
        self._unsent.append((message, answer))
        self._sendNext()
        seconds = self.timeout if timeout is None else timeout
        if seconds is not None:
            answer.addTimeout(seconds, self.reactor or globalReactor())
        return answer

    def disconnect(self) -> Deferred[None]:
        """
        Close the connection.

        @return: A Deferred that fires when it is closed.
        """
        done = self.whenEnded()
        if self._ended is None:
            self.transport.loseConnection()
        return done

    def whenEnded(self) -> Deferred[None]:
        """
        Wait for the end of the connection.

        @return: A Deferred that fires then, whoever ended it.
        """
        if self._ended is not None:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._whenEnded.append(done)
        return done

    def unasked(self, message: bytes) -> None:
        """Take what the server says of itself; a subclass whose app does that overrides it."""

    # From the transport

    def dataReceived(self, data: bytes) -> None:
        """Give a reply to who waits for it longest."""
        if not self._unanswered:
            self.unasked(data)
            return
        answer = self._unanswered.popleft()
        self._sendNext()
        answer.callback(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell everybody who still waits."""
        self._ended = reason
        waiting = [*self._unanswered, *(answer for _, answer in self._unsent)]
        self._unanswered.clear()
        self._unsent.clear()
        for answer in waiting:
            if not answer.called:
                answer.errback(reason)
        ended, self._whenEnded = self._whenEnded, []
        for done in ended:
            done.callback(None)

    def _sendNext(self) -> None:
        while self._unsent:
            message, answer = self._unsent[0]
            farewell = self.isFarewell(message)
            if self._unanswered and (farewell or not self.pipelines):
                return
            self._unsent.popleft()
            try:
                self.transport.write(message)
            except ValueError:
                answer.errback()
                continue
            if farewell:
                self.transport.loseConnection()
                answer.callback(b"")
            else:
                self._unanswered.append(answer)
