"""
The admin listener: what it answers to whom, and how little whoever asks can make it do.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from sockapps.admin import AdminOptions, makeAdmin
from sockapps.adminpages import TURN
from sockapps.adminsite import CONNECTIONS, MAX_BODY, TIMEOUT, AdminSite
from sockapps.limits import Sources
from sockapps.listening import StartError
from sockapps.options import ProcessOptions
from sockapps.settings import SettingsError, tableSettings
from tests.operators import TOKEN, administering, offering, talking
from tests.peers import TCP, UDP, logged
from tests.sockets import Connect, Speak, turns, until


@pytest.fixture
def tokenFile(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


# To see


@pytest_twisted.ensureDeferred
async def test_the_first_page_lists_the_others(connected: Connect) -> None:
    async with administering(connected) as admin:
        said = await admin.ask("/")
        assert said.status == 200
        assert said.headers["Content-Type"] == "text/plain; charset=utf-8"
        paths = re.findall(rb"GET +/(\S+)", said.body)
        assert len(paths) == 4
        for path in paths:
            assert (await admin.ask(f"/{path.decode().partition('?')[0]}")).status == 200


@pytest_twisted.ensureDeferred
async def test_metrics_are_text_for_prometheus_or_open_metrics_for_who_takes_that(
    connected: Connect,
) -> None:
    async with offering() as offered, administering(connected, offered) as admin:
        await talking(connected, offered.add("echo"))
        plain = await admin.ask("/metrics", "Accept: text/plain;version=1.0.0, */*")
        opened = await admin.ask(
            "/metrics", "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3"
        )
        odd = await admin.ask("/metrics", "Accept: application/openmetrics-text;version=x, \xff")
    assert plain.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    sample = f'sockapps_messages_total{{endpoint="{TCP}",service="echo"}} 1.0\n'
    assert sample.encode() in plain.body
    kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert opened.headers["Content-Type"] == odd.headers["Content-Type"] == kind
    assert opened.body.endswith(b"# EOF\n")


@pytest_twisted.ensureDeferred
async def test_health_is_good_while_every_service_listens_and_names_those_that_do_not(
    connected: Connect,
) -> None:
    async with offering() as offered, administering(connected, offered) as admin:
        offered.add("echo")
        chat = offered.add("chat", UDP)
        good = await admin.ask("/healthz")
        assert (good.status, good.body) == (200, b"ok\n")
        await chat.stopService()
        bad = await admin.ask("/healthz")
        assert bad.status == 503
        assert bad.json == {"not_listening": [{"service": "chat", "endpoint": UDP}]}


@pytest_twisted.ensureDeferred
async def test_services_tell_what_they_did_and_what_their_limits_are(connected: Connect) -> None:
    async with offering() as offered, administering(connected, offered) as admin:
        echo = offered.add("echo", framing="line", max_connections=7, allow=["127.0.0.0/8"])
        offered.add("upper", UDP, max_peers=9)
        await talking(connected, echo, 2)
        said = (await admin.ask("/services.json")).json
        address = echo.port.getHost()
    first, second = said["services"]
    assert said["connections"] == first["sessions_open"] == first["sessions"] == 2
    assert said["limits"]["exempt"] == ["127.0.0.0/8", "::1"]
    assert (first["service"], first["app"], first["endpoint"]) == ("echo", "echo", TCP)
    assert (first["framing"], first["address"]) == ("line", f"127.0.0.1:{address.port}")
    assert (first["messages"], first["received_bytes"]) == (2, 6)
    assert first["limits"]["max_connections"] == 7
    assert first["limits"]["allow"] == ["127.0.0.0/8"]
    assert "datagrams_dropped" not in first
    assert (second["framing"], second["limits"]["max_peers"]) == ("datagram", 9)
    assert set(second["datagrams_dropped"].values()) == {0}


@pytest_twisted.ensureDeferred
async def test_sessions_are_listed_the_newest_first_or_the_longest_and_so_many_as_wanted(
    connected: Connect,
) -> None:
    async with offering() as offered, administering(connected, offered) as admin:
        echo, other = offered.add("echo"), offered.add("echo")
        peers = [(await talking(connected, each))[0] for each in (echo, other, echo)]
        ports = [f"127.0.0.1:{peer.transport.getHost().port}" for peer in peers]

        async def listed(query: str) -> list[str]:
            said = (await admin.ask(f"/sessions.json{query}")).json
            assert said["open"] == 3
            return [each["peer"] for each in said["sessions"]]

        assert await listed("") == ports[::-1]
        assert await listed("?limit=2&order=newest") == ports[:0:-1]
        assert await listed("?limit=2&order=longest") == ports[:2]


@pytest_twisted.ensureDeferred
async def test_a_session_is_listed_with_what_it_did(connected: Connect, speaking: Speak) -> None:
    async with (
        offering(ProcessOptions(exempt=())) as offered,
        administering(connected, offered) as admin,
    ):
        await talking(connected, offered.add("echo"))
        peer = speaking(offered.add("chat", UDP).port)
        peer.send(b"hi")
        await peer.receive()
        second, first = (await admin.ask("/sessions.json")).json["sessions"]
    began = datetime.fromisoformat(first["began"])
    assert abs((datetime.now(UTC) - began).total_seconds() - first["duration"]) < 5
    assert first["service"] == "echo"
    assert first["source"] == second["source"] == "127.0.0.1"
    assert (first["messages"], first["received"], first["sent"]) == (1, 3, 8)
    assert second["peer"] == f"127.0.0.1:{peer.transport.getHost().port}"
    assert (second["messages"], second["received"]) == (1, 2)
    assert second["session"] != first["session"]


@pytest_twisted.ensureDeferred
async def test_a_session_of_nobody_in_particular_has_no_peer(
    connected: Connect, speaking: Speak, tmp_path: Path, tokenFile: Path
) -> None:
    async with (
        offering() as offered,
        administering(connected, offered, tokenFile=tokenFile) as admin,
    ):
        await talking(connected, offered.add("echo", f"unix:{tmp_path}/s"))
        peer = speaking(offered.add("upper", UDP).port)
        peer.send(b"hi")
        await peer.receive()
        sessions = (await admin.ask("/sessions.json")).json["sessions"]
        assert [(each["peer"], each["source"]) for each in sessions] == [(None, None)] * 2
        # The one session of upper is everybody's, not only that of who spoke last.
        said = await admin.order("/sources/127.0.0.1/close")
        assert said.json == {"closed": 0, "source": "127.0.0.1"}


@pytest.mark.parametrize("query", ["limit=0", "limit=2001", "limit=-1", "limit=x", "limit=%C2%B2"])
@pytest_twisted.ensureDeferred
async def test_a_limit_out_of_range_is_refused(connected: Connect, query: str) -> None:
    async with administering(connected) as admin:
        said = await admin.ask(f"/sessions.json?{query}")
        assert said.status == 400
        assert said.json == {"error": "limit is a number from 1 to 2000"}


@pytest_twisted.ensureDeferred
async def test_an_order_there_is_not_is_refused(connected: Connect) -> None:
    async with administering(connected) as admin:
        said = await admin.ask("/sessions.json?order=best")
        assert (said.status, said.json) == (400, {"error": "order is newest or longest"})


@pytest_twisted.ensureDeferred
async def test_it_answers_while_the_process_lets_nobody_else_in(connected: Connect) -> None:
    async with (
        offering(ProcessOptions(maxConnections=1)) as offered,
        administering(connected, offered) as admin,
    ):
        echo = offered.add("echo")
        await talking(connected, echo)
        refused = await connected(echo.port)
        await refused.closed
        [said] = (await admin.ask("/services.json")).json["services"]
        assert (said["sessions_open"], said["refused"]["process"]) == (1, 1)


# To do


@pytest_twisted.ensureDeferred
async def test_one_session_is_closed_by_its_number(connected: Connect, tokenFile: Path) -> None:
    async with (
        offering() as offered,
        administering(connected, offered, tokenFile=tokenFile) as admin,
    ):
        echo: Any = offered.add("echo")
        first, second = await talking(connected, echo, 2)
        number = (await admin.ask("/sessions.json?order=longest")).json["sessions"][0]["session"]
        said = await admin.order(f"/sessions/{number}/close")
        assert (said.status, said.json) == (200, {"closed": 1, "service": "echo"})
        await first.closed
        second.send(b"still\n")
        assert await second.receiveUntil(b"\n") == b"Echo=>still\n"
        assert (await admin.order(f"/sessions/{number}/close")).status == 404
        assert echo.sessions.counts.ended == {"operator": 1}


@pytest_twisted.ensureDeferred
async def test_all_sessions_of_a_source_are_closed_however_many_and_however_it_is_written(
    connected: Connect, tokenFile: Path
) -> None:
    async with (
        offering() as offered,
        administering(connected, offered, tokenFile=tokenFile) as admin,
    ):
        echo: Any = offered.add("echo")
        peers = await talking(connected, echo, TURN + 6)
        none = await admin.order("/sources/192.0.2.1/close")
        assert none.json == {"closed": 0, "source": "192.0.2.1"}
        said = await admin.order("/sources/::ffff:127.0.0.1/close")
        assert said.json == {"closed": TURN + 6, "source": "127.0.0.1"}
        for peer in peers:
            await peer.closed
        await until(lambda: not echo.sessions.open(), "all sessions ended")
        assert echo.sessions.counts.ended == {"operator": TURN + 6}


@pytest_twisted.ensureDeferred
async def test_a_source_is_closed_at_every_service_and_no_other_source(
    connected: Connect, speaking: Speak, tokenFile: Path, tmp_path: Path
) -> None:
    async with (
        offering(ProcessOptions(exempt=["::1"])) as offered,
        administering(connected, offered, tokenFile=tokenFile) as admin,
    ):
        four, six, local = (
            offered.add("echo", listen)
            for listen in (TCP, "tcp:0:interface=\\:\\:1", f"unix:{tmp_path}/s")
        )
        for listening in (four, six, local):
            await talking(connected, listening)
        chat = offered.add("chat", UDP)
        peer = speaking(chat.port)
        peer.send(b"hi")
        await peer.receive()

        async def left(source: str, closed: int) -> list[int]:
            said = await admin.order(f"/sources/{source}/close")
            assert said.json["closed"] == closed
            await turns(2)
            every: list[Any] = [each.sessions for each in (four, six, local, chat)]
            return [len(sessions.open()) for sessions in every]

        assert await left("::%2F64", 1) == [1, 0, 1, 1]
        assert await left("127.0.0.1", 2) == [0, 0, 1, 0]


@pytest.mark.parametrize("address", ["nobody", "", "127.0.0.1%2F8", "%00", "1.2.3.4,5.6.7.8"])
@pytest_twisted.ensureDeferred
async def test_a_source_that_is_no_address_is_refused(
    connected: Connect, tokenFile: Path, address: str
) -> None:
    async with administering(connected, tokenFile=tokenFile) as admin:
        bad = await admin.order(f"/sources/{address}/close")
        assert (bad.status, bad.json) == (400, {"error": "it is no IP address"})


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Authorization: Bearer wrong",),
        (f"Authorization: Bearer {TOKEN}x",),
        (f"Authorization: Bearer {TOKEN[:-1]}",),
        (f"Authorization: Basic {TOKEN}",),
        (f"Authorization: {TOKEN}",),
        ("Authorization: Bearer \xff\xfe",),
        (f"Authorization: Bearer {TOKEN}", "Authorization: Bearer wrong"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_order_takes_the_token(
    connected: Connect, tokenFile: Path, headers: Sequence[str]
) -> None:
    async with (
        offering() as offered,
        administering(connected, offered, tokenFile=tokenFile) as admin,
    ):
        echo: Any = offered.add("echo")
        await talking(connected, echo)
        number = echo.sessions.open()[0].number
        for path in (f"/sessions/{number}/close", "/sources/127.0.0.1/close"):
            said = await admin.ask(path, *headers, method="POST")
            assert said.status == 401
            assert said.headers["WWW-Authenticate"] == 'Bearer realm="sockapps"'
            assert "error" in said.json
        await turns(2)
        assert len(echo.sessions.open()) == 1


@pytest_twisted.ensureDeferred
async def test_the_scheme_is_written_in_any_case(connected: Connect, tokenFile: Path) -> None:
    async with administering(connected, tokenFile=tokenFile) as admin:
        said = await admin.order("/sessions/1/close", f"authorization: bEARER {TOKEN}")
        assert said.status == 404


@pytest_twisted.ensureDeferred
async def test_without_a_token_file_nobody_gives_orders(connected: Connect) -> None:
    async with offering() as offered, administering(connected, offered) as admin:
        echo: Any = offered.add("echo")
        await talking(connected, echo)
        said = await admin.order("/sources/127.0.0.1/close", "Authorization: Bearer ")
        assert said.status == 403
        assert "token_file" in said.json["error"]
        await turns(2)
        assert len(echo.sessions.open()) == 1


# To whom, and how


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("POST", "/metrics", 405, "GET, HEAD"),
        ("DELETE", "/sessions.json", 405, "GET, HEAD"),
        ("OPTIONS", "/", 405, "GET, HEAD"),
        ("GET", "/sessions/1/close", 405, "POST"),
        ("HEAD", "/sources/::1/close", 405, "POST"),
        ("GET", "/nothing", 404, None),
        ("GET", "/metrics/", 404, None),
        ("POST", "/sessions/1", 404, None),
        ("OPTIONS", "*", 404, None),
        ("GET", "/<script>%00%1b%e2%80%ae", 404, None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_done_is_refused_without_a_word_of_what_was_asked(
    connected: Connect, method: str, path: str, status: int, allow: str | None
) -> None:
    async with administering(connected) as admin:
        said = await admin.ask(path, method=method)
        assert said.status == status
        assert said.headers.get("Allow") == allow
        assert said.headers["Content-Type"] == "application/json"
        assert b"script" not in said.body


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/services.json", "/nothing"])
@pytest_twisted.ensureDeferred
async def test_head_has_the_headers_alone(connected: Connect, path: str) -> None:
    async with administering(connected) as admin:
        got, head = await admin.ask(path), await admin.ask(path, method="HEAD")
        assert (head.status, head.body) == (got.status, b"")
        assert head.headers["Content-Type"] == got.headers["Content-Type"]
        assert int(head.headers["Content-Length"]) > 0


@pytest_twisted.ensureDeferred
async def test_answers_are_kept_by_nobody_and_tell_nothing_of_the_server(
    connected: Connect,
) -> None:
    async with administering(connected) as admin:
        for path in ("/", "/metrics", "/nothing", "*"):
            headers = (await admin.ask(path)).headers
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert not headers.keys() & {"Server", "X-Powered-By", "Set-Cookie"}
        assert b"Twisted" not in await admin.raw(b"nonsense\r\n\r\n")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9090", 200),
        ("127.0.0.1:9090", 200),
        ("127.9.9.9", 200),
        ("[::1]:9090", 200),
        ("evil.example", 421),
        ("evil.example:9090", 421),
        ("localhost.evil.example", 421),
        ("localhost:1:2", 421),
        ("192.0.2.1", 421),
        ("[2001:db8::1]", 421),
        ("", 421),
        ("\xff", 421),
    ],
)
@pytest_twisted.ensureDeferred
async def test_over_tcp_a_host_that_is_not_this_machine_is_turned_away(
    connected: Connect, host: str, status: int
) -> None:
    async with administering(connected) as admin:
        assert (await admin.ask("/services.json", host=host)).status == status


@pytest_twisted.ensureDeferred
async def test_one_wrong_host_among_several_is_enough_and_none_will_do(connected: Connect) -> None:
    async with administering(connected) as admin:
        assert (await admin.ask("/healthz", "Host: evil.example")).status == 421
        # What a load balancer's check sends.
        assert (await admin.raw(b"GET /healthz HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nok\n")


@pytest_twisted.ensureDeferred
async def test_over_a_unix_socket_the_host_is_of_no_matter_and_only_this_user_comes(
    connected: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "admin"
    async with administering(connected, listen=f"unix:{path}") as admin:
        assert path.stat().st_mode & 0o777 == 0o600
        assert (await admin.ask("/healthz", host="whatever")).status == 200
    assert not path.exists()
    async with administering(connected, listen=f"unix:{path}:mode=660"):
        assert path.stat().st_mode & 0o777 == 0o660


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_that_a_killed_daemon_has_left_is_taken_over_and_no_other(
    connected: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "admin"
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / "admin.lock").symlink_to(str(gone.pid))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with administering(connected, listen=f"unix:{path}") as admin:
        assert (await admin.ask("/healthz")).status == 200
        with pytest.raises(StartError, match="another program listens there"):
            async with administering(connected, listen=f"unix:{path}"):
                pass
        assert (await admin.ask("/healthz")).status == 200


@pytest_twisted.ensureDeferred
async def test_one_connection_gets_one_answer_whatever_it_asks_besides(connected: Connect) -> None:
    async with administering(connected) as admin:
        said = await admin.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        assert said.count(b"HTTP/1.1 200 OK") == 1
        assert b"Connection: close" in said


CHUNKS = (b"800\r\n%s\r\n" % (b"x" * 2048)) * 3


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1),
        b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1) + b"x" * (MAX_BODY + 1),
        b"Content-Length: 99999999999999999999\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
        b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS + b"0\r\n\r\n",
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_body_that_is_too_long_is_refused_and_nothing_else_said(
    connected: Connect, body: bytes
) -> None:
    async with administering(connected) as admin:
        said = await admin.raw(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + body)
        assert said.startswith(b"HTTP/1.1 413 Content Too Large\r\n")
        assert said.count(b"HTTP/1.1") == 1


@pytest_twisted.ensureDeferred
async def test_a_short_body_does_no_harm(connected: Connect, tokenFile: Path) -> None:
    async with administering(connected, tokenFile=tokenFile) as admin:
        for body in (
            f"Content-Length: {MAX_BODY}\r\n\r\n" + "x" * MAX_BODY,
            "Content-Length: 0\r\n",
        ):
            assert (
                await admin.order("/sessions/1/close", f"Authorization: Bearer {TOKEN}", body)
            ).status == 404


@pytest_twisted.ensureDeferred
async def test_headers_that_go_on_and_on_end_the_connection(connected: Connect) -> None:
    async with administering(connected) as admin:
        said = await admin.raw(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000)
        assert said == b"HTTP/1.1 400 Bad Request\r\n\r\n"


@pytest_twisted.ensureDeferred
async def test_the_oldest_connection_makes_room_for_one_too_many(connected: Connect) -> None:
    async with administering(connected) as admin:
        idle = [await connected(admin.listening.port) for _ in range(CONNECTIONS)]
        for peer in idle:
            peer.send(b"GET / ")  # never comes to an end
        assert (await admin.ask("/healthz")).status == 200
        await idle[0].closed
        assert idle[1].reason is None


@pytest.mark.parametrize("answers", [False, True])
def test_a_silent_connection_is_closed_and_aborted_if_that_takes_too_long(answers: bool) -> None:
    clock = Clock()
    site: Any = AdminSite(Resource(), clock)
    channel = site.buildProtocol(None)
    transport: Any = StringTransport()
    channel.makeConnection(transport)
    clock.advance(TIMEOUT - 1)
    channel.dataReceived(b"GET")
    clock.advance(TIMEOUT - 1)
    assert not transport.disconnecting
    clock.advance(1)
    assert transport.disconnecting
    if answers:
        channel.connectionLost(Failure(ConnectionDone()))
    clock.advance(channel.abortTimeout)
    assert transport.disconnected is not answers
    assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_it_is_no_service_where_it_is_listed_among_them(connected: Connect) -> None:
    async with offering() as offered, administering(connected, offered) as admin:
        offered.listenings.append(admin.listening)
        try:
            assert (await admin.ask("/healthz")).status == 200
            assert (await admin.ask("/services.json")).json["services"] == []
            assert b"admin" not in (await admin.ask("/metrics")).body
        finally:
            offered.listenings.clear()


@pytest_twisted.ensureDeferred
async def test_who_is_connected_is_cut_off_when_it_stops_listening(connected: Connect) -> None:
    async with administering(connected) as admin:
        peer = await connected(admin.listening.port)
        peer.send(b"GET /")
        await until(lambda: admin.listening.port.factory.channels, "it was accepted")
    await peer.closed


@pytest_twisted.ensureDeferred
async def test_nothing_is_logged_of_requests_and_the_token_never(
    connected: Connect, tokenFile: Path
) -> None:
    with logged() as events:
        async with administering(connected, tokenFile=tokenFile) as admin:
            await admin.ask("/metrics")
            await admin.order("/sessions/1/close")
            await admin.order("/sessions/1/close", "Authorization: Bearer canary-canary-canary")
            await admin.ask("/healthz?token=canary-canary-canary")
            await admin.raw(b"canary-canary-canary\r\n\r\n")
        assert [event["log_format"] for event in events if "listens on" in event["log_format"]]
    assert not events.tells(TOKEN)
    assert not events.tells("canary")
    assert not events.tells("/metrics")


# How it is set up


@pytest.mark.parametrize(
    "listen",
    [
        "tcp:9090",
        "tcp:9090:interface=0.0.0.0",
        "tcp:9090:interface=192.0.2.1",
        "tcp:9090:interface=\\:\\:",
        "tcp:9090:interface=localhost",
        "tcp:9090:interface=",
        "tcp:99999:interface=127.0.0.1",
        "tcp:x:interface=127.0.0.1",
        "tcp:9090:interface=127.0.0.1:backlog=5",
        "unix:",
        "unix:/run/a:mode=9",
        "unix:/run/a:0666",
        "udp:9090:interface=127.0.0.1",
        "ssl:9090:interface=127.0.0.1",
        "9090",
    ],
)
def test_it_listens_on_this_machine_only(listen: str) -> None:
    with pytest.raises(SettingsError) as refused:
        tableSettings(AdminOptions, {"listen": listen}, "a.toml: admin")
    said = str(refused.value)
    assert said.startswith("a.toml: admin.listen: must be on this machine only: tcp:PORT:interface")
    assert said.endswith(f", not {listen!r}")


def test_it_is_off_unless_configured() -> None:
    assert tableSettings(AdminOptions, {}, "admin") == AdminOptions(listen="", tokenFile="")


@pytest.mark.parametrize("listen", ["tcp:0:interface=\\:\\:1", "tcp:0:interface=127.0.0.9"])
@pytest_twisted.ensureDeferred
async def test_it_listens_on_any_address_of_loopback(connected: Connect, listen: str) -> None:
    async with administering(connected, listen=listen) as admin:
        assert (await admin.ask("/healthz")).status == 200


@pytest_twisted.ensureDeferred
async def test_a_port_in_use_is_one_clear_error(connected: Connect) -> None:
    async with administering(connected) as admin:
        port = admin.listening.port.getHost().port
        with pytest.raises(StartError) as refused:
            async with administering(connected, listen=f"tcp:{port}:interface=127.0.0.1"):
                pass
    assert str(refused.value).startswith("admin cannot listen: Address already in use")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o666, 0o777])
def test_a_token_that_others_may_use_is_refused(tokenFile: Path, mode: int) -> None:
    tokenFile.chmod(mode)
    assert refusal(tokenFile) == (
        f"token_file: others may use {tokenFile}, mode {mode:o}; chmod o= {tokenFile}"
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"short",
        b"x" * 1026,
        b"two words are no token",
        b"\xff" * 20,
        b"a" * 20 + b"\nb",
    ],
)
def test_what_is_no_token_is_refused_and_not_shown(tokenFile: Path, content: bytes) -> None:
    tokenFile.write_bytes(content)
    said = refusal(tokenFile)
    assert said.startswith(f"token_file: {tokenFile} must hold 16 to 1024 letters, digits")
    assert "short" not in said
    assert "words" not in said


def test_a_token_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no") == f"token_file: {tmp_path}/no: No such file or directory"
    assert refusal(tmp_path) == f"token_file: {tmp_path}: Is a directory"
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert refusal(tmp_path / "pipe") == f"token_file: {tmp_path}/pipe is no regular file"


def refusal(tokenFile: Path) -> str:
    """Say why an admin listener cannot be made."""
    options = AdminOptions(listen=TCP, tokenFile=str(tokenFile))
    with pytest.raises(ValueError, match=r"^token_file: ") as refused:
        makeAdmin(options, [], Sources(ProcessOptions(), Clock().seconds), Clock())
    return str(refused.value)
