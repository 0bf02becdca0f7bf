"""
Malformed datagrams, a million to each app that speaks UDP, and honest probes among them.

The probes also keep the pace: a batch is sent when the probe after the one before was answered, so
that no more is on its way than the server's socket holds, and what was sent was really dealt with.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tests.proofs.datagramming import SMALL, WINDOW, listen, lost, sockets
from tests.proofs.figures import Figure
from tests.proofs.servers import Server, serving

TITLE = "1,000,000 malformed datagrams to each UDP app: no exception, honest probes are answered"

SEED = 20261121
APPS = {
    "upper": (b"honest", b"HONEST"),
    "hello-udp": (b"honest", b"hi"),
    "echo": (b"honest", b"Echo=>honest"),
    "chat": (b"honest sb", b"honest alexsb"),
}
"""What is asked of each, and owed."""

LARGEST = 65_507
PEERS = 50
MOST_LOG = 1 << 20

WORDS = (
    b"byebye",
    b"sb" * 40,
    b"{'a': 'b'}",
    b"\xff\xfe" * 7,
    b"\xed\xa0\x80",
    b"\xc3",
    b"\r\n",
    b"\n" * 9,
    b"\x00" * 33,
    "ΐß﷽".encode(),
    b"\x1b]0;t\x07",
    "\u202e".encode(),
)


def malformed(count: int) -> Iterator[bytes]:
    """Make so many datagrams, always the same ones."""
    chance = random.Random(SEED)
    for number in range(count):
        kind = chance.random()
        if number % 5000 == 4:
            yield chance.randbytes(LARGEST)
        elif kind < 0.1:
            yield b""
        elif kind < 0.6:
            yield chance.randbytes(int(kind * 100) % 64 + 1)
        elif kind < 0.9:
            word = chance.choice(WORDS)
            cut = chance.randrange(len(word) + 1)
            yield word[:cut] + chance.randbytes(3) + word[cut:]
        else:
            yield chance.randbytes(chance.randrange(1, SMALL))


def batches(datagrams: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Put together what may be on its way at once."""
    batch: list[bytes] = []
    for datagram in datagrams:
        batch.append(datagram)
        if len(batch) == WINDOW or len(datagram) > SMALL:
            yield batch
            batch = []
    yield batch


def torment(
    server: Server, app: str, count: int, say: Callable[[str], None]
) -> tuple[list[Figure], float]:
    """
    Send one app everything.

    @return: Figures, and how much memory has changed meanwhile, in percent.
    """
    port = server.ports[app]
    question, owed = APPS[app]
    probes = answered = sent = before = 0
    with sockets(port, PEERS) as peers, sockets(port, 1) as [honest]:
        for number, batch in enumerate(batches(malformed(count))):
            if sent >= count // 5 and not before:
                before = server.resident()  # by now every peer, and the log, is known
            peer = peers[number % PEERS]
            for datagram in batch:
                peer.send(datagram)
            sent += len(batch)
            probes += 1
            honest.send(question)
            try:
                answered += honest.recv(65536) == owed
            except TimeoutError:
                say(f"{app}: a probe after {sent:,} datagrams was not answered")
    after = server.resident()
    say(f"{app}: {sent:,} sent, {before / 2**20:.1f} MiB, then {after / 2**20:.1f}")
    figures = [
        Figure.atLeast(f"{app}: honest probes answered", 100 * answered / probes, 99, "%"),
        Figure.atMost(f"{app}: datagrams lost before it", 100 * lost(port) / sent, 1, "%"),
    ]
    return figures, 100 * (after - before) / before


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Send everything to every app, and look at the log."""
    count = 20_000 if smoke else 1_000_000
    figures = [Figure.worthKnowing("malformed datagrams to each", count)]
    with serving(*map(listen, APPS), listenings=len(APPS)) as server:
        for app in APPS:
            seen, change = torment(server, app, count, say)
            figures += seen
            figures.append(Figure.within(f"{app}: change of memory", change, -5, 5, "%"))
        figures += [
            Figure.atMost("tracebacks in the log", server.tracebacks(), 0),
            Figure.atMost("the log", server.log.stat().st_size, MOST_LOG, "bytes"),
        ]
    return figures
