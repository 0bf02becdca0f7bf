"""
C{python -m tests.benchmarks}: measure, show, write.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median

import click

from tests.benchmarks import rows, servers
from tests.benchmarks.report import Results, about
from tests.benchmarks.rows import Effort, Figure, Row
from tests.benchmarks.servers import Failed, Peer, Place
from tests.certificates import makeCertificate

DOCS = Path(__file__).parent.parent.parent / "docs" / "benchmarks"
NAMES = [each.name for each in (*rows.ALL, *servers.ALL)]


def _say(words: str) -> None:
    click.echo(words, err=True)


def _chosen(only: tuple[str, ...]) -> tuple[list[Row], list[Peer]]:
    """Take the rows and the servers that are named, all where none of the kind is."""
    chosenRows = [row for row in rows.ALL if row.name in only] or list(rows.ALL)
    chosenPeers = [peer for peer in servers.ALL if peer.name in only] or list(servers.ALL)
    return chosenRows, chosenPeers


def _prepare(results: Results, place: Place) -> None:
    """Compile what is compiled, and leave out, with a word, what cannot run here."""
    for peer in list(results.peers):
        why = peer.missing()
        try:
            if not why:
                peer.build(place)
        except Failed as failed:
            why = str(failed)
        if why:
            results.missing[peer.name] = why
            _say(f"{peer.name} is left out: {why}")
    results.peers = [peer for peer in results.peers if peer.name not in results.missing]


def _measure(results: Results, place: Place, effort: Effort, rounds: int) -> None:
    """Measure everything, round by round."""
    began, done = time.monotonic(), 0
    total = rounds * sum(len(_speaking(results, row)) for row in results.rows)
    for number in range(rounds):
        for row in results.rows:
            for peer, outcome in _compare(row, _speaking(results, row), place, effort).items():
                done += 1
                if isinstance(outcome, Failed):
                    results.failures[row.name, peer] = str(outcome)
                    said = f"FAILED: {outcome}"
                else:
                    results.figures.setdefault((row.name, peer), {})[number] = outcome
                    middle = median(figure.value for figure in outcome)
                    said = f"{middle:10.2f} {row.unit}"
                left = (time.monotonic() - began) / done * (total - done)
                _say(
                    f"round {number + 1}/{rounds}  {done:3}/{total}  {left / 60:4.1f} min left  "
                    f"{row.name:10} {peer:9} {said}"
                )


def _speaking(results: Results, row: Row) -> list[Peer]:
    return [peer for peer in results.peers if row.transport in peer.transports]


def _compare(
    row: Row, peers: list[Peer], place: Place, effort: Effort
) -> dict[str, list[Figure] | Failed]:
    """
    Measure one row of every server, slice by slice, so that a machine's moods meet all alike.

    @return: By the servers' names, the slices in their order, or why there are none.
    """
    slices: dict[str, list[Figure]] = {peer.name: [] for peer in peers}
    failures: dict[str, Failed] = {}
    with ExitStack() as opened:
        measuring = {
            peer.name: opened.enter_context(closing(row.figures(peer, place, effort)))
            for peer in peers
        }
        while measuring:
            # Who was first is last the next time, so that nobody always follows the same one.
            first = next(iter(measuring))
            measuring[first] = measuring.pop(first)
            for name, figures in list(measuring.items()):
                try:
                    slices[name].append(next(figures))
                except StopIteration:
                    del measuring[name]
                except Failed as failed:
                    failures[name] = failed
                    del measuring[name]
    return slices | failures


@click.command()
@click.option("--rounds", type=click.IntRange(1), help="How many; 3, unless it is a smoke test.")
@click.option("--seconds", type=click.FloatRange(0.01), help="For each figure; 1.5.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(NAMES),
    metavar="NAME",
    help=f"Only this row, or only this server; may be repeated. {', '.join(NAMES)}.",
)
@click.option("--smoke", is_flag=True, help="A few requests of each, to see that everything works.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder for results.md, results.json and the plots; docs/benchmarks for a whole run, "
    "none otherwise.",
)
def main(
    rounds: int | None, seconds: float | None, only: tuple[str, ...], smoke: bool, out: Path | None
) -> None:
    """
    Measure what a request costs a server in CPU, sockapps and others.

    The tables go to standard output, progress to standard error. The exit code is 1 where a server
    could not be measured or gave wrong bytes. See docs/benchmarks/README.md.
    """
    if sys.platform != "linux":
        raise click.ClickException("this reads /proc and needs epoll: it runs on Linux only")
    rounds = rounds or (1 if smoke else 3)
    seconds = seconds or (0.05 if smoke else 1.5)
    effort = Effort(seconds, 1, 0.02, 0.02) if smoke else Effort(seconds)
    if out is None and not smoke and not only:
        out = DOCS
    if (files := rows.mostFiles()) < rows.MOST:
        _say(f"ulimit -Hn is {files}, so that only {effort.of(rows.IDLE)} connections will be idle")
    began = time.monotonic()
    processors = sorted(os.sched_getaffinity(0))
    chosenRows, chosenPeers = _chosen(only)
    # The first processor has most of a machine's interrupts: that one is the load's.
    load, server = processors[0], processors[-1]
    settings = {
        "smoke": smoke,
        "rounds": rounds,
        "seconds": seconds,
        "slices": effort.slices,
        "load_cpu": load,
        "server_cpu": server,
    }
    if load == server:
        _say("this machine has one processor: servers and load share it, and figures are rough")
    results = Results(about(**settings), chosenRows, chosenPeers)
    with tempfile.TemporaryDirectory(prefix="sockapps-benchmarks-") as folder:
        place = Place(Path(folder), makeCertificate(Path(folder)), server, load)
        _prepare(results, place)
        _measure(results, place, effort, rounds)
    results.about["took_seconds"] = round(time.monotonic() - began)
    click.echo(results.asMarkdown())
    if out is not None:
        if lacking := results.write(out):
            _say(lacking)
        _say(f"written to {out}")
    _say(f"it took {time.monotonic() - began:.0f} seconds")
    sys.exit(1 if results.failures else 0)


if __name__ == "__main__":
    main()
