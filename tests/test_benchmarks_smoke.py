"""
The benchmark runs, sees a wrong byte, and reports everything: not how fast anything is.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.benchmarks import rows, servers
from tests.benchmarks.load import Churn, Datagrams, Lines, WrongReply, connect, connectDatagrams
from tests.benchmarks.report import Results
from tests.benchmarks.rows import Figure
from tests.benchmarks.servers import check
from tests.daemons import environment

PROJECT = Path(__file__).parent.parent
ROWS = ["tcp-50x32", "udp", "tls"]
OTHERS = ["churn", "idle", "start-cpu", "start-wall"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc and needs epoll")


def run(*options: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *options],
        cwd=PROJECT,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def answering(answer: Callable[[bytes], bytes], udp: bool = False) -> Iterator[int]:
    """Have a server whose every reply is made from one read, in a thread; say its port."""
    with socket.socket(type=socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as listening:
        listening.bind(("127.0.0.1", 0))
        if not udp:
            listening.listen()

        def serve() -> None:
            if udp:
                data, peer = listening.recvfrom(65536)
                listening.sendto(answer(data), peer)
                return
            connection, _ = listening.accept()
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(answer(data))

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1]
        thread.join()


def test_every_peer_there_is_gives_the_same_bytes_and_the_report_is_complete(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    only = [f"--only={row}" for row in ROWS]
    ended = run("--smoke", f"--out={out}", *only, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    written = json.loads((out / "results.json").read_text("utf-8"))
    present = {peer.name for peer in servers.ALL if not peer.missing()}
    assert {"sockapps", "stock", "asyncio", "threads", "plain"} <= present
    assert written["failures"] == []
    assert set(written["missing"]) == {peer.name for peer in servers.ALL} - present
    assert {(figure["row"], figure["peer"]) for figure in written["figures"]} == {
        (row.name, peer.name)
        for row in rows.ALL
        for peer in servers.ALL
        if row.name in ROWS and peer.name in present and row.transport in peer.transports
    }
    assert all(len(figure["rounds"]) == 1 for figure in written["figures"])
    asked = [figure for figure in written["figures"] if figure["unit"] == "µs"]
    assert all(figure["details"][0]["requests"] > 0 for figure in asked)
    assert {"date", "processor", "kernel", "versions", "settings"} <= set(written)
    table = (out / "results.md").read_text("utf-8")
    assert table.strip() == ended.stdout.strip()
    assert table.endswith("shows that everything works, and not what it costs.\n")
    for row in ROWS:
        assert f"(`{row}`)" in table
        assert (out / f"{row}.svg").exists() == ("no plots" not in ended.stderr)
    for name, why in written["missing"].items():
        assert f"{name} is left out: {why}" in ended.stderr


def test_a_part_of_the_rows_is_shown_and_does_not_overwrite_the_published_results(
    tmp_path: Path,
) -> None:
    published = PROJECT / "docs/benchmarks/results.json"
    before = published.read_bytes() if published.exists() else None
    chosen = [f"--only={name}" for name in (*OTHERS, "sockapps", "threads")]
    ended = run("--smoke", *chosen, folder=tmp_path)
    assert ended.returncode == 0, ended.stderr
    for row in OTHERS:
        assert re.search(rf"\(`{row}`\) \| \S+ \| [\d.,]+ \| [\d.,]+ \|$", ended.stdout, re.M), row
    assert "written to" not in ended.stderr
    assert (published.read_bytes() if published.exists() else None) == before


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda data: b"Echo=>" + data, id="a prefix per read, not per line"),
        pytest.param(lambda data: data, id="no prefix"),
        pytest.param(lambda data: b"Echo=>" + data + b"\n", id="an LF too many"),
        pytest.param(lambda data: b"Echo=>" + data.strip() + b"\r\n", id="CRLF"),
    ],
)
def test_a_server_with_other_bytes_is_not_measured(answer: Callable[[bytes], bytes]) -> None:
    with answering(answer) as port, pytest.raises(WrongReply, match="came, not"):
        check("tcp", port)


def test_a_datagram_that_is_not_in_upper_case_is_not_measured() -> None:
    with (
        answering(lambda data: data, udp=True) as port,
        pytest.raises(WrongReply, match="came, not"),
    ):
        check("udp", port)


@pytest.mark.parametrize("connecting", [connect, connectDatagrams])
def test_no_socket_that_asks_can_be_connected_to_itself(
    connecting: Callable[[int], socket.socket],
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        connecting(server.getsockname()[1]) as asking,
    ):
        assert asking.getsockname()[0] != asking.getpeername()[0]


def test_a_load_counts_no_wrong_reply() -> None:
    with answering(lambda data: b"Echo=>" + data[::-1]) as port:
        load = Lines(port, 1)
        with pytest.raises(WrongReply):
            load.run(1)
        load.close()
    with answering(lambda data: b"Echo=>" + data[::-1]) as port:
        churn = Churn(port, 1)
        with pytest.raises(WrongReply):
            churn.run(1)
        churn.close()
    with answering(lambda data: data, udp=True) as port:
        asking = Datagrams(port, 1)
        with pytest.raises(WrongReply):
            asking.run(1)
        asking.close()


def test_a_server_that_does_not_serve_is_reported_with_its_own_words(tmp_path: Path) -> None:
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit('no port for me')")
    place = servers.Place(tmp_path, tmp_path / "no.pem", *[min(os.sched_getaffinity(0))] * 2)
    broken = servers.Peer("broken", "", ("tcp",), str(program))
    before = os.sched_getaffinity(0)
    try:
        with (
            pytest.raises(servers.Failed, match=r"it has ended.*no port for me"),
            broken.serving("tcp", place),
        ):
            pass
    finally:
        os.sched_setaffinity(0, before)


def test_what_this_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = {peer.name: peer.missing() for peer in servers.ALL}
    assert missing["c"] == "no program 'cc' on the path"
    assert missing["go"] == "no program 'go' on the path"
    assert servers.Peer("x", "", ("tcp",), "x.py", "nosuchmodule").missing() == (
        "no module 'nosuchmodule'"
    )


def test_cpu_of_threads_that_have_ended_and_of_children_counts() -> None:
    burn = "import time\nwhile time.process_time() < 0.1: pass"
    program = f"""
import subprocess, sys, threading
def burn():
    {burn.replace("process_time", "thread_time").replace(chr(10), chr(10) + "    ")}
thread = threading.Thread(target=burn)
thread.start()
thread.join()
subprocess.run([sys.executable, "-c", {burn!r}], check=True)
child = subprocess.Popen(
    [sys.executable, "-c", {burn!r} + "\\nprint('burnt', flush=True)\\ninput()"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
)
child.stdout.readline()
print("burnt", flush=True)
input()
child.communicate(b"\\n")
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"burnt\n"
        used, alone = servers.cpuSeconds(process.pid), servers.residentBytes(process.pid)
        process.communicate(b"\n")
    assert used >= 0.3 - 6 * servers.TICK
    assert alone > 2_000_000


def test_a_thread_that_ends_while_its_costs_are_read_is_no_error() -> None:
    program = """
import sys, threading
print(flush=True)
while not sys.stdin.closed:
    for thread in [threading.Thread(target=int) for _ in range(20)]:
        thread.start()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            used = [servers.cpuSeconds(process.pid) for _ in range(3000)]
        finally:
            process.kill()
    assert used[-1] > used[0]


def test_targets_are_compared_by_what_was_measured_side_by_side() -> None:
    results = Results({}, rows.ALL, servers.ALL)
    measured = {
        # In the second round sockapps was measured and stock was not; the third one was slow.
        "sockapps": {0: (1.0, 5.0, 90.0), 1: (9.0, 9.0, 9.0), 2: (50.0, 51.0)},
        "stock": {0: (2.0, 1.0, 30.0), 2: (100.0, 102.0)},
    }
    for peer, rounds in measured.items():
        results.figures["tcp-50x1", peer] = {
            number: [Figure(value, {}) for value in values] for number, values in rounds.items()
        }
    [(target, found)] = results.acceptance()
    assert (target.row, target.against, target.limit, found) == ("tcp-50x1", "stock", 0.52, 0.5)
    assert (results.value("tcp-50x1", "sockapps"), results.value("tcp-50x1", "stock")) == (9, 30)


def test_every_target_is_about_a_row_and_a_server_that_there_is() -> None:
    from tests.benchmarks.report import TARGETS

    assert {target.row for target in TARGETS} == {row.name for row in rows.ALL}
    assert {target.against for target in TARGETS} <= {"", *(peer.name for peer in servers.ALL)}
