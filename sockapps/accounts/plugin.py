"""
C{--auth=accounts:FILE}, for every Twisted program that takes C{--auth}.

Twisted imports this to list its plugins: what keeps and hashes is imported when it is chosen.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import ICheckerFactory, InvalidAuthArgumentString
from twisted.plugin import IPlugin
from zope.interface import implementer

if TYPE_CHECKING:
    from sockapps.accounts.checker import AccountChecker


@implementer(ICheckerFactory, IPlugin)
class AccountsCheckerFactory:
    """Makes checkers that read an accounts file of sockapps."""

    authType = "accounts"
    argStringFormat = "The accounts file (default: accounts.db in the state folder)."
    authHelp = """
This checker reads accounts from a file that 'sockapps accounts' keeps:
a SQLite database with passwords hashed by argon2id. Accounts that are
added, changed or removed count from the next login on.

Without a file it takes accounts.db in $STATE_DIRECTORY, or else in
$XDG_STATE_HOME/sockapps or ~/.local/state/sockapps. A file that is not
there is made, without accounts.
"""
    credentialInterfaces = (IUsernamePassword,)

    def generateChecker(self, argstring: str) -> AccountChecker:
        """
        Make a checker for a file, and the file where it is missing.

        @raise InvalidAuthArgumentString: it cannot be used.
        """
        from sockapps.accounts.checker import AccountChecker
        from sockapps.accounts.store import AccountsError, AccountStore, defaultFile

        try:
            store = AccountStore(argstring or defaultFile(os.environ))
            store.prepare()
        except AccountsError as error:
            raise InvalidAuthArgumentString(str(error)) from error
        # The absolute path: twistd may go to another folder before the first login.
        return AccountChecker(store.path)
