"""
Tests for L{sockapps.apps.command}: above all, that C{ls} never leaves its root.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, fail
from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from sockapps.apps.command import (
    COMMANDS,
    Answer,
    CommandError,
    CommandFactory,
    _names,
    command,
    listFolder,
)
from sockapps.clientprotocol import UnexpectedReply
from tests.conftest import LoggedErrors
from tests.peers import TCP, UDP, inThread, logged, serving, tutorialClient
from tests.sockets import PATIENCE, Connect, Listen, Speak, until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one folder in it, and beside it what nobody may see."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").touch()
    made = tmp_path / "root"
    (made / "folder" / "inner").mkdir(parents=True)
    (made / "folder" / "file").touch()
    (made / "toFolder").symlink_to("folder")
    (made / "toOutside").symlink_to(tmp_path / "outside")
    (made / "toFile").symlink_to("folder/file")
    (made / "toItself").symlink_to("toItself")
    (made / "folder" / "up").symlink_to("../../outside")
    os.mkfifo(made / "pipe")
    return made


INSIDE = b"['file', 'inner', 'up']"


@pytest.mark.parametrize("path", [b"folder", b"/folder", b"folder/", b"./folder//.", b"//folder"])
def test_aPathIsTakenBelowTheRoot(root: Path, path: bytes) -> None:
    assert listFolder(str(root), path, 10) == b"[%b]" % INSIDE


@pytest.mark.parametrize("path", [b"/", b".", b"//", b"./."])
def test_theRootItselfIsListed(root: Path, path: bytes) -> None:
    names = ["folder", "pipe", "toFile", "toFolder", "toItself", "toOutside"]
    assert listFolder(str(root), path, 10) == f"[{names}]".encode()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (b"..", "no way up from here"),
        (b"../outside", "no way up from here"),
        (b"/../../etc", "no way up from here"),
        (b"folder/../../outside", "no way up from here"),
        (b"folder/..", "no way up from here"),
        (b"/etc", "no such folder"),
        (b"nowhere", "no such folder"),
        (b"...", "no such folder"),
        (b"~", "no such folder"),
        (b" folder", "no such folder"),
        (b"folder/\xff", "no such folder"),
        (b"toOutside", "not a folder"),
        (b"toOutside/", "not a folder"),
        (b"toFolder", "not a folder"),
        (b"toFolder/inner", "not a folder"),
        (b"folder/up", "not a folder"),
        (b"toFile", "not a folder"),
        (b"toItself", "not a folder"),
        (b"folder/file", "not a folder"),
        (b"folder/file/x", "not a folder"),
        (b"pipe", "not a folder"),
        (b"folder\0", "not a folder"),
        (b"x" * 5000, "not a folder"),
        (b"x/" * 5000, "no such folder"),
    ],
)
def test_whatIsNoFolderBelowTheRootIsNotListed(root: Path, path: bytes, why: str) -> None:
    with pytest.raises(CommandError, match=f"^{why}$"):
        listFolder(str(root), path, 10)


@contextmanager
def asNobody() -> Iterator[None]:
    """Have no more rights than anybody, where root, who may read everything, runs the tests."""
    who = os.geteuid()
    if who == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(who)


def test_whatMayNotBeReadIsNotListed() -> None:
    with tempfile.TemporaryDirectory() as root:
        os.chmod(root, 0o755)  # where pytest's own folders are root's alone
        for name, mode in (("open", 0o755), ("closed", 0)):
            os.mkdir(os.path.join(root, name))
            os.chmod(os.path.join(root, name), mode)
        with asNobody():
            assert listFolder(root, b"open", 10) == b"[[]]"
            for path in (b"closed", b"closed/inner"):
                with pytest.raises(CommandError, match=r"^not permitted$"):
                    listFolder(root, path, 10)


@contextmanager
def noDescriptorLeft() -> Iterator[None]:
    """Let the process have no more descriptors than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowestFree = os.open(os.devnull, os.O_RDONLY)
    os.close(lowestFree)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowestFree, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_aMachineThatHasNoDescriptorLeftDoesNotSayItIsNoFolder(root: Path) -> None:
    with noDescriptorLeft(), pytest.raises(CommandError, match=r"^it cannot be listed now$"):
        listFolder(str(root), b"folder", 10)


def test_asManyEntriesAsTheCapAreListedAndOneMoreIsNot(root: Path) -> None:
    assert listFolder(str(root), b"folder", 3) == b"[%b]" % INSIDE
    with pytest.raises(CommandError, match=r"^more than 2 entries$"):
        listFolder(str(root), b"folder", 2)


def test_aListingLeavesNoDescriptorOpen(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (b"folder/inner", b"folder/file", b"nowhere", b"folder\0", b"folder"):
        with contextlib.suppress(CommandError):
            listFolder(str(root), path, 2)
    assert len(os.listdir("/proc/self/fd")) == before


def test_theReplyIsPythonsOwnListAndBytesThatAreNoUTF8Survive(tmp_path: Path) -> None:
    names = [
        b"\xff\xfe",
        b"it's",
        b'"',
        b"'\"\\",
        b"a\nb",
        "张三".encode(),
        b"\x1b[2J",
        b"', '",
        b"]]",
    ]
    for name in names:
        (tmp_path / os.fsdecode(name)).touch()
    reply = listFolder(str(tmp_path), b".", 100)
    assert reply.decode() == f"[{sorted(os.listdir(tmp_path))}]"
    assert [os.fsencode(name) for name in ast.literal_eval(reply.decode())[0]] == sorted(names)
    assert [os.fsencode(name) for name in _names(reply)] == sorted(names)


def test_anEmptyFolder(tmp_path: Path) -> None:
    assert listFolder(str(tmp_path), b".", 0) == b"[[]]"
    assert _names(b"[[]]") == []


SWAPPER = """
import os, sys
print(flush=True)
while os.getppid() == int(sys.argv[1]):
    os.rename("folder", "spare")
    os.symlink("../outside", "folder")
    for _ in range(5): os.lstat("folder")
    os.unlink("folder")
    os.rename("spare", "folder")
"""


@contextmanager
def swapping(root: Path) -> Iterator[None]:
    """Have another process swap a folder for a link to the outside, again and again."""
    swapper = subprocess.Popen(
        [sys.executable, "-c", SWAPPER, str(os.getpid())], cwd=root, stdout=subprocess.PIPE
    )
    with swapper:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        try:
            yield
        finally:
            swapper.kill()


@pytest.mark.parametrize(("path", "inside"), [(b"folder", INSIDE), (b"folder/inner", b"['x']")])
def test_aLinkSwappedInWhileListingLeadsNowhere(root: Path, path: bytes, inside: bytes) -> None:
    (root / "folder" / "inner" / "x").touch()
    (root.parent / "outside" / "inner").mkdir()
    (root.parent / "outside" / "inner" / "secret").touch()
    seen: set[bytes] = set()
    both = {b"[%b]" % inside, b"not a folder"}
    with swapping(root):
        end = time.monotonic() + PATIENCE
        listings = 0
        while listings < 3000 or (not both <= seen and time.monotonic() < end):
            listings += 1
            try:
                seen.add(listFolder(str(root), path, 10))
            except CommandError as error:
                seen.add(str(error).encode())
    # Folder and link were both met, so it was really swapped meanwhile; and nothing from outside.
    assert both <= seen <= both | {b"no such folder"}


class ClientSideTests(SynchronousTestCase):
    """What a reply means to L{CommandClient}."""

    def test_whatIsNoListIsUnexpected(self) -> None:
        for reply in (
            b"",
            b"welcome",
            b"[['a']",
            b"[['a' 'b']]",
            b"[[a]]",
            b"[['a'], ['b']]",
            b"[['\\q']]",
            b"\xff",
        ):
            with pytest.raises(UnexpectedReply):
                _names(reply)

    def test_anErrorOfTheServerIsACommandError(self) -> None:
        with pytest.raises(CommandError) as caught:
            _names(b"[error: too slow]")
        assert str(caught.value) == "too slow"


def test_theDateIsCsWhateverTheLocale(tmp_path: Path) -> None:
    program = (
        "import locale; from sockapps.apps.command import COMMANDS, CommandFactory\n"
        "for name in ('de_DE.UTF-8', 'C.UTF-8'):\n"
        "    try: locale.setlocale(locale.LC_ALL, name)\n"
        "    except locale.Error: continue\n"
        "    print(COMMANDS[b'date'](CommandFactory(), b'').decode())"
    )
    before = int(time.time())
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert shown.stdout
    for line in shown.stdout.splitlines():
        date = re.fullmatch(r"\[(.*)\] date", line)
        assert date
        assert before <= time.mktime(time.strptime(date[1])) <= time.time()


@pytest.mark.parametrize("root", ["nowhere", "folder/file"])
def test_aRootThatIsNoFolderIsRefused(tmp_path: Path, root: str) -> None:
    with pytest.raises(ValueError, match=r"root must be a folder, and '.*' is none"):
        CommandFactory(root=str(tmp_path / root))


@contextmanager
def occupied(factory: CommandFactory, jobs: int) -> Iterator[None]:
    """Give the threads that list so many jobs that do not end before the block does."""
    release = threading.Event()
    for _ in range(jobs):
        factory.listers.run(release.wait)
    try:
        yield
    finally:
        release.set()


@pytest_twisted.ensureDeferred
async def test_aListingThatIsTooSlowIsAnErrorAndTheConnectionStays(
    root: Path, connected: Connect
) -> None:
    async with serving("command", root=str(root), timeout="0.05") as served:
        peer = await connected(served)
        with occupied(served.appFactory, 2):
            peer.send(b"ls folder\nos\n")
            assert await peer.receiveUntil(b"]\n") == b"[error: too slow]\n"
            assert await peer.receiveUntil(b"]\n") == b"[posix]\n"
            assert served.appFactory.listers._unfinished == 3  # who gave up freed no thread
        await until(lambda: not served.appFactory.listers._unfinished, "the threads are free")
        peer.send(b"ls folder\n")
        assert await peer.receiveUntil(b"]]\n") == b"[%b]\n" % INSIDE


@pytest_twisted.ensureDeferred
async def test_aFullQueueIsAnErrorAtOnceAndTheConnectionStays(
    root: Path, connected: Connect
) -> None:
    async with serving("command", root=str(root)) as served:
        peer = await connected(served)
        with occupied(served.appFactory, 2 + 64):
            peer.send(b"ls folder\nls\n")
            assert await peer.receiveUntil(b"[.]\n") == b"[error: busy, try again later]\n[.]\n"
        await until(lambda: not served.appFactory.listers._unfinished, "the threads are free")
        peer.send(b"ls folder\n")
        assert await peer.receiveUntil(b"]]\n") == b"[%b]\n" % INSIDE


@pytest.mark.parametrize("asked", [b"ls nowhere", b"ls toOutside", b"ls .."])
@pytest_twisted.ensureDeferred
async def test_aFolderThatCannotBeListedLeavesTheConnectionOpen(
    root: Path, asked: bytes, connected: Connect
) -> None:
    async with serving("command", root=str(root)) as served:
        peer = await connected(served)
        peer.send(asked + b"\nls folder\n")
        reply = await peer.receiveUntil(b"]]\n")
    assert re.fullmatch(rb"\[error: [a-z ]+\]\n\[\['file', 'inner', 'up'\]\]\n", reply)


@pytest_twisted.ensureDeferred
async def test_overUDPMessagesWaitForAListingInOrder(root: Path, speaking: Speak) -> None:
    async with serving("command", UDP, root=str(root)) as served:
        peer = speaking(served)
        for message in (b"ls folder", b"os", b"ls folder\n", b"?"):
            peer.send(message)
        replies = [await peer.receive() for _ in range(4)]
    assert replies == [b"[%b]" % INSIDE, b"[posix]", b"[%b]" % INSIDE, b"welcome"]


@pytest_twisted.ensureDeferred
async def test_whoLeavesDuringItsListingHarmsNobody(root: Path, connected: Connect) -> None:
    async with serving("command", TCP, root=str(root)) as served:
        leaver, stayer = await connected(served), await connected(served)
        with occupied(served.appFactory, 2), logged() as events:
            leaver.send(b"ls folder\n")
            stayer.send(b"ls folder\n")
            await until(lambda: served.appFactory.listers._unfinished == 4, "both have asked")
            leaver.reset()
            await until(lambda: len(served.sessions) == 1, "one has left")
        assert await stayer.receiveUntil(b"]]\n") == b"[%b]\n" % INSIDE
        await until(lambda: not served.appFactory.listers._unfinished, "the threads are free")
    assert events.grave == []


@pytest.fixture
def greet() -> Iterator[None]:
    """A command of somebody else's, in three lines."""

    @command(b"greet")
    def greet(factory: CommandFactory, argument: bytes) -> Answer:
        return b"hello, " + argument

    yield
    del COMMANDS[b"greet"]


@pytest.mark.usefixtures("greet")
@pytest_twisted.ensureDeferred
async def test_aNewCommandIsThreeLines(listening: Listen) -> None:
    port = listening(CommandFactory()).getHost().port
    replies = await inThread(tutorialClient, ("127.0.0.1", port), [b"greet you all", b"greet"])
    assert replies == [b"hello, you all", b"hello, "]


FAULTS = {
    b"now": lambda: _raise(CommandError("not today")),
    b"later": lambda: fail(CommandError("not today")),
    b"bug": lambda: _raise(RuntimeError("a bug")),
    b"laterbug": lambda: fail(RuntimeError("a bug")),
    b"nobytes": lambda: _later("text"),
}


def _raise(error: Exception) -> Answer:
    raise error


def _later(result: object) -> Answer:
    answer: Deferred[bytes] = Deferred()
    answer.callback(result)  # type: ignore[arg-type]  # what a careless author gives
    return answer


@pytest.fixture
def faulty() -> Iterator[None]:
    for word, fault in FAULTS.items():
        command(word)(lambda factory, argument, fault=fault: fault())  # type: ignore[misc]  # bound early
    yield
    for word in FAULTS:
        del COMMANDS[word]


@pytest.mark.usefixtures("faulty")
@pytest_twisted.ensureDeferred
async def test_aCommandThatFailsNowOrLaterIsAnErrorAndOnlyABugIsLogged(
    connected: Connect, loggedErrors: LoggedErrors
) -> None:
    async with serving("command") as served:
        peer = await connected(served)
        peer.send(b"now\nlater\nos\n")
        assert await peer.receiveUntil(b"[posix]\n") == b"[error: not today]\n" * 2 + b"[posix]\n"
        assert loggedErrors == []
        peer.send(b"bug\nlaterbug\nnobytes\nos\n")
        failed = b"[error: the command failed]\n"
        assert await peer.receiveUntil(b"[posix]\n") == failed * 3 + b"[posix]\n"
        levels = [event["log_level"] for event in loggedErrors.take(RuntimeError, TypeError)]
        assert levels == [LogLevel.critical] * 3
