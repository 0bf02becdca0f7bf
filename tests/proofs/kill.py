"""
C{kill -9} at random moments of account writes: what was acknowledged is there, and nothing else.

Nine moments of ten hit a writer that makes one change after the other and acknowledges each; the
tenth hits C{sockapps accounts} as a person types it. Every tenth file is a new one, so that making
it is hit too, and while every other writer writes somebody else has the file open, so that its WAL
grows and outlives the writer.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from pathlib import Path

from sockapps.accounts.store import AccountStore
from tests.daemons import environment, program
from tests.proofs.figures import Figure
from tests.proofs.ledger import Ledger, exactly, hashOf
from tests.proofs.writers import NAMES

TITLE = "kill -9 at random moments of account writes"

SEED = 4
MOMENTS = 1000
ADDING, CHANGING, REMOVING = "add", "passwd", "remove"
LONGEST = 0.08
"""Seconds that a writer lives at most: some twenty changes."""


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Kill writers, and see what is left."""
    moments = 20 if smoke else MOMENTS
    chance, ledger = random.Random(SEED), Ledger()
    with tempfile.TemporaryDirectory() as folder, _Nursery() as nursery:
        place = Path(folder)
        commands = _Commands(place, chance)
        path = place / "0" / "accounts.db"
        for moment in range(moments):
            if moment % 10 == 0:
                path = place / str(moment) / "accounts.db"
                ledger.accounts.clear()
            if moment % 10 == 5:
                commands.killOne(path, ledger)
            else:
                with _opened(path) if moment % 2 else nullcontext():
                    nursery.killOne(path, chance, ledger)
                    # While it is open still: what is only in the WAL counts.
                    ledger.audit(path)
            if moment % 100 == 99:
                say(f"{moment + 1} moments, {ledger.inDoubt} of them in the middle of a change")
        drafts = sum(1 for _ in place.glob("*/.accounts-*"))
    return [
        Figure.atLeast("moments", moments, moments),
        Figure.atLeast("moments in the middle of a change", ledger.inDoubt, moments // 4),
        Figure.worthKnowing("of these, changes that are there", ledger.done),
        Figure.worthKnowing("files whose making was cut short", drafts),
        Figure.atLeast("acknowledged changes", ledger.owed, moments),
        Figure.atMost("acknowledged changes that are not there", ledger.lost, 0),
        Figure.atMost("other differences", ledger.strange, 0),
        Figure.atMost("integrity_check that was not ok", len(ledger.broken), 0),
    ]


def _opened(path: Path) -> closing[sqlite3.Connection] | nullcontext[None]:
    """Have a file open, as somebody who reads it, until the block ends."""
    if not path.exists():
        return nullcontext()
    reader = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True)
    reader.execute("SELECT count(*) FROM account").fetchone()
    return closing(reader)


class _Nursery:
    """The writers, each forked from one process that has imported all they need."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.proofs.writers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def __enter__(self) -> _Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._stdin.close()
        self._stdout.close()

    def killOne(self, path: Path, chance: random.Random, ledger: Ledger) -> None:
        """Let a writer write, kill it at some moment, and note what it has acknowledged."""
        self._stdin.write(f"{path} {chance.getrandbits(32)}\n")
        self._stdin.flush()
        pid = int(self._stdout.readline())
        # A file that is to be made is made by the first of its changes.
        time.sleep(chance.uniform(0, LONGEST if path.exists() else LONGEST / 4))
        with suppress(ProcessLookupError):  # it has failed, and says so
            os.kill(pid, signal.SIGKILL)
        stored: str | None = None
        while (words := self._stdout.readline().split()) != ["ended"]:
            if words[0] == "done":
                ledger.acknowledged(stored)
            elif words[0] == "try":
                stored = words[2] if len(words) > 2 else None
                ledger.tries(words[1], exactly(stored))
            else:
                raise RuntimeError(" ".join(words))


class _Commands:
    """C{sockapps accounts}, as a person types it."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._chance = chance
        self._variables = environment(folder)
        began = time.monotonic()
        self._run("--file", str(folder / "first.db"), ADDING, "bob", "--password-stdin").wait()
        self._lasts = time.monotonic() - began

    def killOne(self, path: Path, ledger: Ledger) -> None:
        """Run a command, kill it at some moment, and note whether it was acknowledged."""
        name = self._chance.choice(NAMES)
        change = ADDING
        if name in ledger.accounts:
            change = self._chance.choice([CHANGING, REMOVING])
        ledger.tries(name, exactly(None) if change == REMOVING else hashOf("secret"))
        words = [] if change == REMOVING else ["--password-stdin"]
        command = self._run("--file", str(path), change, name, *words)
        # Its first half reads its program.
        time.sleep(self._chance.uniform(self._lasts / 2, self._lasts * 1.2))
        command.kill()
        said = command.communicate()[0]
        if said:
            ledger.acknowledged(AccountStore(path).hashOf(name))
        ledger.audit(path)

    def _run(self, *words: str) -> subprocess.Popen[str]:
        with tempfile.TemporaryFile("w+") as password:
            password.write("secret\n")
            password.seek(0)
            return subprocess.Popen(
                [program("sockapps"), "accounts", *words],
                stdin=password,
                stdout=subprocess.PIPE,
                text=True,
                env=self._variables,
            )
