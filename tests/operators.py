"""
An operator's dealings with a daemon, for tests: services that run, and an admin listener of them
that is asked over real connections.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.client import HTTPResponse
from io import BytesIO
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from sockapps.admin import AdminOptions, makeAdmin
from sockapps.listening import AllOrNone, Listening, Process, listenings
from sockapps.options import ProcessOptions
from sockapps.settings import serviceSettings
from tests.peers import TCP
from tests.sockets import Connect, Peer, until

TOKEN = "Geheim-0815-Geheim-0815"


@attrs.frozen
class Reply:
    """What an admin listener has answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        return json.loads(self.body)


@attrs.frozen
class Admin:
    """
    An admin listener, asked over real connections.
    """

    listening: Listening
    connected: Connect

    async def raw(self, data: bytes) -> bytes:
        """Send bytes as they are, and wait for the connection's end."""
        peer = await self.connected(self.listening.port)
        peer.send(data)
        return await peer.rest()

    async def ask(
        self, path: str, *headers: str, method: str = "GET", host: str = "localhost"
    ) -> Reply:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]
        said = await self.raw("\r\n".join(lines).encode("latin-1"))
        readable: Any = type("Readable", (), {"makefile": lambda *_: BytesIO(said)})()
        response = HTTPResponse(readable, method=method)
        response.begin()
        return Reply(response.status, dict(response.getheaders()), response.read())

    async def order(self, path: str, *headers: str) -> Reply:
        """Ask for something to be done, with the token where no headers are given."""
        authorized = headers or (f"Authorization: Bearer {TOKEN}",)
        return await self.ask(path, *authorized, method="POST")


class Offered:
    """
    Services that run, of one process.
    """

    def __init__(self, options: ProcessOptions | None = None) -> None:
        from twisted.internet import reactor

        self.process = Process.make(options or ProcessOptions(), "none", reactor)
        self.sources = self.process.sources
        self.listenings: list[Listening] = []

    def add(self, name: str, listen: str | list[str] = TCP, **options: object) -> Listening:
        """Run one more service; its first listening is returned."""
        from twisted.internet import reactor

        settings = serviceSettings(name, {"listen": listen, **options})
        ours = listenings(settings, reactor, self.process)
        for listening in ours:
            listening.startService()
        self.listenings += ours
        return ours[0]


@asynccontextmanager
async def offering(options: ProcessOptions | None = None) -> AsyncIterator[Offered]:
    """Run services until the block ends."""
    offered = Offered(options)
    try:
        yield offered
    finally:
        for listening in offered.listenings:
            await listening.stopService()
            sessions: Any = listening.sessions
            for session in sessions.open():
                session.cut("shutdown")
            await until(lambda every=sessions: not every.open(), "every session ended")


@asynccontextmanager
async def administering(
    connected: Connect,
    offered: Offered | None = None,
    listen: str = TCP,
    tokenFile: Path | None = None,
) -> AsyncIterator[Admin]:
    """Run an admin listener, until the block ends."""
    from twisted.internet import reactor

    offered = offered or Offered()
    options = AdminOptions(listen=listen, tokenFile=str(tokenFile or ""))
    listening = makeAdmin(options, offered.listenings, offered.sources, reactor)
    every = AllOrNone([listening])
    every.startService()
    try:
        yield Admin(listening, connected)
    finally:
        stopped: Deferred[Any] = every.stopService()
        await stopped


async def talking(connected: Connect, listening: Listening, number: int = 1) -> list[Peer]:
    """Have some peers of echo, each of whom has had an answer; the oldest first."""
    peers = []
    for _ in range(number):
        peers.append(await connected(listening.port))
        peers[-1].send(b"hi\n")
        await peers[-1].receiveUntil(b"\n")
    return peers
