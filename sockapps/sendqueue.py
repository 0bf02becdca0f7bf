"""
How much of what was written to a connection is still on its way.
"""

from __future__ import annotations

import array
import fcntl
import termios
from contextlib import suppress
from typing import Any


def waiting(transport: Any) -> int:
    """
    Say how many bytes a connection's transport holds because the system did not take them.

    @param transport: One of Twisted's, over TLS or not; any other holds nothing that can be seen.
    """
    inner = _innermost(transport)
    if not hasattr(inner, "_tempDataLen"):
        return 0
    return int(len(inner.dataBuffer) - inner.offset + inner._tempDataLen)


def undelivered(transport: Any) -> int:
    """
    Say how many bytes of what was written the other end has not taken.

    To what waits in this process comes what waits in the system (C{SIOCOUTQ}, tcp(7), where there
    is such a thing): it takes megabytes before it says that it takes no more.
    """
    queued = array.array("i", [0])
    with suppress(OSError, AttributeError):  # the system cannot tell, or there is no socket
        fcntl.ioctl(_innermost(transport).getHandle().fileno(), termios.TIOCOUTQ, queued)
    return waiting(transport) + queued[0]


def _innermost(transport: Any) -> Any:
    """Find the socket's own transport below TLS and whatever else wraps it."""
    while hasattr(transport, "wrappedProtocol"):
        transport = transport.transport
    return transport
