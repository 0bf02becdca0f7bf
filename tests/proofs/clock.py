"""
The wall clock steps while peers are near their deadlines: those come when they would have anyway.

libfaketime steps the clock that the server sees; the command service tells that it has stepped.
Each service has one deadline only, so that no other can be mistaken for it.
"""

from __future__ import annotations

import calendar
import os
import select
import socket
import sysconfig
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define

from tests.proofs.figures import CannotRun, Failed, Figure
from tests.proofs.peers import PATIENCE, Watched, ask, connect
from tests.proofs.servers import LOOPBACK, Server, serving

TITLE = "the wall clock steps by an hour and by ten years: every deadline is kept"

STEPS = ("+1h", "-1h", "+10y", "-10y")
STEPPED = 3000
"""Seconds that a clock differs by at least, when it has stepped."""

DEADLINES = ("first_message", "message", "idle", "session")
EACH = 5
"""Peers of each deadline; they begin one after the other, at whatever moment of a sweep that is."""

APART = 0.13
"""Seconds from one of them to the next."""

SPEAKING = 0.2
"""Seconds from one line to the next of those who speak until they are cut off."""


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Step several servers' clocks, all at the same time."""
    seconds, steps = (3.0, STEPS[::3]) if smoke else (10.0, STEPS)
    off, library = 20 if smoke else 10, _libfaketime()
    with ExitStack() as opened:
        stepping = [opened.enter_context(_stepping(step, library, seconds)) for step in steps]
        say(f"{len(stepping)} servers run; their clocks step in {seconds / 2:g} s")
        peers = [peer for server in stepping for peer in server.peers()]
        _live(peers, stepping, seconds, opened)
        tracebacks = sum(server.server.tracebacks() for server in stepping)
    figures = []
    for server in stepping:
        for deadline in DEADLINES:
            # None is no number, which holds nowhere.
            shares = [
                100 * (peer.cut - peer.began) / seconds if peer.cut else float("nan")
                for peer in peers
                if peer.server is server and peer.deadline == deadline
            ]
            worst = max(shares, key=lambda share: abs(share - 100) if share == share else 1e9)
            what = f"{server.step}: {deadline}_timeout at worst, of what it is"
            figures.append(Figure.within(what, worst, 100 - off, 100 + off, "%"))
    return [*figures, Figure.atMost("tracebacks in the logs", tracebacks, 0)]


@define(eq=False)
class _Stepping:
    """A server whose clock will step."""

    step: str
    server: Server
    file: Path
    before: float

    def peers(self) -> list[_Peer]:
        """Make those who will miss its deadlines."""
        names = ("echo", "echo-2", "echo-3", "echo-4")
        return [
            _Peer(self, deadline, self.server.ports[name])
            for _ in range(EACH)
            for name, deadline in zip(names, DEADLINES, strict=True)
        ]

    def go(self) -> None:
        """
        Step.

        @raise Failed: If the server does not notice.
        """
        _set(self.file, self.step)
        differs = abs(_wallClock(self.server) - self.before)
        if differs < STEPPED:
            raise Failed(f"{self.step}: the server's clock did not step, by {differs:g} s only")


@define(eq=False)
class _Peer:
    """
    Somebody who will miss a deadline.

    @ivar began: When that deadline began.
    @ivar cut: When it was cut off.
    """

    server: _Stepping
    deadline: str
    port: int
    began: float = 0.0
    cut: float = 0.0

    def begin(self) -> socket.socket:
        """Connect, and do what the deadline is from."""
        self.began = time.monotonic()
        connection = connect(self.port)
        if self.deadline == "message":
            connection.sendall(b"unfinished")
        elif self.deadline == "idle":
            ask(connection, b"this is all")
        return connection


def _live(peers: list[_Peer], stepping: list[_Stepping], seconds: float, opened: ExitStack) -> None:
    """Have all peers begin, the clocks step, and those speak who do, until all are cut off."""
    connections: dict[socket.socket, _Peer] = {}
    for place, peer in enumerate(peers):
        connection = opened.enter_context(peer.begin())
        connections[connection] = peer
        if place % (len(peers) // EACH) == 0:
            time.sleep(APART)
    start = time.monotonic()
    toStep = deque(stepping)
    with Watched(list(connections), select.EPOLLIN) as watched:
        speaking = [each for each, peer in connections.items() if peer.deadline == "session"]
        while watched.open and time.monotonic() < start + 2 * seconds:
            for peer in speaking:
                with suppress(OSError):  # it has been cut off
                    peer.send(b"still here\n")
            if toStep and time.monotonic() > start + seconds / 2:
                toStep.popleft().go()
            until = time.monotonic() + SPEAKING
            while watched.open and time.monotonic() < until:
                for connection in watched.poll(until - time.monotonic()):
                    with suppress(BlockingIOError):
                        connection.recv(65536)
        for connection, when in watched.cut.items():
            connections[connection].cut = when


@contextmanager
def _stepping(step: str, library: str, seconds: float) -> Iterator[_Stepping]:
    arguments = []
    for deadline in DEADLINES:
        limits = [f"{each}_timeout={seconds * (each == deadline):g}" for each in DEADLINES]
        arguments += [f"--service=echo:framing=line:{':'.join(limits)}", f"--listen={LOOPBACK}"]
    arguments += ["--service=command", f"--listen={LOOPBACK}"]
    with TemporaryDirectory(prefix="sockapps-proof-") as folder:
        file = Path(folder) / "clock"
        _set(file, "+0")
        variables = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "TZ": "UTC",
        }
        with serving(*arguments, listenings=len(DEADLINES) + 1, variables=variables) as server:
            yield _Stepping(step, server, file, _wallClock(server))


def _set(file: Path, offset: str) -> None:
    # At once: the server reads it whenever it looks at its clock.
    new = file.with_suffix(".new")
    new.write_text(offset + "\n")
    new.replace(file)


def _wallClock(server: Server) -> float:
    """Ask a server what time it is."""
    with connect(server.ports["command"]) as asking:
        asking.settimeout(PATIENCE)
        asking.sendall(b"date\n")
        said = asking.recv(1024).decode()
    try:
        return calendar.timegm(time.strptime(said.strip(), "[%a %b %d %H:%M:%S %Y] date"))
    except ValueError as error:
        raise Failed(f"{said!r} is no date") from error


def _libfaketime() -> str:
    where = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/faketime/libfaketime.so.1"
    if not os.path.exists(where):
        raise CannotRun(f"needs {where}; install Debian's libfaketime")
    return where
