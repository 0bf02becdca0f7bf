"""
How a process writes its log: lines for people, or one JSON object a line.

In either, nothing that came from a peer can act on a terminal, or pass for a line of its own.
"""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import IO, Any

from twisted.logger import (
    FileLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    formatEvent,
)
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from twisted.python.reflect import qual, safe_repr, safe_str
from zope.interface import implementer

from sockapps.globalreactor import globalReactor
from sockapps.printable import shown

LONGEST = 1000
"""Characters of an object's C{repr} at most; it may be of anything."""

_NO_FACTS = {"failure", "format", "isError", "message", "system", "time"}
"""Fields of an event that are there for the old way of logging only."""


def humanLogObserver(out: IO[Any]) -> FileLogObserver:
    """Make an observer that writes as Twisted's text log does, each event on a line of its own."""
    encoding = getattr(out, "encoding", None)

    def line(event: LogEvent) -> str | None:
        text = _asLine(event)
        if text is not None and encoding is not None:
            # Not everything that stdout may be can show every character.
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        return text

    return FileLogObserver(out, _surely(line))


def jsonLogObserver(out: IO[Any]) -> FileLogObserver:
    """
    Make an observer that writes each event as one JSON object, in ASCII, on a line of its own.

    It has C{time}, C{level}, C{namespace} and C{message}; of a failure C{error_type}, C{error} and
    C{traceback}; and the event's own fields.
    """
    return FileLogObserver(out, _surely(_asJSON))


FORMATS: dict[str, Callable[[IO[Any]], FileLogObserver]] = {
    "human": humanLogObserver,
    "json": jsonLogObserver,
}
"""What makes an observer, by the name of its format."""


def settleFormat(asked: str | None, runner: MutableMapping[str, Any] | None) -> str:
    """
    Settle how a process logs, and tell C{twist}; what C{twistd} needs is L{logAs}.

    @param asked: The format, one of L{FORMATS}; C{None} where nobody has asked for one.
    @param runner: The options of C{twistd} or C{twist}, as far as it has read them.
    @return: The format.
    @raise ValueError: C{twistd} was told to log in a way that has no such format.
    """
    if runner is None:
        return asked or "human"
    if "fileLogObserverFactory" in runner:
        # JSON of its own that nobody has asked for here is left to twist.
        asked = asked or {"text": "human"}.get(runner["logFormat"])
        if asked is not None:
            runner["fileLogObserverFactory"] = FORMATS[asked]
        return asked or "json"
    if asked and runner.get("logger"):
        raise ValueError("twistd's --logger decides how the log is written; leave one of them out")
    if asked == "json" and runner.get("syslog"):
        raise ValueError("syslog takes lines for people; leave out twistd's --syslog")
    return asked or "human"


def logAs(form: str, runner: Mapping[str, Any] | None, application: object) -> None:
    """
    Have an application log in a format, where C{twistd} runs it and was given no C{--logger}.

    C{twistd} logs to the observer that its application has: that is settled when the application
    is made, after every option is read, and before the log begins.

    @param form: One of L{FORMATS}.
    @param runner: The options of C{twistd}; with others, nothing is done.
    @raise SystemExit: there can be no log there.
    """
    if (
        runner is not None
        and "logfile" in runner
        and runner.get("logger") is None
        and isinstance(application, Componentized)
    ):
        application.setComponent(ILogObserver, _daemonObserver(form, runner))


def _daemonObserver(form: str, runner: Mapping[str, Any]) -> object:
    """Make an observer that writes where C{twistd} would, as its C{UnixAppLogger} has it."""
    if runner.get("syslog"):
        return _SyslogObserver(runner.get("prefix", ""))
    path = runner["logfile"]
    foreground = bool(runner.get("nodaemon"))
    if path == "-" and not foreground:
        raise SystemExit("twistd --logfile=-: a daemon has no stdout; name a file, or say -n")
    if path == "-" or (foreground and not path):
        return FORMATS[form](sys.stdout)
    try:
        file: Any = LogFile.fromFullPath(path or "twistd.log")
    except OSError as error:
        reason = f"cannot log to {shown(error.filename or path)}: {error.strerror}"
        raise SystemExit(f"twistd --logfile: {reason}") from None
    if not signal.getsignal(signal.SIGUSR1):

        def rotate(*_: object) -> None:
            globalReactor().callFromThread(file.rotate)

        signal.signal(signal.SIGUSR1, rotate)
    return FORMATS[form](file)


@implementer(ILogObserver)
class _SyslogObserver:
    """Pass to syslog what the log for people has, less the time, which syslog adds."""

    def __init__(self, prefix: str) -> None:
        from twisted.python.syslog import SyslogObserver

        self._emit: Callable[[dict[str, Any]], None] = SyslogObserver(prefix).emit
        self._format = _surely(_asText)

    def __call__(self, event: LogEvent) -> None:
        text = self._format(event)
        if text is None:
            return
        grave = event.get("log_level") in (LogLevel.error, LogLevel.critical)
        self._emit({"message": (text,), "isError": grave, "system": _system(event)})


def _surely(form: Callable[[LogEvent], str | None]) -> Callable[[LogEvent], str | None]:
    """Have something written for every event, whatever is in it."""

    def surely(event: LogEvent) -> str | None:
        try:
            return form(event)
        except Exception as error:
            said = f"an event that cannot be told: {type(error).__name__}"
            return form(
                {
                    "log_format": "{log_text}",
                    "log_level": LogLevel.error,
                    "log_namespace": __name__,
                    "log_text": said,
                }
            )

    return surely


def _asLine(event: LogEvent) -> str | None:
    event, failure = _apart(event)
    text = shown(eventAsText(event, includeTraceback=False))
    if not text:
        return None
    return "\n\t".join([text, *_traceback(failure)]) + "\n"


def _asText(event: LogEvent) -> str | None:
    event, failure = _apart(event)
    return "\n".join([shown(formatEvent(event)), *_traceback(failure)]) or None


def _asJSON(event: LogEvent) -> str:
    headline, failure = _apart(event)
    told: dict[str, object] = {
        "time": _time(event.get("log_time")),
        "level": getattr(event.get("log_level"), "name", None),
        "namespace": _plain(event.get("log_namespace")),
        "message": shown(formatEvent(headline)),
    }
    if _system(event) != "-":
        told["system"] = _system(event)
    if failure is not None:
        told["error_type"] = qual(type(failure.value))
        told["error"] = shown(safe_str(failure.value))
        told["traceback"] = "\n".join(_traceback(failure))
    for key, value in event.items():
        if value is None or key in _NO_FACTS or (key == "why" and failure is not None):
            continue
        name = shown(str(key))
        if not name.startswith("log_"):
            told.setdefault(name, _plain(value))
    return json.dumps(told) + "\n"


def _apart(event: LogEvent) -> tuple[LogEvent, Failure | None]:
    """
    Take an event apart: what it says in one line, and the failure that it tells of.

    The traceback of L{twisted.python.log.err} is in its text, too.
    """
    failure = event.get("log_failure")
    legacy = event.get("log_namespace") == "log_legacy" and not event.get("message")
    if failure is None and legacy and event.get("isError"):
        failure = event.get("failure")
    if not isinstance(failure, Failure):
        return event, None
    if legacy or not event.get("log_format"):
        kept = ("log_level", "log_namespace", "log_system", "log_time")
        event = {
            **{key: event[key] for key in kept if key in event},
            "log_format": "{log_text}",
            "log_text": event.get("why") or "Unhandled Error",
        }
    return event, failure


def _traceback(failure: Failure | None) -> list[str]:
    if failure is None:
        return []
    try:
        text = failure.getTraceback()
    except Exception as error:  # what failed has a part in how it is shown
        text = f"no traceback: {safe_str(error)}"
    return [shown(line) for line in text.rstrip("\n").split("\n")]


def _system(event: LogEvent) -> str:
    """Say whose doing an event is; C{-} where nobody knows."""
    system = event.get("log_system")
    return "-" if system is None else shown(safe_str(system))


def _time(when: Any) -> str | None:
    try:
        return datetime.fromtimestamp(when, UTC).isoformat(timespec="microseconds")
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _plain(value: object) -> str | int | float | None:
    """Make a value what JSON can have."""
    # A subclass of one of these may be made to look like anything.
    if value is None or type(value) is bool:
        return value
    if type(value) is str:
        return shown(value)
    if type(value) is int and abs(value) < 1 << 63:
        return value
    if type(value) is float and math.isfinite(value):
        return value
    text = safe_repr(value)
    return shown(text if len(text) <= LONGEST else text[:LONGEST] + "…")
