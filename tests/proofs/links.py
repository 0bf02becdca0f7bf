"""
C{ls} while another process swaps folders for links that lead out of its root, at every level.

Each folder has a twin beside it, a link, absolute or relative, to a tree outside that looks the
same, but for what it holds. The two change places again and again, at a stroke, at all levels and
independently, while listings of all depths are asked for over one connection, many at a time.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from tests.daemons import PATIENCE
from tests.proofs.figures import Failed, Figure
from tests.proofs.servers import LOOPBACK, serving

TITLE = "ls while folders are swapped for links that lead outside, at every level"

LISTINGS = 100_000
AT_ONCE = 250
DEPTH = 6
OUTSIDE = b"OUTSIDE"
"""What every folder outside holds, and none within."""

_SWAPPER = """
import ctypes, os, random, signal, sys
EXCHANGE = 2
libc = ctypes.CDLL(None, use_errno=True)
chance, swaps, going = random.Random(4), 0, True
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
# By descriptors: a folder is found whatever stands in its place.
folders = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in sys.argv[1:]]
names = [(b"%d" % number, b"%d.link" % number) for number in range(len(folders))]
print("swapping", flush=True)
while going:
    level = chance.randrange(len(folders))
    folder, (here, there) = folders[level], names[level]
    if libc.renameat2(folder, here, folder, there, EXCHANGE):
        sys.exit("renameat2: " + os.strerror(ctypes.get_errno()))
    swaps += 1
print(swaps)
"""


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """List and swap."""
    listings = 2_000 if smoke else LISTINGS
    with tempfile.TemporaryDirectory(prefix="sockapps-proof-") as name:
        place = Path(name)
        folders = makeTrees(place)
        with serving(
            f"--service=command:root={place / 'root'}:framing=line", f"--listen={LOOPBACK}"
        ) as server:
            with swapping(folders) as swaps:
                answers = ask(server.ports["command"], listings, say)
            tracebacks = server.tracebacks()
    return [
        Figure.atLeast("listings answered", answers["all"], listings),
        # That they do race: otherwise all or none would be links.
        Figure.atLeast("of these, folders", answers["folder"], listings // 20),
        Figure.atLeast("of these, refused as no folders", answers["link"], listings // 20),
        Figure.atLeast("swaps meanwhile", swaps[0], listings // 10),
        Figure.atMost("bytes from outside", answers["outside"], 0),
        Figure.atMost("answers of other kinds", answers["other"], 0),
        Figure.atMost("tracebacks in the log", tracebacks, 0),
    ]


def makeTrees(place: Path) -> list[Path]:
    """
    Make the root and what is outside.

    @return: The folders in which something is to be swapped.
    """
    folders, folder = [], place / "root"
    for level in range(DEPTH):
        folders.append(folder)
        twin = place / "outside" / str(level)
        for below in range(level, DEPTH):
            outside = twin.joinpath(*map(str, range(level + 1, below + 1)))
            outside.mkdir(parents=True)
            (outside / OUTSIDE.decode()).touch()
        link = folder / f"{level}.link"
        folder = folder / str(level)
        folder.mkdir(parents=True)
        (folder / "within").touch()
        link.symlink_to(os.path.relpath(twin, link.parent) if level % 2 else twin)
    return folders


@contextmanager
def swapping(folders: list[Path]) -> Iterator[list[int]]:
    """
    Swap until the block ends.

    @return: An empty list, which has then how often.
    """
    swaps: list[int] = []
    command = [sys.executable, "-S", "-c", _SWAPPER, *map(str, folders)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as swapper:
        assert swapper.stdout is not None
        try:
            swapper.stdout.readline()
            yield swaps
            swapper.terminate()
            said, failed = swapper.communicate(timeout=PATIENCE)
            if swapper.returncode:
                raise Failed(f"the swapper has ended: {failed.strip()}")
            swaps.append(int(said))
        finally:
            swapper.kill()


def ask(port: int, listings: int, say: Callable[[str], None]) -> Counter[str]:
    """
    Ask for listings, many at a time.

    @return: How many were of a folder, refused as one of a link, or something else; and how many
        bytes were from outside.
    """
    answers: Counter[str] = Counter()
    paths = requests()
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as asking:
        replies = asking.makefile("rb")
        for begun in range(0, listings, AT_ONCE):
            count = min(AT_ONCE, listings - begun)
            asking.sendall(b"".join(islice(paths, count)))
            for reply in islice(replies, count):
                answers["all"] += 1
                answers[_kind(reply)] += 1
                answers["outside"] += len(reply) * (OUTSIDE in reply)
            if begun % 20_000 == 0:
                say(f"{begun:,} listings")
    return answers


def requests() -> Iterator[bytes]:
    """Ask for each depth, again and again, in the ways a path can be written."""
    while True:
        for depth in range(1, DEPTH + 1):
            path = "/".join(map(str, range(depth)))
            for written in (path, f"/{path}", f"{path}/", path.replace("/", "/.//")):
                yield f"ls {written}\n".encode()


def _kind(reply: bytes) -> str:
    if reply.startswith(b"[["):
        return "folder"
    return "link" if reply == b"[error: not a folder]\n" else "other"
