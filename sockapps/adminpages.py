"""
What the admin listener answers: how the daemon is, and who is connected; and two orders.

Of what comes from peers, only their addresses are in any answer, as JSON in ASCII; of what comes
from who asks, nothing.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from heapq import nlargest, nsmallest
from hmac import compare_digest
from importlib.metadata import version
from ipaddress import ip_address
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from sockapps.datagram import DatagramSession
from sockapps.limits import sourceOf
from sockapps.metrics import makeRegistry, reasons, services, totals
from sockapps.printable import placeOf
from sockapps.settings import keysOf

if TYPE_CHECKING:
    from sockapps.limits import Sources
    from sockapps.listening import Listening
    from sockapps.metrics import Sessions

SHOWN, MOST_SHOWN = 1000, 2000
"""Sessions that are listed where nobody says how many, and at most: 2000 take some 40 ms."""

TURN = 64
"""Sessions closed before those of others get their turn."""

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
METRICS = "text/plain; version=0.0.4; charset=utf-8"

INDEX = """\
sockapps {version}

GET  /metrics                          for Prometheus
GET  /healthz                          200 where every service listens, else 503
GET  /services.json                    the services: what they did, and their limits
GET  /sessions.json?limit=N&order=…    who is connected: newest (default) or longest first
POST /sessions/NUMBER/close            close one session
POST /sources/ADDRESS/close            close all of an IPv4 address or an IPv6 /64

POST takes the header "Authorization: Bearer TOKEN".
"""


@attrs.frozen
class Answer:
    """
    What is sent back.
    """

    code: int
    body: bytes
    type: str = JSON
    headers: Mapping[str, str] = MappingProxyType({})


class Pages(Resource):
    """
    All that can be asked for.

    @param token: What orders take; C{None}: they are refused.
    @param browsable: Whether a web browser could be brought to come here, as to a TCP port.
    """

    isLeaf = True

    def __init__(
        self,
        listenings: Sequence[Listening],
        sources: Sources,
        token: bytes | None,
        reactor: Any,
        browsable: bool,
    ) -> None:
        super().__init__()
        self._listenings = listenings
        self._sources = sources
        self._token = token
        self._reactor = reactor
        self._browsable = browsable
        self._registry = makeRegistry(listenings, sources)
        self._seen: dict[str, Callable[[Request], Answer]] = {
            "": lambda _: _text(200, INDEX.format(version=version("sockapps"))),
            "metrics": self._metrics,
            "healthz": self._health,
            "services.json": self._services,
            "sessions.json": self._sessions,
        }

    def render(self, request: Request) -> int:
        """Answer one request."""
        request.responseHeaders.removeHeader(b"Server")
        answer = self._answer(request)
        request.setResponseCode(answer.code)
        headers = {
            "Cache-Control": "no-store",
            "Content-Length": str(len(answer.body)),
            "Content-Type": answer.type,
            "X-Content-Type-Options": "nosniff",
            **answer.headers,
        }
        for name, value in headers.items():
            request.setHeader(name, value)
        request.write(answer.body)  # which is left out where it is HEAD that asks
        request.finish()
        return NOT_DONE_YET

    def _answer(self, request: Request) -> Answer:
        hosts = request.requestHeaders.getRawHeaders(b"Host") or []
        if self._browsable and not all(map(_isHere, hosts)):
            # A page from elsewhere whose name was made to lead here (DNS rebinding).
            return _no(421, "the Host is not this machine")
        path = [part.decode("ascii", "replace") for part in request.postpath or ()]
        see = self._seen.get("/".join(path))
        if see is not None:
            if request.method not in (b"GET", b"HEAD"):
                return _no(405, "it can be read only", Allow="GET, HEAD")
            return see(request)
        if len(path) != 3 or path[0] not in ("sessions", "sources") or path[2] != "close":
            return _no(404, "there is no such page; / lists them")
        if request.method != b"POST":
            return _no(405, "it takes a POST", Allow="POST")
        close = self._closeSession if path[0] == "sessions" else self._closeSource
        return self._refusal(request) or close(path[1])

    def _refusal(self, request: Request) -> Answer | None:
        """Tell who may not give orders why."""
        if self._token is None:
            return _no(403, "no token_file is set in [admin], so nobody can give orders")
        given = request.requestHeaders.getRawHeaders(b"Authorization") or []
        if len(given) == 1:
            scheme, _, token = given[0].partition(b" ")
            if scheme.lower() == b"bearer" and compare_digest(token.strip(), self._token):
                return None
        return _no(
            401,
            "it takes the header Authorization: Bearer TOKEN, with the token of token_file",
            **{"WWW-Authenticate": 'Bearer realm="sockapps"'},
        )

    # To see

    def _metrics(self, request: Request) -> Answer:
        # Not choose_encoder of prometheus_client, which fails on a version that is no number.
        accepted = b",".join(request.requestHeaders.getRawHeaders(b"Accept") or [])
        kinds = {kind.partition(b";")[0].strip().lower() for kind in accepted.split(b",")}
        if b"application/openmetrics-text" in kinds:
            body = openmetrics.generate_latest(self._registry)
            return Answer(200, body, openmetrics.CONTENT_TYPE_LATEST)
        return Answer(200, generate_latest(self._registry), METRICS)

    def _health(self, _: Request) -> Answer:
        missing = [
            {"service": listening.service, "endpoint": listening.description}
            for listening in self._listenings
            if listening.port is None
        ]
        return _json(503, {"not_listening": missing}) if missing else _text(200, "ok\n")

    def _services(self, _: Request) -> Answer:
        sources = self._sources
        return _json(
            200,
            {
                "version": version("sockapps"),
                "connections": sources.connections,
                "sources_penalized": sources.penalized,
                "penalties": dict(sources.penalties),
                "limits": _options(sources.options),
                "services": [_service(*each) for each in services(self._listenings)],
            },
        )

    def _sessions(self, request: Request) -> Answer:
        args = {
            name: values[-1].decode("ascii", "replace") for name, values in request.args.items()
        }
        limit = args.get(b"limit", str(SHOWN))
        choose: Any = {"newest": nlargest, "longest": nsmallest}.get(args.get(b"order", "newest"))
        if not (limit.isdecimal() and len(limit) < 10 and 0 < int(limit) <= MOST_SHOWN):
            return _no(400, f"limit is a number from 1 to {MOST_SHOWN}")
        if choose is None:
            return _no(400, "order is newest or longest")
        every = list(self._open())
        now, clock = self._reactor.seconds(), time.time()
        chosen = choose(int(limit), every, key=lambda each: each[1].began)
        return _json(
            200,
            {
                "open": len(every),
                "sessions": [
                    _session(listening, session, now, clock) for listening, session in chosen
                ],
            },
        )

    def _open(self) -> Iterator[tuple[Listening, Any]]:
        for listening, sessions in services(self._listenings):
            for session in sessions.open():
                yield listening, session

    # To do

    def _closeSession(self, number: str) -> Answer:
        for listening, session in self._open():
            if str(session.number) == number:
                session.cut("operator")
                return _json(200, {"closed": 1, "service": listening.service})
        return _no(404, "there is no such session now")

    def _closeSource(self, address: str) -> Answer:
        try:
            source = sourceOf(address)
        except ValueError:
            return _no(400, "it is no IP address")
        theirs = [session for _, session in self._open() if _isFrom(session, source)]
        self._closeSome(iter(theirs))
        return _json(200, {"closed": len(theirs), "source": source})

    def _closeSome(self, sessions: Iterator[Any]) -> None:
        """Close some sessions now, and the others when everybody else had a turn."""
        some = list(islice(sessions, TURN))
        for session in some:
            session.cut("operator")
        if len(some) == TURN:
            self._reactor.callLater(0, self._closeSome, sessions)


def _json(code: int, value: object, **headers: str) -> Answer:
    return Answer(code, json.dumps(value).encode() + b"\n", headers=headers)


def _text(code: int, text: str) -> Answer:
    return Answer(code, text.encode(), TEXT)


def _no(code: int, why: str, **headers: str) -> Answer:
    return _json(code, {"error": why}, **headers)


def _isHere(host: bytes) -> bool:
    """Tell whether a C{Host} names this machine, as what listens on loopback is called."""
    # All of what stands before a port; an IPv6 address is in brackets.
    found = re.fullmatch(r"(?:\[(.+)\]|([^:]+))(?::[0-9]*)?", host.decode("latin-1"))
    name = (found[1] or found[2]).lower() if found else ""
    try:
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _service(listening: Listening, sessions: Sessions) -> dict[str, object]:
    admission: Any = sessions.admission  # only a client's own sessions have none
    return {
        "service": listening.service,
        "app": listening.app,
        "endpoint": listening.description,
        "framing": listening.framing,
        "address": listening.port and placeOf(listening.port.getHost()),
        **totals(sessions),
        **reasons(sessions),
        "limits": {**_options(admission.options), **_options(sessions.options)},
    }


def _session(listening: Listening, session: Any, now: float, clock: float) -> dict[str, object]:
    lasted = now - session.began
    began = datetime.fromtimestamp(clock - lasted, UTC).isoformat(timespec="milliseconds")
    everybodys = _isEverybodys(session)
    return {
        "session": session.number,
        "service": listening.service,
        "peer": None if everybodys else placeOf(session.getPeer()),
        "source": None if everybodys else session.source,
        "began": began,
        "duration": round(lasted, 3),
        "messages": session.messages,
        "received": session.received,
        "sent": session.sent,
    }


def _isEverybodys(session: Any) -> bool:
    """Tell whether it is the one session of an app whose messages, over UDP, stand alone."""
    return isinstance(session, DatagramSession) and session.shared


def _isFrom(session: Any, source: str) -> bool:
    """Tell whether a session's peer counts as a source, be it exempt from limits or not."""
    if _isEverybodys(session):
        return False
    if session.source is not None:
        return bool(session.source == source)
    host = getattr(session.getPeer(), "host", None)
    return host is not None and sourceOf(host) == source


def _options(options: Any) -> dict[str, object]:
    """Write options as the keys that set them."""
    keys = keysOf(type(options))
    return {name: getattr(options, key.field.name) for name, key in keys.items()}
