"""
Twisted as it comes: C{LineReceiver} and C{DatagramProtocol}, on the epoll reactor.

Usage: C{stock_twisted.py tcp|tls|udp PORT [PEM]}
"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet.protocol import DatagramProtocol, Factory
from twisted.protocols.basic import LineReceiver


class Echo(LineReceiver):
    """Answer each line."""

    delimiter = b"\n"

    def lineReceived(self, line: bytes) -> None:
        self.sendLine(b"Echo=>" + line)


class Upper(DatagramProtocol):
    """Answer each datagram."""

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.transport.write(datagram.upper(), addr)


def serve(transport: str, port: str, pem: str = "") -> None:
    """Serve, on the reactor that is installed, until the process ends."""
    from twisted.internet import reactor
    from twisted.internet.endpoints import serverFromString

    net: Any = reactor
    where = f"{port}:interface=127.0.0.1"
    if transport == "udp":
        net.listenUDP(int(port), Upper(), "127.0.0.1")
    elif transport == "tls":
        endpoint = serverFromString(net, f"ssl:{where}:privateKey={pem}:certKey={pem}")
        endpoint.listen(Factory.forProtocol(Echo))
    else:
        serverFromString(net, f"tcp:{where}").listen(Factory.forProtocol(Echo))
    net.run()


if __name__ == "__main__":
    from twisted.internet import epollreactor

    epollreactor.install()
    serve(*sys.argv[1:])
