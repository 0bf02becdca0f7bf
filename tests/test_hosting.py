"""
Any Twisted factory can be hosted under raw framing: here twisted.web's, unchanged.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.web.resource import Resource
from twisted.web.server import Site

from sockapps.listening import AllOrNone, listenings
from sockapps.options import StreamOptions
from sockapps.settings import serviceSettings
from sockapps.streams import StreamSessions
from tests.certificates import makeCertificate
from tests.dropins import declareApp
from tests.sockets import Connect, Listen, Peer, until

LARGE = 20 * 1024 * 1024


class Page(Resource):
    """Tell of a request what came of it."""

    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        secure = b"secure" if request.isSecure() else b"plain"
        return b"%b %b for %b" % (secure, request.uri, request.getClientAddress().host.encode())

    def render_POST(self, request: Any) -> bytes:
        return b"%d bytes" % len(request.content.read())


def site(folder: str = "") -> Site:
    """Make what an app declares as its factory: a web server."""
    root = Resource()
    root.putChild(b"page", Page())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its own, as it is imported
        from twisted.web.static import File
    root.putChild(b"files", File(folder))
    made = Site(root, timeout=None)
    made.noisy = False
    return made


def declaredFactory() -> Site:
    return site()


async def answer(peer: Peer) -> tuple[bytes, bytes]:
    """Read one response: its head, and its body."""
    head = await peer.receiveUntil(b"\r\n\r\n")
    [length] = [
        int(line.split(b":")[1])
        for line in head.lower().splitlines()
        if line.startswith(b"content-length:")
    ]
    return head, await peer.receive(length)


async def more(peer: Peer) -> None:
    """Wait until something has come."""
    before = peer.total
    await until(lambda: peer.total > before, "more came")


async def behaves(peer: Peer, secure: bytes) -> None:
    """See that what is at the other end is a web server that keeps its connections."""
    for path in (b"/page/a", b"/page/b"):
        peer.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
        head, body = await answer(peer)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == b"%b %b for 127.0.0.1" % (secure, path)
    # Two at once, in the order in which they were asked; the first with a body.
    content = bytes(range(256)) * 4096
    peer.send(
        b"POST /page HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
        b"GET /page/c HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        % (len(content), content)
    )
    assert (await answer(peer))[1] == b"%d bytes" % len(content)
    assert (await answer(peer))[1] == b"%b /page/c for 127.0.0.1" % secure
    assert await peer.rest() == b""


@pytest.mark.filterwarnings("ignore:.*(X509|pyOpenSSL):DeprecationWarning")
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest_twisted.ensureDeferred
async def test_a_web_site_is_an_app_by_its_declaration_alone(
    connected: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tls: bool
) -> None:
    from twisted.internet import reactor

    declareApp(monkeypatch, tmp_path, "tests.test_hosting.declaredFactory")
    pem = makeCertificate(tmp_path)
    endpoint = f"tls:{tmp_path}:0" if tls else "tcp:0"
    settings = serviceSettings(
        "extra", {"framing": "raw", "listen": f"{endpoint}:interface=127.0.0.1"}
    )
    service = AllOrNone(listenings(settings, reactor))
    service.startService()
    port = service.listenings[0].port
    context = optionsForClientTLS("localhost", Certificate.loadPEM(pem.read_bytes()))
    try:
        peer = await connected(port.getHost(), tls=context if tls else None)
        await behaves(peer, b"secure" if tls else b"plain")
    finally:
        await service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_web_site_is_sheltered_by_the_sessions_alone(
    listening: Listen, connected: Connect
) -> None:
    from twisted.internet import reactor

    sessions = StreamSessions(site(), StreamOptions(framing="raw"), reactor)
    await behaves(await connected(listening(sessions)), b"plain")
    await until(lambda: not sessions.sessions, "the session ended")


@pytest_twisted.ensureDeferred
async def test_a_large_file_reaches_a_slow_reader_whole_and_is_not_held_in_memory(
    listening: Listen, connected: Connect, tmp_path: Path
) -> None:
    from twisted.internet import reactor

    block = bytes(range(256)) * 4096
    with open(tmp_path / "large", "wb") as file:
        for _ in range(LARGE // len(block)):
            file.write(block)
    sessions = StreamSessions(site(str(tmp_path)), StreamOptions(framing="raw"), reactor)
    peer = await connected(listening(sessions))
    peer.send(b"GET /files/large HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await peer.receiveUntil(b"\r\n\r\n")
    assert b"Content-Length: %d\r\n" % LARGE in head
    peer.pause()
    [session] = sessions.sessions
    transport = session.transport

    def buffered() -> int:
        return int(len(transport.dataBuffer) - transport.offset + transport._tempDataLen)

    held = []
    for _ in range(LARGE // len(block)):
        # It has stopped writing, and waits for this reader.
        await until(lambda: transport.producerPaused, "the file waits")
        held.append(buffered())
        peer.resume()
        await more(peer)
        peer.pause()
        if peer.total >= LARGE:
            break
    assert max(held) < 1024 * 1024
    peer.resume()
    body = await peer.receive(LARGE)
    assert body == block * (LARGE // len(block))
    peer.send(b"GET /page/after HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await answer(peer))[1].startswith(b"plain /page/after")
