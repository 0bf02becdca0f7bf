"""
Who sends messages and compares the replies: one connection, or one UDP socket.

What happens here happens once a message, so it is as plain as can be. A generator that is slower
than the server measures itself.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from OpenSSL.SSL import Error as TLSError
from twisted.internet.error import (
    ConnectionClosed,
    ConnectionDone,
    ConnectionRefusedError,
    MessageLengthError,
    getConnectError,
)
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport
from twisted.internet.protocol import DatagramProtocol, Protocol, connectionDone
from zope.interface import implementer

from sockapps.bench.plan import SECOND
from sockapps.bench.tally import UNIT

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred
    from twisted.python.failure import Failure

    from sockapps.bench.load import Load
    from sockapps.framing import Framing


@implementer(IHandshakeListener)
class Connection(Protocol):
    """
    Send messages over one connection, and compare the replies.

    @ivar inFlight: How many messages are unanswered.
    @ivar since: When anything last happened.
    @ivar made: Whether there is a connection yet.
    @ivar attempt: What becomes of the attempt to make one, where that takes time.
    """

    transport: Any
    attempt: Deferred[Any] | None = None

    def __init__(self, load: Load) -> None:
        self.load = load
        self.since = perf_counter_ns()
        self.made = False
        self.inFlight = 0
        self.ended = False
        # The oldest messages, sent together: when they were due, and how many have no reply yet;
        # then the others.
        self._due = 0
        self._count = 0
        self._later: deque[tuple[int, int]] = deque()
        # Nearly always all replies come in one piece. Nothing received is ever empty.
        self._awaited = b""
        self._request = b""
        # How much of a reply has come; only while all were as expected.
        self._partial = 0
        self._framing: Framing | None = None if load.replies else load.plan.makeFraming()

    def ask(self, due: int, count: int) -> None:
        """Send messages, in one write."""
        load = self.load
        if self.inFlight:
            self._later.append((due, count))
            self._awaited = b""
        else:
            self._due = due
            self._count = count
            if load.replies and self._framing is None and not self._partial:
                self._awaited = load.replies[: count * load.replySize]
            self.since = perf_counter_ns() if load.paced else due
            load.busy += 1
        self.inFlight += count
        self._request = load.plan.request * count
        if self.made:
            self.transport.write(self._request)

    def connectionMade(self) -> None:
        if hasattr(self.transport, "setTcpNoDelay"):
            self.transport.setTcpNoDelay(True)
        if not ISSLTransport.providedBy(self.transport):
            self.handshakeCompleted()

    def handshakeCompleted(self) -> None:
        """Begin; over TLS only now: no message's latency is to hold the handshake."""
        self.made = True
        if self.inFlight:
            self.transport.write(self._request)
        else:
            self.load.connected(self)

    def dataReceived(self, data: bytes) -> None:
        now = perf_counter_ns()
        load = self.load
        if data == self._awaited:
            count = self._count
            load.took[(now - self._due) // UNIT] += count
            left = load.left
            if left >= count and load.closedLoop:
                load.left = left - count
                self._due = self.since = now
                self.transport.write(self._request)
                return
            self.inFlight = self._count = 0
        else:
            count = self._compare(data, now)
        self._goOn(count, now)

    def _goOn(self, count: int, now: int) -> None:
        if self.ended or not count:
            return
        load = self.load
        self.since = now
        if not self.inFlight:
            self._awaited = b""
            load.busy -= 1
        load.answered(self, count, now)

    def _compare(self, data: bytes, now: int) -> int:
        """
        Judge replies that came in any other way than all together.

        @return: How many they were.
        """
        load = self.load
        if self._framing is None:
            end = self._partial + len(data)
            if data == load.replies[self._partial : end]:
                right, self._partial = divmod(end, load.replySize)
                self._awaited = b""
                return self._account(right, 0, now)
            # From here on one by one: where each begins and ends is the framing's affair.
            self._framing = load.plan.makeFraming()
            self._awaited = b""
            data = load.replies[: self._partial] + data
        replies = self._framing.feed(data)
        right = len(replies)
        if load.plan.expected is not None:
            right = replies.count(load.plan.expected)
        wrong = len(replies) - right
        if self._framing.fault is not None:
            self.fail("wrong_reply")
            return 0
        load.tally.looseReplies += right
        load.tally.looseBytes += len(data)
        return self._account(right, wrong, now)

    def _account(self, right: int, wrong: int, now: int) -> int:
        load = self.load
        count = right + wrong
        if count > self.inFlight:
            # More than was asked for: which belong to which is unknown from here on.
            if not self.inFlight:
                self.inFlight = 1
                load.busy += 1
            self.fail("wrong_reply")
            return 0
        load.tally.errors["wrong_reply"] += wrong
        self.inFlight -= count
        left = count
        while left:
            these = min(left, self._count)
            good = min(these, right)
            if good:
                load.took[(now - self._due) // UNIT] += good
            right -= good
            left -= these
            self._count -= these
            if not self._count and self._later:
                self._due, self._count = self._later.popleft()
        return count

    def expire(self, now: int, timeout: int) -> None:
        """Fail where nothing has happened for too long."""
        if now - self.since <= timeout:
            return
        if not self.made:
            self.load.unreached(f"no connection within {timeout / SECOND:g} s")
            self.fail("unreachable")
        elif self.inFlight:
            self.fail("timeout")

    def fail(self, kind: str) -> None:
        """Give up everything that is unanswered, and the connection."""
        if self.ended:
            return
        self.ended = True
        self.abort()
        self._end(kind)

    def close(self) -> None:
        """Close in order, and heed nothing that comes yet."""
        self.ended = True
        self.inFlight = 0
        self._awaited = b""
        if self.made:
            self.transport.loseConnection()
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        if self.transport is not None:
            self.transport.abortConnection()
        else:
            assert self.attempt is not None
            self.attempt.cancel()

    def notConnected(self, failure: Failure) -> None:
        """Take it that there is no connection."""
        self.load.gone(self)
        if not self.ended:
            self.ended = True
            kind = "refused" if failure.check(ConnectionRefusedError) else "unreachable"
            self.load.unreached(failure.getErrorMessage())
            self._end(kind)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.load.gone(self)
        if self.ended:
            return
        self.ended = True
        if not self.made and reason.check(ConnectionClosed):
            self.load.unreached("TLS: the connection ended during the handshake")
            self._end("tls")
        elif reason.check(ConnectionDone):
            self._end("broken_off")
        elif reason.check(ConnectionClosed):
            self._end("reset")
        else:
            error = reason.value
            reasons = error.args[0] if isinstance(error, TLSError) else [[str(error)]]
            self.load.unreached(f"TLS: {'; '.join(each[-1] for each in reasons)}")
            self._end("tls")

    def _end(self, kind: str) -> None:
        lost, self.inFlight = self.inFlight, 0
        if lost:
            self.load.busy -= 1
        self.load.failed(self, kind, lost)


class Asker(DatagramProtocol):
    """
    Send messages over one UDP socket, one at a time, and compare the replies.

    @ivar inFlight: How many messages are unanswered, one at most.
    @ivar since: When that one was sent.
    @ivar made: Whether there is a socket yet.
    """

    transport: Any
    noisy = False

    def __init__(self, load: Load) -> None:
        self.load = load
        self.since = perf_counter_ns()
        self.made = False
        self.inFlight = 0
        self.ended = False
        self._due = 0
        self._port: Any = None

    def startProtocol(self) -> None:
        self._port = self.transport
        try:
            self._port.connect(*self.load.address)
        except OSError as error:
            self.load.unreached(str(error))
        else:
            self.made = True

    def ask(self, due: int, count: int) -> None:
        """Send a message."""
        self._due = due
        self.since = perf_counter_ns() if self.load.paced else due
        self.inFlight = count
        self.load.busy += 1
        self._send()

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        now = perf_counter_ns()
        if not self.inFlight:
            return  # the network may have doubled it
        load = self.load
        reply = load.plan.reply
        if datagram == reply:
            load.took[(now - self._due) // UNIT] += 1
        elif reply is None:
            load.took[(now - self._due) // UNIT] += 1
            load.tally.looseReplies += 1
            load.tally.looseBytes += len(datagram)
        else:
            load.tally.errors["wrong_reply"] += 1
            load.tally.looseBytes += len(datagram)
        if load.left and load.closedLoop:
            load.left -= 1
            self._due = self.since = now
            self._send()
        else:
            self.inFlight = 0
            load.busy -= 1
            load.answered(self, 1, now)

    def connectionRefused(self) -> None:
        self.load.unreached(str(ConnectionRefusedError()))
        self.fail("refused")

    def expire(self, now: int, timeout: int) -> None:
        """Fail where there is no reply for too long."""
        if self.inFlight and now - self.since > timeout:
            self.fail("timeout")

    def fail(self, kind: str) -> None:
        """Give up what is unanswered, and the socket: a late reply must not answer another."""
        if not self.ended:
            self.close()
            self._end(kind)

    def close(self) -> None:
        """Close the socket."""
        if not self.ended:
            self.ended = True
            self._port.stopListening()

    abort = close

    def stopProtocol(self) -> None:
        self.load.gone(self)
        if not self.ended:
            # Nobody asked for it: the reactor takes an error in the socket for its end.
            self.ended = True
            error = self._port.getHandle().getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            failure = getConnectError((error, os.strerror(error)))
            self.load.unreached(str(failure))
            self._end("refused" if isinstance(failure, ConnectionRefusedError) else "unreachable")

    def _end(self, kind: str) -> None:
        lost, self.inFlight = self.inFlight, 0
        if lost:
            self.load.busy -= 1
        self.load.failed(self, kind, lost)

    def _send(self) -> None:
        try:
            self.transport.write(self.load.plan.request)
        except BlockingIOError:
            pass  # lost, as a datagram may be
        except (OSError, MessageLengthError) as error:
            self.load.unreached(str(error))
            self.fail("unreachable")
