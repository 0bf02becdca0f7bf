"""
Many connections that are idle: what each takes, and what the others notice of them.

Half of them have said a line, the others nothing yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.proofs.figures import SLACK, Figure
from tests.proofs.peers import SPARE, ask, connections, gone
from tests.proofs.probing import Prober
from tests.proofs.servers import LOOPBACK, needFiles, serving

TITLE = "10,000 idle connections in one process: their memory, and how others fare"

MOST = 8 * 1024
"""Bytes that one may take."""

PROMPT = 0.05
"""Seconds within which 99 of 100 honest probes are answered."""


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Have them, and probe while they are there."""
    count, seconds = (500, 1.0) if smoke else (10_000, 15.0)
    needFiles(count + SPARE)
    with serving("--service=echo", f"--listen={LOOPBACK}") as server:
        port = server.ports["echo"]
        with Prober(port):
            pass  # what the first peers bring into memory is not the later ones'
        before = server.resident()
        with connections(port, count, say) as idle:
            for connection in idle[::2]:
                ask(connection, b"that is all")
            grown = server.resident() - before
            say(f"they take {grown / count:,.0f} bytes each; probing for {seconds:g} s")
            with Prober(port, server) as prober:
                time.sleep(seconds)
            lost = sum(map(gone, idle))
        return [
            Figure.atMost("memory of an idle connection", grown / count, MOST, "bytes"),
            *prober.probes.p99("p99 of probes", PROMPT * (SLACK if smoke else 1)),
            Figure.atMost("idle connections lost", lost, 0),
            Figure.atMost("tracebacks in the log", server.tracebacks(), 0),
        ]
