"""
Who changes accounts until killed, for L{tests.proofs.kill}.

As a program it forks a writer for each line C{PATH SEED} on its standard input, tells its process
id, and says when it has ended. What a writer tries and what was acknowledged to it is a line each.
"""

from __future__ import annotations

import os
import random
import sys
from typing import IO

from sockapps.accounts.store import AccountStore

NAMES = [f"name-{number}-" + "长" * (number % 50) for number in range(200)]
"""Enough, and of such lengths, that the table has several pages, which split and join."""


def _write(path: str, chance: random.Random, out: IO[bytes]) -> None:
    """Change accounts, one after the other, saying before and after each what it is."""
    store = AccountStore(path)
    store.prepare()
    there = set(store.names())
    while True:
        name = chance.choice(NAMES)
        if name in there and chance.random() < 0.4:
            out.write(f"try {name}\n".encode())
            store.remove(name)
            there.remove(name)
        else:
            stored = f"$argon2id${chance.getrandbits(320):080x}"
            out.write(f"try {name} {stored}\n".encode())
            (store.setPassword if name in there else store.add)(name, stored)
            there.add(name)
        out.write(b"done\n")


def _nurse() -> None:
    """Fork a writer for each line of the standard input."""
    # Unbuffered: each line is one write, so a kill leaves no half of one.
    with open(1, "wb", buffering=0) as out:
        for line in sys.stdin:
            path, seed = line.rsplit(maxsplit=1)
            child = os.fork()
            if child == 0:
                try:
                    out.write(f"{os.getpid()}\n".encode())
                    _write(path, random.Random(int(seed)), out)
                except BaseException as error:
                    out.write(f"failed: {error}\n".encode())
                finally:
                    os._exit(1)
            os.waitpid(child, 0)
            out.write(b"ended\n")


if __name__ == "__main__":
    _nurse()
