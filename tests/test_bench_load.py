"""
Loads on real sockets: everything sent is accounted for, as answered or as an error of its kind.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

from sockapps.apps.command import CommandFactory
from sockapps.apps.echo import EchoFactory
from sockapps.apps.gate import GateFactory
from sockapps.apps.hello import HelloFactory
from sockapps.apps.upper import UpperFactory, UpperOnceFactory
from sockapps.bench.load import Load
from sockapps.bench.plan import makePlan
from sockapps.globalreactor import globalReactor
from tests.sockets import PYOPENSSL, Listen, bounded, tlsSides
from tests.test_client import at, datagrams, streams


async def loaded(app: str, to: str, **wanted: Any) -> Load:
    """Run a load to its end."""
    load = Load(makePlan(app, to, **{"connections": 4, **wanted}), globalReactor())
    await bounded(Deferred.fromCoroutine(load.run()), lambda: f"the end; {load.tally.errors}")
    return load


def errors(load: Load) -> dict[str, int]:
    return {kind: count for kind, count in load.tally.errors.items() if count}


def accounted(load: Load) -> int:
    return load.tally.answered + load.tally.failed


def replying(reply: Callable[[Any, bytes], object]) -> Factory[Any]:
    """Make servers that do this with each segment."""

    class Replying(Protocol):
        def dataReceived(self, data: bytes) -> None:
            reply(self.transport, data)

    factory = Factory.forProtocol(Replying)
    factory.noisy = False
    return factory


@pytest.mark.parametrize("framing", ["line", "chunk", "netstring"])
@pytest_twisted.ensureDeferred
async def test_exactly_so_many_messages_are_sent_and_answered(
    listening: Listen, framing: str
) -> None:
    port = listening(streams(EchoFactory(), framing=framing))
    load = await loaded("echo", at(port), messages=50, framing=framing)
    assert (load.tally.answered, errors(load)) == (50, {})


@pytest.mark.parametrize("depth", [1, 3, 64])
@pytest_twisted.ensureDeferred
async def test_messages_in_flight_are_all_answered(listening: Listen, depth: int) -> None:
    port = listening(streams(EchoFactory()))
    load = await loaded("echo", at(port), messages=1000, depth=depth)
    assert (load.tally.answered, errors(load)) == (1000, {})


@pytest_twisted.ensureDeferred
async def test_unix_sockets_are_loaded_too(listening: Listen, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    listening(streams(EchoFactory()), unix=path)
    load = await loaded("echo", f"unix:{path}", messages=40)
    assert (load.tally.answered, errors(load)) == (40, {})


@pytest.mark.filterwarnings(PYOPENSSL)
@pytest_twisted.ensureDeferred
async def test_tls_is_loaded_where_it_is_trusted_and_an_error_where_not(
    listening: Listen, tmp_path: Path
) -> None:
    server, _ = tlsSides(tmp_path)
    port = listening(streams(EchoFactory()), tls=server).getHost().port
    to = f"tls:localhost:{port}:trustRoots={tmp_path}"
    for wanted in ({"depth": 8}, {"churn": True}):
        load = await loaded("echo", to, messages=40, **wanted)
        assert (load.tally.answered, errors(load)) == (40, {})
    load = await loaded("echo", f"tls:localhost:{port}", messages=8)
    assert errors(load).keys() == {"tls"}
    assert load.tally.unreached
    assert load.tally.why is not None
    assert load.tally.why.startswith("TLS: ")


@pytest.mark.parametrize(
    ("app", "factory", "message"),
    [
        ("upper-tcp", UpperFactory(), "straße"),
        ("upper-once", UpperOnceFactory(), "x"),
        ("hello", HelloFactory(), "x"),
        ("gate", GateFactory(), "1"),
        ("gate", GateFactory(), "2"),
        ("command", CommandFactory(), "date"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_each_app_answers_as_its_client_expects(
    listening: Listen, app: str, factory: Any, message: str
) -> None:
    port = listening(streams(factory))
    load = await loaded(app, at(port), messages=20, message=message.encode())
    assert (load.tally.answered, errors(load)) == (20, {})


@pytest.mark.parametrize(
    ("app", "factory", "message"),
    [
        ("upper", UpperFactory(), "straße"),
        ("upper", UpperFactory(), "a line\n"),
        ("echo", EchoFactory(), "x"),
        ("hello-udp", HelloFactory(), "xx"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_datagrams_are_answered_as_clients_expect(
    listening: Listen, app: str, factory: Any, message: str
) -> None:
    port = listening(datagrams(factory))
    load = await loaded(app, at(port, "udp"), messages=50, depth=2, message=message.encode())
    assert (load.tally.answered, errors(load)) == (50, {})


@pytest_twisted.ensureDeferred
async def test_churn_gives_each_message_a_connection_of_its_own(listening: Listen) -> None:
    made = []

    class Counting(EchoFactory):
        def buildProtocol(self, addr: Any) -> Any:
            made.append(addr)
            return super().buildProtocol(addr)

    port = listening(streams(Counting()))
    load = await loaded("echo", at(port), messages=30, churn=True)
    assert (load.tally.answered, errors(load), len(made)) == (30, {}, 30)


@pytest_twisted.ensureDeferred
async def test_a_duration_ends_it_and_everything_sent_is_answered(listening: Listen) -> None:
    for wanted in ({"depth": 4}, {"churn": True}, {"rate": 500.0}):
        load = await loaded("echo", at(listening(streams(EchoFactory()))), duration=0.1, **wanted)
        assert load.tally.answered > 4
        assert errors(load) == {}
        assert 0.05 < load.seconds < 1


# The rate


class Stalling(Protocol):
    """Echo lines, but say nothing for a while from the tenth on."""

    STALL = 0.4
    seen = 0

    def dataReceived(self, data: bytes) -> None:
        before = self.seen
        self.seen += data.count(b"\n")
        if before < 10 <= self.seen:
            self.transport.pauseProducing()
            globalReactor().callLater(self.STALL, self._goOn, data)
        else:
            self._answer(data)

    def _goOn(self, data: bytes) -> None:
        self.transport.resumeProducing()
        self._answer(data)

    def _answer(self, data: bytes) -> None:
        self.transport.write(b"".join(b"Echo=>%b\n" % each for each in data.split()))


def percentile(load: Load, of: float) -> float:
    """In seconds."""
    return float(load.tally.histogram.get_value_at_percentile(of)) / 1e7


@pytest.mark.parametrize("depth", [1, 100])
@pytest_twisted.ensureDeferred
async def test_at_a_rate_a_stall_is_felt_by_every_message_that_was_due_in_it(
    listening: Listen, depth: int
) -> None:
    """
    Of 100 messages due in 0.5 s, about 80 fall into the 0.4 s; the first of them waits longest.
    """
    port = listening(Factory.forProtocol(Stalling))
    load = await loaded(
        "echo", at(port), connections=1, depth=depth, rate=200.0, messages=100, timeout=3.0
    )
    assert (load.tally.answered, errors(load)) == (100, {})
    assert percentile(load, 100) >= 0.38
    assert percentile(load, 50) > 0.1


@pytest_twisted.ensureDeferred
async def test_without_a_rate_only_the_message_in_flight_feels_a_stall(listening: Listen) -> None:
    port = listening(Factory.forProtocol(Stalling))
    load = await loaded("echo", at(port), connections=1, messages=200)
    assert percentile(load, 100) >= 0.38
    assert percentile(load, 99) < 0.1


@pytest.mark.parametrize("wanted", [{}, {"churn": True}])
@pytest_twisted.ensureDeferred
async def test_what_was_due_and_never_had_its_turn_is_counted(
    listening: Listen, wanted: Any
) -> None:
    port = listening(replying(lambda transport, data: None))
    load = await loaded(
        "echo", at(port), connections=2, rate=100.0, messages=10, timeout=0.15, **wanted
    )
    assert errors(load).keys() == {"timeout", "unsent"}
    assert accounted(load) == 10


@pytest_twisted.ensureDeferred
async def test_datagrams_are_paced_too(listening: Listen) -> None:
    port = listening(datagrams(UpperFactory()))
    load = await loaded("upper", at(port, "udp"), connections=2, rate=500.0, messages=50)
    assert (load.tally.answered, errors(load)) == (50, {})
    assert load.seconds >= 49 / 500


# What goes wrong


@pytest_twisted.ensureDeferred
async def test_a_wrong_reply_is_an_error_and_the_others_still_count(listening: Listen) -> None:
    seen = []

    def reply(transport: Any, data: bytes) -> None:
        for line in data.splitlines():
            seen.append(line)
            prefix = b"Ecco=>" if len(seen) % 4 == 0 else b"Echo=>"
            transport.write(prefix + line + b"\n")

    for depth in (1, 8):
        seen.clear()
        load = await loaded(
            "echo", at(listening(replying(reply))), connections=1, depth=depth, messages=100
        )
        assert (load.tally.answered, errors(load)) == (75, {"wrong_reply": 25})


@pytest.mark.parametrize(
    ("framing", "reply"),
    [
        ("line", b"Echo=>hello\nEcho=>hello\n"),
        ("line", b"Echo=>hello\nEcho"),
        ("netstring", b"x"),
        ("chunk", b"Echo=>hello!"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_replies_out_of_step_are_wrong_and_the_run_goes_on(
    listening: Listen, framing: str, reply: bytes
) -> None:
    port = listening(replying(lambda transport, data: transport.write(reply)))
    load = await loaded("echo", at(port), connections=2, messages=20, framing=framing)
    assert errors(load).keys() == {"wrong_reply"}
    assert load.tally.failed >= 10


@pytest.mark.parametrize("framing", ["line", "chunk"])
@pytest_twisted.ensureDeferred
async def test_a_reply_may_come_in_pieces(listening: Listen, framing: str) -> None:
    """The second piece is sent when the first has arrived: it is there that it is sent from."""

    class Hesitant(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(b"Echo=")
            globalReactor().callLater(0.01, self.transport.write, b">" + data)

    port = listening(Factory.forProtocol(Hesitant))
    load = await loaded("echo", at(port), connections=2, messages=6, framing=framing)
    assert (load.tally.answered, errors(load)) == (6, {})


@pytest_twisted.ensureDeferred
async def test_where_any_reply_counts_replies_are_counted_and_their_bytes(
    listening: Listen,
) -> None:
    port = listening(streams(CommandFactory()))
    load = await loaded("command", at(port), messages=30, depth=4, message=b"os")
    assert (load.tally.answered, errors(load)) == (30, {})
    assert load.tally.looseBytes == 30 * len(b"[posix]\n")


def hangUp(transport: Any, data: bytes) -> None:
    transport.loseConnection()


def reset(transport: Any, data: bytes) -> None:
    transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abortConnection()


@pytest.mark.parametrize(
    ("server", "kind"),
    [(hangUp, "broken_off"), (reset, "reset"), (lambda transport, data: None, "timeout")],
)
@pytest.mark.parametrize("wanted", [{}, {"churn": True}, {"depth": 2}])
@pytest_twisted.ensureDeferred
async def test_errors_are_told_apart_and_the_run_goes_on_with_new_connections(
    listening: Listen, server: Any, kind: str, wanted: Any
) -> None:
    port = listening(replying(server))
    load = await loaded("echo", at(port), connections=2, messages=8, timeout=0.05, **wanted)
    assert errors(load) == {kind: 8}
    assert not load.tally.unreached


@pytest_twisted.ensureDeferred
async def test_a_server_that_hangs_up_before_it_is_asked_is_no_reason_to_wait(
    listening: Listen,
) -> None:
    class Unwilling(Protocol):
        def connectionMade(self) -> None:
            self.transport.abortConnection()

    factory = Factory.forProtocol(Unwilling)
    load = await loaded("echo", at(listening(factory)), messages=8, rate=200.0, timeout=0.2)
    assert load.tally.answered == 0
    assert errors(load).keys() <= {"broken_off", "reset", "unsent"}


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("wanted", [{"messages": 8}, {"duration": 5.0}, {"rate": 5.0}])
@pytest_twisted.ensureDeferred
async def test_nobody_there_ends_it_at_once(listening: Listen, kind: str, wanted: Any) -> None:
    port = listening(datagrams(EchoFactory()) if kind == "udp" else streams(EchoFactory()))
    where = at(port, kind)
    await port.stopListening()
    load = await loaded("echo", where, connections=2, **wanted)
    assert errors(load) == {"refused": 2}
    assert load.tally.unreached
    assert "refused" in str(load.tally.why)


@pytest_twisted.ensureDeferred
async def test_nobody_there_ends_a_churn_at_once(listening: Listen) -> None:
    port = listening(streams(EchoFactory()))
    where = at(port)
    await port.stopListening()
    load = await loaded("echo", where, churn=True)
    assert (errors(load), load.tally.unreached) == ({"refused": 4}, True)


@pytest.mark.parametrize("churn", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_server_that_dies_costs_the_messages_that_are_left(
    listening: Listen, churn: bool
) -> None:
    port: Any = None

    def dying(transport: Any, data: bytes) -> None:
        if port.connected:
            transport.write(b"Echo=>hello\n")
            port.stopListening()
        transport.loseConnection()

    port = listening(replying(dying))
    load = await loaded("echo", at(port), connections=1, messages=6, churn=churn)
    assert load.tally.answered == 1
    assert accounted(load) == 6
    assert load.tally.errors["refused"] >= 4


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_not_made_in_time_is_given_up() -> None:
    """A backlog that is full, as nobody accepts: the system lets the next ones wait."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        to = f"tcp:127.0.0.1:{server.getsockname()[1]}"
        load = await loaded("echo", to, connections=2, messages=2, timeout=0.1)
    assert (errors(load), load.tally.unreached) == ({"unreachable": 2}, True)
    assert load.tally.why == "no connection within 0.1 s"


# Datagrams


@pytest.mark.parametrize("rate", [None, 200.0])
@pytest_twisted.ensureDeferred
async def test_lost_datagrams_time_out_and_wrong_ones_are_told(
    listening: Listen, rate: float | None
) -> None:
    class Lossy(DatagramProtocol):
        noisy = False
        seen = 0

        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            self.seen += 1
            if self.seen % 3 and self.transport is not None:
                self.transport.write(datagram.upper() if self.seen % 5 else datagram, addr)

    port = listening(Lossy())
    load = await loaded(
        "upper", at(port, "udp"), connections=30 if rate else 3, messages=30, timeout=0.1, rate=rate
    )
    # Of 30: every third is lost, and of the others every fifth is wrong.
    assert (load.tally.answered, errors(load)) == (16, {"timeout": 10, "wrong_reply": 4})


@pytest_twisted.ensureDeferred
async def test_a_late_datagram_never_answers_another_message(listening: Listen) -> None:
    """The first reply comes after its time-out, and is not the one that the second waits for."""

    class Late(DatagramProtocol):
        noisy = False
        waiting: tuple[bytes, Any] | None = None

        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            assert self.transport is not None
            if self.waiting is None:
                self.waiting = datagram, addr
                return
            self.transport.write(*self.waiting)
            assert addr != self.waiting[1]

    port = listening(Late())
    load = await loaded("upper", at(port, "udp"), connections=1, messages=3, timeout=0.1)
    assert errors(load) == {"timeout": 3}


@pytest_twisted.ensureDeferred
async def test_doubled_datagrams_count_once(listening: Listen) -> None:
    class Doubling(DatagramProtocol):
        noisy = False

        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            assert self.transport is not None
            for _ in range(2):
                self.transport.write(datagram.upper(), addr)

    port = listening(Doubling())
    load = await loaded("upper", at(port, "udp"), connections=1, messages=5, rate=100.0)
    assert (load.tally.answered, errors(load)) == (5, {})


@pytest_twisted.ensureDeferred
async def test_a_host_is_looked_up_for_datagrams_or_is_not_reached(listening: Listen) -> None:
    port = listening(datagrams(UpperFactory())).getHost().port
    load = await loaded("upper", f"udp:localhost:{port}", messages=5)
    assert (load.tally.answered, errors(load)) == (5, {})

    class Nameless:
        """A reactor that knows no names."""

        def __getattr__(self, name: str) -> Any:
            return getattr(globalReactor(), name)

        async def resolve(self, host: str) -> str:
            raise DNSLookupError(host)

    load = Load(makePlan("upper", "udp:nowhere.invalid:9"), Nameless())
    await load.run()
    assert (errors(load), load.tally.unreached) == ({"unreachable": 1}, True)


@pytest_twisted.ensureDeferred
async def test_where_datagrams_cannot_be_sent_is_not_reached() -> None:
    """To send to the broadcast address the system wants to be asked first."""
    load = await loaded("upper", "udp:255.255.255.255:9", connections=2, messages=4)
    assert (errors(load).keys(), load.tally.unreached) == ({"unreachable"}, True)


# Ending early


@pytest_twisted.ensureDeferred
async def test_it_can_be_ended_early_and_nobody_is_blamed(listening: Listen) -> None:
    port = listening(replying(lambda transport, data: load.stop()))
    load = Load(makePlan("echo", at(port), connections=2), globalReactor())
    await bounded(Deferred.fromCoroutine(load.run()), lambda: "the end")
    assert (load.interrupted, load.tally.answered, errors(load)) == (True, 0, {})
    load.stop()


@pytest_twisted.ensureDeferred
async def test_a_server_that_does_not_close_is_left(
    listening: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sockapps.bench.load.GOODBYE", 0.05)

    def flood(transport: Any, data: bytes) -> None:
        transport.pauseProducing()
        load.stop()

    load = Load(
        makePlan("echo", at(listening(replying(flood))), connections=1, size=1 << 24),
        globalReactor(),
    )
    await bounded(Deferred.fromCoroutine(load.run()), lambda: "the end")
    assert load.interrupted
