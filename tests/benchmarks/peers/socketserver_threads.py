"""
The standard library's C{socketserver}: a thread per connection.

Usage: C{socketserver_threads.py tcp|tls PORT [PEM]}
"""

from __future__ import annotations

import socketserver
import ssl
import sys


class Echo(socketserver.BaseRequestHandler):
    """Answer each line until the peer closes."""

    def handle(self) -> None:
        rest = b""
        while data := self.request.recv(65536):
            *lines, rest = (rest + data).split(b"\n")
            if lines:
                self.request.sendall(b"".join([b"Echo=>" + line + b"\n" for line in lines]))


class Server(socketserver.ThreadingTCPServer):
    """Listen."""

    daemon_threads = True
    # The five that it has by default stalls fifty peers who connect at once for a second.
    request_queue_size = 128


def serve(transport: str, port: str, pem: str = "") -> None:
    """Serve until the process ends."""
    server = Server(("127.0.0.1", int(port)), Echo)
    if transport == "tls":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
        # The handshake is for the connection's own thread, at its first read.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    server.serve_forever()


if __name__ == "__main__":
    serve(*sys.argv[1:])
