"""
The listener for who runs the daemon: what it needs to be told, and where it may listen.

What it answers is in L{sockapps.adminpages}, which is loaded where there is to be one only: it
brings a web server with it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, UNIXServerEndpoint

from sockapps.listening import Listening
from sockapps.settings import splitDescription

if TYPE_CHECKING:
    from sockapps.limits import Sources

ENDPOINTS = "tcp:PORT:interface=127.0.0.1, tcp:PORT:interface=\\:\\:1, or unix:PATH"
"""Where it may listen: nobody from elsewhere can come there."""

MODE = "600"
"""Who may use its UNIX socket: this user only."""

MIN_TOKEN, MAX_TOKEN = 16, 1024
"""How long a token is: too long to be guessed, and short enough for a header."""


def _listen(_: object, field: attrs.Attribute[str], value: str) -> None:
    """
    Take endpoints on this machine only.

    @raise ValueError: it is another, or none.
    """
    if value:
        _endpoint(value, None)


@attrs.frozen
class AdminOptions:
    """
    Where the daemon can be asked how it is, and who may give it orders: the table C{[admin]}.
    """

    listen: str = attrs.field(
        default="",
        validator=_listen,
        metadata={
            "help": f"endpoint of the admin listener, without one there is none: {ENDPOINTS}"
        },
    )
    tokenFile: str = attrs.field(
        default="",
        metadata={
            "help": "file with the bearer token that closing sessions takes; without one nobody can"
        },
    )


def makeAdmin(
    options: AdminOptions, listenings: Sequence[Listening], sources: Sources, reactor: Any
) -> Listening:
    """
    Make what listens for the operator.

    @param listenings: What there is to see; it may change later on.
    @return: A service that starts with the others or not at all, for
        L{sockapps.listening.AllOrNone}.
    @raise ValueError: the endpoint or the token's file cannot be used.
    """
    from sockapps.adminpages import Pages
    from sockapps.adminsite import AdminSite

    token = readToken(options.tokenFile) if options.tokenFile else None
    endpoint = _endpoint(options.listen, reactor)
    local = not isinstance(endpoint, UNIXServerEndpoint)
    site = AdminSite(Pages(listenings, sources, token, reactor, local), reactor)
    return Listening("admin", options.listen, "http", lambda: endpoint.listen(site), reactor)


def readToken(path: str) -> bytes:
    """
    Read the token that orders take.

    @raise ValueError: there is none, or it is not kept well.
    """
    try:
        # Without O_NONBLOCK a named pipe would hold up the start for good.
        with open(path, "rb", opener=lambda name, how: os.open(name, how | os.O_NONBLOCK)) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError(f"token_file: {path} is no regular file")
            token = file.read(MAX_TOKEN + 2).strip()
    except OSError as error:
        raise ValueError(f"token_file: {path}: {error.strerror}") from None
    if mode & stat.S_IRWXO:
        raise ValueError(
            f"token_file: others may use {path}, mode {stat.S_IMODE(mode):o}; chmod o= {path}"
        )
    # What it is stays unsaid.
    if not re.fullmatch(rb"[A-Za-z0-9._~+/-]{%d,%d}=*" % (MIN_TOKEN, MAX_TOKEN), token):
        raise ValueError(
            f"token_file: {path} must hold {MIN_TOKEN} to {MAX_TOKEN} letters, digits or -._~+/ "
            "in one line, as openssl rand -hex 32 writes them"
        )
    return token


def _endpoint(
    description: str, reactor: Any
) -> TCP4ServerEndpoint | TCP6ServerEndpoint | UNIXServerEndpoint:
    """
    Make an endpoint that only this machine can reach.

    @raise ValueError: the description is of another, or of none.
    """
    kind, *parts = splitDescription(description)
    key, _, value = parts[1].partition("=") if len(parts) == 2 else ("", "", "")
    if kind == "tcp" and key == "interface" and _isPort(parts[0]) and _isLoopback(value):
        make = TCP6ServerEndpoint if ":" in value else TCP4ServerEndpoint
        return make(reactor, int(parts[0]), interface=value)
    if kind == "unix" and parts and parts[0]:
        if len(parts) == 1:
            key, value = "mode", MODE
        if key == "mode" and re.fullmatch("0?[0-7]{3}", value):
            # The lock tells a socket in use from one that a killed daemon has left.
            return UNIXServerEndpoint(reactor, parts[0], mode=int(value, 8), wantPID=True)
    raise ValueError(f"must be on this machine only: {ENDPOINTS}")


def _isPort(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and int(text) < 65536


def _isLoopback(text: str) -> bool:
    try:
        return "%" not in text and ip_address(text).is_loopback
    except ValueError:
        return False
