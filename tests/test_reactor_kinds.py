"""
What the reactor listens and connects with: accepting, UNIX sockets, UDP, sockets from elsewhere.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import InvalidAddressError, MessageLengthError, UnsupportedAddressFamily
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.internet.protocol import ClientFactory, DatagramProtocol
from zope.interface import implementer

from sockapps.reactor import PACKETS, LeanServer, LeanUNIXServer
from tests.conftest import LoggedErrors
from tests.reactors import Saying, Says, against, each, exactly, fresh, reach, rest


class Connecting(Saying, ClientFactory):
    pass


# Accepting


@each
def test_many_who_come_at_once_are_all_accepted(kind: Any) -> None:
    with fresh(kind) as reactor:
        factory = Saying()
        port = reactor.listenTCP(0, factory, 200, "127.0.0.1")
        peers = [reach(port) for _ in range(150)]

        def script() -> None:
            for number, peer in enumerate(peers):
                with peer:
                    peer.sendall(b"%4d" % number)
                    assert exactly(peer, 4) == b"%4d" % number

        against(reactor, script)
        assert sorted(each.transport.sessionno for each in factory.protocols) == [*range(150)]


@each
def test_a_factory_that_wants_nobody_closes(kind: Any) -> None:
    class Nobody(Saying):
        def buildProtocol(self, addr: Any) -> None:
            return None

    with fresh(kind) as reactor:
        port = reactor.listenTCP(0, Nobody(), interface="127.0.0.1")

        def script() -> bytes:
            with reach(port) as peer:
                return rest(peer)

        assert against(reactor, script) == b""


@each
def test_over_ipv6_addresses_are_ipv6(kind: Any) -> None:
    with fresh(kind) as reactor:
        factory = Saying(lambda said, data: said.transport.write(data.upper()))
        port = reactor.listenTCP(0, factory, interface="::1")
        heard: list[bytes] = []
        client = Connecting(
            made=lambda said: said.transport.write(b"six"),
            heard=lambda said, data: (heard.append(data), reactor.stop()),
        )
        reactor.connectTCP("::1", port.getHost().port, client)
        against(reactor)
        assert heard == [b"SIX"]
        ends = [factory.protocols[0].transport.client, client.protocols[0].transport.addr]
        assert [end[0] for end in ends] == ["::1", "::1"]


EMFILE = """
import resource, socket, sys
from sockapps.reactor import install
install()
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.python import log

class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)

said = []
log.addObserver(lambda event: said.append(str(event.get("log_format", ""))))
port = reactor.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")
client = socket.socket()
crowd = [client, *(socket.socket() for _ in range(20))]
for each in crowd:
    each.settimeout(5)
spare = []

def fill():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            spare.append(socket.socket())
    except OSError:
        pass
    reactor.callInThread(talk)

def talk():
    for each in crowd:
        each.connect(("127.0.0.1", port.getHost().port))
        said.append(f"turned away: {each.recv(1)}")  # it has been accepted, and closed
    for each in crowd + spare:
        each.close()
    for _ in range(50):  # the first may come while it still turns away, and be turned away too
        try:
            with socket.create_connection(("127.0.0.1", port.getHost().port), 5) as again:
                again.sendall(b"well")
                if answer := again.recv(4):
                    break
        except ConnectionError:
            pass
    said.append(f"then: {answer}")
    reactor.callFromThread(reactor.stop)

reactor.callWhenRunning(fill)
reactor.callLater(20, reactor.stop)
reactor.run()
print("\\n".join(said))
"""


def python(code: str, *arguments: str, **environment: str) -> str:
    """Run a program, and return what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={**os.environ, **environment},
    ).stdout


def test_without_a_free_descriptor_it_turns_away_and_recovers() -> None:
    said = python(EMFILE)
    assert "EMFILE encountered; releasing reserved file descriptor." in said
    assert said.count("turned away: b''") == 21
    assert said.count("EMFILE") < 10, "it says so for each of them"
    assert "then: b'well'" in said


# UNIX sockets


@implementer(IFileDescriptorReceiver)
class TakesFiles(Says):
    def fileDescriptorReceived(self, descriptor: int) -> None:
        self.factory.descriptors.append(descriptor)


@each
@pytest.mark.parametrize("sender", ["server", "client"])
def test_descriptors_go_along_with_bytes(kind: Any, sender: str, tmp_path: Path) -> None:
    with fresh(kind) as reactor:

        def sending(said: Any) -> None:
            said.transport.write(b"before")
            read, write = os.pipe()
            said.transport.sendFileDescriptor(write)
            said.transport.write(b"along")
            reactor.callLater(0, os.close, read)
            reactor.callLater(0, reactor.callLater, 0, os.close, write)
            pipes.append(read)

        def receiving(said: Any, data: bytes) -> None:
            got.append(data)
            if b"".join(got) == b"beforealong":
                reactor.stop()

        pipes: list[int] = []
        got: list[bytes] = []
        sends: Any = Connecting(made=sending)
        takes: Any = Connecting(receiving, protocol=TakesFiles)
        takes.descriptors = []
        server, client = (sends, takes) if sender == "server" else (takes, sends)
        path = str(tmp_path / "socket")
        reactor.listenUNIX(path, server)
        reactor.connectUNIX(path, client)
        against(reactor)
        assert len(takes.descriptors) == 1
        assert os.fstat(takes.descriptors[0]).st_mode & 0o170000 == 0o010000  # a pipe
        os.close(takes.descriptors[0])


@each
def test_a_unix_socket_carries_megabytes_both_ways(kind: Any, tmp_path: Path) -> None:
    size = 4 * 1024 * 1024
    with fresh(kind) as reactor:
        reactor.listenUNIX(str(tmp_path / "socket"), Saying())
        total: list[int] = []

        def heard(said: Any, data: bytes) -> None:
            total.append(len(data))
            if sum(total) == size:
                reactor.stop()

        client = Connecting(heard, made=lambda said: said.transport.write(b"u" * size))
        reactor.connectUNIX(str(tmp_path / "socket"), client)
        against(reactor)


# UDP


class Hears(DatagramProtocol):
    noisy = False

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.heard: list[Any] = []
        self.refused = 0

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.heard.append((datagram, addr))
        self.onDatagram(datagram, addr)

    def onDatagram(self, datagram: bytes, addr: Any) -> None:
        self.reactor.stop()

    def connectionRefused(self) -> None:
        self.refused += 1


class HearsAnother(Hears):
    """Stop the reactor when another one has heard, too."""

    another: Hears

    def onDatagram(self, datagram: bytes, addr: Any) -> None:
        if self.another.heard:
            self.reactor.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@each
def test_a_datagram_is_answered_and_another_told(kind: Any, host: str) -> None:
    with fresh(kind) as reactor:

        class Answers(Hears):
            def onDatagram(self, datagram: bytes, addr: Any) -> None:
                self.transport.write(b"answer", addr)
                self.transport.write(b"copy", (other.getHost().host, other.getHost().port))

        server = reactor.listenUDP(0, Answers(reactor), host)
        asking, listening = HearsAnother(reactor), HearsAnother(reactor)
        asking.another, listening.another = listening, asking
        asker = reactor.listenUDP(0, asking, host)
        other = reactor.listenUDP(0, listening, host)
        home = (host, server.getHost().port)
        asker.write(b"?", home)
        against(reactor)
        assert listening.heard == [(b"copy", home)]
        assert asking.heard == [(b"answer", home)]


def test_a_flood_of_empty_datagrams_leaves_others_their_turn() -> None:
    with fresh() as reactor:

        class Endless(Hears):
            def onDatagram(self, datagram: bytes, addr: Any) -> None:
                self.transport.write(b"", addr)  # which is itself

        flood = Endless(reactor)
        port = reactor.listenUDP(0, flood, "127.0.0.1")
        port.write(b"", ("127.0.0.1", port.getHost().port))
        listening = reactor.listenTCP(0, Saying(), interface="127.0.0.1")

        def script() -> bytes:
            with reach(listening) as peer:
                peer.sendall(b"served")
                return exactly(peer, 6)

        assert against(reactor, script) == b"served"
        assert len(flood.heard) > PACKETS


@each
def test_a_connected_port_hears_of_a_refusal_along_with_what_came(kind: Any) -> None:
    with fresh(kind) as reactor:
        hears = Hears(reactor)
        port = reactor.listenUDP(0, hears, "127.0.0.1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            port.connect(*peer.getsockname())
            peer.sendto(b"last", ("127.0.0.1", port.getHost().port))
        port.write(b"to nobody")
        against(reactor)
        assert (hears.refused, hears.heard[0][0]) == (1, b"last")


@each
def test_a_datagram_that_cannot_be_sent_says_why(kind: Any) -> None:
    with fresh(kind) as reactor:

        class Tries(Hears):
            def onDatagram(self, datagram: bytes, addr: Any) -> None:
                with pytest.raises(MessageLengthError):
                    self.transport.write(bytes(70000), addr)
                with pytest.raises(InvalidAddressError):
                    self.transport.write(b"", ("localhost", 1))
                with pytest.raises(InvalidAddressError):
                    self.transport.write(b"", ("::1", 1))
                self.reactor.stop()

        port = reactor.listenUDP(0, Tries(reactor), "127.0.0.1")
        port.write(b"", ("127.0.0.1", port.getHost().port))
        against(reactor)


@each
def test_a_datagram_protocol_that_raises_is_logged_and_goes_on(kind: Any) -> None:
    with fresh(kind) as reactor:

        class Raises(Hears):
            def onDatagram(self, datagram: bytes, addr: Any) -> None:
                if datagram == b"end":
                    self.reactor.stop()
                else:
                    raise ZeroDivisionError

        port = reactor.listenUDP(0, Raises(reactor), "127.0.0.1")
        for datagram in (b"1", b"2", b"end"):
            port.write(datagram, ("127.0.0.1", port.getHost().port))
        against(reactor)
        assert reactor.logged.take(ZeroDivisionError) == 2


@each
def test_a_port_that_is_closed_while_it_reads_reads_no_more(kind: Any) -> None:
    with fresh(kind) as reactor:

        class Closes(Hears):
            def onDatagram(self, datagram: bytes, addr: Any) -> None:
                self.transport.stopReading()
                self.transport.connectionLost()
                self.reactor.stop()

        hears = Closes(reactor)
        port = reactor.listenUDP(0, hears, "127.0.0.1")
        for _ in range(3):
            port.write(b"x", ("127.0.0.1", port.getHost().port))
        against(reactor)
        # The stock one tries once more, on a socket that is gone; nobody hears of it.
        reactor.logged.clear()
        assert len(hears.heard) == 1


def test_a_read_error_loses_the_port() -> None:
    with fresh() as reactor:

        class Stops(Hears):
            def stopProtocol(self) -> None:
                self.reactor.stop()

        class Broken:
            def __init__(self, socket: Any) -> None:
                self.fileno = socket.fileno
                self.close = socket.close

            def recvfrom(self, size: int) -> None:
                raise OSError(5, "Input/output error")

        port = reactor.listenUDP(0, Stops(reactor), "127.0.0.1")
        port.write(b"x", ("127.0.0.1", port.getHost().port))
        port.socket = Broken(port.socket)
        against(reactor)
        assert reactor.logged.take(OSError) == 1


# Sockets from elsewhere


def test_it_takes_listening_sockets_of_each_family(tmp_path: Path) -> None:
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", 0)),
        (socket.AF_INET6, ("::1", 0)),
        (socket.AF_UNIX, str(tmp_path / "socket")),
    ):
        with fresh() as reactor, socket.socket(family) as listening:
            listening.bind(address)
            listening.listen()
            listening.setblocking(False)
            factory = Saying()
            reactor.adoptStreamPort(listening.fileno(), family, factory)

            def script(family: int = family, listening: Any = listening) -> bytes:
                with socket.socket(family) as peer:
                    peer.settimeout(4)
                    peer.connect(listening.getsockname())
                    peer.sendall(b"taken")
                    return exactly(peer, 5)

            assert against(reactor, script) == b"taken"
            made = LeanUNIXServer if family == socket.AF_UNIX else LeanServer
            assert isinstance(factory.protocols[0].transport, made)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_it_takes_connections(family: int) -> None:
    with fresh() as reactor:
        if family == socket.AF_UNIX:
            ours, peer = socket.socketpair()
        else:
            with socket.create_server(("127.0.0.1", 0)) as server:
                peer = socket.create_connection(server.getsockname())
                ours, _ = server.accept()
        with ours, peer:
            peer.settimeout(4)
            ours.setblocking(False)
            factory = Saying()
            reactor.adoptStreamConnection(ours.fileno(), family, factory)

            def script() -> bytes:
                peer.sendall(b"taken")
                return exactly(peer, 5)

            assert against(reactor, script) == b"taken"
            assert "Says #" in repr(factory.protocols[0].transport)


def test_it_takes_datagram_sockets() -> None:
    with fresh() as reactor, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.bind(("127.0.0.1", 0))
        ours.setblocking(False)
        hears = Hears(reactor)
        reactor.adoptDatagramPort(ours.fileno(), socket.AF_INET, hears)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"taken", ours.getsockname())
            against(reactor)
        assert hears.heard[0][0] == b"taken"


@pytest.mark.parametrize("adopt", ["adoptStreamPort", "adoptStreamConnection", "adoptDatagramPort"])
def test_it_refuses_families_that_it_does_not_know(adopt: str) -> None:
    with fresh() as reactor, pytest.raises(UnsupportedAddressFamily):
        getattr(reactor, adopt)(0, 12345, Saying())


def test_an_interrupted_wait_is_no_error() -> None:
    class Interrupted:
        def __init__(self, poller: Any) -> None:
            self.poller = poller
            self.times = 1

        def __getattr__(self, name: str) -> Any:
            return getattr(self.poller, name)

        def poll(self, *how: Any) -> Any:
            if self.times:
                self.times -= 1
                raise InterruptedError
            return self.poller.poll(*how)

    with fresh() as reactor:
        reactor._poller = Interrupted(reactor._poller)
        port = reactor.listenTCP(0, Saying(), interface="127.0.0.1")

        def script() -> bytes:
            with reach(port) as peer:
                peer.sendall(b"x")
                return exactly(peer, 1)

        assert against(reactor, script) == b"x"


@each
@pytest.mark.parametrize("later", [False, True])
def test_an_interrupt_goes_to_the_main_loop(
    kind: Any, later: bool, loggedErrors: LoggedErrors
) -> None:
    def interrupting(said: Any) -> None:
        reactor.callLater(0, reactor.stop)
        raise KeyboardInterrupt

    def losing(said: Any, data: bytes) -> None:
        if later:
            reactor.callLater(0, said.transport.loseConnection)
        else:
            said.transport.loseConnection()

    with fresh(kind) as reactor:
        port = reactor.listenTCP(0, Saying(losing, lost=interrupting), interface="127.0.0.1")
        with reach(port) as peer:
            peer.sendall(b"x")
            against(reactor)
        assert reactor.logged.take(KeyboardInterrupt) == 1
    (event,) = loggedErrors.take(KeyboardInterrupt)
    assert event["log_format"] == "Unexpected error in main loop"
