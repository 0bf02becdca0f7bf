"""
Servers, numbers and ends that a load does not expect: its books stay right, and it ends.
"""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol

from sockapps.apps.upper import UpperFactory
from sockapps.bench.plan import makePlan
from sockapps.bench.report import duration, figures
from sockapps.globalreactor import globalReactor
from tests.sockets import Listen, bounded
from tests.test_bench_command import Bench, bench  # noqa: F401  # a fixture
from tests.test_bench_load import accounted, at, datagrams, errors, loaded, replying


class Twice(Protocol):
    """Say the first connection's message back twice, and the others' a while later."""

    transport: Any
    factory: Any

    def connectionMade(self) -> None:
        self.factory.connected.append(self)

    def dataReceived(self, data: bytes) -> None:
        later = globalReactor().callLater
        reply = b"Echo=>" + data
        if self is self.factory.connected[0]:
            self.transport.write(reply)
            later(0.05, self.transport.write, reply)
        else:
            later(0.3, self.transport.write, reply)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [({"connections": 2, "messages": 2}, 2), ({"connections": 1, "messages": 3, "rate": 5.0}, 3)],
    ids=["as fast as it goes", "at a rate"],
)
@pytest_twisted.ensureDeferred
async def test_one_reply_too_many_ends_nobody_elses_wait(
    listening: Listen, asked: dict[str, Any], answered: int
) -> None:
    factory: Any = Factory.forProtocol(Twice)
    factory.connected = []
    load = await loaded("echo", at(listening(factory)), timeout=5.0, **asked)
    assert (load.tally.answered, errors(load)) == (answered, {"wrong_reply": 1})
    assert load.busy == 0


@pytest.mark.parametrize("size", [16385, 65507])
@pytest_twisted.ensureDeferred
async def test_datagrams_may_be_as_large_as_datagrams_are(listening: Listen, size: int) -> None:
    port = listening(datagrams(UpperFactory()))
    load = await loaded("upper", at(port, "udp"), messages=3, size=size)
    assert (load.tally.answered, errors(load)) == (3, {})


@pytest.mark.parametrize("silent", [True, False])
@pytest_twisted.ensureDeferred
async def test_who_never_shakes_hands_is_no_connection(listening: Listen, silent: bool) -> None:
    port = listening(replying(lambda transport, data: silent or transport.loseConnection()))
    load = await loaded("echo", f"tls:localhost:{port.getHost().port}", messages=8, timeout=0.2)
    assert errors(load).keys() == {"unreachable" if silent else "tls"}
    assert load.tally.unreached
    assert load.begun is None  # nothing was due yet: no latency holds a handshake


@pytest.mark.parametrize("name", ["rate", "duration", "timeout"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e-300, 0.0])
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    asked: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"--{name} .* out of range"):
        makePlan("echo", **asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"size": 10**10}, "at most 67108864 can be sent"),
        ({"size": 67108865, "framing": "netstring"}, "at most 67108864 can be sent"),
        ({"rate": 1e7}, "--rate 1e[+]07 is more than can be sent; at most 1,000,000"),
        (
            {"to": "udp:127.0.0.1:9", "size": 65507},
            "a reply of 65513 bytes; a datagram carries 65507",
        ),
        ({"to": "udp:127.0.0.1:9", "size": 0}, "an empty datagram gets no reply"),
        (
            {"to": "udp:127.0.0.1:9", "framing": "line"},
            "one message over UDP, so there is no --framing",
        ),
        ({"depth": 10**9}, "--depth times --connections is 10,000,000 at most"),
    ],
)
def test_what_is_too_much_is_refused_with_how_much_would_do(
    asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        makePlan("echo", **asked)


@pytest_twisted.ensureDeferred
async def test_at_a_rate_no_message_counts_twice(listening: Listen) -> None:
    port: Any = None

    def dying(transport: Any, data: bytes) -> None:
        transport.abortConnection()
        if port.connected:
            port.stopListening()

    port = listening(replying(dying))
    load = await loaded("echo", at(port), connections=5, messages=20, rate=20.0, timeout=0.5)
    assert accounted(load) == 20


@pytest.mark.parametrize(
    ("us", "text"), [(99.96, "100 µs"), (999.7, "1 ms"), (999_700, "1 s"), (1234e6, "1234 s")]
)
def test_no_latency_is_written_with_an_exponent(us: float, text: str) -> None:
    assert duration(us) == text


@pytest_twisted.ensureDeferred
async def test_sigterm_reports_too(listening: Listen, bench: Bench) -> None:  # noqa: F811
    begun: Deferred[None] = Deferred()

    def tell(transport: Any, data: bytes) -> None:
        transport.write(b"Echo=>" + data)
        if not begun.called:
            begun.callback(None)

    program = bench("echo", "--to", at(listening(replying(tell))), "--duration", "600", "--json")
    await bounded(begun, lambda: "the first message")
    program.transport.signalProcess(signal.SIGTERM)
    assert await program.ended() == 0, program.err
    assert json.loads(program.out)["interrupted"]


@pytest_twisted.ensureDeferred
async def test_wrong_datagrams_are_received_bytes(listening: Listen) -> None:
    class Wrong(DatagramProtocol):
        noisy = False

        def datagramReceived(self, datagram: bytes, addr: Any) -> None:
            self.transport.write(b"nope", addr)

    load = await loaded("upper", at(listening(Wrong()), "udp"), messages=5)
    assert figures(load, 0)["bytes_received"] == 20
