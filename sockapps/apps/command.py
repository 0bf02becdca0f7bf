"""
command: answer date, os and ls; anything else with welcome.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from sockapps.clientprotocol import ClientProtocol, UnexpectedReply
from sockapps.globalreactor import globalReactor
from sockapps.literals import TEXT, unquote
from sockapps.workers import Busy, Workers

WELCOME = b"welcome"

_log = Logger()

Answer = bytes | Deferred[bytes]
COMMANDS: dict[bytes, Callable[[CommandFactory, bytes], Answer]] = {}
"""What each first word does: called with the factory and the rest, it returns the reply."""


_NO_FOLDER = {errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
"""What opening a file, a link, or a name too long for a folder fails with."""


class CommandError(Exception):
    """A command that could not be done, and why, in words for the peer."""


def command(word: bytes) -> Callable[[Callable[[CommandFactory, bytes], Answer]], None]:
    """Make a function the answer to a word, C{date} or C{ls}."""

    def register(answer: Callable[[CommandFactory, bytes], Answer]) -> None:
        COMMANDS[word] = answer

    return register


@command(b"date")
def _date(factory: CommandFactory, argument: bytes) -> Answer:
    return WELCOME if argument else b"[%b] date" % time.ctime().encode()


@command(b"os")
def _os(factory: CommandFactory, argument: bytes) -> Answer:
    return WELCOME if argument else b"[%b]" % os.name.encode()


@command(b"ls")
def _ls(factory: CommandFactory, argument: bytes) -> Answer:
    return factory.ls(argument) if argument else b"[.]"


def listFolder(root: str, path: bytes, most: int) -> bytes:
    """
    List the names in a folder below a root, as Python writes a list of them, in brackets.

    It goes from folder to folder by open descriptors and follows no link, so that nobody who
    changes the tree meanwhile can lead it out of the root.

    @param root: The folder that C{path} is taken below, an absolute one too.
    @param path: The folder to list.
    @param most: How many names it may have.
    @raise CommandError: there is no such folder, or it may not be listed.
    """
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise CommandError("no way up from here")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        folder = os.open(root, flags & ~os.O_NOFOLLOW)
        try:
            for part in parts:
                inner = os.open(part, flags, dir_fd=folder)
                os.close(folder)
                folder = inner
            names = []
            with os.scandir(folder) as entries:
                for entry in entries:
                    names.append(entry.name)
                    if len(names) > most:
                        raise CommandError(f"more than {most} entries")
        finally:
            os.close(folder)
    except FileNotFoundError:
        raise CommandError("no such folder") from None
    except PermissionError:
        raise CommandError("not permitted") from None
    except ValueError:  # a NUL in it
        raise CommandError("not a folder") from None
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise CommandError("it cannot be listed now") from None
        raise CommandError("not a folder") from None
    return f"[{sorted(names)}]".encode()


class CommandProtocol(Protocol):
    """Answer each message that is a command; the next waits until it is answered."""

    factory: CommandFactory
    transport: Any

    def dataReceived(self, data: bytes) -> None:
        word, _, argument = data.partition(b" ")
        try:
            # With nothing after the space it is no command, and no word has a space.
            answer = COMMANDS.get(word if argument else data, _welcome)(self.factory, argument)
        except Exception:
            answer = _excuse(Failure())
        if isinstance(answer, bytes):
            self.transport.write(answer)
            return
        self.transport.pauseProducing()
        answer.addCallback(self.transport.write)
        answer.addErrback(lambda failure: self.transport.write(_excuse(failure)))
        answer.addCallback(lambda _: self.transport.resumeProducing())


def _welcome(factory: CommandFactory, argument: bytes) -> Answer:
    return WELCOME


def _explain(failure: Failure) -> Failure:
    """Say in words for the peer why a listing did not come to its end."""
    if failure.check(Busy):
        raise CommandError("busy, try again later")
    if failure.check(TimeoutError):
        raise CommandError("too slow")
    return failure


def _excuse(failure: Failure) -> bytes:
    if failure.check(CommandError):
        return f"[error: {failure.value}]".encode()
    _log.failure("a command failed", failure)
    return b"[error: the command failed]"


def _absolute(path: str) -> str:
    return os.path.abspath(path)


def _isFolder(factory: object, attribute: attrs.Attribute[str], path: str) -> None:
    if not os.path.isdir(path):
        raise ValueError(f"{attribute.name} must be a folder, and {path!r} is none")


@attrs.define(eq=False, slots=False)
class CommandFactory(Factory[CommandProtocol]):
    """
    Make answerers of commands.

    @ivar reactor: The clock, and what stops the listing threads; by default the global reactor.
    @ivar listers: The threads that list, with a queue that has an end.
    """

    protocol = CommandProtocol
    noisy = False

    root: str = attrs.field(
        default=".",
        converter=_absolute,
        validator=_isFolder,
        metadata={"help": "the folder that ls is taken below (default: where it was started)"},
    )
    maxEntries: int = attrs.field(
        default=10_000,
        validator=attrs.validators.ge(0),
        metadata={"help": "names that ls lists at most"},
    )
    timeout: float = attrs.field(
        default=2.0,
        validator=attrs.validators.gt(0),
        metadata={"help": "seconds that ls may take"},
    )
    reactor: Any = attrs.field(factory=globalReactor, repr=False)

    def __attrs_post_init__(self) -> None:
        self.listers = Workers(2, 64, "listing", self.reactor)

    def ls(self, path: bytes) -> Deferred[bytes]:
        """
        List a folder in a thread of its own.

        @return: A Deferred of the reply; it fails with L{CommandError}.
        """
        listing = self.listers.run(listFolder, self.root, path, self.maxEntries)
        listing.addTimeout(self.timeout, self.reactor)
        listing.addErrback(_explain)
        return listing


class CommandClient(ClientProtocol):
    """Speak to an answerer of commands."""

    words = ("date", "os", "ls", "ls /")

    def date(self) -> Deferred[str]:
        """
        Ask the time there.

        @return: A Deferred of the time, in the words of C's ctime.
        """
        return self.request(b"date").addCallback(_within, "[", "] date")

    def os(self) -> Deferred[str]:
        """
        Ask the kind of system there.

        @return: A Deferred of what Python calls it, C{posix} or C{nt}.
        """
        return self.request(b"os").addCallback(_within, "[", "]")

    def ls(self, path: str | None = None) -> Deferred[list[str]]:
        """
        List a folder.

        @param path: The folder, taken below the server's root; without one the server answers
            where one is, C{.}.
        @return: A Deferred of the names; bytes in them that are no UTF-8 are surrogates. It fails
            with L{CommandError} where the folder cannot be listed.
        """
        if path is None:
            return self.request(b"ls").addCallback(lambda reply: [_within(reply, "[", "]")])
        return self.request(b"ls " + os.fsencode(path)).addCallback(_names)


def _within(reply: bytes, before: str, after: str) -> str:
    text = reply.decode(errors="surrogateescape")
    if text.startswith("[error: "):
        raise CommandError(text.removeprefix("[error: ").removesuffix("]"))
    if not (text.startswith(before) and text.endswith(after)):
        raise UnexpectedReply(f"not {before}…{after}: {text[:40]!r}")
    return text.removeprefix(before).removesuffix(after)


_NAMES = re.compile(rf"(?:{TEXT}(?:, {TEXT})*)?")


def _names(reply: bytes) -> list[str]:
    names = _within(reply, "[[", "]]")
    if not _NAMES.fullmatch(names):
        raise UnexpectedReply(f"not a list of names: {names[:40]!r}")
    try:
        return [unquote(name) for name in re.findall(TEXT, names)]
    except ValueError as error:
        raise UnexpectedReply(str(error)) from None
