"""
Guesses of passwords and crowds of logins: what guessers get, how others fare meanwhile, and whether
the time of a refusal tells who exists.

Only 127.0.0.1 is exempt; whoever is to be somebody else connects from another address of loopback.
"""

from __future__ import annotations

import json
import select
import socket
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sockapps.accounts.passwords import hashPassword
from sockapps.accounts.store import AccountStore
from sockapps.apps.login import ACCEPTED, CANNOT_CHECK, REFUSED
from tests.proofs.figures import SLACK, Figure, percentile
from tests.proofs.peers import SPARE
from tests.proofs.probing import Prober
from tests.proofs.servers import LOOPBACK, Server, needFiles, serving

TITLE = "1,000 guesses from one source, 500 logins at once, and what the time of a refusal tells"

NAME, STRANGER, PASSWORD = "zhangsan", "zhangsen", "geheim-0815"
YES, NO, BUSY = (text + b"\n" for text in (ACCEPTED.encode(), REFUSED.encode(), CANNOT_CHECK))

GUESSES, AT_ONCE, LASTING, MINUTE = 1000, 50, 65.0, 60.0
PATIENCE = 300.0
"""Seconds that anybody waits for a reply: longer than any that a guesser is made to wait."""

CROWD, ROUNDS, PAIRS = 500, 10, 5000
MIB = 1 << 20


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Guess with and without penalties, log in in crowds, and time refusals."""
    needFiles(CROWD + SPARE)
    return [
        *_guesses("guesses", "", False, smoke, say),
        # Penalties turn away who connects anew; who stays, and who has none, meets the delays.
        *_guesses("guesses without penalties", "penalty_login = 0", True, smoke, say),
        *_crowd(smoke, say),
        *_refusals(smoke, say),
    ]


@contextmanager
def _logins(limit: str = "") -> Iterator[Server]:
    """Serve an echo, and a login with one account, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="sockapps-proof-") as folder:
        store = AccountStore(Path(folder, "accounts.db"))
        store.prepare()
        store.add(NAME, hashPassword(PASSWORD))
        config = f"""
            [limits]
            exempt = ["127.0.0.1"]
            {limit}
            [echo]
            listen = "{LOOPBACK}"
            [login]
            listen = "{LOOPBACK}"
            framing = "line"
            auth = [{json.dumps(f"accounts:{store.path}")}]
            """
        with serving(config=config, listenings=2) as server:
            yield server


def _connect(server: Server, address: str = "127.0.0.1") -> socket.socket:
    where = ("127.0.0.1", server.ports["login"])
    return socket.create_connection(where, PATIENCE, source_address=(address, 0))


def _logIn(connection: socket.socket, name: str = NAME, password: str = PASSWORD) -> bytes:
    """Try to log in, and return the reply, or what came of it before the end."""
    connection.sendall(repr({name: password}).encode() + b"\n")
    reply = b""
    while not reply.endswith(b"\n") and (more := connection.recv(1024)):
        reply += more
    return reply


class _Guesser(threading.Thread):
    """
    Guesses at a pace, whatever becomes of it, until told to stop.

    @param staying: It keeps its connection for the next guess, as long as it can.
    @ivar replies: What came of each guess, and when.
    """

    def __init__(self, server: Server, name: str, pace: float, staying: bool) -> None:
        super().__init__(name=name, daemon=True)
        self.replies: list[tuple[float, bytes]] = []
        self._server = server
        self._pace = pace
        self._staying = staying
        self._over = threading.Event()
        self._connection: socket.socket | None = None

    def run(self) -> None:
        while not self._over.wait(self._pace):
            reply = b""
            with suppress(OSError):
                self._connection = self._connection or _connect(self._server, "127.0.0.2")
                reply = _logIn(self._connection, NAME, f"{self.name}-{len(self.replies)}")
            self.replies.append((time.monotonic(), reply))
            if self._connection is not None and not (self._staying and reply in (NO, BUSY)):
                self._connection.close()
                self._connection = None

    def stop(self) -> None:
        """Stop, also in the middle of a guess; what comes of that is no reply."""
        self._over.set()
        connection = self._connection
        if connection is not None:
            with suppress(OSError):  # it is closed already
                connection.shutdown(socket.SHUT_RDWR)
        self.join()


def _guesses(
    what: str, limit: str, staying: bool, smoke: bool, say: Callable[[str], None]
) -> list[Figure]:
    """Let one source guess as much as it can, and somebody log in now and then."""
    guesses, lasting = (GUESSES // 10, LASTING / 20) if smoke else (GUESSES, LASTING)
    patience = 2.0 * SLACK if smoke else 2.0
    waits: list[float] = []
    verdicts: Counter[bytes] = Counter()
    with _logins(limit) as server, ExitStack() as stack:
        # Some wait for their reply meanwhile, so the others have to make up for them.
        pace = 0.8 * AT_ONCE * lasting / guesses
        guessers = [
            _Guesser(server, f"guesser {number}", pace, staying) for number in range(AT_ONCE)
        ]
        began = time.monotonic()
        for guesser in guessers:
            guesser.start()
            stack.callback(guesser.stop)
        made = 0
        while time.monotonic() < began + lasting or made < guesses:
            time.sleep(lasting / 20)
            wanted = time.monotonic()
            with _connect(server, f"127.0.3.{1 + len(waits) % 250}") as stranger:
                verdicts[_logIn(stranger)] += 1
            waits.append(time.monotonic() - wanted)
            made = sum(len(guesser.replies) for guesser in guessers)
        tracebacks = server.tracebacks()
    replies = sorted(reply for guesser in guessers for reply in guesser.replies)
    refusals = [when for when, reply in replies if reply == NO]
    kinds = Counter(reply for _, reply in replies)
    say(f"{what}: {len(replies):,} in {time.monotonic() - began:.0f} s")
    return [
        Figure.atLeast(f"{what}: made from one source", len(replies), guesses),
        Figure.within(f"{what}: failures answered in a minute", _busiest(refusals), 1, 10),
        Figure.worthKnowing(f"{what}: told that it is busy", kinds[BUSY]),
        Figure.worthKnowing(f"{what}: without a reply", kinds[b""]),
        Figure.atMost(f"{what}: accepted, or anything else", kinds.total() - _known(kinds), 0),
        Figure.atMost(f"{what}: a user from elsewhere waits", max(waits), patience, "s"),
        Figure.atMost(f"{what}: such users not let in", len(waits) - verdicts[YES], 0),
        Figure.atMost(f"{what}: tracebacks in the log", tracebacks, 0),
    ]


def _busiest(moments: list[float]) -> int:
    return max((sum(each <= m < each + MINUTE for m in moments) for each in moments), default=0)


def _known(kinds: Counter[bytes]) -> int:
    return kinds[NO] + kinds[BUSY] + kinds[b""]


def _crowd(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Log in from 500 addresses at the same moment, again and again."""
    kinds: Counter[bytes] = Counter()
    rounds = 1 if smoke else ROUNDS
    with _logins() as server, ExitStack() as stack:
        before = server.forgetPeak()
        with Prober(server.ports["echo"]) as prober:
            crowd: list[socket.socket] = []
            for number in range(CROWD):
                address = f"127.1.{number // 250}.{1 + number % 250}"
                crowd.append(stack.enter_context(_connect(server, address)))
                if number % 25 == 24:
                    _logIn(crowd[-1])  # so all before are accepted
            for _ in range(rounds):
                kinds.update(_allAtOnce(crowd))
        grown = (server.peak() - before) / MIB
        tracebacks = server.tracebacks()
    others = kinds.total() - kinds[YES] - kinds[BUSY]
    say(f"logged in {rounds} times from {CROWD} addresses")
    return [
        Figure.atMost("500 logins at once: memory grows by", grown, 150, "MiB"),
        *prober.probes.p99("500 logins at once: p99 of probes", 0.05 * (SLACK if smoke else 1)),
        Figure.atLeast("500 logins at once: accepted", kinds[YES], rounds),
        Figure.worthKnowing("500 logins at once: told that it is busy", kinds[BUSY]),
        Figure.atMost("500 logins at once: no such reply", others, 0),
        Figure.atMost("500 logins at once: tracebacks in the log", tracebacks, 0),
    ]


def _allAtOnce(crowd: list[socket.socket]) -> Iterator[bytes]:
    """Have all of them log in, and see what each is told."""
    waiting = {each.fileno(): each for each in crowd}
    poll = select.poll()
    for each in crowd:
        each.sendall(repr({NAME: PASSWORD}).encode() + b"\n")
        poll.register(each, select.POLLIN)
    while waiting and (ready := poll.poll(1e3 * PATIENCE)):
        for fileno, _ in ready:
            poll.unregister(fileno)
            # A reply of one line comes in one piece.
            yield waiting.pop(fileno).recv(1024)
    for _ in waiting:
        yield b""


def _refusals(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Log in with a wrong password, in turns as somebody there is and as somebody there is not."""
    seconds: dict[str, list[float]] = {NAME: [], STRANGER: []}
    replies: set[bytes] = set()
    pairs = PAIRS // 100 if smoke else PAIRS
    with _logins() as server:
        for number in range(pairs):
            with _connect(server) as connection:
                for name in (NAME, STRANGER) if number % 2 else (STRANGER, NAME):
                    began = time.perf_counter()
                    replies.add(_logIn(connection, name, f"guess {number:06}"))
                    seconds[name].append(time.perf_counter() - began)
            if number % 1000 == 999:
                say(f"{number + 1:,} refusals of either kind")
    known, unknown = (1e3 * statistics.median(seconds[name]) for name in (NAME, STRANGER))
    return [
        Figure.worthKnowing("known users: median", known, "ms"),
        Figure.worthKnowing("unknown users: median", unknown, "ms"),
        Figure.atMost("between these medians", abs(known - unknown), SLACK if smoke else 1, "ms"),
        *(
            Figure.worthKnowing(f"{kind} users: p99", 1e3 * percentile(seconds[name], 99), "ms")
            for kind, name in (("known", NAME), ("unknown", STRANGER))
        ),
        Figure.within("different replies to them", len(replies), 1, 1),
        Figure.within("of which the refusal", len(replies & {NO}), 1, 1),
    ]
