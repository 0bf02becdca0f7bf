"""
login: check a user name and a password.

Who may log in is decided by credentials checkers, those of L{twisted.cred}: ours
(C{accounts:FILE}), or any other that C{--auth} knows.
"""

from __future__ import annotations

import hmac
import json
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import attrs
from twisted.cred.checkers import (
    FilePasswordDB,
    ICredentialsChecker,
    InMemoryUsernamePasswordDatabaseDontUse,
)
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import LoginFailed
from twisted.cred.strcred import (
    InvalidAuthType,
    StrcredException,
    findCheckerFactories,
    makeChecker,
)
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from sockapps.attempts import Attempt, Attempts
from sockapps.clientprotocol import ClientProtocol, UnexpectedReply
from sockapps.globalreactor import globalReactor
from sockapps.interfaces import IAccountable, IDatagramTransport, IMeasured
from sockapps.literals import TEXT, unquote
from sockapps.workers import Busy

ACCEPTED = "登录成功!"
REFUSED = "用户名或密码错误!"
CANNOT_CHECK = b"[error: cannot check it now, try again later]"

MAX_CREDENTIALS = 1024
"""Bytes of one message of credentials at most; more is refused unread."""

MAX_FAILURES = 3
"""Refusals on one connection before it is closed."""

RESPITE = 0.05
"""Seconds for which a checker that is too busy is not asked, unless one of its checks ends."""

_PAIR = re.compile(rf"\s*\{{\s*({TEXT})\s*:\s*({TEXT})\s*,?\s*\}}\s*")


def parseCredentials(message: bytes) -> tuple[str, str] | None:
    """
    Read credentials: a Python dict literal of one pair of texts, C{{'name': 'password'}}, or JSON,
    C{{"username": "name", "password": "password"}}.

    @return: The name and the password, or C{None} where the message is anything else.
    """
    if len(message) > MAX_CREDENTIALS:
        return None
    try:
        text = message.decode()
        found = _fromLiteral(text) or _fromJSON(text)
        together = "".join(found or ()).encode()
    except (ValueError, RecursionError):
        return None
    # Nobody has typed a NUL, as little as a lone surrogate, and what checkers call in C, like
    # crypt, fails on it.
    return None if b"\0" in together else found


def _fromLiteral(text: str) -> tuple[str, str] | None:
    pair = _PAIR.fullmatch(text)
    return (unquote(pair[1]), unquote(pair[2])) if pair else None


def _fromJSON(text: str) -> tuple[str, str] | None:
    pairs = json.loads(text, object_pairs_hook=_Pairs)
    if not isinstance(pairs, _Pairs) or sorted(key for key, _ in pairs) != ["password", "username"]:
        return None
    named = dict(pairs)
    name, password = named["username"], named["password"]
    return (name, password) if isinstance(name, str) and isinstance(password, str) else None


class _Pairs(list[tuple[str, object]]):
    """A JSON object's pairs as they came, so that a key given twice is noticed."""


@implementer(IUsernamePassword)
class LoginCredentials:
    """
    What somebody wants to log in with, in UTF-8; it never shows the password.
    """

    def __init__(self, username: bytes, password: bytes) -> None:
        self.username = username
        self.password = password

    def checkPassword(self, password: bytes | str) -> bool:
        """Compare with a password kept in the clear, in a time that does not tell how alike."""
        known = password.encode() if isinstance(password, str) else password
        return hmac.compare_digest(self.password, known)


class LoginProtocol(Protocol):
    """Answer each message of credentials with yes or no; close after three times no."""

    factory: LoginFactory
    transport: Any
    _failures = 0
    _waiting: Deferred[None] | None = None
    _log = Logger()

    def dataReceived(self, data: bytes) -> None:
        if self.factory.isFull():
            self._cannotCheck()
            return
        self.transport.pauseProducing()
        answered = Deferred.fromCoroutine(self._answer(data))
        answered.addCallback(lambda _: self.transport.resumeProducing())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    async def _answer(self, message: bytes) -> None:
        """Answer in turn, after the delay that the source has earned, whatever the verdict."""
        factory, peer = self.factory, IAccountable(self.transport, None)
        credentials = parseCredentials(message)
        name, password = credentials or (None, "")
        said = message if name is None else password.encode()
        attempt = factory.attempts.begin(self._source(peer), name, said)
        if attempt is None:
            self._cannotCheck()
            return
        accepted = None
        try:
            if not await self._turn(attempt):
                return
            accepted = credentials is not None and await factory.verdict(*credentials)
        except Exception as error:
            # Not the error itself: nobody knows what a checker writes into its exceptions.
            if not isinstance(error, Busy):
                self._log.error("login: cannot check: {kind}", kind=type(error).__name__)
            self._cannotCheck()
        else:
            self._tell(accepted)
        finally:
            factory.attempts.end(attempt, accepted)
        if accepted is False and peer is not None:
            peer.penalize("login")

    @property
    def _forgeable(self) -> bool:
        """
        Whether anybody can pretend to be this peer, as over UDP: whoever really is there must not
        be turned away for it, nor find the limits of streams used up.
        """
        return IDatagramTransport.providedBy(self.transport)

    def _source(self, peer: IAccountable | None) -> str | None:
        """Say whose limits hold for this peer."""
        source: str | None = None if peer is None else peer.source
        return f"udp {source}" if source is not None and self._forgeable else source

    async def _turn(self, attempt: Attempt) -> bool:
        """
        Wait until an attempt may go on.

        @return: Whether its peer has stayed.
        """
        try:
            while seconds := self.factory.attempts.takeTurn(attempt):
                self._waiting = deferLater(self.factory.reactor, seconds)
                await self._waiting
        except CancelledError:
            return False
        return True

    def _tell(self, accepted: bool) -> None:
        self._log.info(
            "login: {peer} was {verdict}",
            peer=self.transport.getPeer(),
            verdict="accepted" if accepted else "refused",
        )
        if accepted:
            self.factory.outcomes["accepted"] += 1
            self.transport.write(self.factory.acceptedReply)
            return
        self.factory.outcomes["refused"] += 1
        self.transport.write(self.factory.refusedReply)
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            self.transport.loseConnection()

    def _cannotCheck(self) -> None:
        self.factory.outcomes["unchecked"] += 1
        self.transport.write(CANNOT_CHECK)


@implementer(IMeasured)
@attrs.define(eq=False, slots=False)
class LoginFactory(Factory[LoginProtocol]):
    """
    Make logins.

    @ivar checkers: Who decides, one after the other until one accepts; by default what C{auth}
        names.
    @ivar reactor: The clock; by default the global reactor.
    @ivar attempts: Who may guess how often.
    @ivar outcomes: How many attempts were C{accepted}; C{refused}, malformed ones among them; or
        left C{unchecked}: too many at once, or a checker that failed.
    @raise ValueError: C{auth} names no checker, or one that cannot be had here; or a reply is no
        Unicode.
    """

    protocol = LoginProtocol
    noisy = False

    auth: Sequence[str] = attrs.field(
        default=("accounts",),
        repr=False,
        metadata={
            "help": "who decides, as --auth says it (accounts:FILE, file:FILE, unix…)",
            "secret": True,
        },
    )
    accepted: str = attrs.field(default=ACCEPTED, metadata={"help": "the reply that means yes"})
    refused: str = attrs.field(default=REFUSED, metadata={"help": "the reply that means no"})
    maxAttempts: int = attrs.field(
        default=4,
        validator=attrs.validators.ge(0),
        metadata={"help": "attempts in progress from one source at most; 0: no limit"},
    )
    failureDelay: float = attrs.field(
        default=2.0,
        validator=attrs.validators.ge(0),
        metadata={
            "help": "seconds before an attempt from a source that has failed; they double with "
            "each failure; 0: no delay"
        },
    )
    maxFailureDelay: float = attrs.field(
        default=15.0,
        validator=attrs.validators.ge(0),
        metadata={"help": "seconds before an attempt at most; 0: no delay"},
    )
    checkers: Sequence[ICredentialsChecker] = attrs.field(factory=tuple, repr=False)
    reactor: IReactorTime = attrs.field(factory=globalReactor, repr=False)
    outcomes: dict[str, int] = attrs.field(init=False, repr=False)
    _checking: int = attrs.field(default=0, init=False, repr=False)
    _fullUntil: float = attrs.field(default=0.0, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.attempts = Attempts(
            self.reactor.seconds, self.maxAttempts, self.failureDelay, self.maxFailureDelay
        )
        self.outcomes = dict.fromkeys(("accepted", "refused", "unchecked"), 0)
        self.acceptedReply = self.accepted.encode()
        self.refusedReply = self.refused.encode()
        if not self.checkers:
            self.checkers = [checkerFor(description) for description in self.auth]

    def check(self, name: str, password: str) -> Deferred[bool]:
        """
        Ask the checkers.

        @return: A Deferred of whether one accepts; it fails with whatever else than a refusal a
            checker fails with, L{Busy} for one.
        """
        return Deferred.fromCoroutine(self.verdict(name, password))

    async def verdict(self, name: str, password: str) -> bool:
        """Do what L{check} does, for who awaits it at once."""
        credentials = LoginCredentials(name.encode(), password.encode())
        self._checking += 1
        try:
            accepted = await self._ask(credentials)
        except Busy:
            if self._checking > 1:
                self._fullUntil = self.reactor.seconds() + RESPITE
            raise
        finally:
            self._checking -= 1
        self._fullUntil = 0.0
        return accepted

    def isFull(self) -> bool:
        """
        Tell whether a checker has just been too busy, and is: most of a crowd that comes at once
        is told so at the cost of a look at the clock.
        """
        return self._fullUntil > self.reactor.seconds()

    async def _ask(self, credentials: LoginCredentials) -> bool:
        for checker in self.checkers:
            try:
                await maybeDeferred(checker.requestAvatarId, credentials)
            except LoginFailed:
                continue
            return True
        return False


def checkerFor(description: str) -> ICredentialsChecker:
    """
    Make the credentials checker that C{--auth=description} means.

    @raise ValueError: there is no such kind, its argument is wrong, it knows no passwords, or it
        cannot work here.
    """
    kind, _, argument = description.partition(":")
    if kind == "file" and argument.strip() and not os.path.isfile(argument):
        raise ValueError(f"file: there is no file {argument}")
    try:
        checker = makeChecker(description)
    except InvalidAuthType:
        # Which one it was to be stays unsaid: it can be the rest of somebody's password.
        known = ", ".join(sorted(factory.authType for factory in findCheckerFactories()))
        raise ValueError(f"there is no such checker; there are {known}") from None
    except StrcredException as error:
        raise ValueError(f"{kind}: {error}") from None
    if IUsernamePassword not in checker.credentialInterfaces:
        raise ValueError(f"{kind} does not check user names and passwords")
    if kind == "unix" and find_spec("crypt") is None:
        raise ValueError("unix needs the module crypt, which Python has no more since 3.13")
    if isinstance(checker, FilePasswordDB):
        # It opens it at each login, and twistd may go to another folder before the first.
        checker.filename = os.path.abspath(checker.filename)
    if isinstance(checker, InMemoryUsernamePasswordDatabaseDontUse):
        # Its documentation says bytes; its plugin stores text, which no bytes are equal to.
        checker.users = {_bytes(name): _bytes(known) for name, known in checker.users.items()}
    return checker  # type: ignore[no-any-return]  # Twisted has no type here


def _bytes(text: bytes | str) -> bytes:
    return text.encode() if isinstance(text, str) else text


class LoginClient(ClientProtocol):
    """
    Speak to a login.

    @ivar accepted: The reply that means yes.
    @ivar refused: The reply that means no.
    """

    secret = True
    asks = {"User name:": False, "Password:": True}
    accepted = ACCEPTED
    refused = REFUSED

    @staticmethod
    def compose(*answers: str) -> bytes:
        user, password = answers
        return repr({user: password}).encode()

    def isRefusal(self, reply: bytes) -> bool:
        return reply == self.refused.encode() or super().isRefusal(reply)

    def login(self, user: str, password: str) -> Deferred[bool]:
        """
        Try to log in.

        @return: A Deferred of whether that was accepted; it fails with L{UnexpectedReply} where
            the server says neither yes nor no, as when it is too busy to check.
        """
        return self.request(self.compose(user, password)).addCallback(self._isAccepted)

    def _isAccepted(self, reply: bytes) -> bool:
        if reply not in (self.accepted.encode(), self.refused.encode()):
            raise UnexpectedReply(f"a login does not say {reply[:60]!r}")
        return reply == self.accepted.encode()
