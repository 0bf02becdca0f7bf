"""
Who gets the lean reactor, what comes with it, and that its clock is no wall clock.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from twisted.internet.error import ReactorAlreadyInstalledError

from sockapps.reactor import LeanReactor, install
from tests.daemons import finish
from tests.reactors import fresh


def python(code: str, **environment: str) -> str:
    """Run a program, and return what it prints."""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_it_pulls_in_no_other_module_of_ours() -> None:
    code = "import sys, sockapps.reactor; print(*sorted(m for m in sys.modules if 'sockapps' in m))"
    assert python(code).split() == ["sockapps", "sockapps.reactor"]


def test_importing_it_installs_nothing() -> None:
    code = "import sys, sockapps.reactor; print('twisted.internet.reactor' in sys.modules)"
    assert python(code).strip() == "False"


def test_it_can_be_installed_once() -> None:
    code = (
        "from sockapps.reactor import install; install()\n"
        "from twisted.internet import reactor; print(type(reactor).__name__)"
    )
    assert python(code).strip() == "LeanReactor"
    with pytest.raises(ReactorAlreadyInstalledError):
        install()


TAKEN = """
import sys, urllib.request  # which has parts of its own for some systems
sys.platform = {platform!r}
{before}
from sockapps.tap import Options
Options()
from twisted.internet import reactor
print(type(reactor).__name__)
"""


@pytest.mark.parametrize(
    ("platform", "before", "taken"),
    [
        ("linux", "", "LeanReactor"),
        ("darwin", "", "SelectReactor"),
        ("freebsd14", "", "PollReactor"),
        ("linux", "from twisted.internet import pollreactor as r; r.install()", "PollReactor"),
        ("linux", "import twisted.internet.reactor", "EPollReactor"),
    ],
)
def test_our_daemon_takes_it_on_linux_where_nobody_has_chosen(
    platform: str, before: str, taken: str
) -> None:
    assert python(TAKEN.format(platform=platform, before=before)).split() == [taken]


DROPIN = """
from twisted.application.service import ServiceMaker
shows = ServiceMaker("shows", "shows", "Show the reactor.", "shows-reactor")
"""
SHOWS = """
from twisted.application.service import Service
from twisted.python import usage
class Options(usage.Options):
    pass
def makeService(options):
    from twisted.internet import reactor
    print("it runs", type(reactor).__name__, flush=True)
    reactor.callWhenRunning(reactor.stop)
    return Service()
"""


@pytest.mark.parametrize(
    ("command", "taken"),
    [
        (("twistd", "-n", "--reactor=lean"), "LeanReactor"),
        (("twistd", "-n", "--reactor=poll"), "PollReactor"),
        (("twist", "--reactor=lean"), "LeanReactor"),
        (("twist",), "EPollReactor"),
    ],
)
def test_runners_of_any_service_know_it_by_name(
    command: tuple[str, ...], taken: str, tmp_path: Path
) -> None:
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "shows_dropin.py").write_text(DROPIN)
    (tmp_path / "shows.py").write_text(SHOWS)
    ended = finish(
        *command, "shows-reactor", folder=tmp_path, variables={"PYTHONPATH": str(tmp_path)}
    )
    assert f"it runs {taken}" in ended.stdout, ended.stdout + ended.stderr


@pytest.mark.parametrize("name", ["poll", "epoll"])
def test_a_reactor_that_is_asked_for_wins_over_ours(name: str, tmp_path: Path) -> None:
    # What it was given is wrong, which it says once it has its reactor.
    code = (
        "import sys; sys.argv = ['twistd', '-n', '--pidfile=', '--reactor={}', 'sockapps', 'x']\n"
        "import atexit; atexit.register(lambda: print(type(sys.modules["
        "'twisted.internet.reactor']).__name__))\n"
        "from twisted.scripts.twistd import run\ntry: run()\nexcept SystemExit: pass"
    )
    said = python(code.format(name), HOME=str(tmp_path))
    assert said.split()[-1] == {"poll": "PollReactor", "epoll": "EPollReactor"}[name]


def test_trial_knows_it_by_name(tmp_path: Path) -> None:
    (tmp_path / "test_which.py").write_text(
        "from twisted.internet import reactor\n"
        "from twisted.trial.unittest import TestCase\n"
        "class Which(TestCase):\n"
        "    def test_which(self): self.assertEqual(type(reactor).__name__, 'LeanReactor')\n"
    )
    ended = finish(
        *("trial", "--reactor=lean", "test_which"),
        folder=tmp_path,
        variables={"PYTHONPATH": str(tmp_path)},
    )
    assert "PASSED" in ended.stdout, ended.stdout + ended.stderr


# The clock


def test_its_seconds_are_monotonic_for_each_timer() -> None:
    with fresh() as reactor:
        before = time.monotonic()
        call = reactor.callLater(10, int)
        assert before + 10 <= call.getTime() <= time.monotonic() + 10
        assert before <= reactor.seconds() <= time.monotonic()
        call.cancel()
    assert LeanReactor.seconds is time.monotonic


def faketime() -> str:
    where = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/faketime/libfaketime.so.1"
    if not os.path.exists(where):
        pytest.skip(f"needs {where}; install Debian's libfaketime")
    return where


STEPS = """
import sys, time
if sys.argv[1:] == ["lean"]:
    from sockapps.reactor import install
    install()
from twisted.internet import reactor
fired = []
real = time.monotonic()
wall = time.time()
def step():
    with open({file!r}, "w") as file:
        file.write({offset!r} + "\\n")
    reactor.callFromThread(stepped)
def stepped():
    assert abs(time.time() - wall) > 3000, "the clock did not step"
    reactor.callLater(0, seen)
def seen():
    fired.append("early" if far.called else "in time")
far = reactor.callLater(600, int)
near = reactor.callLater(0.3, lambda: (fired.append("near"), reactor.stop()))
reactor.callWhenRunning(step)
reactor.run()
took = time.monotonic() - real
print(*fired, "no sooner" if took >= 0.29 else took, "no later" if took < 3 else took)
"""


@pytest.mark.parametrize("offset", ["+1h", "-1h"])
def test_a_step_of_the_wall_clock_fires_no_timer_and_freezes_none(
    offset: str, tmp_path: Path
) -> None:
    file = tmp_path / "time"
    file.write_text("+0\n")
    variables = {
        "LD_PRELOAD": faketime(),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    code = "import sys; sys.argv[1:] = ['lean']\n" + STEPS.format(file=str(file), offset=offset)
    assert python(code, **variables) == "in time near no sooner no later\n"
