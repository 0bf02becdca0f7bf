"""
Answering C{twisted.cred}: is this the account's password?
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet import defer
from twisted.logger import Logger
from zope.interface import implementer

from sockapps.accounts.names import AccountsError, normalName
from sockapps.accounts.passwords import LONGEST_PASSWORD, fits, passwordBytes
from sockapps.accounts.readers import Readers
from sockapps.accounts.store import fileError
from sockapps.workers import Busy, Workers

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


@implementer(ICredentialsChecker)
class AccountChecker:
    """
    Checks names and passwords against an accounts file, at a bounded cost.

    Whoever knows no account's password learns nothing: an unknown name, a wrong password and
    bytes that are neither all cost one look at argon2 and fail with L{UnauthorizedLogin}.

    @ivar workers: The threads that hash, with a queue that has an end.
    """

    credentialInterfaces = (IUsernamePassword,)

    _log = Logger()

    def __init__(self, path: str | os.PathLike[str], reactor: Any = None) -> None:
        """
        @param path: The accounts file; it is opened at the first login, so after a daemon's fork.
        """
        self.path = os.path.abspath(path)
        self.workers = Workers(2, 64, "password", reactor)
        self._reactor = reactor
        self._readers: Readers | None = None
        self._reading = 0

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """
        Check a name and a password.

        @param credentials: An L{IUsernamePassword}; its name and password are L{bytes} in UTF-8,
            or L{str}, as some of Twisted's own servers make them.
        @return: A Deferred of the account's name in UTF-8. It fails with L{UnauthorizedLogin}; with
            L{Busy} at once where too many wait already; with L{AccountsError}, which was logged,
            where the file cannot be read: both say nothing about the password, ask again later.
        """
        return defer.Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        name: str | None
        try:
            name = normalName(_text(credentials.username))
            password = passwordBytes(_text(credentials.password))
        except AccountsError:
            name, password = None, b""
        try:
            stored = None if name is None else await self._lookUp(name)
            fitting = await self.workers.run(fits, stored, password)
        except (AccountsError, sqlite3.Error) as error:
            broken = fileError(self.path, error)
            self._log.error("{broken}", broken=broken)
            raise broken from None
        if name is None or not fitting:
            raise UnauthorizedLogin
        return name.encode("utf-8")

    def _lookUp(self, name: str) -> Deferred[str | None]:
        if self._reading >= self.workers.threads + self.workers.queue:
            return defer.fail(Busy("too many accounts are being looked up"))
        if self._readers is None:
            self._readers = Readers(self.path, self._reactor)
        self._reading += 1

        # As in Workers: who gives up waiting has not ended the look-up.
        answer: Deferred[str | None] = defer.Deferred()

        def finished(result: Any) -> None:
            self._reading -= 1
            # A Deferred that was cancelled ignores this.
            answer.callback(result)

        self._readers.lookUp(name).addBoth(finished)
        return answer


def _text(given: bytes | str) -> str:
    """
    Read a name or a password.

    @raise AccountsError: it is too long for either, or not text.
    """
    if len(given) > LONGEST_PASSWORD:
        raise AccountsError("too long")
    try:
        return given if isinstance(given, str) else given.decode("utf-8")
    except UnicodeDecodeError:
        raise AccountsError("not UTF-8") from None
