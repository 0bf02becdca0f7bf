"""
Who is measured: starting each server on a CPU of its own, checking its bytes, reading its costs.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from attrs import field, frozen

from tests.benchmarks.load import MESSAGE, PATIENCE, WrongReply, connect, connectDatagrams, echoed

PEERS = Path(__file__).parent / "peers"
TICK = 1 / os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """Say that a server could not be measured."""


@frozen
class Server:
    """
    A server that runs and has given the right bytes.

    @ivar wall: Seconds from its start to its first reply.
    @ivar cpu: Seconds of CPU that it had used by then.
    """

    pid: int
    port: int
    wall: float
    cpu: float
    tls: ssl.SSLContext | None


@frozen
class Place:
    """
    Where servers run.

    @ivar folder: A folder of ours, for certificates, programs and working folders.
    @ivar certificate: A PEM file with a key and a certificate.
    @ivar serverCPU: The processor of servers.
    @ivar loadCPU: The processor of who asks; the same one on a machine that has no other.
    """

    folder: Path
    certificate: Path
    serverCPU: int
    loadCPU: int


@frozen
class Peer:
    """
    One kind of server.

    @ivar name: What C{--only} and the tables call it.
    @ivar title: What it is.
    @ivar transports: What it speaks: C{tcp}, C{tls}, C{udp}.
    @ivar file: Its file in C{peers/}; without one it is C{twistd sockapps}.
    @ivar needs: The module, or the program, without which it cannot run.
    @ivar variables: What its environment has besides ours.
    """

    name: str
    title: str
    transports: tuple[str, ...]
    file: str = ""
    needs: str = "sockapps"
    variables: dict[str, str] = field(factory=dict)

    def missing(self) -> str:
        """Say what it needs and this machine lacks, or C{""}."""
        if self.file.endswith((".c", ".go")):
            return "" if shutil.which(self.needs) else f"no program {self.needs!r} on the path"
        return "" if _importable(self.needs) else f"no module {self.needs!r}"

    def build(self, place: Place) -> None:
        """
        Compile it, where it is compiled.

        @raise Failed: If that does not work.
        """
        source, made = str(PEERS / self.file), str(place.folder / self.name)
        if self.file.endswith(".c"):
            command = [self.needs, "-O2", "-o", made, source]
        elif self.file.endswith(".go"):
            command = [self.needs, "build", "-o", made, source]
        else:
            return
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise Failed(f"{self.needs} cannot compile {self.file}: {ended.stderr.strip()}")

    def command(self, transport: str, port: int, place: Place) -> list[str]:
        """Say how it is started."""
        pem = str(place.certificate)
        if not self.file:
            where = f"{port}:interface=127.0.0.1"
            listen = {
                "tcp": f"tcp:{where}",
                "tls": f"ssl:{where}:privateKey={pem}:certKey={pem}",
                "udp": f"udp:{where}",
            }[transport]
            service = "upper" if transport == "udp" else "echo"
            twistd = str(Path(sys.executable).parent / "twistd")
            return [twistd, "-n", "sockapps", f"--service={service}", f"--listen={listen}"]
        if self.file.endswith(".py"):
            program = [sys.executable, str(PEERS / self.file)]
        else:
            program = [str(place.folder / self.name)]
        return [*program, transport, str(port), pem]

    @contextmanager
    def serving(self, transport: str, place: Place) -> Iterator[Server]:
        """
        Run it until the block ends.

        @raise Failed: If it does not serve, or gives other bytes than it owes.
        """
        port = _freePort(transport)
        home = place.folder / f"{self.name}-{transport}-{port}"
        home.mkdir()
        tls = None
        if transport == "tls":
            tls = ssl.create_default_context(cafile=str(place.certificate))
            tls.minimum_version = ssl.TLSVersion.TLSv1_3
        with (home / "said").open("w+b") as said:
            # A child inherits the processor of who starts it.
            os.sched_setaffinity(0, {place.serverCPU})
            began = time.perf_counter()
            process = subprocess.Popen(
                self.command(transport, port, place),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=home,
                env={**os.environ, **self.variables},
            )
            os.sched_setaffinity(0, {place.loadCPU})
            try:
                _firstReply(process, transport, port, tls)
                wall, cpu = time.perf_counter() - began, cpuSeconds(process.pid)
                check(transport, port, tls)
                yield Server(process.pid, port, wall, cpu, tls)
            except (OSError, WrongReply) as error:
                said.seek(0, os.SEEK_END)
                said.seek(max(0, said.tell() - 2000))
                words = said.read().decode(errors="replace").strip()
                raise Failed(f"{error!r}; it said: {words or 'nothing'}") from error
            finally:
                process.kill()
                process.wait()
        shutil.rmtree(home, ignore_errors=True)


_ENDED = (FileNotFoundError, ProcessLookupError)
"""What reading of a thread says that has just ended: there is no file, or no thread any more."""

_EVERYTHING = ("tcp", "tls", "udp")

ALL = (
    Peer("sockapps", "sockapps, its whole shell on", _EVERYTHING),
    Peer(
        "lean",
        "Twisted on sockapps.reactor, LineReceiver",
        _EVERYTHING,
        "lean_twisted.py",
        "sockapps.reactor",
    ),
    Peer("stock", "Twisted, epoll reactor, LineReceiver", _EVERYTHING, "stock_twisted.py"),
    Peer("asyncio", "asyncio, Protocol", _EVERYTHING, "asyncio_protocol.py"),
    Peer("uvloop", "uvloop, Protocol", _EVERYTHING, "uvloop_protocol.py", "uvloop"),
    Peer("gevent", "gevent, StreamServer", ("tcp", "tls"), "gevent_server.py", "gevent"),
    Peer("threads", "socketserver, threads", ("tcp", "tls"), "socketserver_threads.py"),
    Peer("plain", "Python, a bare socket", ("udp",), "plain_python.py"),
    Peer("c", "C, epoll", ("tcp", "udp"), "epoll.c", "cc"),
    Peer("go", "Go net, one processor", _EVERYTHING, "net.go", "go", {"GOMAXPROCS": "1"}),
)
"""Every server, in the order of the tables."""


def cpuSeconds(pid: int) -> float:
    """
    Say what CPU time a process, its threads and its children have used, user and system.

    C{stat} knows of threads that have ended, in ticks of 10 ms, rounded down; C{schedstat} counts
    nanoseconds, of threads that live. Neither says too much, so the greater one is nearer.
    """
    # The second field is a name in brackets, which may hold anything; utime is the 14th.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, *ofChildren = map(int, fields[11:15])
    living = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(*_ENDED):  # or the kernel does not count
            living += int((task / "schedstat").read_text().split()[0])
    own = max((user + system) * TICK, living / 1e9)
    return own + sum(ofChildren) * TICK + sum(map(cpuSeconds, _children(pid)))


def residentBytes(pid: int) -> int:
    """Say what memory a process and its children hold."""
    # What statm and status say lags behind, by pages that each CPU has not yet counted.
    rolled = Path(f"/proc/{pid}/smaps_rollup").read_text().split()
    resident = int(rolled[rolled.index("Rss:") + 1]) * 1024
    return resident + sum(map(residentBytes, _children(pid)))


def check(transport: str, port: int, tls: ssl.SSLContext | None = None) -> None:
    """
    See that a server gives the bytes that every other server gives.

    @raise WrongReply: If it does not.
    """
    if transport == "udp":
        with connectDatagrams(port) as asking:
            for sent in (MESSAGE, b"1 + 1", b"x" * 1400):
                asking.send(sent)
                _expect(asking, sent.upper())
        return
    with connect(port, tls) as asking:
        for sent, owed in (
            (b"a line\n", echoed(b"a line")),
            (b"one\ntwo\n\nfour\n", b"".join(map(echoed, (b"one", b"two", b"", b"four")))),
            (b"whole\ncut in ", echoed(b"whole")),
            (b"two\n", echoed(b"cut in two")),
            (bytes({*range(256)} - {10}) + b"\n", echoed(bytes({*range(256)} - {10}))),
        ):
            asking.sendall(sent)
            _expect(asking, owed)


def _expect(asking: socket.socket, owed: bytes) -> None:
    data = b""
    while data != owed:
        try:
            more = asking.recv(65536)
        except TimeoutError:
            more = b""
        data += more
        if not more or not owed.startswith(data):
            raise WrongReply(f"{data[:80]!r} came, not {owed[:80]!r}")


def _firstReply(
    process: subprocess.Popen[bytes], transport: str, port: int, tls: ssl.SSLContext | None
) -> None:
    """Ask again and again until a server answers."""
    request, owed = MESSAGE + b"\n", echoed(MESSAGE)
    if transport == "udp":
        request, owed = MESSAGE, MESSAGE.upper()
    bound = time.monotonic() + 3 * PATIENCE
    while process.poll() is None and time.monotonic() < bound:
        try:
            asking = connectDatagrams(port) if transport == "udp" else connect(port, tls)
            with asking:
                asking.send(request)
                _expect(asking, owed)
        except ConnectionError:
            # Not at once: on a machine with one CPU that would delay the server.
            time.sleep(0.001)
        else:
            return
    raise WrongReply("it has ended" if process.poll() is not None else "it does not answer")


def _freePort(transport: str) -> int:
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _children(pid: int) -> list[int]:
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(*_ENDED):
            children += map(int, (task / "children").read_text().split())
    return children


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
