"""
What a program calls: connecting to apps of ours, over everything, and to plain servers.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import TimeoutError, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectionClosed, ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol

from sockapps.apps.command import CommandError, CommandFactory
from sockapps.apps.echo import EchoFactory
from sockapps.apps.hello import HelloFactory
from sockapps.apps.upper import UpperFactory
from sockapps.client import connect, findApp, whereIs
from sockapps.clientprotocol import UnexpectedReply
from sockapps.datagrams import DatagramSessions
from sockapps.globalreactor import globalReactor
from sockapps.options import DatagramOptions, StreamOptions
from sockapps.registry import SocketApp
from sockapps.streams import StreamSessions
from tests.sockets import Listen


def streams(factory: Any, **options: Any) -> StreamSessions:
    return StreamSessions(factory, StreamOptions(**options), globalReactor())


def datagrams(factory: Any) -> DatagramSessions:
    return DatagramSessions(factory, DatagramOptions(), globalReactor())


def at(port: Any, kind: str = "tcp") -> str:
    host = port.getHost()
    return f"{kind}:{host.host}:{host.port}"


@pytest.mark.parametrize("framing", ["line", "chunk", "netstring"])
@pytest_twisted.ensureDeferred
async def test_every_framing_of_a_client_is_answered(listening: Listen, framing: str) -> None:
    served = "auto" if framing != "netstring" else framing
    port = listening(streams(EchoFactory(), framing=served))
    client = await connect("echo", at(port), framing=framing)
    assert await client.echo(b"one") == b"one"
    assert await client.echo("grüße") == "grüße".encode()
    await client.disconnect()
    assert client.ended


@pytest_twisted.ensureDeferred
async def test_requests_sent_together_are_answered_in_their_order(listening: Listen) -> None:
    client = await connect("echo", at(listening(streams(EchoFactory()))))
    asked = [client.echo(b"%d" % number) for number in range(200)]
    assert await gatherResults(asked) == [b"%d" % number for number in range(200)]
    await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_datagrams_need_only_another_endpoint(listening: Listen) -> None:
    client = await connect("upper", at(listening(datagrams(UpperFactory())), "udp"))
    assert await client.upper("grün") == "GRÜN"
    await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_a_name_is_looked_up_for_datagrams_too(listening: Listen) -> None:
    port = listening(datagrams(UpperFactory())).getHost().port
    client = await connect("upper", f"udp:localhost:{port}")
    assert await client.upper("x") == "X"
    await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_an_endpoint_object_is_as_good_as_its_description(
    listening: Listen, tmp_path: Any
) -> None:
    path = str(tmp_path / "s")
    listening(streams(EchoFactory()), unix=path)
    client = await connect("echo", UNIXClientEndpoint(globalReactor(), path))
    assert await client.echo(b"local") == b"local"
    await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_a_command_client_lists_and_is_told_why_not(listening: Listen, tmp_path: Any) -> None:
    (tmp_path / "it's").touch()
    port = listening(streams(CommandFactory(root=str(tmp_path))))
    client = await connect("command", at(port))
    assert await client.ls("/") == ["it's"]
    with pytest.raises(CommandError, match="no such folder"):
        await client.ls("nowhere")
    await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_a_reply_longer_than_a_message_may_be_arrives(
    listening: Listen, tmp_path: Any
) -> None:
    for number in range(400):
        (tmp_path / f"{number:0100}").touch()
    port = listening(streams(CommandFactory(root=str(tmp_path))))
    client = await connect("command", at(port))
    assert len(await client.ls("/")) == 400
    await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_another_apps_reply_is_not_taken_for_ones_own(listening: Listen) -> None:
    client = await connect("echo", at(listening(streams(HelloFactory()))))
    with pytest.raises(UnexpectedReply, match="begins with"):
        await client.echo(b"x")
    await client.disconnect()


@pytest.mark.parametrize(
    ("framing", "message"),
    [("line", b"a\nb"), ("line", b"a\r"), ("line", b"a\r\0b"), ("chunk", b"")],
)
@pytest_twisted.ensureDeferred
async def test_a_message_that_would_not_arrive_as_one_is_refused(
    listening: Listen, framing: str, message: bytes
) -> None:
    client = await connect("echo", at(listening(streams(EchoFactory()))), framing=framing)
    with pytest.raises(ValueError, match="cannot be sent"):
        await client.echo(message)
    assert await client.echo(b"the next") == b"the next"
    await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_netstrings_carry_line_ends(listening: Listen) -> None:
    port = listening(streams(EchoFactory(), framing="netstring"))
    client = await connect("echo", at(port), framing="netstring")
    assert await client.echo(b"a\r\nb\n") == b"a\r\nb\n"
    assert await client.echo(b"") == b""
    await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_an_empty_datagram_is_not_sent(listening: Listen) -> None:
    client = await connect("upper", at(listening(datagrams(UpperFactory())), "udp"))
    with pytest.raises(ValueError, match="cannot be sent"):
        await client.request(b"")
    await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_a_reply_that_is_no_text_is_none_of_the_app(listening: Listen) -> None:
    class Binary(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(b"\xff\n")

    client = await connect("upper", at(listening(Factory.forProtocol(Binary))))
    with pytest.raises(UnexpectedReply, match="no UTF-8"):
        await client.upper("x")
    await client.disconnect()


class Silent(Protocol):
    """Read, and never answer."""


class Blunt(Protocol):
    """Close at the first word."""

    def dataReceived(self, data: bytes) -> None:
        self.transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_a_reply_that_takes_too_long_ends_the_connection(listening: Listen) -> None:
    client = await connect("echo", at(listening(Factory.forProtocol(Silent))), timeout=0.05)
    first, second = client.request(b"1"), client.request(b"2", timeout=60)
    with pytest.raises(TimeoutError):
        await first
    with pytest.raises(ConnectionClosed):
        await second
    with pytest.raises(ConnectionClosed):
        await client.request(b"3")


@pytest_twisted.ensureDeferred
async def test_a_server_that_closes_has_not_answered(listening: Listen) -> None:
    client = await connect("echo", at(listening(Factory.forProtocol(Blunt))))
    with pytest.raises(ConnectionClosed):
        await client.request(b"1")


@pytest_twisted.ensureDeferred
async def test_nobody_there_is_a_refused_connection(listening: Listen) -> None:
    port = listening(streams(EchoFactory()))
    where = port.getHost().port
    await port.stopListening()
    with pytest.raises(ConnectionRefusedError):
        await connect("echo", f"tcp:127.0.0.1:{where}")
    client = await connect("upper", f"udp:127.0.0.1:{where}")
    with pytest.raises(ConnectionRefusedError):
        await client.request(b"anybody?")


@pytest_twisted.ensureDeferred
async def test_connecting_has_a_time_limit(listening: Listen) -> None:
    class Never:
        def connect(self, factory: object) -> Any:
            from twisted.internet.defer import Deferred

            return Deferred()

    with pytest.raises(TimeoutError):
        await connect("echo", Never(), timeout=0.01)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("app", "options", "why"),
    [
        ("ecko", {}, "there is no app 'ecko'"),
        ("echo", {"framing": "auto"}, "a client's framing is line, chunk, netstring, not 'auto'"),
        ("echo", {"endpoint": "carrier:pigeon"}, "'carrier:pigeon' cannot be connected to"),
        ("echo", {"endpoint": "tcp:7000"}, "endpoints are like tcp:HOST:PORT"),
        ("echo", {"endpoint": "udp:host"}, "not written udp:HOST:PORT"),
        ("echo", {"endpoint": "udp:host:99999"}, "not written udp:HOST:PORT"),
    ],
)
def test_what_cannot_be_is_said_at_once(app: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        connect(app, **options)


@pytest.mark.parametrize(
    ("listens", "said", "where"),
    [
        ("tcp:7000:interface=127.0.0.1", None, "tcp:127.0.0.1:7000"),
        ("tcp:7000", None, "tcp:127.0.0.1:7000"),
        (r"udp:7000:interface=\:\:1", None, r"udp:\:\:1:7000"),
        ("unix:/run/x", None, "unix:/run/x"),
        ("udp:7000", "example.net:9", "udp:example.net:9"),
        ("tcp:7000", "example.net:9", "tcp:example.net:9"),
        ("tcp:7000", "udp:h:9", "udp:h:9"),
        ("tcp:7000", "unix:7", "unix:7"),
    ],
)
def test_where_an_app_is(listens: str, said: str | None, where: str) -> None:
    assert whereIs(SocketApp("x", "", listens, ""), said) == where


def test_an_app_that_does_not_say_where_it_is_must_be_told() -> None:
    with pytest.raises(ValueError, match="say where x is"):
        whereIs(SocketApp("x", "", "systemd:domain=INET:index=0", ""), None)
    assert findApp("echo").name == "echo"


@pytest_twisted.ensureDeferred
async def test_an_endpoint_of_plain_tcp_speaks_to_a_plain_server(listening: Listen) -> None:
    host = listening(EchoFactory()).getHost()
    client = await connect(
        "echo", TCP4ClientEndpoint(globalReactor(), host.host, host.port), framing="chunk"
    )
    assert await client.request(b"x") == b"Echo=>x"
    await client.disconnect()
