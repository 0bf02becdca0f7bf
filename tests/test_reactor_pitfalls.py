"""
Where a reactor that lets transports write early could go wrong, ours does what the stock one does.
"""

from __future__ import annotations

import socket
import struct
import threading
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from sockapps.reactor import LeanReactor
from tests.reactors import Saying, Says, against, each, exactly, fresh, listen, reach, rest


@implementer(IHalfCloseableProtocol)
class HalfCloses(Says):
    def readConnectionLost(self) -> None:
        self.factory.reasons.append("read")
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        self.factory.reasons.append("write")


def test_a_reply_needs_neither_a_turn_of_its_own_nor_a_change_of_what_epoll_watches() -> None:
    class Watched(LeanReactor):
        armed = 0

        def addWriter(self, writer: Any) -> None:
            self.armed += 1
            super().addWriter(writer)

    with fresh(Watched) as reactor:
        port = listen(reactor, Saying())

        def script() -> None:
            with reach(port) as peer:
                for _ in range(20):
                    peer.sendall(b"hello")
                    assert exactly(peer, 5) == b"hello"

        against(reactor, script)
        assert reactor.armed == 0


@each
def test_a_flush_that_stops_the_reactor_stops_it_at_once(kind: Any) -> None:
    with fresh(kind) as reactor:

        def later(said: Any) -> None:
            said.transport.write(b"bye")
            said.transport.loseConnection()

        port = listen(
            reactor,
            Saying(
                made=lambda said: reactor.callLater(0, later, said),
                lost=lambda said: reactor.stop(),
            ),
        )
        with reach(port) as peer:
            against(reactor)
            assert rest(peer) == b"bye"


@each
def test_what_a_flush_writes_to_another_connection_does_not_wait_for_an_event(kind: Any) -> None:
    with fresh(kind) as reactor:
        factory = Saying(
            heard=lambda said, data: reactor.callLater(0, said.transport.loseConnection),
            lost=lambda said: [each.transport.write(b"gone") for each in factory.protocols],
        )
        port = listen(reactor, factory)

        def script() -> bytes:
            with reach(port) as one, reach(port) as other:
                one.sendall(b"go")
                assert one.recv(1) == b""
                return exactly(other, 4)

        assert against(reactor, script) == b"gone"


@each
def test_an_iteration_does_not_wait_while_there_is_something_to_send(kind: Any) -> None:
    with fresh(kind) as reactor:
        port = listen(reactor, Saying())
        connecting = reach(port)
        while not port.sessionno:
            reactor.iterate(1)
        (connection,) = [each for each in reactor.getReaders() if each.__class__ is port.transport]
        connection.write(b"due")
        before = reactor.seconds()
        reactor.doIteration(4)
        assert reactor.seconds() - before < 2
        reactor.iterate()
        assert exactly(connecting, 3) == b"due"
        connecting.close()


@each
def test_a_client_writes_as_soon_as_it_is_connected(kind: Any) -> None:
    heard: list[bytes] = []
    welcomed = threading.Event()

    def hearing(said: Any, data: bytes) -> None:
        heard.append(data)
        welcomed.set()

    with fresh(kind) as reactor, socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(4)

        class Connecting(Saying, ClientFactory):
            pass

        factory = Connecting(
            made=lambda said: said.transport.write(b"hello"),
            heard=hearing,
        )
        reactor.connectTCP("127.0.0.1", server.getsockname()[1], factory)

        def script() -> bytes:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(4)
                peer.sendall(b"welcome")
                assert welcomed.wait(4)
                return exactly(peer, 5)

        assert against(reactor, script) == b"hello"
    assert b"".join(heard) == b"welcome"


@each
def test_a_client_that_is_refused_hears_so(kind: Any) -> None:
    failures: list[Any] = []
    with fresh(kind) as reactor, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen

        class Refused(ClientFactory):
            noisy = False

            def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
                failures.append(reason.type.__name__)
                reactor.stop()

        reactor.connectTCP("127.0.0.1", taken.getsockname()[1], Refused())
        against(reactor)
    assert failures == ["ConnectionRefusedError"]


@each
def test_a_client_without_a_protocol_closes(kind: Any) -> None:
    class Nobody(ClientFactory):
        noisy = False

        def buildProtocol(self, addr: Any) -> None:
            return None

    with fresh(kind) as reactor, socket.create_server(("127.0.0.1", 0)) as server:
        reactor.connectTCP("127.0.0.1", server.getsockname()[1], Nobody())

        def script() -> bytes:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(4)
                return rest(peer)

        assert against(reactor, script) == b""


@each
def test_a_close_in_the_turn_of_a_read_is_no_half_close(kind: Any) -> None:
    def closing(said: Any, data: bytes) -> None:
        said.transport.write(data)
        said.transport.loseConnection()

    with fresh(kind) as reactor:
        factory = Saying(closing, lost=lambda said: reactor.stop(), protocol=HalfCloses)
        with reach(listen(reactor, factory)) as peer:
            peer.sendall(b"x")
            against(reactor)
            assert rest(peer) == b"x"
    assert factory.reasons == [ConnectionDone]


@each
def test_an_error_in_the_turn_of_a_read_loses_the_whole_connection(kind: Any) -> None:
    def breaking(said: Any, data: bytes) -> None:
        said.transport.getHandle().shutdown(socket.SHUT_WR)
        said.transport.write(data)

    with fresh(kind) as reactor:
        factory = Saying(breaking, lost=lambda said: reactor.stop(), protocol=HalfCloses)
        with reach(listen(reactor, factory)) as peer:
            peer.sendall(b"x")
            against(reactor)
    assert factory.reasons == [ConnectionLost]


@each
def test_a_half_closed_peer_is_still_answered(kind: Any) -> None:
    with fresh(kind) as reactor:
        factory = Saying(protocol=HalfCloses)
        port = listen(reactor, factory)

        def script() -> bytes:
            with reach(port) as peer:
                peer.sendall(b"last words")
                peer.shutdown(socket.SHUT_WR)
                return rest(peer)

        assert against(reactor, script) == b"last words"
    assert factory.reasons == ["read", ConnectionDone]


@each
def test_nothing_is_sent_after_the_own_half_is_closed(kind: Any) -> None:
    def halfClosing(said: Any, data: bytes) -> None:
        if data == b"end":
            said.transport.write(b"sent")
            said.transport.loseWriteConnection()
        else:
            said.transport.write(b"never")
            said.transport.loseConnection()

    with fresh(kind) as reactor:
        lost = threading.Event()
        factory = Saying(halfClosing, lost=lambda said: lost.set(), protocol=HalfCloses)
        port = listen(reactor, factory)

        def script() -> bytes:
            with reach(port) as peer:
                peer.sendall(b"end")
                got = rest(peer)
                peer.sendall(b"more")
                assert lost.wait(4)
                return got

        assert against(reactor, script) == b"sent"
    assert factory.reasons == ["write", ConnectionDone]


@each
def test_an_exception_drops_what_its_turn_has_written(kind: Any) -> None:
    def raising(said: Any, data: bytes) -> None:
        said.transport.write(data)
        raise ZeroDivisionError

    with fresh(kind) as reactor:
        factory = Saying(raising)
        port = listen(reactor, factory)

        def script() -> bytes:
            with reach(port) as peer:
                peer.sendall(b"x")
                return rest(peer)

        assert against(reactor, script) == b""
        assert reactor.logged.take(ZeroDivisionError) == 1
    assert factory.reasons == [ZeroDivisionError]


@each
def test_an_exception_that_looks_like_a_close_is_no_half_close(kind: Any) -> None:
    def raising(said: Any, data: bytes) -> None:
        raise ConnectionDone

    with fresh(kind) as reactor:
        factory = Saying(raising, lost=lambda said: reactor.stop(), protocol=HalfCloses)
        with reach(listen(reactor, factory)) as peer:
            peer.sendall(b"x")
            against(reactor)
        assert reactor.logged.take(ConnectionDone) == 1
    assert factory.reasons == [ConnectionDone]


@each
@pytest.mark.parametrize("where", ["made", "heard", "lost"])
def test_a_protocol_that_raises_is_logged_and_harms_nobody(kind: Any, where: str) -> None:
    def raising(said: Any, data: bytes = b"") -> None:
        if said is factory.protocols[0]:
            raise ZeroDivisionError
        if data:
            said.transport.write(data)

    with fresh(kind) as reactor:
        ways: dict[str, Any] = {where: raising}
        factory = Saying(**ways)
        port = listen(reactor, factory)

        def script() -> bytes:
            with reach(port) as bad, reach(port) as good:
                bad.sendall(b"bad")
                bad.close()
                good.sendall(b"good")
                return exactly(good, 4)

        assert against(reactor, script) == b"good"
        assert reactor.logged.take(ZeroDivisionError) == 1


@each
def test_a_write_that_raises_is_logged_and_loses_the_connection(kind: Any) -> None:
    class Raises:
        def resumeProducing(self) -> None:
            raise ZeroDivisionError

        def stopProducing(self) -> None:
            pass

    def producing(said: Any, data: bytes) -> None:
        said.transport.write(data)
        said.transport.producer, said.transport.streamingProducer = Raises(), False

    with fresh(kind) as reactor:
        factory = Saying(producing, lost=lambda said: reactor.stop())
        with reach(listen(reactor, factory)) as peer:
            peer.sendall(b"x")
            against(reactor)
        assert reactor.logged.take(ZeroDivisionError) == 1
    assert factory.reasons == [ZeroDivisionError]


@each
def test_a_loss_that_raises_in_a_flush_is_logged(kind: Any) -> None:
    def raising(said: Any) -> None:
        reactor.stop()
        raise ZeroDivisionError

    with fresh(kind) as reactor:
        factory = Saying(
            heard=lambda said, data: reactor.callLater(0, said.transport.loseConnection),
            lost=raising,
        )
        with reach(listen(reactor, factory)) as peer:
            peer.sendall(b"x")
            against(reactor)
        assert reactor.logged.take(ZeroDivisionError) == 1


@each
def test_a_close_of_a_connection_that_was_reset_is_a_loss(kind: Any) -> None:
    with fresh(kind) as reactor:

        def closing(said: Any, data: bytes) -> None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            said.transport.loseConnection()

        factory = Saying(closing, lost=lambda said: reactor.stop())
        peer = reach(listen(reactor, factory))
        peer.sendall(b"x")
        against(reactor)
    assert factory.reasons == [ConnectionLost]


@each
def test_abort_drops_what_was_written_before_and_after(kind: Any) -> None:
    def aborting(said: Any, data: bytes) -> None:
        said.transport.write(b"before")
        said.transport.abortConnection()
        said.transport.write(b"after")

    with fresh(kind) as reactor:
        factory = Saying(aborting, lost=lambda said: reactor.stop())
        with reach(listen(reactor, factory)) as peer:
            peer.sendall(b"x")
            against(reactor)
            with pytest.raises(ConnectionResetError):
                peer.recv(100)


@each
def test_a_write_when_the_connection_is_lost_is_in_vain(kind: Any) -> None:
    def late(said: Any) -> None:
        said.transport.write(b"late")
        said.transport.writeSequence([b"late"])
        said.transport.loseConnection()
        reactor.stop()

    with fresh(kind) as reactor:
        factory = Saying(lost=late)
        reach(listen(reactor, factory)).close()
        against(reactor)
    assert factory.reasons == [ConnectionDone]


@each
@pytest.mark.parametrize("data", ["text", bytearray(b"mutable"), memoryview(b"view")])
def test_only_bytes_can_be_written(kind: Any, data: Any) -> None:
    refused: list[Any] = []

    def writing(said: Any) -> None:
        try:
            said.transport.write(data)
        except TypeError as error:
            refused.append(str(error))
        reactor.stop()

    with fresh(kind) as reactor, reach(listen(reactor, Saying(made=writing))):
        against(reactor)
    assert refused == ["Data must be bytes"]


@each
def test_all_kinds_of_writes_keep_their_order(kind: Any) -> None:
    class Own(bytes):
        pass

    def writing(said: Any, data: bytes) -> None:
        said.transport.write(b"a")
        said.transport.write(b"")
        said.transport.writeSequence([b"b", b"c"])
        said.transport.write(Own(b"d"))
        reactor.callLater(0, said.transport.write, b"e")

    with fresh(kind) as reactor:
        port = listen(reactor, Saying(writing))

        def script() -> bytes:
            with reach(port) as peer:
                peer.sendall(b"x")
                return exactly(peer, 5)

        assert against(reactor, script) == b"abcde"


SIZE = 20 * 1024 * 1024


@each
def test_twenty_megabytes_that_nobody_reads_wait_and_arrive(kind: Any) -> None:
    data = bytes(range(256)) * (SIZE // 256)
    with fresh(kind) as reactor:
        waiting = threading.Event()

        def writing(said: Any) -> None:
            said.transport.write(data)
            reactor.callLater(0, reactor.callLater, 0, waiting.set)

        port = listen(reactor, Saying(made=writing))

        def script() -> bool:
            with reach(port) as peer:
                assert waiting.wait(4)
                # The reactor serves others meanwhile.
                with reach(port) as other:
                    assert exactly(other, 10) == data[:10]
                return exactly(peer, SIZE) == data

        assert against(reactor, script)


class Push:
    """Produce pieces until it has produced enough; note what it is told."""

    def __init__(self, reactor: Any, transport: Any, size: int) -> None:
        self.reactor, self.transport, self.left = reactor, transport, size
        self.told: list[str] = []
        self.paused = False
        self.hasPaused = threading.Event()

    def produce(self) -> None:
        if self.left and not self.paused:
            self.left -= 8192
            self.transport.write(b"p" * 8192)
            self.reactor.callLater(0, self.produce)
        elif not self.left:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def pauseProducing(self) -> None:
        self.told.append("pause")
        self.paused = True
        self.hasPaused.set()

    def resumeProducing(self) -> None:
        self.told.append("resume")
        self.paused = False
        self.reactor.callLater(0, self.produce)

    def stopProducing(self) -> None:
        self.told.append("stop")


@each
def test_a_push_producer_pauses_while_its_peer_does_not_read(kind: Any) -> None:
    size = 8 * 1024 * 1024
    producers: list[Push] = []
    with fresh(kind) as reactor:

        def connecting(said: Any) -> None:
            producers.append(Push(reactor, said.transport, size))

        def producing(said: Any, data: bytes) -> None:
            said.transport.registerProducer(producers[0], True)
            producers[0].produce()

        port = listen(reactor, Saying(producing, connecting))

        def script() -> int:
            with reach(port) as peer:
                peer.sendall(b"x")
                peer.recv(1)
                assert producers[0].hasPaused.wait(4)
                return 1 + len(rest(peer))

        assert against(reactor, script) == size
    told = producers[0].told
    assert told[:2] == ["pause", "resume"]
    assert "stop" not in told


@each
def test_a_producer_is_paused_with_its_buffer_bounded(kind: Any) -> None:
    buffered: list[int] = []
    with fresh(kind) as reactor:

        class Counts(Push):
            def pauseProducing(self) -> None:
                super().pauseProducing()
                transport = self.transport
                buffered.append(len(transport.dataBuffer) + transport._tempDataLen)
                self.reactor.callLater(0, self.reactor.stop)

            def resumeProducing(self) -> None:
                pass

        def producing(said: Any) -> None:
            producer = Counts(reactor, said.transport, 64 * 1024 * 1024)
            said.transport.registerProducer(producer, True)
            producer.produce()

        with reach(listen(reactor, Saying(made=producing))):
            against(reactor)
    assert 65536 < buffered[0] <= 65536 + 8192


@each
def test_a_pull_producer_is_asked_until_it_has_no_more(kind: Any) -> None:
    with fresh(kind) as reactor:

        class Pull:
            left = 50

            def __init__(self, transport: Any) -> None:
                self.transport = transport

            def resumeProducing(self) -> None:
                if self.left:
                    self.left -= 1
                    self.transport.write(b"piece")
                else:
                    self.transport.unregisterProducer()
                    self.transport.loseConnection()

            def stopProducing(self) -> None:
                pass

        def producing(said: Any, data: bytes) -> None:
            said.transport.write(b"first")
            said.transport.registerProducer(Pull(said.transport), False)

        port = listen(reactor, Saying(producing))

        def script() -> bytes:
            with reach(port) as peer:
                peer.sendall(b"x")
                return rest(peer)

        assert against(reactor, script) == b"first" + b"piece" * 50


@each
def test_a_producer_that_closes_in_a_flush_closes_once(kind: Any) -> None:
    with fresh(kind) as reactor:

        class Closes:
            def __init__(self, transport: Any) -> None:
                self.transport = transport

            def resumeProducing(self) -> None:
                self.transport.write(b"!")
                self.transport.loseConnection()
                self.transport.unregisterProducer()

            def stopProducing(self) -> None:
                pass

        def producing(said: Any, data: bytes) -> None:
            said.transport.write(data)
            said.transport.producer = Closes(said.transport)

        factory = Saying(producing)
        port = listen(reactor, factory)

        def script() -> bytes:
            with reach(port) as peer:
                peer.sendall(b"x")
                return rest(peer)

        assert against(reactor, script) == b"x!"
    assert factory.reasons == [ConnectionDone]


@each
def test_the_reactor_can_go_round_inside_of_a_turn(kind: Any) -> None:
    with fresh(kind) as reactor:

        def nested(said: Any, data: bytes) -> None:
            said.transport.write(b"<" + data)
            if data == b"out":
                while len(factory.heardBy) < 2:
                    reactor.iterate(1)
            factory.heardBy.append(data)
            said.transport.write(data + b">")

        factory: Any = Saying(nested)
        factory.heardBy = [b""]
        port = listen(reactor, factory)

        def script() -> list[bytes]:
            with reach(port) as outer, reach(port) as inner:
                outer.sendall(b"out")
                assert exactly(outer, 4) == b"<out"  # while the turn still lasts
                inner.sendall(b"in")
                return [exactly(inner, 6), exactly(outer, 4)]

        assert against(reactor, script) == [b"<inin>", b"out>"]


@each
def test_the_reactor_can_go_round_inside_of_a_flush(kind: Any) -> None:
    with fresh(kind) as reactor:
        done = threading.Event()

        def waiting(said: Any) -> None:
            if said is factory.protocols[0]:
                while not done.is_set():
                    reactor.iterate(0.1)

        def both(said: Any, data: bytes) -> None:
            def later() -> None:
                first, second = factory.protocols
                first.transport.loseConnection()
                second.transport.write(b"not held up")

            reactor.callLater(0, later)

        factory = Saying(both, lost=waiting)
        port = listen(reactor, factory)

        def script() -> bytes:
            with reach(port), reach(port) as second:
                second.sendall(b"x")
                try:
                    return exactly(second, 11)
                finally:
                    done.set()

        assert against(reactor, script) == b"not held up"


@each
def test_a_threads_call_that_woke_the_reactor_inside_of_a_flush_is_made(kind: Any) -> None:
    with fresh(kind) as reactor:

        def wakes(said: Any) -> None:
            reactor.callFromThread(reactor.stop)
            reactor.doIteration(1)

        factory = Saying(
            heard=lambda said, data: reactor.callLater(0, said.transport.loseConnection),
            lost=wakes,
        )
        with reach(listen(reactor, factory)) as peer:
            peer.sendall(b"x")
            against(reactor)


@each
def test_who_is_to_write_is_among_the_writers_and_what_is_removed(kind: Any) -> None:
    with fresh(kind) as reactor:

        def looking(said: Any, data: bytes) -> None:
            transport = said.transport
            transport.write(b"kept")
            assert transport in reactor.getWriters()
            transport.stopReading()
            transport.write(b"+")
            assert transport in reactor.removeAll()
            assert transport not in reactor.getWriters()
            transport.stopWriting()
            transport.startReading()
            transport.startWriting()  # nobody else remembers that it was to write
            assert transport in reactor.getWriters()
            reactor.addReader(port)

        port = listen(reactor, Saying(looking))

        def script() -> bytes:
            with reach(port) as peer:
                peer.sendall(b"x")
                return exactly(peer, 5)

        assert against(reactor, script) == b"kept+"


@each
def test_others_can_make_a_connection_a_writer_and_none(kind: Any) -> None:
    with fresh(kind) as reactor:

        def writing(said: Any, data: bytes) -> None:
            transport = said.transport
            transport.write(data)
            reactor.removeWriter(transport)
            assert transport not in reactor.getWriters()
            reactor.addWriter(transport)
            assert transport in reactor.getWriters()
            reactor.callLater(0, reactor.callLater, 0, idle.append, transport)

        idle: list[Any] = []
        port = listen(reactor, Saying(writing))

        def script() -> bytes:
            with reach(port) as peer:
                peer.sendall(b"x")
                got = exactly(peer, 1)
                peer.sendall(b"y")
                return got + exactly(peer, 1)

        assert against(reactor, script) == b"xy"
        assert idle
        assert idle[0] not in reactor.getWriters()


@each
def test_who_is_paused_by_an_event_before_its_own_hears_nothing_until_it_resumes(kind: Any) -> None:
    with fresh(kind) as reactor:
        heard: list[Any] = []

        def pausing(said: Any, data: bytes) -> None:
            heard.append(said)
            if len(heard) == 1:
                (other,) = (each for each in factory.protocols if each is not said)
                other.transport.pauseProducing()
                reactor.callLater(0, reactor.callLater, 0, resume, other)
            else:
                reactor.stop()

        def resume(other: Any) -> None:
            assert len(heard) == 1
            other.transport.resumeProducing()

        factory = Saying(pausing)
        port = listen(reactor, factory)
        with reach(port) as one, reach(port) as two:
            while len(factory.protocols) < 2:
                reactor.iterate(1)
            one.sendall(b"x")
            two.sendall(b"x")
            against(reactor)
        assert len({*heard}) == 2


@each
def test_a_connection_whose_socket_somebody_has_closed_is_lost_as_any(kind: Any) -> None:
    with fresh(kind) as reactor:

        def closing(said: Any, data: bytes) -> None:
            said.transport.stopReading()
            port.stopListening().addCallback(closed, said.transport)

        def closed(_: object, transport: Any) -> None:
            transport.getHandle().close()
            transport.connectionLost(Failure(ConnectionDone()))

        factory = Saying(closing, lost=lambda said: reactor.stop())
        port = listen(reactor, factory)
        with reach(port) as peer:
            peer.sendall(b"x")
            against(reactor)
        assert factory.reasons == [ConnectionDone]
