"""
C{sockapps accounts}: what a person types to say who may log in.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from datetime import datetime
from getpass import GetPassWarning
from typing import Any

import click

from sockapps.accounts.names import AccountsError
from sockapps.accounts.store import Account, AccountStore, defaultFile
from sockapps.output import giveUpOutput
from sockapps.printable import shown


class _Accounts(click.Group):
    """Tells a person in one line what could not be done."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; C{AccountsError} becomes exit code 1."""
        try:
            return super().invoke(ctx)
        except AccountsError as error:
            raise click.ClickException(str(error)) from None


passwordOption = click.option(
    "--password-stdin",
    "fromStdin",
    is_flag=True,
    help="Read the password from the first line of standard input.",
)


@click.group("accounts", cls=_Accounts)
@click.option("--file", "path", metavar="FILE", help="The accounts file.")
@click.pass_context
def accounts(context: click.Context, path: str | None) -> None:
    """
    Say who may log in.

    The accounts are in FILE; without one, in accounts.db in $STATE_DIRECTORY, or else in
    $XDG_STATE_HOME/sockapps or ~/.local/state/sockapps. A running service sees every change
    with the next login.

    \b
    Exit codes: 0 done, 1 it could not be done, 2 wrong usage.
    """
    context.obj = AccountStore(defaultFile(os.environ) if path is None else path)


@accounts.command()
@click.argument("name")
@passwordOption
@click.pass_obj
def add(store: AccountStore, name: str, fromStdin: bool) -> None:
    """Make an account; its password is asked for."""
    store.prepare()
    if store.hashOf(name) is not None:
        raise AccountsError(f"there is an account '{name}' already")
    store.add(name, _askedHash(fromStdin))
    _tell(f"Added '{name}'.")


@accounts.command()
@click.argument("name")
@passwordOption
@click.pass_obj
def passwd(store: AccountStore, name: str, fromStdin: bool) -> None:
    """Give an account another password, which is asked for."""
    if store.hashOf(name) is None:
        raise AccountsError(f"there is no account '{name}'")
    store.setPassword(name, _askedHash(fromStdin))
    _tell(f"Changed the password of '{name}'.")


@accounts.command()
@click.argument("name")
@click.pass_obj
def remove(store: AccountStore, name: str) -> None:
    """Take an account away."""
    store.remove(name)
    _tell(f"Removed '{name}'.")


@accounts.command("list")
@click.pass_obj
def listAccounts(store: AccountStore) -> None:
    """Show all accounts: a table on a terminal, else one name a line."""
    found = store.accounts()
    if sys.stdout.isatty():
        _showTable(found)
    else:
        for account in found:
            _tell(shown(account.name))


def _askedHash(fromStdin: bool) -> str:
    """
    Get a password from where it leaves no trace, and hash it.

    @raise AccountsError: it cannot be a password, or there is nobody to ask.
    """
    from sockapps.accounts.passwords import LONGEST_PASSWORD, hashPassword

    if fromStdin:
        # Two bytes of line end, and one more to see that it is too long.
        line = sys.stdin.buffer.readline(LONGEST_PASSWORD + 3)
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        # What is no UTF-8 becomes surrogates, which no password may have.
        return hashPassword(line.decode("utf-8", "surrogateescape"))
    with warnings.catch_warnings():
        # Without a terminal getpass would show the password.
        warnings.simplefilter("error", GetPassWarning)
        try:
            password = click.prompt("Password", hide_input=True, confirmation_prompt=True)
        except GetPassWarning:
            raise AccountsError(
                "there is no terminal to ask for the password on; use --password-stdin"
            ) from None
    return hashPassword(password)


def _tell(text: str) -> None:
    """
    Print a line.

    @raise AccountsError: nobody can be told, as on a full disk.
    """
    try:
        click.echo(text)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise  # click ends quietly: who reads has had enough
        giveUpOutput()
        raise AccountsError(
            f"standard output: {error.strerror}; what was to be changed is changed"
        ) from None


def _showTable(found: list[Account]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("Name", "Created", "Changed")
    for account in found:
        # Text, for a name may look like rich's markup.
        table.add_row(Text(shown(account.name)), _time(account.created), _time(account.changed))
    Console().print(table)


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ")
