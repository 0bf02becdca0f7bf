"""
What a person types: C{sockapps call}, C{sockapps apps}, C{sockapps accounts}, C{sockapps
completion}.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from functools import partial
from importlib.metadata import version
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn, cast

import click
from click.shell_completion import CompletionItem, get_completion_class

from sockapps.accounts.commands import accounts
from sockapps.bench.command import bench
from sockapps.output import printing
from sockapps.printable import shown
from sockapps.registry import findApps

if TYPE_CHECKING:
    from sockapps.clientprotocol import ClientProtocol

FRAMINGS = ("line", "chunk", "netstring")
SHELLS = ("bash", "zsh", "fish")


class AppName(click.ParamType[str]):
    """The name of an app, ours or anybody's."""

    name = "app"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        if value not in findApps():
            self.fail(f"there is no app {value!r}; see sockapps apps", param, ctx)
        return str(value)

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list[CompletionItem]:
        return [
            CompletionItem(app.name, help=app.summary)
            for app in findApps().values()
            if app.name.startswith(incomplete)
        ]


class _Program(click.Group):
    """A program whose output may have nowhere to go."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with printing():
            return super().main(*args, **kwargs)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("sockapps"), prog_name="sockapps")
def main() -> None:
    """Speak to socket apps, and keep what they need.

    The apps themselves are started with: twistd -n sockapps
    """
    # A reply, or a name, may hold what this terminal's encoding has no bytes for.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


main.add_command(accounts)
main.add_command(bench)


@main.command()
@click.argument("app", type=AppName())
@click.argument("messages", metavar="[MESSAGE]...", nargs=-1)
@click.option(
    "--to",
    metavar="ENDPOINT",
    help="Where the server is: HOST:PORT, or tcp:HOST:PORT, tls:HOST:PORT, unix:PATH, "
    "udp:HOST:PORT.  [default: where the app listens by default]",
)
@click.option(
    "--framing",
    type=click.Choice(FRAMINGS),
    default="line",
    show_default=True,
    help="How messages are sent; chunk is what plain servers speak.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long connecting, and each reply, may take.",
)
@click.option("--json", "json_", is_flag=True, help="Show each reply as a JSON object on a line.")
def call(
    app: str, messages: tuple[str, ...], to: str | None, framing: str, timeout: float, json_: bool
) -> NoReturn:
    """Send messages to APP and show its replies.

    Without a MESSAGE it asks for them at a prompt (Ctrl+D ends it), or takes one from each line
    where its input is not a terminal.

    \b
    Exit codes:
      0  answered
      1  answered no: a login or a gate refused, or an error reply
      2  wrong usage
      3  no connection
      4  no reply in time
      5  broken off before the reply
    """
    prompting = not messages and sys.stdin.isatty()
    if prompting:
        # The prompt lives in asyncio's event loop, so the reactor must too.
        from twisted.internet import asyncioreactor

        asyncioreactor.install()

    from twisted.internet.task import react

    react(partial(_call, app, messages, to, framing, timeout, json_, prompting))


async def _call(
    app: str,
    messages: tuple[str, ...],
    to: str | None,
    framing: str,
    timeout: float,
    json_: bool,
    prompting: bool,
    reactor: Any,
) -> None:
    from sockapps.calling import Caller, CallError, Exit, Reply, asJSON, converse

    try:
        caller = Caller(app, to, framing, timeout, reactor)
    except ValueError as error:
        click.echo(f"Error: {error}", err=True)
        raise SystemExit(Exit.USAGE) from None
    client = cast("type[ClientProtocol]", findApps()[app].loadClient())

    def show(message: bytes, outcome: Reply | CallError) -> None:
        with printing():
            if json_:
                click.echo(asJSON(app, None if client.secret else message, outcome))
            elif isinstance(outcome, CallError):
                click.echo(f"Error: {outcome}", err=True)
            elif sys.stdout is not None and sys.stdout.isatty():
                click.echo(shown(outcome.reply.decode(errors="backslashreplace")))
            else:
                click.echo(outcome.reply)

    if prompting:
        from sockapps.prompting import prompted

        given = prompted(app, client)
    else:
        given = _given(messages)
    raise SystemExit(await converse(caller, given, show, patient=prompting))


async def _given(messages: tuple[str, ...]) -> AsyncIterator[bytes]:
    """The messages of the command line, or else of the lines of standard input."""
    from twisted.internet.threads import deferToThread

    for message in messages:
        yield message.encode(errors="surrogateescape")
    while not messages and (line := await deferToThread(sys.stdin.buffer.readline)):
        yield line.removesuffix(b"\n").removesuffix(b"\r")


@main.command()
def apps() -> None:
    """Show every app: where it listens by default, and what it does."""
    from rich.console import Console
    from rich.table import Table

    table = Table("App", "Transport", "Where", "What it does", box=None, pad_edge=False)
    for app in findApps().values():
        transport, _, where = app.listens.partition(":")
        port, _, interface = where.partition(":interface=")
        table.add_row(
            app.name, transport, f"{interface}:{port}" if interface else where, app.summary
        )
    Console(highlight=False).print(table)


@main.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes SHELL complete sockapps.

    \b
    bash:  eval "$(sockapps completion bash)"   in ~/.bashrc
    zsh:   eval "$(sockapps completion zsh)"    in ~/.zshrc
    fish:  sockapps completion fish > ~/.config/fish/completions/sockapps.fish
    """
    complete = get_completion_class(shell)
    assert complete is not None
    click.echo(complete(main, {}, "sockapps", "_SOCKAPPS_COMPLETE").source())
