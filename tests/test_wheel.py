"""
The wheel, built and installed where nothing else of ours is, gives C{twistd sockapps} and
C{sockapps}.
"""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.daemons import PATIENCE, PYTHON, ask, environment, running

PROJECT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.skipif(not find_spec(name), reason=f"{name} is not installed")
    for name in ("build", "hatchling", "pip")
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
            *("--outdir", str(folder), str(PROJECT)),
        ],
        env=environment(folder),
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )
    [file] = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    Install the wheel in an environment of its own, and say where its programs are.

    What it depends on it borrows from here, so that no network is needed.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", programs / PYTHON, "install", "--quiet"),
            *("--no-deps", "--no-index", "--disable-pip-version-check", wheel),
        ],
        env=environment(folder, PIP_ROOT_USER_ACTION="ignore"),
        check=True,
        timeout=PATIENCE,
    )
    [site] = (folder / "lib").glob("python3*/site-packages")
    # A file like this one in a folder named so counts no more: an editable sockapps stays behind.
    borrowed = [each for each in sys.path if Path(each).name in ("site-packages", "dist-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return programs


def test_the_wheel_has_what_it_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        described = archive.read(metadata).decode()
    assert "sockapps/py.typed" in names
    modules = {str(each.relative_to(PROJECT)) for each in (PROJECT / "sockapps").rglob("*.py")}
    modules.add("sockapps/py.typed")
    dropins = {"twisted/plugins/sockapps_dropin.py"}
    assert {name for name in names if ".dist-info/" not in name} == modules | dropins
    assert any(name.endswith("licenses/docs/LICENSE") for name in names)
    assert "License-Expression: MIT" in described
    assert "License-File: docs/LICENSE" in described


TWISTD = """
import sys, sockapps
assert sockapps.__file__.startswith(sys.prefix), sockapps.__file__
from twisted.scripts.twistd import run
sys.argv[0] = "twistd"
run()
"""


def run(*command: str | Path, folder: Path) -> str:
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_the_installed_wheel_gives_twistd_sockapps(installed: Path, tmp_path: Path) -> None:
    twistd = (installed / PYTHON, "-c", TWISTD)
    help_ = run(*twistd, "sockapps", "--help", folder=tmp_path)
    assert help_.startswith("Usage: twistd [options] sockapps [options]\n")
    assert "\n  upper-tcp " in help_
    with running(
        *map(str, twistd),
        *("-n", "sockapps", "--service=echo", "--listen=tcp:0:interface=127.0.0.1"),
        folder=tmp_path,
        listenings=1,
    ) as daemon:
        assert ask(daemon.address("echo"), b"hi") == b"Echo=>hi"


def test_the_installed_wheel_gives_sockapps(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "sockapps", "--help", folder=tmp_path).startswith("Usage: sockapps ")
    assert "21560" in run(installed / "sockapps", "apps", folder=tmp_path)
