"""
What came out: figures with the machine they are from, tables, targets, plots.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import ssl
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from attrs import Factory, define, frozen

from tests.benchmarks import rows
from tests.benchmarks.rows import Figure, Row
from tests.benchmarks.servers import Peer


@frozen
class Target:
    """
    What must hold.

    @ivar limit: What sockapps may cost at most: so many times what the other one does, or without
        another one so many units of the row.
    """

    row: str
    against: str
    limit: float


TARGETS = (
    Target("tcp-50x1", "stock", 0.52),
    Target("tcp-50x1", "uvloop", 1.12),
    Target("tcp-50x1", "go", 1.15),
    Target("tcp-50x32", "uvloop", 1.5),
    Target("udp", "stock", 0.8),
    Target("udp", "uvloop", 1.0),
    Target("idle", "", 1500),
    Target("churn", "stock", 0.8),
    # Nothing is slower than what it replaces.
    *(
        Target(row.name, "stock", 1.0)
        for row in rows.ALL
        if row.name not in ("tcp-50x1", "udp", "churn")
    ),
)


@define
class Results:
    """
    Every figure of a run.

    @ivar about: The machine, the versions, the settings, the date.
    @ivar figures: By row and peer, the slices of each round that gave figures.
    @ivar missing: By peer, why it was not measured at all.
    @ivar failures: By row and peer, why a round gave no figure.
    """

    about: dict[str, Any]
    rows: Sequence[Row]
    peers: Sequence[Peer]
    figures: dict[tuple[str, str], dict[int, list[Figure]]] = Factory(dict)
    missing: dict[str, str] = Factory(dict)
    failures: dict[tuple[str, str], str] = Factory(dict)

    def value(self, row: str, peer: str) -> float | None:
        """Say the median of all slices."""
        got = self.figures.get((row, peer), {})
        return median(each.value for slices in got.values() for each in slices) if got else None

    def ratio(self, row: str, peer: str, other: str) -> float | None:
        """
        Say how often a peer costs what another one does.

        @return: The median of the ratios of slices that were taken side by side. What slows the
            machine for a while is in both of a pair, and not in all slices of a peer.
        """
        ours, theirs = self.figures.get((row, peer), {}), self.figures.get((row, other), {})
        ratios = [
            our.value / their.value
            for number in ours.keys() & theirs.keys()
            for our, their in zip(ours[number], theirs[number], strict=False)
            if their.value
        ]
        return median(ratios) if ratios else None

    def acceptance(self) -> list[tuple[Target, float]]:
        """Compare with each target for which there are figures."""
        compared = []
        for target in TARGETS:
            if target.against:
                found = self.ratio(target.row, "sockapps", target.against)
            else:
                found = self.value(target.row, "sockapps")
            if found is not None:
                compared.append((target, found))
        return compared

    def asJSON(self) -> str:
        """Write down everything."""
        measured = [
            {
                "row": row.name,
                "title": row.title,
                "unit": row.unit,
                "peer": peer.name,
                "median": self.value(row.name, peer.name),
                "rounds": [[each.value for each in slices] for slices in got.values()],
                "details": [_middle(slices).detail for slices in got.values()],
            }
            for row in self.rows
            for peer in self.peers
            if (got := self.figures.get((row.name, peer.name)))
        ]
        everything = {
            **self.about,
            "peers": {peer.name: peer.title for peer in self.peers},
            "missing": self.missing,
            "failures": [
                {"row": row, "peer": peer, "why": why} for (row, peer), why in self.failures.items()
            ],
            "figures": measured,
            "targets": [
                {
                    "row": target.row,
                    "against": target.against,
                    "limit": target.limit,
                    "is": found,
                    "holds": found <= target.limit,
                }
                for target, found in self.acceptance()
            ],
        }
        return json.dumps(everything, indent=1, ensure_ascii=False) + "\n"

    def asMarkdown(self) -> str:
        """Write the tables."""
        about, settings = self.about, self.about["settings"]
        turn = settings["seconds"] / settings["slices"]
        versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
        lines = [
            "# Results",
            "",
            "What servers cost, by `python -m tests.benchmarks`; [how](README.md). Less is better.",
            "",
            f"- {about['date']}; {about['kernel']}; {about['processors']} × {about['processor']}",
            f"- {versions}",
            f"- medians of {settings['rounds']} rounds of {settings['slices']} turns of {turn:g} s",
            "",
            f"| row | in | {' | '.join(peer.name for peer in self.peers)} |",
            f"|---|---|{'---:|' * len(self.peers)}",
        ]
        for row in self.rows:
            cells = [_shown(self.value(row.name, peer.name), row.unit) for peer in self.peers]
            lines.append(f"| {row.title} (`{row.name}`) | {row.unit} | {' | '.join(cells)} |")
        lines += ["", *(f"- **{peer.name}**: {peer.title}" for peer in self.peers)]
        lines += [f"- {name} is not measured: {why}" for name, why in self.missing.items()]
        lines += [
            f"- {peer} failed at {row}: {why.splitlines()[0]}"
            for (row, peer), why in self.failures.items()
        ]
        if settings["smoke"]:
            lines += ["", "A smoke test: it shows that everything works, and not what it costs."]
            return "\n".join(lines) + "\n"
        lines += [
            "",
            "## What must hold",
            "",
            "Medians of the ratios of turns that were taken side by side.",
            "",
            "| row | sockapps costs | at most | holds |",
            "|---|---:|---:|---|",
        ]
        for target, found in self.acceptance():
            unit = f"× {target.against}" if target.against else "bytes"
            shown = f"{found:.2f}" if target.against else f"{found:.0f}"
            holds = "yes" if found <= target.limit else "**no**"
            lines.append(f"| {target.row} | {shown} {unit} | {target.limit:g} | {holds} |")
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> str:
        """
        Write the tables, the data and the plots into a folder.

        @return: What could not be written and why, or C{""}.
        """
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.md").write_text(self.asMarkdown(), "utf-8")
        (folder / "results.json").write_text(self.asJSON(), "utf-8")
        try:
            import matplotlib  # noqa: F401  # whether it is there
        except ImportError:
            return "no plots: matplotlib is not installed; pip install 'sockapps[bench]'"
        for row in self.rows:
            bars = [
                (peer.name, value)
                for peer in self.peers
                if (value := self.value(row.name, peer.name)) is not None
            ]
            if bars:
                _plot(row, bars, folder / f"{row.name}.svg")
        return ""


def about(**settings: Any) -> dict[str, Any]:
    """Say where and when figures are from."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": platform.machine(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "versions": _versions(),
        "settings": settings,
    }


def _middle(slices: list[Figure]) -> Figure:
    return sorted(slices, key=lambda figure: figure.value)[len(slices) // 2]


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if unit == "µs" else f"{value:,.0f}"


def _plot(row: Row, bars: list[tuple[str, float]], file: Path) -> None:
    """Draw a row, sockapps apart from the others, the cheapest on top."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    bars = sorted(bars, key=lambda bar: -bar[1])
    settings = {"svg.fonttype": "none", "svg.hashsalt": "sockapps", "font.size": 10}
    with matplotlib.rc_context(settings):
        figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.34 * len(bars)), layout="constrained")
        drawn = axes.barh(
            [name for name, _ in bars],
            [value for _, value in bars],
            color=["#c8102e" if name == "sockapps" else "#8a9bb0" for name, _ in bars],
        )
        axes.bar_label(drawn, [_shown(value, row.unit) for _, value in bars], padding=3)
        axes.set_title(f"{row.title}: {row.unit}", loc="left", fontsize=10)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(left=False, bottom=False, labelbottom=False)
        axes.margins(x=0.12)
        # A transparent picture would be black on black for half of its readers.
        figure.savefig(file, metadata={"Date": None}, facecolor="white")
        pyplot.close(figure)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {platform.python_implementation(): platform.python_version()}
    for package in ("sockapps", "twisted", "uvloop", "gevent"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["OpenSSL"] = ssl.OPENSSL_VERSION.split()[1]
    for program, asked in {"cc": "--version", "go": "version"}.items():
        if shutil.which(program):
            said = subprocess.run([program, asked], capture_output=True, text=True, check=False)
            found[program] = _number(said.stdout)
    return found


def _number(said: str) -> str:
    """Find the version in what a compiler says of itself."""
    words = said.splitlines()[0].split() if said.strip() else []
    numbers = [word.removeprefix("go") for word in words if "." in word and word[-1].isdigit()]
    return numbers[0] if numbers else "of unknown version"
