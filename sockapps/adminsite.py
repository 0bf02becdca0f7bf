"""
A small web server for the admin listener: bounded, quiet, and saying nothing of itself.

No body of a request is kept, and connections are few, for one request each, so that who asks can
make the daemon hold next to nothing.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import connectionDone
from twisted.web.http import HTTPChannel
from twisted.web.server import Request, Site

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall
    from twisted.python.failure import Failure
    from twisted.web.resource import Resource

TIMEOUT = 60.0
"""Seconds without a byte that end a connection."""

CONNECTIONS = 16
"""Connections at most; the oldest makes room."""

MAX_BODY = 4096
"""Bytes of a request's body at most; nothing here reads one."""


class AdminRequest(Request):
    """
    A request whose body nobody keeps.
    """

    _size = 0
    _refused = False

    def gotLength(self, length: int | None) -> None:
        """Refuse at once what says that it is too long."""
        self.content = BytesIO()
        self._grow(length or 0)
        self._size = 0

    def handleContentChunk(self, data: bytes) -> None:
        """Refuse what does not say so, and is."""
        self._grow(len(data))

    def process(self) -> None:
        """Answer, whatever it asks for: Twisted itself would answer C{OPTIONS *}."""
        if not self._refused:
            self.path = b"/" + self.path.lstrip(b"/")
            super().process()

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_BODY and not self._refused:
            self._refused = True
            channel: Any = self.channel
            channel.transport.write(
                b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            )
            channel.loseConnection()


class AdminChannel(HTTPChannel):
    """
    A connection for one request, which makes no noise in the log.
    """

    site: AdminSite
    transport: Any
    _abort: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Have the oldest connection make room where there are too many."""
        channels = self.site.channels
        if len(channels) >= CONNECTIONS:
            oldest = next(iter(channels))
            del channels[oldest]
            oldest.transport.abortConnection()
        channels[self] = None
        super().connectionMade()

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """
        Answer one request only: of many that come at once, Twisted would hold all answers, however
        slowly these are taken.
        """
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def timeoutConnection(self) -> None:
        """Close, and if the other side does not take the rest of its answer, abort."""
        self._abort = self.callLater(self.abortTimeout, self.transport.abortConnection)
        self.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Make room."""
        self.site.channels.pop(self, None)
        if self._abort is not None and self._abort.active():
            self._abort.cancel()
        super().connectionLost(reason)


class AdminSite(Site):
    """
    The admin listener's web site: it writes no access log, and ends with its port.

    @ivar channels: The connections that are open now, the oldest first.
    """

    noisy = False
    protocol = AdminChannel  # type: ignore[assignment]  # the usual one can do HTTP/2 as well
    requestFactory = AdminRequest

    def __init__(self, resource: Resource, reactor: Any) -> None:
        super().__init__(resource, timeout=TIMEOUT, reactor=reactor, parsePOSTFormSubmission=False)
        self.channels: dict[AdminChannel, None] = {}

    def startFactory(self) -> None:
        """Open no log, nor keep a clock for one."""

    def stopFactory(self) -> None:
        """Leave nobody connected."""
        for channel in list(self.channels):
            channel.transport.abortConnection()

    def log(self, request: Any) -> None:
        """Say nothing."""
