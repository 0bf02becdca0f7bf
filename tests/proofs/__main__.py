"""
C{python -m tests.proofs}: list the proofs, or run some and say whether they hold.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import click

import tests.proofs
from tests.benchmarks.report import about
from tests.proofs.figures import CannotRun, Outcome, asData, table


def found() -> dict[str, ModuleType]:
    """Find the proofs: modules here that have a title."""
    names = sorted(module.name for module in pkgutil.iter_modules(tests.proofs.__path__))
    modules = {
        name: importlib.import_module(f"tests.proofs.{name}") for name in names if name[0] != "_"
    }
    return {name: module for name, module in modules.items() if hasattr(module, "TITLE")}


def prove(name: str, module: ModuleType, smoke: bool, say: Callable[[str], None]) -> Outcome:
    """Run one proof, whatever becomes of it."""
    outcome = Outcome(name, module.TITLE)
    began = time.monotonic()
    try:
        outcome.figures = module.run(smoke, say)
    except CannotRun as error:
        outcome.skipped = str(error)
    except Exception as error:
        outcome.failed = f"{type(error).__name__}: {error}"
        say(traceback.format_exc())
    outcome.seconds = time.monotonic() - began
    return outcome


def proveAll(
    modules: Iterable[tuple[str, ModuleType]], smoke: bool, say: Callable[[str], None]
) -> list[Outcome]:
    """Run proofs one after the other."""
    outcomes = []
    for name, module in modules:
        say(f"{name}: {module.TITLE}")
        outcome = prove(name, module, smoke, lambda words, name=name: say(f"{name}: {words}"))  # type: ignore[misc]  # a default that mypy cannot type
        holds = "left out" if outcome.skipped else "holds" if outcome.holds else "does NOT hold"
        say(f"{name}: {holds}, {outcome.seconds:.1f} s")
        outcomes.append(outcome)
    return outcomes


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME... | all]")
@click.option("--smoke", is_flag=True, help="Seconds of each, to see that everything works.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="A file for it all, in JSON."
)
def main(names: tuple[str, ...], smoke: bool, out: Path | None) -> None:
    """
    Prove what holds under fire; without a name, list what can be proved.

    The table goes to standard output, progress to standard error. The exit code is 1 where
    something does not hold.
    """
    if sys.platform != "linux":
        raise click.ClickException("this reads /proc and needs epoll: it runs on Linux only")
    proofs = found()
    if not names:
        width = max(map(len, proofs))
        for name, module in proofs.items():
            click.echo(f"{name:{width}}  {module.TITLE}")
        click.echo(f"\npython -m {__spec__.parent} NAME... or all proves them; --smoke, in short")
        return
    if unknown := [name for name in names if name not in (*proofs, "all")]:
        raise click.BadParameter(f"there is no proof {unknown[0]!r}; there are {', '.join(proofs)}")
    chosen = proofs if "all" in names else {name: proofs[name] for name in names}
    outcomes = proveAll(chosen.items(), smoke, lambda words: click.echo(words, err=True))
    click.echo(table(outcomes))
    if out is not None:
        results = {**about(smoke=smoke), "proofs": asData(outcomes)}
        out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    sys.exit(0 if all(outcome.holds for outcome in outcomes) else 1)


if __name__ == "__main__":
    # Servers end with this process, however it ends; but only what is raised lets it clean up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
