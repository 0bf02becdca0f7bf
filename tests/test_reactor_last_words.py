"""
What comes before a connection's end is delivered, and what goes round by hand goes round, as on the
stock reactor.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.protocol import ClientFactory, DatagramProtocol
from twisted.python import log

from tests.reactors import HalfCloses, Saying, Says, against, each, exactly, fresh, listen, reach


def reachUNIX(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(4)
    peer.connect(str(path))
    return peer


# A write that fails, where there is still something to read


@each
def test_what_a_unix_peer_sent_before_it_closed_is_all_read(kind: Any, tmp_path: Path) -> None:
    got: list[int] = []

    def hearing(said: Any, data: bytes) -> None:
        got.append(len(data))
        said.transport.write(b"ack")

    with fresh(kind) as reactor:
        factory = Saying(hearing, lost=lambda said: reactor.stop())
        reactor.listenUNIX(str(tmp_path / "socket"), factory)
        with reachUNIX(tmp_path / "socket") as peer:
            peer.sendall(bytes(100_000))
        against(reactor)
    assert sum(got) == 100_000


@each
@pytest.mark.parametrize("words", [b"last words", b""])
@pytest.mark.parametrize("protocol", [Says, HalfCloses])
def test_a_timer_that_writes_to_a_unix_peer_that_has_closed_loses_nothing(
    kind: Any, tmp_path: Path, words: bytes, protocol: Any
) -> None:
    heard: list[bytes] = []
    with fresh(kind) as reactor:
        factory: Any = Saying(
            lambda said, data: heard.append(data),
            lambda said: reactor.callLater(0, tick, said),
            lambda said: reactor.stop(),
            protocol,
        )
        factory.ended = lambda said: said.transport.loseConnection()

        def tick(said: Any) -> None:
            if words:
                peer.sendall(words)
            peer.close()
            said.transport.write(b"tick")

        reactor.listenUNIX(str(tmp_path / "socket"), factory)
        peer = reachUNIX(tmp_path / "socket")
        against(reactor)
    assert heard == [words][: len(words)]
    # With nothing left to send the end of it is a clean one; with something the stock one differs.
    assert factory.reasons[-1] in (ConnectionDone, ConnectionLost)
    assert ("read" in factory.reasons) == (protocol is HalfCloses and not words)


@each
def test_what_a_tcp_peer_sent_before_it_was_gone_is_read(kind: Any) -> None:
    heard: list[bytes] = []
    with fresh(kind) as reactor:
        factory = Saying(
            lambda said, data: heard.append(data),
            lambda said: said.transport.write(b"never read"),
            lambda said: reactor.stop(),
        )
        peer = reach(listen(reactor, factory))
        peer.setblocking(False)

        def tick() -> None:
            try:
                # Closed with something unread, it is gone by a reset.
                peer.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                reactor.callLater(0, tick)
                return
            peer.sendall(b"last words")
            peer.close()
            factory.protocols[0].transport.write(b"tick")

        reactor.callWhenRunning(tick)
        against(reactor)
    assert heard == [b"last words"]
    assert factory.reasons == [ConnectionLost]


# A producer, or a loop, in the wrong moment


@each
def test_a_producer_that_cannot_stop_at_the_end_is_told_once(kind: Any) -> None:
    class Stubborn:
        def stopProducing(self) -> None:
            reactor.callLater(0, reactor.callLater, 0, reactor.stop)
            raise ZeroDivisionError

        def resumeProducing(self) -> None:
            pass

        pauseProducing = resumeProducing

    with fresh(kind) as reactor:
        factory = Saying(made=lambda said: said.transport.registerProducer(Stubborn(), True))
        port = listen(reactor, factory)

        def leave() -> None:
            reach(port).close()

        reactor.callWhenRunning(leave)
        against(reactor)
        assert reactor.logged.take(ZeroDivisionError) == 1
        [said] = factory.protocols
        said.transport.socket.close()  # which the reactor has never come to


@each
def test_who_goes_round_at_the_end_and_then_closes_is_lost_in_a_loop_within(kind: Any) -> None:
    within: list[Any] = []
    with fresh(kind) as reactor:

        def ended(said: Any) -> None:
            reactor.iterate(0)
            said.transport.loseConnection()
            for _ in range(20):
                reactor.iterate(0)
            within.extend(factory.reasons)
            reactor.stop()

        factory: Any = Saying(protocol=HalfCloses)
        factory.ended = ended
        with reach(listen(reactor, factory)) as peer:
            peer.shutdown(socket.SHUT_WR)
            against(reactor)
    assert within == ["read", ConnectionDone]


@each
def test_a_loop_by_hand_does_not_wait_after_it_has_sent_the_last_words(kind: Any) -> None:
    with fresh(kind) as reactor:
        factory = Saying()
        port = listen(reactor, factory)
        with reach(port) as peer:
            while not factory.protocols:
                reactor.iterate(1)
            transport = factory.protocols[0].transport
            transport.write(b"x")
            transport.loseConnection()
            began = reactor.seconds()
            while not factory.reasons:
                reactor.iterate(4)
            # Nothing else happens: to wait for events is to wait for as long as was asked for.
            assert reactor.seconds() - began < 4
            assert exactly(peer, 1) == b"x"


@each
def test_iterations_alone_send_what_was_written(kind: Any) -> None:
    with fresh(kind) as reactor:
        factory = Saying(made=lambda said: said.transport.write(b"hello"))
        port = listen(reactor, factory)
        with reach(port) as peer:
            peer.setblocking(False)
            for _ in range(20):
                reactor.doIteration(0.01)
                try:
                    assert peer.recv(10) == b"hello"
                    break
                except BlockingIOError:
                    continue
            else:
                raise AssertionError("nothing came")


# Protocols and names


@each
def test_datagrams_go_to_the_protocol_that_the_port_has_now(kind: Any) -> None:
    heard: list[tuple[str, bytes]] = []

    class Second(DatagramProtocol):
        noisy = False

        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            heard.append(("second", datagram))
            if len(heard) == 3:
                port.protocol = first  # who was told of the beginning is told of the end
                reactor.stop()

    class First(DatagramProtocol):
        noisy = False

        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            heard.append(("first", datagram))
            port.protocol = second

    first, second = First(), Second()
    with fresh(kind) as reactor:
        port = reactor.listenUDP(0, first, "127.0.0.1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for each in (b"1", b"2", b"3"):
                peer.sendto(each, ("127.0.0.1", port.getHost().port))
            against(reactor)
    assert heard == [("first", b"1"), ("second", b"2"), ("second", b"3")]


@each
def test_who_logs_when_asked_for_a_log_prefix_is_asked_once(kind: Any) -> None:
    class Talkative(Says):
        def logPrefix(self) -> str:
            asked.append(1)
            log.msg("asked")
            return "mine"

    asked: list[int] = []
    with fresh(kind) as reactor:
        factory = Saying(
            lambda said, data: (log.msg("heard"), said.transport.loseConnection()),
            lost=lambda said: reactor.stop(),
            protocol=Talkative,
        )
        with reach(listen(reactor, factory)) as peer:
            peer.sendall(b"x")
            against(reactor)
        assert reactor.logged.systems("heard") == ["mine,0,127.0.0.1"]
    assert len(asked) == 1


@each
@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_what_a_client_writes_before_it_is_connected_is_not_sent(
    kind: Any, transport: str, tmp_path: Path
) -> None:
    class Early(ClientFactory):
        noisy = False
        protocol = Says
        protocols: list[Any] = []
        heard = made = lost = staticmethod(lambda *args: None)
        reasons: list[Any] = []

        def buildProtocol(self, addr: Any) -> Any:
            connector.transport.write(b"early")
            protocol = super().buildProtocol(addr)
            reactor.callLater(0, lambda: connector.transport.write(b"later"))
            return protocol

    heard: list[bytes] = []

    def hearing(said: Any, data: bytes) -> None:
        heard.append(data)
        reactor.stop()

    with fresh(kind) as reactor:
        if transport == "tcp":
            port = listen(reactor, Saying(hearing))
            connector = reactor.connectTCP("127.0.0.1", port.getHost().port, Early())
        else:
            path = os.fspath(tmp_path / "socket")
            reactor.listenUNIX(path, Saying(hearing))
            connector = reactor.connectUNIX(path, Early())
        against(reactor)
    assert heard == [b"later"]


@each
def test_empty_pieces_do_not_gather(kind: Any) -> None:
    held: list[int] = []

    def hearing(said: Any, data: bytes) -> None:
        said.transport.writeSequence([b"", b""])
        said.transport.write(data)
        held.append(len(said.transport._tempDataBuffer))

    with fresh(kind) as reactor:
        port = listen(reactor, Saying(hearing))

        def script() -> None:
            with reach(port) as peer:
                for _ in range(5):
                    peer.sendall(b"x")
                    exactly(peer, 1)

        against(reactor, script)
    assert max(held) <= 3
