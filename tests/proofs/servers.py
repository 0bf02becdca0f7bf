"""
Whom a proof is about: C{twistd sockapps} in a process of its own, which ends when the proof does.
"""

from __future__ import annotations

import os
import re
import resource
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from tests.benchmarks.servers import cpuSeconds, residentBytes
from tests.daemons import PATIENCE, environment, program
from tests.proofs.figures import CannotRun, Failed

LOOPBACK = "tcp:0:interface=127.0.0.1"
"""Where a proof has its services listen: on a port that the system chooses."""

LISTENS = re.compile(rb"([\w-]+) listens on \S+ at (\S+), framing")
"""What it says of a listening, whatever its log is written like."""

_START = """
import ctypes, os, resource, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # when the proof ends, however it ends
files = int(sys.argv[1])
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""What becomes the server's process: with its limits, and bound to its parent's life."""


@frozen
class Server:
    """
    A daemon that runs and listens.

    @ivar ports: The ports of its services, each by the service's name.
    @ivar folder: Where it runs, and may leave things.
    @ivar log: The file of everything that it has said.
    """

    pid: int
    ports: Mapping[str, int]
    folder: Path
    log: Path

    def waited(self) -> float:
        """Say for how many seconds it was ready to go on, and had no CPU to do so."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[1]) / 1e9

    def resident(self) -> int:
        """Say what bytes of memory it has now."""
        return residentBytes(self.pid)

    def cpu(self) -> float:
        """Say what seconds of CPU it has used."""
        return cpuSeconds(self.pid)

    def forgetPeak(self) -> int:
        """Begin anew with the most memory that it has had, and return what it has now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.resident()

    def peak(self) -> int:
        """Say what bytes of memory it has had at most."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def files(self) -> int:
        """Say how many file descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def tracebacks(self) -> int:
        """Say how many exceptions it has logged."""
        return self.log.read_text(errors="replace").count("Traceback (most recent call last)")


@contextmanager
def serving(
    *arguments: str,
    listenings: int = 1,
    config: str = "",
    files: int = 0,
    variables: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[Server]:
    """
    Run C{twistd -n sockapps} until the block ends.

    @param arguments: What follows that.
    @param listenings: How many services' listenings there are.
    @param config: A configuration file's text, if there is to be one.
    @param files: Its limit of file descriptors; 0: as many as this process may have.
    @param variables: What its environment has besides ours.
    @param prefix: A program and its arguments that is to run it.
    @raise Failed: If it does not listen, or has ended by itself when the block ends.
    """
    with tempfile.TemporaryDirectory(prefix="sockapps-proof-") as name:
        folder = Path(name)
        log = folder / "log"
        given = list(arguments)
        if config:
            (folder / "sockapps.toml").write_text(config, "utf-8")
            given.insert(0, f"--config={folder / 'sockapps.toml'}")
        command = [*prefix, program("twistd"), "-n", "sockapps", *given]
        with log.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-S", "-c", _START, str(files), *command],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment(folder, **(variables or {})),
            )
        try:
            yield Server(process.pid, _listening(process.pid, log, listenings), folder, log)
            if process.poll() is not None:
                raise Failed(f"the server has ended by itself; it said: {_lastWords(log)}")
        finally:
            process.kill()
            process.wait()


def needFiles(most: int) -> None:
    """
    Let this process, and those it starts, have so many files open.

    @raise CannotRun: If the system does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < most:
        raise CannotRun(f"needs {most:,} open files, and ulimit -Hn is {hard:,}: raise it")
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def limitFiles(pid: int, most: int) -> None:
    """Take file descriptors away from a process that runs; what it has open stays."""
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))


def _listening(pid: int, log: Path, listenings: int) -> dict[str, int]:
    """Wait until everything listens, and say where."""
    said, process = b"", os.pidfd_open(pid)
    with subprocess.Popen(["tail", "--lines=+1", "--follow", log], stdout=subprocess.PIPE) as tail:
        assert tail.stdout is not None
        try:
            while len(found := LISTENS.findall(said)) < listenings:
                told = select.select([tail.stdout, process], [], [], PATIENCE)[0]
                if tail.stdout not in told:
                    what = "has ended" if told else "does not listen"
                    raise Failed(f"the server {what}; it said: {_lastWords(log)}")
                said += os.read(tail.stdout.fileno(), 65536)
        finally:
            tail.kill()
            os.close(process)
    return {name.decode(): _port(address.decode()) for name, address in found}


def _port(address: str) -> int:
    port = re.search(r":(\d+)$", address)
    return int(port[1]) if port else 0


def _lastWords(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:].strip() or "nothing"
