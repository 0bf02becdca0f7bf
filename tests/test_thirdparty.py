"""
A package of somebody else's, one module and one declaration, adds an app that then has everything.

It is the one in C{tests/shout}; docs/writing-an-app.md shows it whole.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.daemons import PATIENCE, PYTHON, ask, environment, finish, running

SHOUT = Path(__file__).with_name("shout")
TCP = "tcp:0:interface=127.0.0.1"

pytestmark = [
    pytest.mark.skipif(not find_spec("pip"), reason="this Python has no pip to install it with"),
    pytest.mark.skipif(not find_spec("hatchling"), reason="hatchling is not installed"),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Build and install the package, and say by which variables a program finds it."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--disable-pip-version-check", "--no-compile"),
            *("--root-user-action=ignore", "--target", str(folder), str(SHOUT)),
        ],
        env=environment(folder),
        check=True,
        timeout=PATIENCE,
    )
    return {"PYTHONPATH": str(folder)}


def test_the_package_is_one_module_and_one_dropin(installed: dict[str, str]) -> None:
    folder = Path(installed["PYTHONPATH"])
    assert sorted(
        str(file.relative_to(folder))
        for file in folder.rglob("*.py")
        if "__pycache__" not in file.parts
    ) == ["shout.py", "twisted/plugins/shout_dropin.py"]


def test_its_service_takes_options_and_runs_on_streams_and_datagrams(
    tmp_path: Path, installed: dict[str, str]
) -> None:
    with running(
        *("twistd", "-n", "sockapps"),
        *("--service=shout:mark=?", f"--listen={TCP}", "--listen=udp:0"),
        *("--service=shout:framing=netstring", f"--listen={TCP}"),
        folder=tmp_path,
        listenings=3,
        variables=installed,
    ) as daemon:
        assert ask(daemon.address("shout"), b"hi\nyou\n") == b"hi?\nyou?\n"
        assert ask(daemon.address("shout", 1), b"hi", udp=True) == b"hi?"
        assert ask(daemon.address("shout-2"), b"2:hi,") == b"3:hi!,"


def test_its_options_are_read_from_a_file(tmp_path: Path, installed: dict[str, str]) -> None:
    config = tmp_path / "services.toml"
    config.write_text(f'[loudly]\napp = "shout"\nmark = "!!"\nlisten = "{TCP}"\n')
    with running(
        *("twistd", "-n", "sockapps", f"--config={config}"),
        folder=tmp_path,
        listenings=1,
        variables=installed,
    ) as daemon:
        assert ask(daemon.address("loudly"), b"hi") == b"hi!!"

    config.write_text('[shout]\nmark = 5\nframing = "line"\n')
    ended = finish("twistd", "sockapps", f"--config={config}", folder=tmp_path, variables=installed)
    said = f"sockapps: {config}: shout.mark: must be text, not 5\n"
    assert (ended.returncode, ended.stderr) == (1, said)


CLIENT = """
import sys
from twisted.internet.task import react
from sockapps.client import connect
from sockapps.registry import findApps

async def main(reactor):
    app = findApps()["shout"]
    client = await connect("shout", sys.argv[1])
    print(app.summary, type(client).__qualname__, await client.shout("hi"), sep="|")
    await client.disconnect()

react(lambda reactor: main(reactor))
"""


def test_its_client_is_called_by_programs_and_by_people(
    tmp_path: Path, installed: dict[str, str]
) -> None:
    with running(
        *("twistd", "-n", "sockapps", "--service=shout", f"--listen={TCP}", "--listen=udp:0"),
        folder=tmp_path,
        listenings=2,
        variables=installed,
    ) as daemon:
        tcp, udp = f"tcp:{daemon.address('shout')}", f"udp:{daemon.address('shout', 1)}"
        for where in (tcp, udp):
            program = finish(PYTHON, "-c", CLIENT, where, folder=tmp_path, variables=installed)
            assert (program.stdout, program.stderr) == (
                "says every message back, louder|ShoutClient|hi!\n",
                "",
            )
            person = finish(
                *("sockapps", "call", "--to", where, "shout", "hi"),
                folder=tmp_path,
                variables=installed,
            )
            assert (person.returncode, person.stdout, person.stderr) == (0, "hi!\n", "")


def test_its_app_is_shown_with_ours(tmp_path: Path, installed: dict[str, str]) -> None:
    shown = finish("twistd", "sockapps", "--help", folder=tmp_path, variables=installed)
    assert (
        "\n  shout       tcp:7070:interface=127.0.0.1\n"
        "              says every message back, louder\n"
        "      mark=!                what makes a message loud\n"
    ) in shown.stdout
    shown = finish("sockapps", "apps", folder=tmp_path, variables=installed)
    assert "says every message back, louder" in shown.stdout
