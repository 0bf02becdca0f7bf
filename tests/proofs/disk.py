"""
A disk that fails or is full: a change that cannot be kept is refused, and nothing is damaged.

Every write, truncation and sync that C{sockapps accounts} makes is made to fail, alone and with
all after it (by C{strace}); then the disk is full, with so many bytes left, a folder of a small
tmpfs where this may be mounted, a limit on the size of files anyway. A refused change may be there
or not, as with any disk; one that was acknowledged is there. Then a daemon serves logins and echo
while its disk is full, its accounts are gone, garbage or cannot be read.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define, field

from sockapps.accounts.names import AccountsError
from sockapps.accounts.passwords import hashPassword
from sockapps.accounts.store import AccountStore
from sockapps.apps.login import ACCEPTED, CANNOT_CHECK, REFUSED
from tests.daemons import PATIENCE, ask, environment, program
from tests.proofs.figures import CannotRun, Figure
from tests.proofs.ledger import Ledger, exactly, hashOf
from tests.proofs.servers import LOOPBACK, Server, serving

TITLE = "a disk that fails or is full: accounts, and the services meanwhile"

SEED = 4
CALLS = "write,pwrite64,fsync,fdatasync,ftruncate"
ERRORS = ("EIO", "ENOSPC")
PAGE = 4096
ROOM = 24
"""Pages that are enough for any change; with fewer some cannot be made."""

CHANGES = {
    "make": ("add", "first", "--password-stdin"),
    "add": ("add", "eve", "--password-stdin"),
    "passwd": ("passwd", "bob", "--password-stdin"),
    "remove": ("remove", "bob"),
}
"""By what they are called here: what is typed; the first one has no file yet."""

_LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@define
class Findings:
    """
    What came of changes.

    @ivar acknowledged: How many were said to be done.
    @ivar refused: How many were refused in one clear sentence.
    @ivar unclear: How many ended in any other way, and how.
    @ivar unusable: How many files could not be changed afterwards.
    """

    ledger: Ledger = field(factory=Ledger)
    acknowledged: int = 0
    refused: int = 0
    unclear: list[str] = field(factory=list)
    unusable: int = 0

    def figures(self, what: str) -> list[Figure]:
        """Say all that."""
        ledger = self.ledger
        return [
            Figure.atLeast(f"{what}: changes refused in one sentence", self.refused, 1),
            Figure.worthKnowing(f"{what}: changes done all the same", self.acknowledged),
            Figure.worthKnowing(f"{what}: refused, and there nevertheless", ledger.done),
            Figure.atMost(f"{what}: ended without a clear sentence", len(self.unclear), 0),
            Figure.atMost(f"{what}: acknowledged and not there", ledger.lost, 0),
            Figure.atMost(f"{what}: other differences", ledger.strange, 0),
            Figure.atMost(f"{what}: integrity_check that was not ok", len(ledger.broken), 0),
            Figure.atMost(f"{what}: files that take no change afterwards", self.unusable, 0),
        ]


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Make changes on bad disks, then serve from them."""
    with tempfile.TemporaryDirectory(prefix="sockapps-proof-") as folder:
        trials = _Trials(Path(folder), smoke, say)
        failing, full = Findings(), Findings()
        trials.failing(failing)
        trials.limited(full)
        with _tmpfs(Path(folder, "small"), say) as small:
            if small is not None:
                trials.full(full, small)
            return [
                *failing.figures("failing"),
                *full.figures("full"),
                *_serve(Path(folder), small, say),
            ]


class _Trials:
    """Changes, each on a fresh copy of the accounts."""

    def __init__(self, folder: Path, smoke: bool, say: Callable[[str], None]) -> None:
        if shutil.which("strace") is None:
            raise CannotRun("needs strace, to make writes fail; install it")
        self._folder = folder
        self._smoke = smoke
        self._say = say
        self._chance = random.Random(SEED)
        self._trace = folder / "trace"
        self._template = folder / "template.db"
        self._accounts = {name: hashPassword(name) for name in ("alice", "bob", "carol")}
        store = AccountStore(self._template)
        store.prepare()
        for name, stored in self._accounts.items():
            store.add(name, stored)

    def failing(self, findings: Findings) -> None:
        """Make each call fail."""
        trials = [
            (change, f"{call}:error={error}:when={number}{more}")
            for change in CHANGES
            for call, times in self._calls(change).items()
            for number in range(1, times + 1)
            for error in ERRORS
            for more in ("", "+")
            # Where nothing at all can be written, nothing can be said.
            if call != "write" or not more
        ]
        for change, inject in self._some(trials):
            self._try(findings, change, prefix=self._strace("-e", f"inject={inject}"), how=inject)

    def limited(self, findings: Findings) -> None:
        """Let no file have more than so many bytes."""
        trials = [(change, pages) for change in CHANGES for pages in range(ROOM // 2)]
        for change, pages in self._some(trials):
            prefix = [sys.executable, "-S", "-c", _LIMITED, str(pages * PAGE)]
            self._try(findings, change, prefix=prefix, how=f"files of {pages} pages")

    def full(self, findings: Findings, small: Path) -> None:
        """Fill a small disk, but for so many pages."""
        trials = [(change, pages) for change in CHANGES for pages in range(ROOM)]
        for change, pages in self._some(trials):
            self._try(findings, change, small, pages, how=f"{pages} free pages")

    def _some(self, trials: Sequence[tuple[str, object]]) -> list[tuple[str, object]]:
        chosen = self._chance.sample(trials, 3) if self._smoke else list(trials)
        self._say(f"{len(chosen):,} changes")
        return chosen

    def _strace(self, *arguments: str) -> list[str]:
        return ["strace", "-f", "-qq", "-o", str(self._trace), "-e", f"trace={CALLS}", *arguments]

    def _calls(self, change: str) -> Counter[str]:
        """Count which calls a change makes."""
        done = self._change(change, self._fresh(change), self._strace())
        if done.returncode:
            raise CannotRun(f"strace does not work here: {done.stderr.strip()}")
        lines = self._trace.read_text(errors="replace").splitlines()
        found = Counter(line.split(maxsplit=1)[1].partition("(")[0] for line in lines)
        return Counter({call: found[call] for call in CALLS.split(",") if found[call]})

    def _fresh(self, change: str, place: Path | None = None) -> Path:
        """Have a file as it is before a change."""
        folder = (place or self._folder) / "accounts"
        shutil.rmtree(folder, ignore_errors=True)
        if change != "make":
            folder.mkdir()
            shutil.copy(self._template, folder / "accounts.db")
        return folder / "accounts.db"

    def _change(
        self, change: str, path: Path, prefix: Sequence[str]
    ) -> subprocess.CompletedProcess[str]:
        command = [program("sockapps"), "accounts", "--file", str(path), *CHANGES[change]]
        return subprocess.run(
            [*prefix, *command],
            input="secret\n",
            capture_output=True,
            text=True,
            env=environment(self._folder),
            timeout=PATIENCE,
        )

    def _try(
        self,
        findings: Findings,
        change: str,
        small: Path | None = None,
        pages: int = 0,
        *,
        prefix: Sequence[str] = (),
        how: object = "",
    ) -> None:
        path = self._fresh(change, small)
        ledger = findings.ledger
        ledger.accounts = {} if change == "make" else dict(self._accounts)
        name = CHANGES[change][1]
        ledger.tries(name, exactly(None) if change == "remove" else hashOf("secret"))
        if small is None:
            done = self._change(change, path, prefix)
        else:
            with _filled(small, pages):
                done = self._change(change, path, prefix)
        said = done.stderr.splitlines()
        if done.returncode == 0 and not said:
            findings.acknowledged += 1
            ledger.acknowledged(_found(path, name))
        elif done.returncode == 1 and len(said) == 1 and said[0].startswith("Error: "):
            findings.refused += 1
        else:
            findings.unclear.append(f"{change}, {how}: {done.returncode}, {done.stderr}")
            self._say(f"UNCLEAR: {findings.unclear[-1]}")
        wrong = ledger.lost, ledger.strange, len(ledger.broken)
        ledger.audit(path)
        try:
            store = AccountStore(path)
            store.prepare()
            store.add("afterwards", "$argon2id$")
        except AccountsError as error:
            findings.unusable += 1
            self._say(f"UNUSABLE: {change}, {how}: {error}")
        if wrong != (ledger.lost, ledger.strange, len(ledger.broken)):
            self._say(f"WRONG: {change}, {how}: {ledger}; {done.stderr}")


def _found(path: Path, name: str) -> str | None:
    return AccountStore(path).hashOf(name) if path.exists() else None


@contextmanager
def _tmpfs(folder: Path, say: Callable[[str], None]) -> Iterator[Path | None]:
    """Have a disk of 1 MiB, or None where that is not permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        say("no small disk may be mounted here, so only files are limited; run it as root")
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def _filled(disk: Path, pages: int = 0) -> Iterator[None]:
    """Leave so many pages of a disk free until the block ends."""
    filler = disk / "filler"
    free = os.statvfs(disk).f_bavail - pages
    filler.write_bytes(bytes(max(0, free) * PAGE))
    try:
        yield
    finally:
        filler.unlink()


@define
class _Asking:
    """
    Who asks a daemon for logins and echoes.

    @ivar wrong: How many answers were not what they must be.
    @ivar honest: How many logins were answered that they cannot be checked now.
    """

    server: Server
    say: Callable[[str], None]
    wrong: int = 0
    honest: int = 0
    echoes: int = 0

    def inTrouble(self, what: str) -> None:
        """Expect no wrong answers about passwords, and echoes as ever."""
        for password, never in (("secret", REFUSED), ("other", ACCEPTED)):
            answer = self._login(password)
            self.honest += answer == CANNOT_CHECK
            if answer not in {CANNOT_CHECK, ACCEPTED.encode(), REFUSED.encode()} - {never.encode()}:
                self._note(what, password, answer)
            self._echo(what)

    def afterwards(self, what: str) -> None:
        """Expect logins as ever."""
        if (answer := self._login("secret")) != ACCEPTED.encode():
            self._note(f"after {what}", "secret", answer)
        self._echo(what)

    def _login(self, password: str) -> bytes:
        return self._ask("login", repr({"bob": password}).encode()).strip()

    def _echo(self, what: str) -> None:
        if (answer := self._ask("echo", b"hello")) == b"Echo=>hello\n":
            self.echoes += 1
        else:
            self._note(what, "echo", answer)

    def _ask(self, service: str, message: bytes) -> bytes:
        try:
            return ask(f"127.0.0.1:{self.server.ports[service]}", message + b"\n")
        except OSError as error:
            return repr(error).encode()

    def _note(self, what: str, asked: str, answer: bytes) -> None:
        self.wrong += 1
        self.say(f"WRONG: {what}: {asked} was answered {answer!r}")


def _serve(folder: Path, small: Path | None, say: Callable[[str], None]) -> list[Figure]:
    """Have logins and echoes while the accounts cannot be read."""
    path = (small or folder) / "served" / "accounts.db"
    store = AccountStore(path)
    store.prepare()
    store.add("bob", hashPassword("secret"))
    services = (
        *("--service=login", f"--listen={LOOPBACK}", f"--auth=accounts:{path}"),
        *("--service=echo", f"--listen={LOOPBACK}"),
    )
    with serving(*services, listenings=2) as server:
        asking = _Asking(server, say)
        asking.afterwards("the beginning")
        for what, trouble in _troubles(server, path, small).items():
            with trouble:
                asking.inTrouble(what)
            asking.afterwards(what)
        tracebacks = server.tracebacks()
    return [
        Figure.atLeast("served: logins answered that they cannot be checked", asking.honest, 4),
        Figure.atLeast("served: echoes meanwhile", asking.echoes, 10),
        Figure.atMost("served: wrong answers", asking.wrong, 0),
        Figure.atMost("served: tracebacks in the log", tracebacks, 0),
    ]


def _troubles(server: Server, path: Path, small: Path | None) -> dict[str, Any]:
    troubles = {
        "a limit on files": _noFilesGrow(server.pid),
        "accounts that are gone": _replaced(path, None),
        "accounts that are garbage": _replaced(path, b"no database at all" * 1000),
        "reads that fail": _attached(server.pid, "pread64:error=EIO"),
        "writes that fail": _attached(server.pid, "pwrite64:error=ENOSPC"),
    }
    if small is not None:
        troubles["a full disk"] = _filled(small)
    return troubles


@contextmanager
def _noFilesGrow(pid: int) -> Iterator[None]:
    """Let a process write to no file, not even its log."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def _replaced(path: Path, content: bytes | None) -> Iterator[None]:
    """Have something else in a file's place, or nothing."""
    kept = path.rename(path.with_name("kept.db"))
    if content is not None:
        path.write_bytes(content)
    try:
        yield
    finally:
        kept.replace(path)


@contextmanager
def _attached(pid: int, inject: str) -> Iterator[None]:
    """
    Make a call of a process that runs fail.

    @raise CannotRun: If it may not be traced.
    """
    call = inject.partition(":")[0]
    command = ["strace", "-f", "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={inject}"]
    strace = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
    assert strace.stderr is not None
    try:
        if "attached" not in (said := strace.stderr.readline()):
            raise CannotRun(f"strace may not look into a process that runs: {said.strip()}")
        yield
    finally:
        with suppress(ProcessLookupError):
            strace.send_signal(signal.SIGTERM)
        strace.communicate(timeout=PATIENCE)
