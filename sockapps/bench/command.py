"""
What a person types: C{sockapps bench}.

The command line imports this file each time, so it imports nothing heavy, and no reactor: which
one there is to be, the command decides.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.shell_completion import CompletionItem

from sockapps.registry import findApps

if TYPE_CHECKING:
    from sockapps.bench.load import Load


def _completed(context: Any, parameter: Any, incomplete: str) -> list[CompletionItem]:
    return [
        CompletionItem(app.name, help=app.summary)
        for app in findApps().values()
        if app.name.startswith(incomplete)
    ]


@click.command()
@click.argument("app", shell_complete=_completed)
@click.option(
    "--to",
    metavar="ENDPOINT",
    help="Where the server is, as sockapps call takes it.  "
    "[default: where the app listens by default]",
)
@click.option(
    "--connections",
    metavar="NUMBER",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="How many there are at once.",
)
@click.option(
    "--depth",
    metavar="NUMBER",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many messages each has unanswered at most.",
)
@click.option(
    "--duration",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="How long to send.  [default: 10, where --messages is not given]",
)
@click.option(
    "--messages",
    metavar="NUMBER",
    type=click.IntRange(min=1),
    help="How many to send at most.",
)
@click.option(
    "--rate",
    metavar="NUMBER",
    type=click.FloatRange(min=0, min_open=True),
    help="How many messages are due in a second, whether the server keeps up or not; latency "
    "counts from then.  [default: each when the one before it is answered]",
)
@click.option("--churn", is_flag=True, help="Give each message a connection of its own.")
@click.option("--message", metavar="TEXT", help="What to send.  [default: hello]")
@click.option(
    "--size",
    metavar="BYTES",
    type=click.IntRange(min=0),
    help="Send messages of so many bytes instead.",
)
@click.option(
    "--framing",
    type=click.Choice(("line", "chunk", "netstring")),
    show_default="line",
    help="How messages are sent; chunk is what plain servers speak. Not over UDP.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="How long connecting, and each reply, may take.",
)
@click.option(
    "--reactor",
    metavar="NAME",
    help="Which of Twisted's reactors to use, as twistd takes it.  [default: lean, on Linux]",
)
@click.option("--json", "json_", is_flag=True, help="Show everything as one JSON object.")
def bench(
    app: str, to: str | None, message: str | None, reactor: str | None, json_: bool, **wanted: Any
) -> NoReturn:
    """Put the server of APP under load, ours or anybody's.

    Replies that follow from the message are compared with it, byte for byte. Ctrl+C ends it early.

    \b
    Exit codes:
      0  all were answered
      1  some were not, or not rightly
      2  wrong usage
      3  no connection
    """
    from sockapps.bench.plan import makePlan

    if message is not None:
        wanted["message"] = message.encode(errors="surrogateescape")
    try:
        plan = makePlan(app, to, **wanted)
        _install(reactor)
    except ValueError as error:
        _refuse(error)
    from twisted.internet.task import react

    react(partial(_run, plan, json_))


def _refuse(error: ValueError) -> NoReturn:
    click.echo(f"Error: {error}", err=True)
    raise SystemExit(2)


def _install(name: str | None) -> None:
    """
    Install the reactor that somebody wants, else the fastest there is.

    @raise ValueError: there is none of that name here.
    """
    if name is None:
        if sys.platform == "linux":
            from sockapps import reactor

            reactor.install()
        return
    from twisted.application.reactors import NoSuchReactor, getReactorTypes, installReactor

    try:
        installReactor(name)
    except (NoSuchReactor, ImportError):
        known = ", ".join(sorted(each.shortName for each in getReactorTypes()))
        raise ValueError(f"there is no reactor {name!r} here; Twisted knows {known}") from None


async def _run(plan: Any, json_: bool, reactor: Any) -> None:
    import json
    import resource
    import signal

    from twisted.internet.defer import Deferred

    from sockapps.bench.load import Load
    from sockapps.bench.report import figures, lines
    from sockapps.output import printing

    try:
        load = Load(plan, reactor)
    except ValueError as error:
        _refuse(error)
    # A reactor that begins needs files of its own, before connections may take the last.
    running: Deferred[None] = Deferred()
    reactor.callWhenRunning(running.callback, None)
    await running
    _allowFiles()
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, lambda *_: reactor.callFromThread(load.stop))
    began = resource.getrusage(resource.RUSAGE_SELF)
    progress = _Progress(load, reactor)
    await load.run()
    progress.end()
    ended = resource.getrusage(resource.RUSAGE_SELF)
    cpu = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    found = figures(load, cpu) | {"reactor": type(reactor).__name__}
    if json_:
        with printing():
            click.echo(json.dumps(found, ensure_ascii=False))
    if load.tally.unreached:
        click.echo(f"Error: {plan.where}: {load.tally.why}", err=True)
        raise SystemExit(3)
    if not json_:
        with printing():
            click.echo("\n".join(lines(found)))
    raise SystemExit(1 if load.tally.failed else 0)


def _allowFiles() -> None:
    """Let this process have as many connections as the system allows."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _Progress:
    """Show how far a run is, where somebody sits at a terminal."""

    def __init__(self, load: Load, reactor: Any) -> None:
        from rich.console import Console
        from rich.live import Live
        from twisted.internet.task import LoopingCall

        self._load = load
        console = Console(stderr=True, highlight=False)
        self._live: Live | None = None
        if sys.stderr is not None and sys.stderr.isatty():
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.start()
            self._calls = LoopingCall(self._refresh)
            self._calls.clock = reactor
            self._calls.start(0.25)

    def _refresh(self) -> None:
        load = self._load
        answered, seconds = load.tally.answered, load.seconds
        speed = answered / seconds if seconds else 0
        assert self._live is not None
        self._live.update(
            f"{seconds:.1f} s: {answered:,} messages, {speed:,.0f} a second, "
            f"{load.tally.failed:,} errors",
            refresh=True,
        )

    def end(self) -> None:
        """Take it off the terminal."""
        if self._live is not None:
            self._calls.stop()
            self._live.stop()
