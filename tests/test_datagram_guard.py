"""
Tests for L{sockapps.guard}: what is pure, and what its verdicts do on real sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import udp
from twisted.internet.task import Clock

from sockapps import guard
from sockapps.counts import DROPS
from sockapps.datagram import MAX_DATAGRAM, MAX_WAITING
from sockapps.datagrams import PACKETS, DatagramSessions, firstClientPort, isLocal
from sockapps.guard import Guard, OwnAddresses, Pace, isOfMany, onWire
from sockapps.limits import Admission, Sources
from sockapps.options import AdmissionOptions, DatagramOptions, ProcessOptions
from sockapps.reactor import LeanUDPPort
from tests.sockets import App, Apps, DatagramPeer, Listen, Speak, answer, turns, until
from tests.test_datagram import Shared, hasIPv6, say

CLIENT = ("192.0.2.7", 40000)
SERVER = ("127.0.0.1", 5000)


class Told(list[tuple[Any, ...]]):
    """A log that notes what it is told."""

    def began(self, session: Any) -> None:
        self.append(("began", session.number))

    def ended(self, session: Any, why: str) -> None:
        self.append(("ended", session.number, why))

    def dropped(self, why: str, host: str) -> None:
        self.append(("dropped", why, host))

    def flush(self) -> None:
        self.append(("flush",))


def sheltered(
    apps: Apps,
    clock: Clock | None = None,
    exempt: tuple[str, ...] = (),
    admission: dict[str, Any] | None = None,
    own: OwnAddresses | None = None,
    **options: Any,
) -> DatagramSessions:
    """Put datagram sessions around apps, where loopback has limits like everybody."""
    time: Any = clock or Clock()
    sources = Sources(ProcessOptions(exempt=exempt), time.seconds)
    log: Any = Told()
    return DatagramSessions(
        apps,
        DatagramOptions(**options),
        time,
        Admission(AdmissionOptions(**(admission or {})), sources),
        log,
        own,
    )


def same(app: App, message: bytes) -> None:
    """Answer a message with itself."""
    app.transport.write(message)


def whisper(app: App, message: bytes) -> None:
    """Answer a message with one byte."""
    app.transport.write(b"." if message != b"." else b",")


async def answered(peer: DatagramPeer, *messages: bytes) -> list[bytes]:
    """Send datagrams one by one, and see which are answered."""
    replies = []
    for message in messages:
        peer.send(message)
        await turns(5)
        replies += peer.received
        peer.received.clear()
    return replies


@pytest.mark.parametrize(
    ("size", "host", "bytesOfPackets"),
    [
        (0, "192.0.2.7", 28),
        (1472, "192.0.2.7", 1500),
        (1473, "192.0.2.7", 1501 + 20),
        (MAX_DATAGRAM, "192.0.2.7", MAX_DATAGRAM + 8 + 45 * 20),
        (1473, "::ffff:192.0.2.7", 1501 + 20),
        (0, "2001:db8::7", 48),
        (1452, "2001:db8::7", 1500),
        (1453, "2001:db8::7", 1461 + 2 * 48),
        (MAX_DATAGRAM, "2001:db8::7", MAX_DATAGRAM + 8 + 46 * 48),
    ],
)
def test_aDatagramIsReckonedAsItsPackets(size: int, host: str, bytesOfPackets: int) -> None:
    assert onWire(size, host) == bytesOfPackets


@pytest.mark.parametrize(
    ("host", "ofMany"),
    [
        ("0.0.0.0", True),
        ("224.0.0.1", True),
        ("239.255.255.250", True),
        ("255.255.255.255", True),
        ("::ffff:255.255.255.255", True),
        ("::", True),
        ("ff02::1", True),
        ("1.0.0.0", False),
        ("223.255.255.255", False),
        ("::ffff:192.0.2.7", False),
        ("::1", False),
        ("2001:db8::ff02", False),
    ],
)
def test_addressesThatNobodyCanSendFromAreKnown(host: str, ofMany: bool) -> None:
    assert isOfMany(host) is ofMany


def test_ownAddressesAreWhereTheProcessListens() -> None:
    asked: list[str] = []
    own = OwnAddresses(lambda host: asked.append(host) or host == "192.0.2.1")  # type: ignore[func-returns-value]  # that is its use
    own.add("127.0.0.1", 5000)
    own.add("127.0.0.1", 5000)
    assert ("127.0.0.1", 5000) in own
    assert ("::ffff:127.0.0.1", 5000) in own
    assert ("127.0.0.1", 5001) not in own
    assert ("127.0.0.2", 5000) not in own
    own.remove("127.0.0.1", 5000)
    assert ("127.0.0.1", 5000) in own
    own.remove("127.0.0.1", 5000)
    assert (("127.0.0.1", 5000) in own, own.hosts, asked) == (False, {}, [])
    for everywhere in ("0.0.0.0", "::"):
        own.add(everywhere, 5000)
        assert ("192.0.2.1", 5000) in own
        assert ("192.0.2.2", 5000) not in own
        own.remove(everywhere, 5000)


def test_anAddressIsLocalWhereOneCanListenThere() -> None:
    assert isLocal("127.0.0.1")
    assert not isLocal("192.0.2.1")
    assert not isLocal("2001:db8::1")
    assert isLocal("::1") is hasIPv6()


def test_aPaceIsABurstAndThenARate() -> None:
    clock = Clock()
    pace = Pace(clock.seconds)
    assert [pace.take("a", 2, 3) for _ in range(5)] == [True] * 3 + [False] * 2
    assert pace.take("b", 2, 3)
    clock.advance(0.5)
    assert [pace.take("a", 2, 3) for _ in range(2)] == [True, False]
    clock.advance(60)
    assert [pace.take("a", 2, 3) for _ in range(4)] == [True] * 3 + [False]


def test_aPaceLosesNothingToRounding() -> None:
    clock = Clock()
    clock.advance(1e6 / 3)
    pace = Pace(clock.seconds)
    assert sum(pace.take("a", 1000, 1000) for _ in range(2000)) == 1000


def test_aPaceForgetsWhoWasSilentForLongest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "REMEMBERED", 2)
    pace = Pace(Clock().seconds)
    keys = ["a", "b", "a", "c"]  # forgets b
    assert [pace.take(key, 1, 1) for key in keys] == [True, True, False, True]
    assert [pace.take(key, 1, 1) for key in ("a", "c", "b")] == [False, False, True]


@given(
    st.booleans(),
    st.sampled_from(["192.0.2.7", "2001:db8::7"]),
    st.lists(
        st.tuples(st.integers(1, MAX_DATAGRAM), st.lists(st.integers(0, MAX_DATAGRAM), max_size=5)),
        max_size=10,
    ),
    st.sampled_from([0.0, 1.5, 10.0]),
)
def test_noMoreGoesBackThanIsAllowed(
    alone: bool, host: str, dealings: list[tuple[int, list[int]]], amplification: float
) -> None:
    clock = Clock()
    admission = Admission(AdmissionOptions(), Sources(ProcessOptions(), clock.seconds))
    options = DatagramOptions(amplification=amplification)
    own = OwnAddresses(lambda host: False)
    judging = Guard(options, admission, alone, clock.seconds, own, 32768)
    factor = amplification or (1 if alone else 3)
    came = went = 0
    for size, replies in dealings:
        judged = judging.judge(b"q" * size, (host, 40000))
        assert isinstance(judged, guard.Allowance)
        came = onWire(size, host) + (0 if alone else came)
        if alone:
            went = 0
        else:
            judged.credit = factor * came - went
        for reply in replies:
            fits = went + onWire(reply, host) <= factor * came
            refused = judging.refuses(judged, (host, 40000), b"r" * reply)
            assert refused == (None if fits else "amplification")
            went += onWire(reply, host) if fits else 0


@pytest.mark.parametrize(
    ("datagram", "addr", "why"),
    [
        (b"", CLIENT, "empty"),
        (b"a", ("192.0.2.7", 0), "port"),
        (b"a", ("192.0.2.7", 1023), "port"),
        (b"a", ("127.0.0.1", 1023), "port"),
        (b"a", ("255.255.255.255", 40000), "broadcast"),
        (b"a", ("198.51.100.9", 40000), "denied"),
    ],
)
@pytest.mark.parametrize("kind", [Apps, Shared])
@pytest_twisted.ensureDeferred
async def test_whatIsNeverAnsweredReachesNoAppAndIsCountedAndTold(
    listening: Listen,
    speaking: Speak,
    kind: type[Apps],
    datagram: bytes,
    addr: tuple[str, int],
    why: str,
) -> None:
    apps = kind()
    sessions = sheltered(apps, exempt=("127.0.0.1",), admission={"deny": ["198.51.100.0/24"]})
    port = listening(sessions)
    sessions.datagramReceived(datagram, addr)
    assert sessions.counts.dropped == {why: 1}
    assert why in DROPS
    told: Any = sessions.log
    assert (told, apps.apps) == ([("dropped", why, addr[0])], [])
    assert await say(speaking(port), b"a") == b"<a>"


@pytest.mark.parametrize("exempt", [(), ("127.0.0.1",)])
@pytest_twisted.ensureDeferred
async def test_whatSeemsToComeFromAnyListeningOfTheProcessIsDropped(
    listening: Listen, exempt: tuple[str, ...]
) -> None:
    own = OwnAddresses(isLocal)
    one, other = (sheltered(Apps(), exempt=exempt, own=own) for _ in range(2))
    ports = [listening(one), listening(other)]
    addresses = [(port.getHost().host, port.getHost().port) for port in ports]
    for addr in addresses:
        one.datagramReceived(b"forged", addr)
    assert (one.counts.dropped, one.open()) == ({"own": 2}, [])
    await ports[1].stopListening()
    one.datagramReceived(b"somebody else's now", addresses[1])
    assert (one.counts.dropped, len(one.open())) == ({"own": 2}, 1)


@pytest_twisted.ensureDeferred
async def test_aSourceHasItsMessagesAndItsRepliesASecond(
    listening: Listen, speaking: Speak
) -> None:
    clock = Clock()
    sessions = sheltered(Shared(whisper), clock, admission={"messageRate": 4}, replyRate=2)
    port = listening(sessions)
    one, other = speaking(port), speaking(port)
    assert await answered(one, b"1", b"2", b"3") == [b".", b"."]
    assert await answered(other, b"4", b"5") == []
    assert sessions.counts.dropped == {"reply_rate": 2, "rate": 1}
    clock.advance(1)
    assert await answered(other, b"6", b"7", b"8") == [b".", b"."]


@pytest_twisted.ensureDeferred
async def test_aPenalizedSourceIsNotHeardAndNoDatagramAddsToAPenalty(
    listening: Listen, speaking: Speak
) -> None:
    def blame(app: App, message: bytes) -> None:
        assert app.transport.source == "127.0.0.1"
        for _ in range(10):
            app.transport.penalize("login")
        app.transport.write(b"!")

    sessions = sheltered(Apps(blame))
    peer = speaking(listening(sessions))
    assert await answered(peer, b"aa", b"bb", b"cc") == [b"!", b"!", b"!"]
    for _ in range(2):
        sessions.admission.sources.penalize("127.0.0.1", "login")
    assert await answered(peer, b"aa") == []
    assert sessions.counts.dropped == {"penalty": 1}


@pytest.fixture
def serversAll(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Have the system give only the last port to clients."""

    def only() -> None:
        (tmp_path / "range").write_text("65535\t65535\n")
        monkeypatch.setattr("sockapps.datagrams.CLIENT_PORTS", tmp_path / "range")

    return only


@pytest.mark.parametrize(
    ("kind", "limited"), [("exempt client", False), ("exempt server", True), ("anybody", True)]
)
@pytest_twisted.ensureDeferred
async def test_answersThatAreTheirQuestionsComeToARestButNotForAnExemptClient(
    listening: Listen,
    speaking: Speak,
    serversAll: Callable[[], None],
    kind: str,
    limited: bool,
) -> None:
    if kind == "exempt server":
        serversAll()
    clock = Clock()
    exempt = () if kind == "anybody" else ("127.0.0.1",)
    sessions = sheltered(Shared(same), clock, exempt=exempt)
    port = listening(sessions)
    peer, other = speaking(port), speaking(port)
    assert len(await answered(peer, *[b"SAME"] * 7)) == (4 if limited else 7)
    assert await answered(other, b"SAME") == [b"SAME"]
    clock.advance(1)
    assert len(await answered(peer, *[b"SAME"] * 2)) == (1 if limited else 2)
    assert sessions.counts.dropped == ({"reflected": 4} if limited else {})


@pytest.mark.parametrize("server", [False, True])
@pytest_twisted.ensureDeferred
async def test_whoIsExemptIsSoAsAClientNotAsAServer(
    listening: Listen, speaking: Speak, serversAll: Callable[[], None], server: bool
) -> None:
    if server:
        serversAll()
    rates = {"messageRate": 1}
    sessions = sheltered(Shared(), exempt=("127.0.0.0/8",), admission=rates, replyRate=3)
    replies = await answered(speaking(listening(sessions)), *[b"a"] * 5)
    assert replies == [b"<a>"] * (3 if server else 5)
    assert sessions.open()[0].source is None


def test_whereTheSystemSaysNothingOfItsPortsClientsBeginAt32768(
    serversAll: Callable[[], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serversAll()
    assert firstClientPort() == 65535
    for said in ("", "some"):
        (tmp_path / "range").write_text(said)
        if said:
            assert firstClientPort() == 32768
    monkeypatch.setattr("sockapps.datagrams.CLIENT_PORTS", tmp_path / "missing")
    assert firstClientPort() == 32768


@pytest.mark.parametrize(
    ("amplification", "replies"),
    [(0, [b"wxyz"]), (1.25, [b"wxyz", b"hello, hell"]), (2, [b"wxyz", b"hello, hell", b"vvvv"])],
)
@pytest_twisted.ensureDeferred
async def test_anAppWhoseMessagesStandAloneSendsNoMoreThanItGotForEach(
    listening: Listen, speaking: Speak, amplification: float, replies: list[bytes]
) -> None:
    def talk(app: App, message: bytes) -> None:
        if message == b"four":
            app.transport.write(b"wxyz")  # 32 bytes as a packet
            app.transport.write(b"vvvv")
        else:
            app.transport.write(b"hello, hell")  # 39

    sessions = sheltered(Shared(talk), amplification=amplification)
    peer = speaking(listening(sessions))
    got = await answered(peer, b"four", b"fiv!")
    assert sorted(got) == sorted(replies)
    assert sessions.counts.dropped["amplification"] == 3 - len(replies)


@pytest_twisted.ensureDeferred
async def test_aConversationSendsThriceWhatCameFromItsPeerSoFar(
    listening: Listen, speaking: Speak
) -> None:
    sessions = sheltered(Apps(lambda app, message: None))
    port = listening(sessions)
    peer, other = speaking(port), speaking(port)
    await answered(peer, b"12")  # 30 bytes as a packet, so 90 may go back
    await answered(other, b"12")
    [session, _] = sessions.open()
    for size in (2, 3, 2, 0):  # 30, 31, not these 30, and 28
        session.write(b"x" * size)
    assert await answered(peer, b"12") == [b"xx", b"xxx", b""]
    session.write(b"y" * 62)  # 90
    session.write(b"")
    assert await peer.receive() == b"y" * 62
    assert sessions.counts.dropped == {"amplification": 2}


@pytest_twisted.ensureDeferred
async def test_whatWaitsForASharedAppKeepsItsAddressAndItsAllowance(
    listening: Listen, speaking: Speak
) -> None:
    apps = Shared(lambda app, _: app.transport.pauseProducing())
    sessions = sheltered(apps)
    port = listening(sessions)
    one, two, three = (speaking(port) for _ in range(3))
    for number, (peer, message) in enumerate([(one, b"1"), (two, b"two"), (three, b"3")]):
        peer.send(message)
        await until(
            lambda: len(sessions.open()) and _taken(sessions) == number + 1,  # noqa: B023
            "it came",
        )
    [app] = apps.apps
    for _ in range(3):
        app.transport.write(b"abc")
        app.transport.resumeProducing()
    assert await two.receive() == b"abc"
    assert (app.messages, one.received, three.received) == ([b"1", b"two", b"3"], [], [])
    assert sessions.counts.dropped == {"amplification": 2}
    [session] = sessions.open()
    assert (session.messages, session.received, session.sent) == (3, 5, 3)


def _taken(sessions: DatagramSessions) -> int:
    [session] = sessions.open()
    return session.messages + len(session._waiting or ())


@pytest_twisted.ensureDeferred
async def test_aConversationIsToldOfAndCounted(listening: Listen, speaking: Speak) -> None:
    clock = Clock()
    clock.advance(100)
    sessions = sheltered(Apps(), clock, exempt=("127.0.0.1",), maxPeers=3, peerTimeout=10)
    port = listening(sessions)
    peers = [speaking(port) for _ in range(5)]
    for peer in peers[:3]:
        await say(peer, b"hello\n")
    one, two, three = sessions.open()
    assert (one.began, one.messages, one.received, one.sent) == (100, 1, 5, 7)
    assert one.number < two.number < three.number
    assert not one.shared
    two.cut("operator")
    two.cut("operator")
    await say(peers[3], b"four")
    await say(peers[4], b"five")
    three.loseConnection()
    clock.advance(10)
    assert sessions.open() == []
    await say(peers[0], b"anew")
    await port.stopListening()
    counts = sessions.counts
    assert counts.ended == {"operator": 1, "evicted": 1, "app": 1, "expired": 2, "shutdown": 1}
    assert (counts.opened, counts.messages, counts.received, counts.sent) == (6, 6, 27, 39)
    told: Any = sessions.log
    assert [event[2] for event in told if event[0] == "ended"] == [
        "operator",
        "evicted",
        "app",
        "expired",
        "expired",
        "shutdown",
    ]
    assert (len([event for event in told if event[0] == "began"]), told[-1]) == (6, ("flush",))


@pytest_twisted.ensureDeferred
async def test_theSessionOfAllPeersIsCountedAndCutLikeAnyOtherButNotToldOf(
    listening: Listen, speaking: Speak
) -> None:
    sessions = sheltered(Shared(whisper))
    peer = speaking(listening(sessions))
    assert await answered(peer, b"a", b"b") == [b".", b"."]
    [session] = sessions.open()
    assert session.shared
    assert (session.messages, session.received, session.sent) == (2, 2, 2)
    session.cut("operator")
    assert await answered(peer, b"c") == [b"."]
    assert (sessions.counts.ended, sessions.counts.opened) == ({"operator": 1}, 2)
    told: Any = sessions.log
    assert told == []


@pytest_twisted.ensureDeferred
async def test_newOptionsHoldFromNowOn(listening: Listen, speaking: Speak) -> None:
    sessions = sheltered(Shared(), exempt=("127.0.0.1",))
    peer = speaking(listening(sessions))
    assert await say(peer, b"a") == b"<a>"
    sessions.options = DatagramOptions(minSourcePort=65535)
    assert await answered(peer, b"b") == []
    sessions.options = DatagramOptions(replyRate=0)
    sessions.admission.options = AdmissionOptions(deny=["127.0.0.1"])
    assert await answered(peer, b"c") == []
    sessions.admission.options = AdmissionOptions()
    sessions.admission.sources.options = ProcessOptions(exempt=())
    assert await answered(peer, b"d") == []
    sessions.options = DatagramOptions(replyRate=0, amplification=5)
    assert await answered(peer, b"e") == [b"<e>"]
    assert sessions.counts.dropped == {"port": 1, "denied": 1, "amplification": 1}


@pytest_twisted.ensureDeferred
async def test_everyReasonForADropIsOneThatIsDocumented(listening: Listen, speaking: Speak) -> None:
    apps = Apps(answer, lambda app: app.transport.pauseProducing())
    sessions = sheltered(apps)
    peer = speaking(listening(sessions))
    for _ in range(MAX_WAITING + 2):
        peer.send(b"a")
    await until(lambda: sessions.counts.dropped, "too many came")
    assert set(sessions.counts.dropped) == {"queue"} < set(DROPS)


@pytest.mark.parametrize("kind", [udp.Port, LeanUDPPort])
@pytest_twisted.ensureDeferred
async def test_aPortOfAnyReactorTakesABoundedNumberOfDatagramsATurn(
    speaking: Speak, kind: Any
) -> None:
    from twisted.internet import reactor

    sessions = sheltered(Apps())
    port = kind(0, sessions, "127.0.0.1", 65536, reactor)
    port.startListening()
    port.stopReading()
    peer = speaking(port)
    for _ in range(2 * PACKETS):
        peer.send(b"")
    port.doRead()
    assert sessions.counts.dropped == {"empty": PACKETS}
    port.startReading()
    peer.send(b"last\n")
    await until(lambda: sessions.open(), "the rest came")
    assert sessions.counts.dropped["empty"] == 2 * PACKETS
    await port.stopListening()
