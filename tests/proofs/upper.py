"""
Whatever is asked of upper over UDP, its reply is never longer: every code point that Unicode has,
alone and between others, and random bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

from tests.proofs.datagramming import answers, listen, sockets
from tests.proofs.figures import Figure
from tests.proofs.servers import serving

TITLE = "every Unicode code point and random bytes to upper over UDP: no reply is longer"

SEED = 20261121
SURROGATES = range(0xD800, 0xE000)
AT_ONCE = 64


def requests(smoke: bool) -> Iterator[bytes]:
    """Make every request, none of them empty."""
    every, some = (101, 2_000) if smoke else (1, 500_000)
    for code in range(0, 0x110000, every):
        if code not in SURROGATES:
            one = chr(code).encode()
            yield one
            if (every == 1 and code < 0x20000) or code % 7 == 0:
                yield b"a" + one + "ß".encode() + one
    chance = random.Random(SEED)
    for _ in range(some):
        yield chance.randbytes(chance.choice((1, 2, 3, 4, 8, 64, 1400)))


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Ask for all, and compare lengths."""
    asked = longer = silent = 0
    growth = 0.0
    with (
        serving(listen("upper")) as server,
        sockets(server.ports["upper"], 1) as [asking],
    ):
        every = requests(smoke)
        while batch := list(islice(every, AT_ONCE)):
            for request, reply in answers(asking, batch):
                asked += 1
                if reply is None:
                    silent += 1
                    continue
                longer += len(reply) > len(request)
                growth = max(growth, len(reply) / len(request))
            if asked % (AT_ONCE * 4000) == 0:
                say(f"{asked:,} asked")
        return [
            Figure.worthKnowing("datagrams", asked),
            Figure.atMost("replies longer than their request", longer, 0),
            Figure.atMost("the longest reply, to its request", growth, 1.0, "times"),
            Figure.atMost("datagrams not answered", silent, 0),
            Figure.atMost("tracebacks in the log", server.tracebacks(), 0),
        ]
