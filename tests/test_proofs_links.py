"""
Tests for L{tests.proofs.links}: an C{ls} that looks first and lists then leads out of its root.
"""

from __future__ import annotations

import os
import socketserver
import threading
from pathlib import Path

import pytest

from tests.proofs.links import DEPTH, OUTSIDE, ask, makeTrees, swapping


class Naive(socketserver.StreamRequestHandler):
    """Lists what was within the root when it looked."""

    def handle(self) -> None:
        root = str(self.server.root)  # type: ignore[attr-defined]  # the test has set it
        for line in self.rfile:
            path = os.path.join(root, line.decode().strip().removeprefix("ls ").strip("/"))
            try:
                within = os.path.realpath(path).startswith(root)
                reply = f"[{os.listdir(path)}]" if within else "[error: not a folder]"
            except OSError:
                reply = "[error: not a folder]"
            self.wfile.write(reply.encode() + b"\n")


def test_whatLooksFirstAndListsThenIsFoundToLeadOutside(tmp_path: Path) -> None:
    folders = makeTrees(tmp_path)
    assert len(folders) == DEPTH
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Naive) as server:
        server.root = (tmp_path / "root").resolve()  # type: ignore[attr-defined]  # see there
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        try:
            with swapping(folders) as swaps:
                answers = ask(server.server_address[1], 10_000, lambda words: None)
        finally:
            server.shutdown()
            serving.join()
    assert answers["outside"] > 0
    assert answers["all"] == answers["folder"] + answers["link"] == 10_000
    assert swaps[0] > 1000


@pytest.mark.parametrize("level", range(DEPTH))
def test_everyLinkLeadsToATreeThatLooksTheSame(tmp_path: Path, level: int) -> None:
    folder = makeTrees(tmp_path)[level]
    end = folder.joinpath(f"{level}.link", *map(str, range(level + 1, DEPTH)))
    assert os.listdir(end) == [OUTSIDE.decode()]
