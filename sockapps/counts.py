"""
What a service has done so far: plain numbers, read when somebody asks.
"""

from __future__ import annotations

from collections import Counter
from itertools import count

REFUSALS = {
    "denied": "by allow and deny",
    "process": "the process has max_connections",
    "service": "the service has max_connections",
    "source": "the source has max_connections_per_source",
    "rate": "the source begins more than connection_rate",
    "penalty": "the source is being penalized",
}
"""Why a connection, or a datagram, is refused before it reaches an app."""

ENDINGS = {
    "peer": "the peer closed",
    "app": "the app closed",
    "lost": "the connection broke",
    "failed": "the app failed",
    "too_long": "a message was over max_message",
    "fault": "the stream was malformed",
    "first_message_timeout": "no first message in time",
    "message_timeout": "a message was not complete in time",
    "idle_timeout": "nothing was said for too long",
    "session_timeout": "it lasted for too long",
    "stalled": "the peer did not take its replies",
    "unsent": "more than max_unsent waited for the peer",
    "close_timeout": "the peer did not take its last replies, or did not close",
    "rate": "the source sent more than message_rate",
    "expired": "no datagram for too long",
    "evicted": "a newer conversation took its place",
    "operator": "an operator closed it",
    "shutdown": "the service stopped",
}
"""Why a session ends."""

USUAL = {"peer", "app", "expired", "shutdown"}
"""Endings that no log needs to tell of."""

DROPS = {
    "empty": "it holds nothing",
    "port": "its source port is below min_source_port",
    "own": "it seems to come from here",
    "broadcast": "it comes from an address of many",
    "reflected": "answering would go on and on: what came is what goes back, again and again",
    "rate": "the source sends more than message_rate",
    "reply_rate": "the source is owed more than reply_rate",
    "amplification": "the reply is larger than the guard lets it be",
    "queue": "the app takes its time, and too many wait",
    "denied": "by allow and deny",
    "penalty": "the source is being penalized",
}
"""Why a datagram, or the reply to one, is dropped."""


class Counts:
    """
    What the ended sessions of one service at one endpoint did; the open ones know it themselves.

    @ivar opened: Sessions begun.
    @ivar ended: How many ended, by why: L{ENDINGS}.
    @ivar refused: How many were turned away, by why: L{REFUSALS}.
    @ivar dropped: How many datagrams or their replies were dropped, by why: L{DROPS}.
    @ivar messages: Messages delivered to the app.
    @ivar received: Bytes of what came: on streams as they came, on UDP without headers.
    @ivar sent: Bytes of what the app has written.
    @ivar unsent: Replies that the network did not take, over UDP.
    @ivar decidedByQuiet: Connections that a gap, not an LF, has shown to be C{chunk}.
    """

    __slots__ = (
        "decidedByQuiet",
        "dropped",
        "ended",
        "messages",
        "opened",
        "received",
        "refused",
        "sent",
        "unsent",
    )

    def __init__(self) -> None:
        self.opened = self.messages = self.received = self.sent = 0
        self.unsent = self.decidedByQuiet = 0
        self.ended: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()


nextNumber = count(1).__next__
"""Give a session a number that no other session of this process has."""
