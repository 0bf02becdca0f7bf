"""
Connections come and go by shorter ways than on the stock reactor, and to the same end.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from typing import Any

import pytest
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, ILoggingContext
from twisted.python.components import globalRegistry
from twisted.python.failure import Failure
from zope.interface import Interface, classImplements, implementer

from tests.reactors import (
    BOTH,
    HalfCloses,
    Saying,
    Says,
    against,
    each,
    exactly,
    fresh,
    listen,
    reach,
    rest,
)


class Noting:
    """A socket that notes which of its methods are called."""

    def __init__(self, noted: Any, called: list[str]) -> None:
        self._noted = noted
        self._called = called

    def __getattr__(self, name: str) -> Any:
        self._called.append(name)
        return getattr(self._noted, name)


# Accepting


def test_who_comes_alone_costs_one_accept() -> None:
    with fresh() as reactor:
        port = listen(reactor, Saying())
        called: list[str] = []
        port.socket = Noting(port.socket, called)

        def script() -> None:
            for _ in range(10):
                with reach(port) as peer:
                    peer.sendall(b"x")
                    assert exactly(peer, 1) == b"x"

        against(reactor, script)
        # At first it takes as many as there are, and so asks once more than one comes.
        assert called.count("_accept") == 10 + 1


@each
def test_many_who_come_after_few_are_accepted_in_a_few_turns(kind: Any) -> None:
    with fresh(kind) as reactor:
        port = listen(reactor, Saying())
        peers = []
        for count in (1, 1, 60):
            peers += [reach(port) for _ in range(count)]
            for _ in range(5):
                reactor.iterate()
        assert port.sessionno == 62
        for peer in peers:
            peer.close()


# What a turn writes


@each
@pytest.mark.parametrize("ownFirst", [True, False])
def test_what_a_turn_writes_to_another_connection_too_is_sent(kind: Any, ownFirst: bool) -> None:
    with fresh(kind) as reactor:

        def hearing(said: Any, data: bytes) -> None:
            told = [said] if data == b"?" else factory.protocols
            for each in sorted(told, key=lambda each: (each is said) != ownFirst):
                each.transport.write(data)

        factory = Saying(hearing)
        port = listen(reactor, factory)

        def script() -> list[bytes]:
            with reach(port) as one, reach(port) as two:
                for peer in (one, two):  # who has an answer is among the protocols
                    peer.sendall(b"?")
                    exactly(peer, 1)
                two.sendall(b"hello")
                return [exactly(one, 5), exactly(two, 5)]

        assert against(reactor, script) == [b"hello"] * 2


@each
def test_a_loop_within_a_turn_sends_what_the_turn_has_written_before_it_waits(kind: Any) -> None:
    with fresh(kind) as reactor:
        left: list[int] = []

        def hearing(said: Any, data: bytes) -> None:
            transport = said.transport
            transport.write(data)
            reactor.iterate(0)
            left.append(len(transport.dataBuffer) - transport.offset + transport._tempDataLen)

        port = listen(reactor, Saying(hearing))

        def script() -> bytes:
            with reach(port) as peer:
                peer.sendall(b"x")
                return exactly(peer, 1)

        assert against(reactor, script) == b"x"
        assert left == [0]


def test_who_writes_in_its_own_turn_waits_in_no_queue() -> None:
    with fresh() as reactor:
        due: list[int] = []

        def hearing(said: Any, data: bytes) -> None:
            said.transport.write(data)
            due.append(len(reactor._due))
            reactor.callLater(0, lambda: due.append(len(reactor._due)))

        port = listen(reactor, Saying(hearing))

        def script() -> None:
            with reach(port) as peer:
                peer.sendall(b"x")
                exactly(peer, 1)
                peer.sendall(b"y")  # and by then what was called later has been called
                exactly(peer, 1)

        against(reactor, script)
        assert due[:3] == [0, 0, 0]


# The end of what the peer sends


def ended(kind: Any, factory: Any, prepare: Any = lambda reactor: None) -> None:
    """Have a peer connect, speak and close."""
    with fresh(kind) as reactor:
        factory.lost = lambda said: reactor.stop()
        prepare(reactor)
        with reach(listen(reactor, factory)) as peer:
            peer.sendall(b"x")
            peer.shutdown(socket.SHUT_WR)
            against(reactor)


@each
def test_who_closes_at_the_end_with_nothing_left_to_send_is_done(kind: Any) -> None:
    called: list[str] = []

    def closing(said: Any) -> None:
        said.transport.socket = Noting(said.transport.socket, called)
        said.transport.loseConnection()
        assert said.transport.connected

    factory: Any = Saying(lambda said, data: None, protocol=HalfCloses)
    factory.ended = closing
    ended(kind, factory)
    assert factory.reasons == ["read", ConnectionDone]
    assert ("send" in called) == (kind is BOTH[0])


@each
@pytest.mark.parametrize("left", ["written", "buffered", "stopped", "produced"])
def test_who_closes_at_the_end_still_sends_what_is_left(kind: Any, left: str) -> None:
    size = 8 * 1024 * 1024
    with fresh(kind) as reactor:

        class Pull:
            """A producer that has nothing when it is first asked."""

            pieces = 4

            def __init__(self, transport: Any) -> None:
                self.transport = transport

            def resumeProducing(self) -> None:
                self.pieces -= 1
                if self.pieces < 3:
                    self.transport.write(b"piece")
                if not self.pieces:
                    self.transport.unregisterProducer()

            def stopProducing(self) -> None:
                pass

        def made(said: Any) -> None:
            if left in ("buffered", "stopped"):
                said.transport.write(bytes(size))

        def closing(said: Any) -> None:
            transport = said.transport
            if left == "written":
                transport.write(b"last words")
            elif left == "stopped":
                transport.stopWriting()
            elif left == "produced":
                transport.registerProducer(Pull(transport), False)
            transport.loseConnection()

        factory: Any = Saying(lambda said, data: None, made, protocol=HalfCloses)
        factory.ended = closing
        port = listen(reactor, factory)

        def script() -> bytes:
            with reach(port) as peer:
                peer.shutdown(socket.SHUT_WR)
                return rest(peer)

        owed = {"written": b"last words", "produced": b"piece" * 3}
        assert against(reactor, script) == owed.get(left, bytes(size))
    assert factory.reasons == ["read", ConnectionDone]


@each
def test_who_does_not_close_at_the_end_is_not_closed(kind: Any) -> None:
    with fresh(kind) as reactor:
        factory: Any = Saying(protocol=HalfCloses)
        factory.ended = lambda said: reactor.callLater(0, later, said.transport)

        def later(transport: Any) -> None:
            transport.write(b"later")
            reactor.callLater(0, transport.loseConnection)

        port = listen(reactor, factory)

        def script() -> bytes:
            with reach(port) as peer:
                peer.shutdown(socket.SHUT_WR)
                return rest(peer)

        assert against(reactor, script) == b"later"
    assert factory.reasons == ["read", ConnectionDone]


@each
def test_who_closes_the_own_half_at_the_end_hears_of_it_first(kind: Any) -> None:
    factory: Any = Saying(lambda said, data: None, protocol=HalfCloses)
    factory.ended = lambda said: said.transport.loseWriteConnection()

    def prepare(reactor: Any) -> None:
        factory.reactor = reactor

    ended(kind, factory, prepare)
    assert factory.reasons == ["read", "write", ConnectionDone]


@each
@pytest.mark.parametrize("abortsFirst", [False, True])
def test_who_aborts_at_the_end_after_all_has_aborted(kind: Any, abortsFirst: bool) -> None:
    def aborting(said: Any) -> None:
        if abortsFirst:
            said.transport.abortConnection()
        said.transport.loseConnection()
        said.transport.abortConnection()

    factory: Any = Saying(lambda said, data: None, protocol=HalfCloses)
    factory.ended = aborting
    ended(kind, factory)
    assert factory.reasons == ["read", ConnectionAborted]


@each
def test_an_end_that_raises_is_logged_and_loses_the_connection(kind: Any) -> None:
    def raising(said: Any) -> None:
        said.transport.loseConnection()
        raise ZeroDivisionError

    factory: Any = Saying(lambda said, data: None, protocol=HalfCloses)
    factory.ended = raising
    with fresh(kind) as reactor:
        factory.lost = lambda said: reactor.stop()
        with reach(listen(reactor, factory)) as peer:
            peer.shutdown(socket.SHUT_WR)
            against(reactor)
        assert reactor.logged.take(ZeroDivisionError) == 1
    assert factory.reasons == ["read", ZeroDivisionError]


class IOwn(Interface):
    """What a protocol can be adapted from."""


@implementer(IHalfCloseableProtocol)
class Adapter:
    def __init__(self, said: Any) -> None:
        self.said = said

    def readConnectionLost(self) -> None:
        transport = self.said.transport
        self.said.factory.reasons.append("adapted")
        transport.reactor.callLater(0, transport.reactor.callLater, 0, transport.loseConnection)

    def writeConnectionLost(self) -> None:
        pass


@each
def test_a_protocol_that_can_be_adapted_hears_of_the_end(kind: Any) -> None:
    @implementer(IOwn)
    class Adaptable(Says):
        pass

    factory = Saying(lambda said, data: None, protocol=Adaptable)
    globalRegistry.register([IOwn], IHalfCloseableProtocol, "", Adapter)
    try:
        ended(kind, factory)
    finally:
        globalRegistry.unregister([IOwn], IHalfCloseableProtocol, "", Adapter)
    assert factory.reasons == ["adapted", ConnectionDone]


@each
def test_a_protocol_that_conforms_hears_of_the_end(kind: Any) -> None:
    class Conforms(Says):
        def __conform__(self, interface: Any) -> Any:
            return Adapter(self) if interface is IHalfCloseableProtocol else None

    factory = Saying(lambda said, data: None, protocol=Conforms)
    ended(kind, factory)
    assert factory.reasons == ["adapted", ConnectionDone]


@each
def test_what_a_class_implements_may_come_later(kind: Any) -> None:
    class Learns(Says):
        def readConnectionLost(self) -> None:
            self.factory.reasons.append("read")
            self.transport.loseConnection()

        def writeConnectionLost(self) -> None:
            pass

    factory = Saying(lambda said, data: None, protocol=Learns)
    ended(kind, factory)
    classImplements(Learns, IHalfCloseableProtocol)
    ended(kind, factory)
    assert factory.reasons == [ConnectionDone, "read", ConnectionDone]


# The end of a connection


@each
def test_a_producer_is_stopped_when_its_connection_is_lost(kind: Any) -> None:
    told: list[object] = []

    class Producer:
        def pauseProducing(self) -> None:
            pass

        resumeProducing = pauseProducing

        def stopProducing(self) -> None:
            said = factory.protocols[0]
            told.append((said.transport.connected, said.transport.disconnected))
            said.transport.write(b"in vain")
            said.transport.loseConnection()

    factory = Saying(
        lambda said, data: None,
        made=lambda said: said.transport.registerProducer(Producer(), True),
    )
    ended(kind, factory)
    assert told == [(0, 1)]
    assert factory.protocols[0].transport.producer is None
    assert factory.reasons == [ConnectionDone]


@each
def test_a_connection_is_lost_once(kind: Any) -> None:
    def twice(said: Any, data: bytes) -> None:
        for reason in (ConnectionLost(), ConnectionDone()):
            said.transport.connectionLost(Failure(reason))
        reactor.callLater(0, reactor.stop)

    with fresh(kind) as reactor:
        factory = Saying(twice)
        with reach(listen(reactor, factory)) as peer:
            peer.sendall(b"x")
            against(reactor)
            assert peer.recv(1) == b""
        transport = factory.protocols[0].transport
        assert transport not in [*reactor.getReaders(), *reactor.getWriters()]
        assert not hasattr(transport, "socket")
    assert factory.reasons == [ConnectionLost]


@each
@pytest.mark.parametrize("reset", [True, False])
def test_only_an_abort_resets(kind: Any, reset: bool) -> None:
    def losing(said: Any, data: bytes) -> None:
        said.transport.connectionLost(Failure(ConnectionAborted() if reset else ConnectionLost()))
        reactor.stop()

    with fresh(kind) as reactor, reach(listen(reactor, Saying(losing))) as peer:
        peer.sendall(b"x")
        against(reactor)
        if reset:
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
        else:
            assert peer.recv(1) == b""


@each
def test_a_reset_is_a_loss_and_no_end(kind: Any) -> None:
    with fresh(kind) as reactor:
        factory: Any = Saying(lost=lambda said: reactor.stop(), protocol=HalfCloses)
        peer = reach(listen(reactor, factory))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        against(reactor)
    assert factory.reasons == [ConnectionLost]


@pytest.mark.parametrize("reading", [True, False])
def test_a_socket_that_somebody_has_closed_is_forgotten_too(reading: bool) -> None:
    with fresh() as reactor:  # the stock one raises where it was reading

        def closing(said: Any, data: bytes) -> None:
            transport = said.transport
            if not reading:
                transport.stopReading()
            transport.getHandle().close()
            transport.connectionLost(Failure(ConnectionLost()))
            assert transport not in reactor.getReaders()
            reactor.stop()

        factory = Saying(closing)
        with reach(listen(reactor, factory)) as peer:
            peer.sendall(b"x")
            against(reactor)
    assert factory.reasons == [ConnectionLost]


@each
def test_of_a_lost_connection_nothing_stays_with_the_reactor(kind: Any) -> None:
    with fresh(kind) as reactor:
        kept: list[int] = []

        def losing(said: Any, data: bytes) -> None:
            fd = said.transport.fileno()
            kept.append(os.dup(fd))  # for which epoll does not forget it by itself
            said.transport.connectionLost(Failure(ConnectionDone()))
            assert fd not in reactor._selectables
            assert fd not in [fd for fd, _ in reactor._poller.poll(0)]
            reactor.stop()

        with reach(listen(reactor, Saying(losing))) as peer:
            peer.sendall(b"x")
            against(reactor)
        os.close(kept[0])


@each
def test_a_connection_that_has_just_been_armed_is_forgotten_when_it_is_lost(kind: Any) -> None:
    with fresh(kind) as reactor:
        lost = threading.Event()

        def losing(said: Any, data: bytes) -> None:
            if data == b"lose":
                reactor.addWriter(said.transport)
                said.transport.connectionLost(Failure(ConnectionDone()))
                lost.set()
            else:
                said.transport.write(data)

        port = listen(reactor, Saying(losing))

        def script() -> bytes:
            with reach(port) as one:
                one.sendall(b"lose")
                assert lost.wait(4)
                with reach(port) as two:  # which gets the same descriptor
                    two.sendall(b"kept")
                    return exactly(two, 4)

        assert against(reactor, script) == b"kept"
        assert reactor.getWriters() == []


@each
@pytest.mark.parametrize("asked", [True, False])
def test_a_prefix_of_the_protocols_own_outlives_the_connection(kind: Any, asked: bool) -> None:
    @implementer(ILoggingContext)
    class Named(Says):
        def logPrefix(self) -> str:
            return "Mine"

    factory = Saying(
        lambda said, data: asked and said.transport.logPrefix(),
        protocol=Named,
    )
    ended(kind, factory)
    transport = factory.protocols[0].transport
    assert transport.logstr == "Mine,0,127.0.0.1"
    assert repr(transport).startswith("<Named #0 on ")


@each
def test_many_who_are_there_before_one_ends_end_as_any(kind: Any) -> None:
    with fresh(kind) as reactor:
        gone = threading.Event()

        def lost(said: Any) -> None:
            if len(factory.reasons) == 60:
                gone.set()

        factory = Saying(lost=lost)
        port = listen(reactor, factory)

        def script() -> None:
            peers = [reach(port) for _ in range(60)]
            for peer in peers:
                peer.sendall(b"x")
                assert exactly(peer, 1) == b"x"
            for peer in peers:
                peer.close()
            assert gone.wait(4)

        against(reactor, script)
        assert {*factory.reasons} == {ConnectionDone}
        shown = {repr(said.transport) for said in factory.protocols}
        assert len(shown) == 60
