"""
How the log is written, by itself and by real daemons: one safe line for each event, or one object.
"""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import unicodedata
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.application.service import Application
from twisted.logger import (
    ILogObserver,
    LegacyLogObserverWrapper,
    LogEvent,
    Logger,
    LogLevel,
    LogPublisher,
    eventAsJSON,
    textFileLogObserver,
)
from twisted.python import log as legacylog
from twisted.python.failure import Failure
from twisted.python.syslog import SyslogObserver

from sockapps.logformat import LONGEST, humanLogObserver, jsonLogObserver, logAs, settleFormat
from tests.daemons import ask, finish

ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of what may act on a terminal, or end a line."""

HOSTILE = (
    "\x1b]0;owned\x07 \x9b2J \x7f \u202e \u2028 \ud800 \r\n2026-01-01T00:00:00+0000 [-] forged"
)
ESCAPED = (
    r"\x1b]0;owned\x07 \x9b2J \x7f \u202e \u2028 \ud800 \r\n2026-01-01T00:00:00+0000 [-] forged"
)


def acting(text: str) -> set[str]:
    return {each for each in text if unicodedata.category(each) in ACTING}


class Log:
    """What is logged in one test, in the old way or the new one, as each format has it."""

    def __init__(self, *before: Any) -> None:
        self.humanOut, self.jsonOut = io.StringIO(), io.StringIO()
        publisher = LogPublisher(
            *before, humanLogObserver(self.humanOut), jsonLogObserver(self.jsonOut)
        )
        self.publish = publisher
        self.new = Logger(namespace="tests", observer=publisher)
        self.old = legacylog.LogPublisher(observerPublisher=publisher, publishPublisher=publisher)

    @property
    def human(self) -> str:
        return self.humanOut.getvalue()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.jsonOut.getvalue().splitlines()]


def failed(error: Exception) -> Failure:
    try:
        raise error
    except Exception:
        return Failure()


def test_an_ordinary_event_reads_as_twisted_writes_it() -> None:
    out = io.StringIO()
    log = Log(textFileLogObserver(out))
    log.new.info("{who} listens", who="echo")
    log.old.msg("as", "ever", system="Echo,1,127.0.0.1")
    log.new.debug("\u7528\u6237")
    log.new.info("")
    assert log.human == out.getvalue()
    assert "[tests#info] echo listens\n" in log.human
    assert "[Echo,1,127.0.0.1] as ever\n" in log.human


def test_an_event_is_one_object_with_its_facts() -> None:
    log = Log()
    log.new.warn("{who} came", who="al\x1bice", number=3, part=0.5, open=True, none=None)
    log.old.msg("as", "ever", system="Echo,1", size=7)
    new, old = log.objects
    moment = datetime.fromisoformat(new.pop("time"))
    assert moment.utcoffset() == timedelta(0)
    assert abs(datetime.now(moment.tzinfo) - moment) < timedelta(minutes=1)
    assert new == {
        "level": "warn",
        "namespace": "tests",
        "message": r"al\x1bice came",
        "who": r"al\x1bice",
        "number": 3,
        "part": 0.5,
        "open": True,
    }
    del old["time"]
    assert old == {
        "level": "info",
        "namespace": "log_legacy",
        "message": "as ever",
        "system": "Echo,1",
        "size": 7,
    }
    assert log.jsonOut.getvalue().isascii()


def test_an_event_without_text_is_an_object_but_no_line() -> None:
    log = Log()
    log.new.info(None, number=3)
    assert log.human == ""
    assert [each["number"] for each in log.objects] == [3]


def test_what_a_peer_wrote_cannot_act_nor_forge_a_line() -> None:
    log = Log()
    log.new.info("{said}", said=HOSTILE)
    log.old.msg(HOSTILE, system=HOSTILE)
    lines = log.human.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(f"[tests#info] {ESCAPED}")
    assert lines[1].endswith(f"[{ESCAPED}] {ESCAPED}")
    assert [each["message"] for each in log.objects] == [ESCAPED, ESCAPED]
    assert acting(log.human) == acting(log.jsonOut.getvalue()) == {"\n"}


@pytest.mark.parametrize("way", ["new", "old", "new, after an old observer"])
def test_a_failure_has_its_traceback_below_it_and_in_one_field(way: str) -> None:
    before = [LegacyLogObserverWrapper(lambda event: None)] if "after" in way else []  # type: ignore[arg-type]  # any callable is one
    log = Log(*before)
    failure = failed(ValueError(f"bad {HOSTILE}"))
    if way == "old":
        log.old.msg(failure=failure, why="in \x1b vain", isError=1)
    else:
        log.new.failure("in {what} vain", failure, what="\x1b")
    first, *rest = log.human.splitlines()
    assert first.endswith(r"] in \x1b vain")
    assert rest[0].startswith("\tTraceback")
    assert all(line.startswith("\t") for line in rest)
    assert rest[-2].endswith(r"bad \x1b]0;owned\x07 \x9b2J \x7f \u202e \u2028 \ud800 \r")
    [told] = log.objects
    assert told["message"] == r"in \x1b vain"
    assert (told["level"], told["error_type"]) == ("critical", "builtins.ValueError")
    assert told["error"] == f"bad {ESCAPED}"
    assert told["traceback"].splitlines() == [line.removeprefix("\t") for line in rest]
    assert not {"failure", "why", "isError", "format", "system"} - {"system"} & {*told}


@pytest.mark.parametrize("way", ["new", "old"])
def test_a_failure_without_a_word_is_told_too(way: str) -> None:
    log = Log()
    if way == "old":
        log.old.msg(failure=failed(ValueError("why")), isError=1)
    else:
        log.new.emit(LogLevel.critical, None, log_failure=failed(ValueError("why")))
    assert "] Unhandled Error\n\tTraceback" in log.human
    assert [each["message"] for each in log.objects] == ["Unhandled Error"]


def test_a_failure_that_is_but_a_fact_leaves_the_text_alone() -> None:
    log = Log(LegacyLogObserverWrapper(lambda event: None))  # type: ignore[arg-type]  # any callable is one
    log.new.error("could not: {failure.value}", failure=failed(ValueError("why")))
    assert log.human.endswith("could not: why\n")
    assert [each["message"] for each in log.objects] == ["could not: why"]


class Awkward:
    """What nobody can write down."""

    name = property(lambda self: 1 / 0)

    def __repr__(self) -> str:
        raise ValueError("\x1b no")

    __str__ = __repr__
    __format__ = __repr__  # type: ignore[assignment]  # it is to be called and to fail


class Posing(str):
    """A text that says of itself what it likes."""

    def isprintable(self) -> bool:
        return True


class AwkwardError(Exception):
    def __str__(self) -> str:
        raise ValueError("\x1b no")


class AwkwardFailure(Failure):
    def getTraceback(self, *_: Any, **__: Any) -> str:
        raise ValueError("\x1b no")


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"log_format": "{missing}"},
        {"log_format": "{x}", "x": Awkward()},
        {"log_format": 7},
        {"log_format": b"\xff\x1b"},
        {"log_format": "x", "log_level": Awkward()},
        {"log_format": "x", "log_time": "never"},
        {"log_format": "x", "log_time": float("nan")},
        {"log_format": "x", "log_time": 1e300},
        {"log_format": "x", "log_system": Awkward()},
        {"log_format": "x", "log_namespace": Awkward()},
        {"log_format": "x", "x": Posing(HOSTILE), Posing(HOSTILE): 1},
        {"log_format": "x", "x": 10**5000, "y": float("inf"), "z": b"\x1b"},
        {"log_format": "x", "x": {"\x1b": [object()]}, 7: 7, None: Awkward()},
        {"log_format": "x", "time": HOSTILE, "level": HOSTILE, "message": HOSTILE},
        {"log_format": "x", "log_failure": Awkward()},
        {"log_format": "x", "log_failure": failed(AwkwardError())},
        {"log_format": "x", "log_failure": AwkwardFailure(ValueError())},
        {"log_format": "x", Awkward(): 1},
    ],
)
def test_whatever_is_in_an_event_something_safe_is_written(event: Any) -> None:
    log = Log()
    log.publish(event)
    [told] = log.objects
    assert told["level"] in (None, "error")
    assert told["message"] or not event
    assert bool(log.human) is bool(event)
    assert log.human.endswith("\n") or not event
    assert acting(log.human.replace("\n\t", "\n") + log.jsonOut.getvalue()) == {"\n"}
    assert acting("".join(f"{key}{told[key]}" for key in told)) <= {"\n"}
    assert not re.search(r"^[^-\t]", log.human, re.MULTILINE)


def test_what_json_cannot_have_is_a_short_text() -> None:
    log = Log()
    log.new.info("x", data=b"\x1b", big=2**80, much=float("inf"), rest=["a" * 5000])
    [told] = log.objects
    assert (told["data"], told["big"], told["much"]) == (r"b'\x1b'", str(2**80), "inf")
    assert len(told["rest"]) == LONGEST + 1


def test_events_that_twisted_has_flattened_are_told_the_same() -> None:
    log = Log(lambda event: eventAsJSON(event))
    log.new.info("{x}", x="\x1b")
    log.old.msg(failure=failed(ValueError("why")), why="in vain", isError=1)
    assert [each["message"] for each in log.objects] == [r"\x1b", "in vain"]


scalars = st.one_of(
    st.text(),
    st.binary(),
    st.integers(),
    st.floats(),
    st.none(),
    st.booleans(),
    st.lists(st.text()),
)


@given(
    text=st.text(),
    system=st.none() | st.text(),
    fields=st.dictionaries(st.text(), scalars),
    error=st.none() | st.text(),
)
@example(text=HOSTILE, system=HOSTILE, fields={HOSTILE: HOSTILE}, error=HOSTILE)
def test_any_event_is_one_safe_line_and_one_valid_object(
    text: str, system: str | None, fields: dict[str, Any], error: str | None
) -> None:
    event: LogEvent = {**fields, "log_format": "{log_text}", "log_text": f"x{text}"}
    event["log_level"] = LogLevel.info
    event["log_namespace"] = "tests"
    event["log_time"] = 1e9
    if system is not None:
        event["log_system"] = system
    if error is not None:
        event["log_failure"] = Failure(ValueError(error))
    log = Log()
    log.publish(event)
    first, *rest = log.human.removesuffix("\n").split("\n")
    assert all(line.startswith("\t") for line in rest)
    assert bool(rest) is (error is not None)
    whole = first + "".join(line.removeprefix("\t") for line in rest)
    assert acting(whole) == set()
    raw = log.jsonOut.getvalue()
    assert raw.isascii()
    assert acting(raw) == {"\n"}
    assert raw.count("\n") == 1
    [told] = log.objects
    assert acting("".join(f"{key}{value}" for key, value in told.items())) <= {"\n"}
    assert [key for key, value in told.items() if acting(f"{key}{value}")] in ([], ["traceback"])


def test_a_stdout_that_cannot_show_a_character_has_its_escape() -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, "ascii")
    humanLogObserver(out)({"log_format": "\u7528\u6237"})
    assert raw.getvalue() == b"- [-#-] \\u7528\\u6237\n"


def test_syslog_is_passed_safe_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    passed: list[str] = []
    monkeypatch.setattr(SyslogObserver, "openlog", lambda _, prefix, *rest: opened.append(prefix))
    monkeypatch.setattr(SyslogObserver, "syslog", lambda _, priority, line: passed.append(line))
    application = Application("x")
    logAs("human", {"logfile": None, "logger": None, "syslog": 1, "prefix": "mine"}, application)
    observer: Any = application.getComponent(ILogObserver)
    log = Log(observer)
    log.new.info("{said}", said=HOSTILE)
    log.new.failure("in vain", failed(ValueError(HOSTILE)))
    log.new.info("")
    assert opened == ["mine"]
    assert passed[:3] == [
        f"[-] {ESCAPED}",
        "[-] in vain",
        "[-] \tTraceback (most recent call last):",
    ]
    assert acting("".join(passed)) == {"\t"}


# How twistd and twist are told.

TWISTD = {"logfile": None, "logger": None, "syslog": 0, "nodaemon": 0}


@pytest.mark.parametrize("asked", [None, "human", "json"])
def test_a_format_is_what_was_asked_for_or_human(asked: str | None) -> None:
    assert settleFormat(asked, None) == settleFormat(asked, {**TWISTD}) == (asked or "human")


@pytest.mark.parametrize(
    ("asked", "options", "said"),
    [
        ("json", {"syslog": 1}, "leave out twistd's --syslog"),
        ("json", {"logger": "x.y"}, "twistd's --logger decides"),
        ("human", {"logger": "x.y"}, "twistd's --logger decides"),
    ],
)
def test_a_format_that_twistd_cannot_write_is_refused(
    asked: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        settleFormat(asked, {**TWISTD, **options})


@pytest.mark.parametrize("runner", [None, {"logFormat": "text"}, {**TWISTD, "logger": object()}])
def test_an_application_keeps_to_itself_how_others_log(runner: Any) -> None:
    application = Application("x")
    logAs("json", runner, application)
    assert application.getComponent(ILogObserver, None) is None


# One service that logs in every way there is, and once more for each connection.
PLUGIN = """
from twisted.application.service import Service, ServiceMaker
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python import log, usage
from sockapps.logformat import logAs, settleFormat

class Options(usage.Options):
    optParameters = [["log-format", None, None], ["socket", None, None]]

    def postOptions(self):
        try:
            self["log-format"] = settleFormat(self["log-format"], self.parent)
        except ValueError as error:
            raise SystemExit(f"tiny: {error}")

class Tells(Protocol):
    def dataReceived(self, data):
        Logger(namespace="tiny").info("heard {data}", data=data.decode())
        self.transport.write(data)
        self.transport.loseConnection()

class Tiny(Service):
    def setServiceParent(self, parent):
        logAs(self.options["log-format"], self.options.parent, parent)
        super().setServiceParent(parent)

    def startService(self):
        from twisted.internet import reactor
        self.port = None
        if self.options["socket"]:
            self.port = reactor.listenUNIX(self.options["socket"], Factory.forProtocol(Tells))
        # Under twist the log begins when the services have started.
        reactor.callWhenRunning(self.tell, reactor)

    def tell(self, reactor):
        Logger(namespace="tiny").info("{said}", said="new \\x1b[2J", session=7)
        log.msg("old \\x1b[2J")
        print("printed \\x1b[2J")
        try:
            raise ValueError("failed \\x1b[2J")
        except ValueError:
            log.err(None, "in vain")
        if self.port is None:
            reactor.stop()

    def stopService(self):
        return self.port and self.port.stopListening()

def makeService(options):
    made = Tiny()
    made.options = options
    return made

tiny = ServiceMaker("tiny", "twisted.plugins.tiny_dropin", "", "tiny")
"""


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, str]:
    """Have a service called C{tiny}: variables with which C{twistd} finds it."""
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "tiny_dropin.py").write_text(PLUGIN)
    return {"PYTHONPATH": str(tmp_path)}


def objectsOf(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def isAllJSON(text: str) -> bool:
    """Check that every way to log has ended in JSON."""
    told = objectsOf(text)
    said = [each["message"] for each in told]
    assert acting(text) == {"\n"}
    assert {r"new \x1b[2J", r"old \x1b[2J", r"printed \x1b[2J", "in vain"} <= {*said}
    [failure] = [each for each in told if "traceback" in each]
    assert (failure["error_type"], failure["error"]) == ("builtins.ValueError", r"failed \x1b[2J")
    assert [each["session"] for each in told if "session" in each] == [7]
    return True


def isAllHuman(text: str) -> bool:
    """Check that every way to log has ended in lines for people."""
    assert acting(text) == {"\n", "\t"}
    assert re.search(r"^\S+ \[tiny#info\] new \\x1b\[2J$", text, re.MULTILINE)
    assert re.search(r"^\S+ \[-\] old \\x1b\[2J$", text, re.MULTILINE)
    assert re.search(r"^\S+ \[-\] in vain\n\tTraceback", text, re.MULTILINE)
    assert "\n\tbuiltins.ValueError: failed \\x1b[2J\n" in text
    return True


@pytest.mark.parametrize(
    ("where", "asked", "holds"),
    [
        ("stdout", (), isAllHuman),
        ("stdout", ("--log-format=json",), isAllJSON),
        ("-", ("--log-format=json",), isAllJSON),
        ("log", (), isAllHuman),
    ],
)
def test_in_the_foreground_twistd_logs_so(
    tmp_path: Path, tiny: dict[str, str], where: str, asked: tuple[str, ...], holds: Any
) -> None:
    named = () if where == "stdout" else (f"--logfile={where}",)
    ended = finish("twistd", "-n", *named, "tiny", *asked, folder=tmp_path, variables=tiny)
    assert (ended.returncode, ended.stderr) == (0, "")
    log = tmp_path / "log"
    assert holds(log.read_text() if where == "log" else ended.stdout)
    assert log.exists() is (where == "log")
    assert bool(ended.stdout) is (where != "log")
    assert not (tmp_path / "twistd.log").exists()


def test_a_daemon_logs_so_and_rotates_its_file(tmp_path: Path, tiny: dict[str, str]) -> None:
    started = finish(
        *("twistd", "--pidfile=pid", "tiny", "--log-format=json", "--socket=socket"),
        folder=tmp_path,
        variables=tiny,
    )
    assert (started.returncode, started.stdout, started.stderr) == (0, "", "")
    pid = int((tmp_path / "pid").read_text())
    watched = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGUSR1)
        # It is rotated in the turn after the one in which the signal is seen.
        for said in (b"one", b"two"):
            assert ask(str(tmp_path / "socket"), said) == said
    finally:
        os.kill(pid, signal.SIGTERM)
        ended = select.select([watched], [], [], 10)[0]
        os.close(watched)
    assert ended
    assert isAllJSON((tmp_path / "twistd.log.1").read_text())
    assert {"heard two", "Server Shut Down."} <= {
        each["message"] for each in objectsOf((tmp_path / "twistd.log").read_text())
    }


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ("twistd", "-n", "--syslog", "tiny", "--log-format=json"),
            "tiny: syslog takes lines for people; leave out twistd's --syslog",
        ),
        (
            ("twistd", "--logfile=-", "tiny"),
            "twistd --logfile=-: a daemon has no stdout; name a file, or say -n",
        ),
        (
            ("twistd", "-n", "--logfile=nowhere/log", "tiny"),
            "twistd --logfile: cannot log to {}/nowhere/log: No such file or directory",
        ),
    ],
)
def test_where_there_can_be_no_such_log_twistd_says_so_in_one_line(
    tmp_path: Path, tiny: dict[str, str], command: tuple[str, ...], said: str
) -> None:
    ended = finish(*command, folder=tmp_path, variables=tiny)
    told = (ended.returncode, ended.stdout, ended.stderr)
    assert told == (1, "", said.format(tmp_path) + "\n")
    assert {each.name for each in tmp_path.iterdir()} == {"twisted"}


@pytest.mark.parametrize(
    ("own", "asked", "holds"),
    [
        ("--log-format=text", (), isAllHuman),
        ("--log-format=text", ("--log-format=json",), isAllJSON),
        ("--log-format=json", ("--log-format=human",), isAllHuman),
    ],
)
def test_under_twist_it_logs_so(
    tmp_path: Path, tiny: dict[str, str], own: str, asked: tuple[str, ...], holds: Any
) -> None:
    ended = finish("twist", own, "tiny", *asked, folder=tmp_path, variables=tiny)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert holds(ended.stdout)


def test_json_that_was_asked_of_twist_alone_is_twists(tmp_path: Path, tiny: dict[str, str]) -> None:
    ended = finish("twist", "--log-format=json", "tiny", folder=tmp_path, variables=tiny)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith('\x1e{"')
