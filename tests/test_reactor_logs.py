"""
What is logged while an event is dealt with names the connection that it is of; nothing else does.
"""

from __future__ import annotations

import re
import threading
from typing import Any

from twisted.internet.interfaces import ILoggingContext
from twisted.internet.threads import deferToThreadPool
from twisted.python import context, log
from zope.interface import implementer

from tests.reactors import Saying, Says, against, each, exactly, fresh, listen, reach, rest


@each
def test_each_event_is_logged_with_the_prefix_of_its_connection(kind: Any) -> None:
    with fresh(kind) as reactor:

        class Tells:
            def resumeProducing(self) -> None:
                log.msg("resumed")
                factory.protocols[0].transport.unregisterProducer()

            def stopProducing(self) -> None:
                pass

        def hearing(said: Any, data: bytes) -> None:
            log.msg("heard")
            said.transport.write(data)
            said.transport.producer = Tells()
            reactor.callLater(0, log.msg, "later")

        factory = Saying(
            hearing,
            made=lambda said: log.msg("made"),
            lost=lambda said: (log.msg("lost"), lost.set()),
        )
        lost = threading.Event()
        port = listen(reactor, factory)

        def script() -> None:
            with reach(port) as peer:
                peer.sendall(b"x")
                assert exactly(peer, 1) == b"x"
            assert lost.wait(4)

        against(reactor, script)
        assert reactor.logged.systems("made", "heard", "resumed", "lost", "later") == [
            "tests.reactors.Saying",
            *["Says,0,127.0.0.1"] * 3,
            "-",
        ]


@each
def test_a_loss_in_a_flush_is_logged_with_the_prefix_of_its_connection(kind: Any) -> None:
    with fresh(kind) as reactor:

        def losing(said: Any, data: bytes) -> None:
            for each in factory.protocols:
                reactor.callLater(0, each.transport.loseConnection)

        def lost(said: Any) -> None:
            log.msg(f"lost {said.transport.sessionno}")
            reactor.callLater(0, log.msg, f"after {said.transport.sessionno}")

        factory = Saying(losing, lost=lost)
        port = listen(reactor, factory)

        def script() -> None:
            with reach(port) as one, reach(port) as two:
                two.sendall(b"x")
                assert rest(one) == rest(two) == b""

        against(reactor, script)
        assert reactor.logged.systems("lost 0", "lost 1", "after 0") == [
            "Says,0,127.0.0.1",
            "Says,1,127.0.0.1",
            "-",
        ]


@each
def test_a_thread_keeps_the_prefix_of_the_connection_that_started_it(kind: Any) -> None:
    with fresh(kind) as reactor:

        def hearing(said: Any, data: bytes) -> None:
            if data == b"go":

                def inThread() -> None:
                    assert factory.others.wait(4)  # others have had their events meanwhile
                    log.msg("in the thread")

                done = deferToThreadPool(reactor, reactor.getThreadPool(), inThread)
                done.addCallback(lambda _: said.transport.write(b"done"))
            else:
                factory.others.set()

        factory: Any = Saying(hearing)
        factory.others = threading.Event()
        port = listen(reactor, factory)

        def script() -> bytes:
            with reach(port) as one, reach(port) as two:
                one.sendall(b"go")
                two.sendall(b"other")
                return exactly(one, 4)

        assert against(reactor, script) == b"done"
        assert reactor.logged.systems("in the thread") == ["Says,0,127.0.0.1"]


@each
def test_a_datagram_is_logged_with_the_prefix_of_its_port(kind: Any) -> None:
    from twisted.internet.protocol import DatagramProtocol

    class Hears(DatagramProtocol):
        noisy = False

        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            log.msg("heard")
            reactor.callLater(0, log.msg, "later")
            reactor.callLater(0, reactor.stop)

    with fresh(kind) as reactor:
        port = reactor.listenUDP(0, Hears(), "127.0.0.1")
        reactor.callWhenRunning(port.write, b"x", ("127.0.0.1", port.getHost().port))
        against(reactor)
        assert reactor.logged.systems("heard", "later") == ["Hears (UDP)", "-"]


@each
def test_a_connection_shows_the_number_of_its_port_for_good(kind: Any) -> None:
    with fresh(kind) as reactor:
        seen: list[str] = []
        factory = Saying(
            heard=lambda said, data: port.stopListening().addCallback(
                lambda _: (seen.append(repr(said.transport)), said.transport.loseConnection())
            ),
            lost=lambda said: reactor.callLater(
                0, lambda: (seen.append(repr(said.transport)), reactor.stop())
            ),
        )
        port = listen(reactor, factory)
        number = port.getHost().port
        with reach(port) as peer:
            peer.sendall(b"x")
            against(reactor)
        assert seen == [f"<Says #0 on {number}>"] * 2
        assert factory.protocols[0].transport.logstr == "Says,0,127.0.0.1"


def test_a_prefix_can_be_set() -> None:
    with fresh() as reactor:

        def hearing(said: Any, data: bytes) -> None:
            said.transport.logstr = "mine"
            said.transport.repstr = "<mine>"
            log.msg(f"it is {said.transport!r}")
            reactor.stop()

        with reach(listen(reactor, Saying(hearing))) as peer:
            peer.sendall(b"x")
            against(reactor)
        assert reactor.logged.systems("it is <mine>") == ["mine"]


def test_a_prefix_that_raises_is_logged_once_and_harms_nothing() -> None:
    @implementer(ILoggingContext)
    class Buggy(Says):
        def logPrefix(self) -> str:
            raise ZeroDivisionError

    with fresh() as reactor:

        def hearing(said: Any, data: bytes) -> None:
            log.msg("heard")
            said.transport.write(data)

        factory = Saying(hearing, protocol=Buggy)
        port = listen(reactor, factory)

        def script() -> bytes:
            with reach(port) as peer:
                peer.sendall(b"x")
                return exactly(peer, 1)

        assert against(reactor, script) == b"x"
        assert reactor.logged.take(ZeroDivisionError) == 1
        assert reactor.logged.systems("heard") == ["(buggy logPrefix method)"]
        assert len(factory.reasons) == 1


def test_a_client_is_logged_as_one() -> None:
    from twisted.internet.protocol import ClientFactory

    with fresh() as reactor:
        port = listen(reactor, Saying())

        class Connecting(Saying, ClientFactory):
            pass

        def made(said: Any) -> None:
            log.msg("made")
            said.transport.write(b"x")

        def heard(said: Any, data: bytes) -> None:
            log.msg("heard")
            assert re.match(r"<.*LeanClient.* to \('127.0.0.1', \d+\) at ", repr(said.transport))
            reactor.stop()

        reactor.connectTCP("127.0.0.1", port.getHost().port, Connecting(heard, made))
        against(reactor)
        assert reactor.logged.systems("made", "heard") == ["Says,client"] * 2


@each
def test_what_else_a_context_has_is_found_in_a_turn(kind: Any) -> None:
    found: list[object] = []
    with fresh(kind) as reactor:

        def hearing(said: Any, data: bytes) -> None:
            found.append(context.get("mine"))
            context.call({"mine": "inner"}, lambda: found.append(context.get("mine")))
            found.append(context.get("nobody's", "default"))
            reactor.stop()

        with reach(listen(reactor, Saying(hearing))) as peer:
            peer.sendall(b"x")
            context.call({"mine": "outer"}, against, reactor)
    assert found == ["outer", "inner", "default"]
