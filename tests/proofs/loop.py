"""
One forged datagram between two upper servers, which then answer each other's answers.

It happens in a network namespace of its own, where nobody else's datagrams are counted, and where
the two have addresses that are nobody's. C{python -m tests.proofs.loop} is what runs in there.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.daemons import PATIENCE
from tests.proofs.datagramming import listen
from tests.proofs.figures import CannotRun, Failed, Figure
from tests.proofs.servers import serving

TITLE = "one forged datagram between two upper servers: they come to a rest"

MOST = 10
"""Datagrams that may follow it."""

LONGEST = 1.0
"""Seconds that are waited for the end: what goes on for so long is far too much already."""

QUIET = 0.3
"""Seconds without a datagram after which there is none to come."""

PLACES = {
    "two hosts, port 12000": (("192.0.2.1", 12000), ("192.0.2.2", 12000)),
    "two hosts, ports of clients": (("192.0.2.1", 40001), ("192.0.2.2", 40002)),
    "one host": (("192.0.2.1", 12000), ("192.0.2.1", 12001)),
    "loopback": (("127.0.0.1", 12000), ("127.0.0.1", 12001)),
    "loopback, two addresses": (("127.0.0.1", 12000), ("127.0.0.2", 12000)),
}
"""Where the two servers may be; on loopback, which is exempt from limits, with ports of servers."""

PAYLOADS = (b"HELLO", b"hello", b"1", b"\xff\x00", "你好".encode(), b"X" * 1472, b"x" * 9000)

Address = tuple[str, int]


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Run what is below in a namespace, and compare what it counted."""
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    setUp = "ip link set lo up && ip address add 192.0.2.1/32 dev lo && "
    setUp += "ip address add 192.0.2.2/32 dev lo"
    try:
        allowed = subprocess.run(
            [*unshare, "sh", "-c", setUp], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise CannotRun("needs the program unshare") from None
    if allowed.returncode:
        raise CannotRun(f"needs a network namespace: {allowed.stderr.strip()}")
    some = "1" if smoke else "0"
    inside = f'{setUp} && exec "$0" -m tests.proofs.loop {some}'
    ended = subprocess.run(
        [*unshare, "sh", "-c", inside, sys.executable],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=len(PLACES) * PATIENCE,
        check=False,
    )
    if ended.returncode:
        raise Failed(f"it failed in there: {ended.stderr.strip()}")
    seen: dict[str, dict[str, int]] = json.loads(ended.stdout)
    for place, counts in seen.items():
        say(f"{place}: {counts}")
    return [
        figure
        for place, counts in seen.items()
        for figure in (
            Figure.atMost(f"{place}: datagrams that followed", max(counts.values()), MOST),
            # The server that the datagram seems to come from has heard of it at all.
            Figure.atLeast(f"{place}: and at least", min(counts.values()), 1),
        )
    ]


def main(smoke: bool) -> None:
    """Forge every datagram, in every place, and print how many followed."""
    chosen = dict(list(PLACES.items())[::3]) if smoke else PLACES
    payloads = PAYLOADS[::4] if smoke else PAYLOADS
    print(json.dumps({place: _followed(*two, payloads) for place, two in chosen.items()}))


def _followed(one: Address, other: Address, payloads: Sequence[bytes]) -> dict[str, int]:
    """Count what each payload is followed by; the servers are new ones for each."""
    counts = {}
    for payload in payloads:
        with (
            serving(listen("upper", *one)),
            serving(listen("upper", *other)),
            # It hears every datagram of the namespace, whomever it is for (raw(7)).
            socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as heard,
        ):
            _forge(payload, other, one)
            counts[repr(payload[:10])] = _arriving(heard) - 1
    return counts


def _forge(payload: bytes, source: Address, destination: Address) -> None:
    """Send a datagram from an address that it is not sent from."""
    # Without a checksum, which over IPv4 there need not be.
    header = struct.pack("!HHHH", source[1], destination[1], 8 + len(payload), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        raw.bind((source[0], 0))
        raw.sendto(header + payload, destination)


def _arriving(heard: socket.socket) -> int:
    """Count what arrives until nothing does any more, or it is far too much already."""
    count, end = 0, time.monotonic() + LONGEST
    while time.monotonic() < end and select.select([heard], [], [], QUIET)[0]:
        heard.recv(65536)
        count += 1
    return count


if __name__ == "__main__":
    main(sys.argv[1] == "1")
