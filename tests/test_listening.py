"""
An endpoint description becomes a service that listens there: all of them, or none.
"""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.logger import LogLevel, eventAsText

from sockapps.listening import BACKLOG, AllOrNone, Listening, StartError, listenings
from sockapps.settings import SettingsError, serviceSettings
from tests.certificates import makeCertificate
from tests.peers import TCP, UDP, Logged, logged
from tests.sockets import Connect, Speak, until

pytestmark = [
    # pyOpenSSL would rather have Twisted use something else.
    pytest.mark.filterwarnings("ignore:.*(X509|pyOpenSSL):DeprecationWarning"),
    # Twisted leaves a socket that could not be bound to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*<socket.socket:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collect() -> Iterator[None]:
    """Free what failed while the filter above counts."""
    yield
    gc.collect()


@pytest.fixture
def log() -> Iterator[Logged]:
    with logged() as events:
        yield events


Make = Callable[..., list[Listening]]


@pytest.fixture
def made() -> Iterator[Make]:
    """Make the listenings of a service, and stop them with the test."""
    from twisted.internet import reactor

    every: list[Listening] = []

    def make(app: str, *descriptions: str, **options: object) -> list[Listening]:
        settings = serviceSettings(app, {"listen": list(descriptions), **options})
        ours = listenings(settings, reactor)
        every.extend(ours)
        return ours

    yield make
    for listening in every:
        pytest_twisted.blockon(listening.stopService())


def told(log: Logged) -> list[str]:
    """What the log says in lines of ours."""
    return [
        eventAsText(event, includeTimestamp=False, includeSystem=False)
        for event in log
        if event["log_namespace"].startswith("sockapps.")
    ]


@pytest.mark.parametrize(
    ("description", "address"),
    [
        (TCP, "127.0.0.1:{port}"),
        (r"tcp:0:interface=\:\:1", "[::1]:{port}"),
        (r"tcp6:0:interface=\:\:1", "[::1]:{port}"),
        ("unix:{folder}/s", "{folder}/s"),
        ("ssl:0:interface=127.0.0.1:privateKey={folder}/localhost.pem", "127.0.0.1:{port}"),
        ("tls:{folder}:0:interface=127.0.0.1", "127.0.0.1:{port}"),
        ("tls:port=0:interface=127.0.0.1:path={folder}", "127.0.0.1:{port}"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_every_kind_of_stream_endpoint_is_listened_on(
    made: Make, connected: Connect, log: Logged, tmp_path: Path, description: str, address: str
) -> None:
    pem = makeCertificate(tmp_path)
    description = description.replace("{folder}", str(tmp_path))
    [listening] = made("echo", description, framing="line")
    listening.startService()
    host = listening.port.getHost()
    where = address.format(port=getattr(host, "port", ""), folder=tmp_path)
    assert told(log) == [f"echo listens on {description} at {where}, framing line"]
    assert listening.port.backlog == BACKLOG

    tls = None
    if description.startswith(("ssl", "tls")):
        tls = optionsForClientTLS("localhost", Certificate.loadPEM(pem.read_bytes()))
    peer = await connected(host, tls=tls)
    peer.send(b"hi\n")
    assert await peer.receive(9) == b"Echo=>hi\n"


@pytest.mark.parametrize(
    ("description", "host"),
    [
        ("udp:0", "127.0.0.1"),
        ("udp:0:interface=127.0.0.1", "127.0.0.1"),
        (r"udp:0:interface=\:\:1", "[::1]"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_datagram_endpoint_is_listened_on(
    made: Make, speaking: Speak, log: Logged, description: str, host: str
) -> None:
    [listening] = made("echo", description)
    listening.startService()
    port = listening.port.getHost().port
    assert told(log) == [f"echo listens on {description} at {host}:{port}, framing datagram"]
    peer = speaking(listening.port)
    peer.send(b"hi")
    assert await peer.receive() == b"Echo=>hi"
    whole = b"x" * 60_000
    peer.send(whole)
    assert await peer.receive() == b"Echo=>" + whole


@pytest.mark.parametrize("description", [f"{TCP}:backlog=7", "tcp:0:127.0.0.1:7"])
@pytest_twisted.ensureDeferred
async def test_how_many_may_wait_to_be_accepted_can_be_said(made: Make, description: str) -> None:
    [listening] = made("echo", description)
    listening.startService()
    assert listening.port.backlog == 7


@pytest_twisted.ensureDeferred
async def test_endpoints_of_one_service_share_its_app(made: Make, connected: Connect) -> None:
    first, second = made("echo", TCP, TCP)
    service = AllOrNone([first, second])
    service.startService()
    factories = {id(each.port.factory.appFactory) for each in (first, second)}
    assert len(factories) == 1
    for each in (first, second):
        peer = await connected(each.port)
        peer.send(b"hi\n")
        assert await peer.receive(9) == b"Echo=>hi\n"


@pytest_twisted.ensureDeferred
async def test_what_has_stopped_can_start_again(
    made: Make, connected: Connect, speaking: Speak, tmp_path: Path
) -> None:
    stream, datagram, unix = made("echo", TCP, UDP, f"unix:{tmp_path}/s")
    service = AllOrNone([stream, datagram, unix])
    for _ in range(2):
        service.privilegedStartService()
        service.startService()
        assert service.running
        assert all(each.running and each.port is not None for each in service.listenings)
        for port in (stream.port, unix.port):
            peer = await connected(port)
            peer.send(b"hi\n")
            assert await peer.receive(9) == b"Echo=>hi\n"
            peer.close()
            await peer.closed
        asker = speaking(datagram.port)
        asker.send(b"hi")
        assert await asker.receive() == b"Echo=>hi"
        address = stream.port.getHost()
        await service.stopService()
        assert not service.running
        assert all(not each.running and each.port is None for each in service.listenings)
        assert os.listdir(tmp_path) == []
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address.host, address.port))


@pytest.fixture
def busy() -> Iterator[int]:
    """Know a port of loopback that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("start", [AllOrNone.privilegedStartService, AllOrNone.startService])
@pytest_twisted.ensureDeferred
async def test_where_one_cannot_listen_none_does(
    made: Make, busy: int, tmp_path: Path, start: Callable[[AllOrNone], None]
) -> None:
    before = made("echo", f"unix:{tmp_path}/s", TCP, UDP)
    [failing] = made("upper", f"tcp:{busy}:interface=127.0.0.1")
    [after] = made("hello", TCP)
    service = AllOrNone([*before, failing, after])
    with pytest.raises(StartError) as refused:
        start(service)
    assert str(refused.value) == (
        f"upper cannot listen: Address already in use (tcp:{busy}:interface=127.0.0.1)"
    )
    assert refused.value.code == str(refused.value), "the interpreter prints it and exits with 1"
    assert not service.running
    assert all(not each.running and each.port is None for each in service.listenings)
    assert os.listdir(tmp_path) == []


@pytest_twisted.ensureDeferred
async def test_what_could_not_start_starts_when_it_can(made: Make, busy: int) -> None:
    [good], [bad] = made("echo", TCP), made("upper", f"udp:{busy}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", busy))
        service = AllOrNone([good, bad])
        with pytest.raises(StartError):
            service.startService()
    service.startService()
    assert good.port.getHost().port
    assert bad.port.getHost().port == busy


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ("unix:{folder}/no/s", "No such file or directory: {folder}/no/s.lock"),
        ("unix:{folder}/s", "Cannot acquire lock, another program listens there"),
        ("unix:{folder}/file", "Address already in use"),
        ("unix:{folder}/file:lockfile=0", "Address already in use"),
        ("unix:{folder}/locked:lockfile=0", "Address already in use"),
        ("tcp:0:interface=192.0.2.1", "Cannot assign requested address"),
        ("udp:0:interface=192.0.2.1", "Cannot assign requested address"),
        ("tcp:99999", "port must be 0-65535."),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_reason_why_it_cannot_listen_is_said_in_one_line(
    made: Make, tmp_path: Path, description: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    [other] = made("upper", f"unix:{tmp_path}/s")
    other.startService()
    (tmp_path / "locked").touch()
    (tmp_path / "locked.lock").symlink_to("1")
    [listening] = made("echo", description.replace("{folder}", str(tmp_path)))
    with pytest.raises(StartError) as refused:
        listening.startService()
    assert str(refused.value) == (
        f"echo cannot listen: {reason.format(folder=tmp_path)} ({listening.description})"
    )
    assert not listening.running
    assert set(os.listdir(tmp_path)) == {"file", "locked", "locked.lock", "s", "s.lock"}


@pytest_twisted.ensureDeferred
async def test_the_first_part_of_the_reason_survives_twistds_cut(made: Make, busy: int) -> None:
    # A daemon's parent prints 98 bytes of what traceback makes of it.
    [listening] = made("upper-once", f"tcp:{busy}:interface=127.0.0.1")
    with pytest.raises(StartError) as refused:
        listening.startService()
    kept = f"sockapps.listening.StartError: {refused.value}"[:98]
    assert f"upper-once cannot listen: Address already in use (tcp:{busy}" in kept


@pytest.mark.parametrize("empty", [True, False])
def test_tls_needs_a_folder_with_a_certificate(made: Make, tmp_path: Path, empty: bool) -> None:
    folder = tmp_path / "certificates"
    if empty:
        folder.mkdir()
        (folder / "README").touch()
    with pytest.raises(SettingsError, match=f"no certificate: there is no .pem .* '{folder}'"):
        made("echo", f"tls:{folder}:0")


def test_tls_finds_certificates_in_folders_of_the_folder_as_certbot_has_them(
    made: Make, tmp_path: Path
) -> None:
    (tmp_path / "localhost").mkdir()
    makeCertificate(tmp_path / "localhost")
    assert made("echo", f"tls:{tmp_path}:0")


class Slow:
    """
    An endpoint that needs time to listen, as one that asks a router or a certificate authority.

    @ivar attempts: What each call was given.
    """

    def __init__(self) -> None:
        self.attempts: list[Deferred[Any]] = []

    def listen(self) -> Deferred[Any]:
        self.attempts.append(Deferred())
        return self.attempts[-1]


class Port:
    """A port that notes that it was closed."""

    closed = 0

    def getHost(self) -> object:
        return "over there"

    def stopListening(self) -> None:
        self.closed += 1


class Reactor:
    """A reactor that notes that it was to stop."""

    stopped = 0

    def callWhenRunning(self, call: Callable[[], None]) -> None:
        call()

    def stop(self) -> None:
        self.stopped += 1
        if self.stopped > 1:
            raise ReactorNotRunning


def slowly(reactor: Reactor) -> tuple[Slow, Listening]:
    slow = Slow()
    return slow, Listening("echo", "slow:", "auto", slow.listen, reactor)


def test_a_slow_endpoint_is_asked_once_and_logged_when_it_listens(log: Logged) -> None:
    slow, listening = slowly(Reactor())
    service = AllOrNone([listening])
    service.privilegedStartService()
    service.startService()
    assert told(log) == []
    [attempt] = slow.attempts
    port = Port()
    attempt.callback(port)
    assert listening.port is port
    assert told(log) == ["echo listens on slow: at over there, framing auto"]


def test_endpoints_that_fail_later_stop_the_daemon_with_a_line_each(log: Logged) -> None:
    reactor = Reactor()
    (first, one), (second, two) = slowly(reactor), slowly(reactor)
    service = AllOrNone([one, two])
    service.startService()
    assert service.running
    first.attempts[0].errback(CannotListenError("", 0, OSError(1, "Operation not permitted")))
    assert reactor.stopped == 1
    second.attempts[0].errback(Exception())
    assert told(log) == [
        "echo cannot listen: Operation not permitted (slow:); stopping",
        "echo cannot listen: Exception (slow:); stopping",
    ]
    assert {event["log_level"] for event in log} == {LogLevel.critical}
    assert not any("log_failure" in event for event in log)


def test_what_was_stopped_while_it_began_does_not_listen(log: Logged) -> None:
    reactor = Reactor()
    slow, listening = slowly(reactor)
    listening.startService()
    listening.stopService()
    listening.startService()
    early, late = Port(), Port()
    slow.attempts[1].callback(late)
    slow.attempts[0].callback(early)
    assert listening.port is late
    assert (early.closed, late.closed) == (1, 0)
    assert len(told(log)) == 1

    listening.stopService()
    listening.startService()
    listening.stopService()
    slow.attempts[2].errback(Exception("too late to matter"))
    assert reactor.stopped == 0
    assert len(told(log)) == 1


def test_all_kinds_of_endpoints_are_given_up_where_another_cannot_listen() -> None:
    ready, late = Port(), Port()
    slow, beginning = slowly(Reactor())
    begun = Listening("echo", "tcp:1", "auto", lambda: ready, Reactor())

    def refuse() -> None:
        raise CannotListenError("", 0, OSError(98, "Address already in use"))

    service = AllOrNone([begun, beginning, Listening("upper", "tcp:2", "auto", refuse, Reactor())])
    with pytest.raises(StartError, match=r"^upper cannot listen: Address already in use"):
        service.privilegedStartService()
    assert ready.closed == 1
    slow.attempts[0].callback(late)
    assert late.closed == 1
    assert begun.port is beginning.port is None


@pytest_twisted.ensureDeferred
async def test_who_is_connected_keeps_the_connection_when_listening_stops(
    made: Make, connected: Connect
) -> None:
    [listening] = made("echo", TCP)
    listening.startService()
    peer = await connected(listening.port)
    peer.send(b"one\n")
    await peer.receive(10)
    sessions = listening.port.factory.sessions
    await listening.stopService()
    peer.send(b"two\n")
    assert await peer.receive(10) == b"Echo=>two\n"
    peer.close()
    await until(lambda: not sessions, "the session ended")
