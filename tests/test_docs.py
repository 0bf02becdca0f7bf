"""
What the README and the docs say is so: their examples are run, their tables compared.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from sockapps.admin import AdminOptions
from sockapps.counts import DROPS, ENDINGS, REFUSALS, USUAL
from sockapps.options import AdmissionOptions, DatagramOptions, ProcessOptions, StreamOptions
from sockapps.registry import findApps
from sockapps.settings import keysOf, readConfig, serviceSettings, tableSettings

HOME = Path(__file__).parent.parent
PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

END = "-=- the end of a command -=-"
# Between commands: what $? was must be so again for the next one.
BETWEEN = f'status=$?; echo; echo "{END}"; (exit $status)'
# A daemon takes a moment to end; the next one needs its pidfile gone and its ports free.
STOP = "kill $(cat twistd.pid)"
STOP_AND_WAIT = "pid=$(cat twistd.pid); kill $pid; timeout 20 tail --pid=$pid -f /dev/null"


def blocks(page: Path, *kinds: str) -> list[tuple[str, str]]:
    return [(kind, text) for kind, text in BLOCK.findall(page.read_text("utf-8")) if kind in kinds]


def commands(console: str) -> Iterator[tuple[str, str]]:
    """Each command of a block, with the output that the page shows."""
    for part in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def withoutLog(output: str) -> str:
    """A page leaves out what twistd logs of its own comings and goings."""
    lines = output.splitlines()
    return "\n".join(line for line in lines if "[-]" not in line and "#info]" not in line)


def asPattern(output: str) -> str:
    return ".*".join(re.escape(piece) for piece in output.rstrip("\n").split("..."))


def busyPorts() -> list[int]:
    """Which of the apps' default ports somebody else has."""
    busy = []
    for app in findApps().values():
        kind = socket.SOCK_DGRAM if app.listens.startswith("udp") else socket.SOCK_STREAM
        port = int(app.listens.split(":")[1])
        with closing(socket.socket(socket.AF_INET, kind)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                busy.append(port)
    return busy


@pytest.fixture
def ownPorts() -> Iterator[None]:
    """Have the apps' own ports, one run of the tests after the other."""
    with Path(tempfile.gettempdir(), "sockapps-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if busy := busyPorts():
            pytest.skip(f"the examples need the apps' own ports, and {busy} are in use")
        yield


@pytest.mark.usefixtures("ownPorts")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "console")], ids=lambda page: page.name
)
def test_examples_do_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    for program, package in {"nc": "netcat-openbsd", "openssl": "openssl", "curl": "curl"}.items():
        if shutil.which(program) is None:
            pytest.skip(f"the examples need {program}; install Debian's {package}")
    script, expected = [], []
    for kind, text in blocks(page, "console", "python", "toml"):
        if kind == "console":
            for command, output in commands(text):
                script += [command.replace(STOP, STOP_AND_WAIT), BETWEEN]
                expected.append((command, output))
        elif named := re.match(r"# file: (\S+)\n", text):
            script.append(f"cat > {named[1]} <<'THE-FILE-ENDS'\n{text}THE-FILE-ENDS")
    folder = tmp_path / "here"
    folder.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "LC_ALL": "C.UTF-8",
    }
    try:
        session = tmp_path / "session.sh"
        session.write_text("\n".join(script), "utf-8")
        ran = subprocess.run(
            ["bash", str(session)],
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            encoding="utf-8",
            check=False,
        )
    finally:
        pidfile = folder / "twistd.pid"
        if pidfile.exists():
            subprocess.run(["kill", pidfile.read_text()], check=False)
    outputs = [
        # What twistd logs begins with a time, which a page leaves out.
        "\n".join(
            line for line in output.splitlines() if "[-]" not in line and "#info]" not in line
        )
        for output in ran.stdout.split(END + "\n")
    ]
    for (command, output), real in zip(expected, outputs, strict=False):
        pattern = asPattern(output)
        assert re.fullmatch(pattern, real.strip("\n")), f"{command}\nshows\n{real}\nnot\n{output}"
    assert len(outputs) == len(expected) + 1, ran.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_pages_is_python(page: Path) -> None:
    for _, text in blocks(page, "python"):
        compile(text, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^):#]+)\)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", ["README.md", "docs/wire-formats.md"])
def test_the_table_of_apps_is_complete(page: str) -> None:
    rows = re.findall(
        r"^\| `([\w-]+)` \| (tcp|udp) (\d+) \|", (HOME / page).read_text("utf-8"), re.M
    )
    ours = [app for app in findApps().values() if app.factory.startswith("sockapps.")]
    assert sorted(rows) == sorted((app.name, *app.listens.split(":")[:2]) for app in ours)


def tables(page: str) -> dict[str, str]:
    """The defaults that a page has in its tables of keys, by C{heading.key}."""
    defaults = {}
    for section in re.split(r"^## ", (HOME / page).read_text("utf-8"), flags=re.M):
        for key, default in re.findall(r"^\| `(\w+)` \|([^|]*)\|", section, re.M):
            heading = next((name for name in ("limits", "admin") if f"`[{name}]`" in section), "")
            defaults[f"{heading}.{key}"] = default.strip(" `")
    return defaults


def asShown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_tables_of_settings_are_complete_and_their_defaults_are_so() -> None:
    shown = tables("docs/operating.md") | tables("docs/operating-under-fire.md")
    del shown[".app"], shown[".listen"]
    owners = {
        "": (AdmissionOptions, StreamOptions, DatagramOptions),
        "limits": (ProcessOptions,),
        "admin": (AdminOptions,),
    }
    own = keysOf(findApps()["login"].loadFactory())
    logins = {f".{name}": asShown(own[name].default) for name in LOGIN_LIMITS}
    assert shown == logins | {
        f"{heading}.{name}": asShown(key.default)
        for heading, classes in owners.items()
        for owner in classes
        for name, key in keysOf(owner).items()
    }


LOGIN_LIMITS = ("max_attempts", "failure_delay", "max_failure_delay")


def test_the_sample_file_has_every_key_with_its_default() -> None:
    given = readConfig(str(HOME / "docs/sockapps.toml"))
    assert given.pop("limits").keys() == keysOf(ProcessOptions).keys()
    assert given.pop("admin").keys() == keysOf(AdminOptions).keys()
    everywhere = [*keysOf(AdmissionOptions), *keysOf(StreamOptions), *keysOf(DatagramOptions)]
    assert given["echo"].keys() == {"app", "listen", *everywhere}
    for app in findApps().values():
        if not app.factory.startswith("sockapps."):
            continue
        table = given.pop(app.name)
        own = keysOf(app.loadFactory())
        assert table.keys() - {"app", "listen", *everywhere} == own.keys()
        assert table["listen"] == app.listens
        for name, key in own.items():
            assert key.read(table[name], name) == key.read(_plain(key.default), name)
        settled, default = serviceSettings(app.name, table), serviceSettings(app.name, {})
        for part in ("app", "listen", "admission", "stream", "datagram"):
            ours, theirs = getattr(settled, part), getattr(default, part)
            assert [asShown(ours)] == [asShown(theirs)], part
    assert given == {}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_the_sample_file_s_process_tables_have_their_defaults() -> None:
    given = readConfig(str(HOME / "docs/sockapps.toml"))
    assert attrs.asdict(tableSettings(AdminOptions, given["admin"], "")) == attrs.asdict(
        AdminOptions()
    )
    assert attrs.asdict(tableSettings(ProcessOptions, given["limits"], "")) == attrs.asdict(
        ProcessOptions()
    )


def test_every_reason_that_is_counted_is_explained() -> None:
    page = (HOME / "docs/operating-under-fire.md").read_text("utf-8")
    for kind, reasons in {"refused": REFUSALS, "dropped": DROPS, "endings": ENDINGS}.items():
        told = {*re.findall(rf"{kind}\{{(\w+)\}}", page), *re.findall(r"\(`(\w+)`\)", page)}
        assert told >= set(reasons) - USUAL - UNEXPLAINED, kind


UNEXPLAINED = {"lost", "failed", "fault", "operator", "evicted", "shutdown"}
"""What is no limit's doing."""


def test_the_package_that_the_page_shows_is_the_one_that_is_tested() -> None:
    page = (HOME / "docs/writing-an-app.md").read_text("utf-8")
    for file in ("pyproject.toml", "shout.py", "twisted/plugins/shout_dropin.py"):
        text = (HOME / "tests/shout" / file).read_text("utf-8")
        assert f"# shout/{file}\n{text}" in page, file
