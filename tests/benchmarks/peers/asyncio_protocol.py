"""
asyncio: its C{Protocol} and C{DatagramProtocol}, on its own loop.

Usage: C{asyncio_protocol.py tcp|tls|udp PORT [PEM]}
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any


class Echo(asyncio.Protocol):
    """Answer each line."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        if lines:
            self.transport.write(b"".join([b"Echo=>" + line + b"\n" for line in lines]))


class Upper(asyncio.DatagramProtocol):
    """Answer each datagram."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data.upper(), addr)


async def serve(transport: str, port: str, pem: str = "") -> None:
    """Serve until the process ends."""
    loop = asyncio.get_running_loop()
    here = "127.0.0.1", int(port)
    if transport == "udp":
        await loop.create_datagram_endpoint(Upper, here)
        await loop.create_future()
    context = None
    if transport == "tls":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
    server = await loop.create_server(Echo, *here, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
