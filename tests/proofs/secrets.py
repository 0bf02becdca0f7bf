"""
Secrets never show: not in a command line, a log, a metric, an error, an answer or on a screen.

Each secret is a canary, a text that nothing else holds. They are passwords in login messages,
right, wrong and malformed, a password and a hash that the daemon knows, and the admin listener's
token, right and wrong. Who types them does so in every way that there is: C{sockapps accounts} and
C{sockapps call login}, with a terminal and without. Meanwhile somebody watches all command lines.
"""

from __future__ import annotations

import http.client
import os
import pty
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from attrs import define, field

from sockapps.accounts.store import AccountStore
from sockapps.apps.login import ACCEPTED
from tests.daemons import PATIENCE, ask, environment, program
from tests.proofs.figures import Failed, Figure
from tests.proofs.servers import Server, serving

TITLE = "canary secrets: in no command line, log, metric, error or answer"

KINDS = ("right", "wrong", "malformed", "token", "wrong token", "config", "account")
LISTEN = 'listen = "tcp:0:interface=127.0.0.1"'

CONFIG = f"""
[admin]
{LISTEN}
token_file = "{{folder}}/token"
[login]
{LISTEN}
auth = ["memory:bob:{{right}}"]
[accounts]
app = "login"
{LISTEN}
auth = ["accounts:{{folder}}/accounts.db"]
[echo]
{LISTEN}
"""

BROKEN = (
    '[login]\nauth = ["memory:bob:{config}:odd"]',
    '[login]\nauth = ["memory:{config}"]',
    '[login]\nauth = ["memry:bob:{config}"]',
    '[login]\nauth = ["memory:bob:{config}", 5]',
    '[login]\nauth = {{memory = "{config}"}}',
    '[login]\nauht = ["memory:bob:{config}"]',
    '[login]\nauth = ["memory:bob:{config}"]\nlisten = "nowhere"',
    '[login]\nauth = ["memory:bob:{config}"]\nquiet = "no"',
    '[login]\nauth = ["memory:bob:{config}"]\nauth = 1',
    '[login]\nauth = ["memory:bob:{config}"\n',
    "[login]\nauth = memory:bob:{config}",
    '[echo]\nauth = ["memory:bob:{config}"]',
    '[login]\npassword = "{config}"',
    '[admin]\nlisten = "tcp:0:interface=127.0.0.1"\ntoken = "{config}"\n[echo]',
    '[admin]\nlisten = "tcp:0:interface=127.0.0.1"\ntoken_file = "bad token"\n[echo]',
    '[admin]\nlisten = "tcp:0:interface=127.0.0.1"\ntoken_file = "open token"\n[echo]',
)
"""Files that cannot be used, each with a secret in it or beside it."""

MISTYPED = (
    ("--service=login:auth=memory:bob:{config}",),
    ("--service=login", "--auth=memry:bob:{config}"),
    ("--service=login", "--auth=memory:bob:{config}:odd"),
    ("--service=login", "--auth=memory:{config}"),
    ("--auth", "memory:bob:", "{config}"),
)
"""Command lines that cannot be used: what they say must not go to a log, though they show it."""


TERMINALS = ("xterm", "dumb")
"""Kinds of terminals; one that is dumb is asked in another way."""

_ON_TERMINAL = """
import os, sys
os.open(os.ttyname(0), os.O_RDWR)  # which makes it this session's own
os.execv(sys.argv[1], sys.argv[1:])
"""


@define
class Canaries:
    """
    The secrets, and where they were seen.

    @ivar texts: Each by its kind.
    @ivar looked: How often was looked, by where.
    @ivar seen: Where which was seen.
    """

    texts: dict[str, str] = field(
        factory=lambda: {kind: f"canary{secrets.token_hex(12)}" for kind in KINDS}
    )
    looked: dict[str, int] = field(factory=dict)
    seen: dict[str, set[str]] = field(factory=dict)

    def look(self, where: str, data: bytes) -> None:
        """Look for all of them."""
        self.looked[where] = self.looked.get(where, 0) + 1
        for kind, text in self.texts.items():
            if text.encode() in data:
                self.seen.setdefault(where, set()).add(kind)

    def figures(self, places: Iterable[str]) -> list[Figure]:
        """Say what was seen."""
        return [
            figure
            for where in places
            for figure in (
                Figure.atLeast(f"{where}: looked at", self.looked.get(where, 0), 1),
                Figure.atMost(f"{where}: secrets seen", len(self.seen.get(where, ())), 0),
            )
        ]


class Watcher:
    """Who looks at all command lines while the block runs."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self._canaries.look("command lines", b"\n".join(commandLines()))


def commandLines() -> list[bytes]:
    """Read the command line of every process."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.append((process / "cmdline").read_bytes())
        except OSError:
            continue  # it has ended
    return found


def run(smoke: bool, say: Callable[[str], None]) -> list[Figure]:
    """Use secrets in every way, and look for them everywhere."""
    canaries = Canaries()
    with tempfile.TemporaryDirectory(prefix="sockapps-proof-") as name:
        folder = Path(name)
        with Watcher(canaries):
            _keepAccounts(folder, canaries, say)
            for form in ("human", "json"):
                _serve(folder, form, smoke, canaries, say)
            for number, broken in enumerate(BROKEN[:: 5 if smoke else 1]):
                path = folder / f"broken-{number}.toml"
                path.write_text(broken.format(**canaries.texts), "utf-8")
                _start(folder, canaries, f"--config={path}")
        for words in MISTYPED[:: 5 if smoke else 1]:
            _start(folder, canaries, *(word.format(**canaries.texts) for word in words))
    for where, kinds in canaries.seen.items():
        say(f"SEEN in {where}: {', '.join(sorted(kinds))}")
    return canaries.figures(
        ("command lines", "screens", "answers", "pages", "human log", "json log", "errors")
    )


def _keepAccounts(folder: Path, canaries: Canaries, say: Callable[[str], None]) -> None:
    """Make an account, and keep the token, as an operator would."""
    token = folder / "token"
    token.touch(0o600)
    token.write_text(canaries.texts["token"])
    for name, mode, text in (("bad", 0o600, "{config} {config}"), ("open", 0o644, "{config}")):
        path = folder / f"{name} token"
        path.touch(mode)
        path.write_text(text.format(**canaries.texts))
        path.chmod(mode)
    path, password = folder / "accounts.db", canaries.texts["account"]
    accounts = ("accounts", "--file", str(path))
    _type(folder, canaries, f"{password}\n", *accounts, "add", "bob", "--password-stdin")
    _type(folder, canaries, f"{password}\n", *accounts, "add", "bob", "--password-stdin")
    _type(folder, canaries, f"{password * 100}\n", *accounts, "add", "eve", "--password-stdin")
    asked = (("Password:", password), ("confirmation:", password))
    _onTerminal(folder, canaries, "xterm", asked, *accounts, "passwd", "bob")
    stored = AccountStore(path).hashOf("bob")
    if stored is None:
        raise Failed("there is no account")
    canaries.texts["hash"] = stored.rpartition("$")[2]
    say("there is an account")


def _serve(
    folder: Path, form: str, smoke: bool, canaries: Canaries, say: Callable[[str], None]
) -> None:
    """Have logins and orders, right and wrong."""
    config = CONFIG.format(folder=folder, **canaries.texts)
    options = (f"--log-format={form}", "--log-sessions=all")
    with serving(*options, listenings=4, config=config) as server:
        _login(server, canaries)
        _operate(server, canaries)
        typed = (("login", "right"), ("accounts", "account"), ("login", "wrong"))
        for service, password in typed[: 1 if smoke else None]:
            text, to = canaries.texts[password], f"--to=127.0.0.1:{server.ports[service]}"
            # Messages from a pipe are whole ones.
            _type(folder, canaries, f"{{'bob': '{text}'}}\n", "call", "login", to)
            _type(folder, canaries, f"{{'bob': '{text}'}}\n", "call", "login", to, "--json")
            asked = (("User name:", "bob"), ("Password:", text), ("User name:", ""))
            for kind in TERMINALS:
                _onTerminal(folder, canaries, kind, asked, "call", "login", to)
        kept = (folder / "accounts.db").read_bytes()
        (folder / "accounts.db").write_bytes(canaries.texts["account"].encode() * 1000)
        _ask(server, canaries, "accounts", repr({"bob": canaries.texts["account"]}).encode())
        (folder / "accounts.db").write_bytes(kept)
        _operate(server, canaries)
        log = server.log
        said = log.read_bytes()
    if said.count(b"login") < 10:
        raise Failed(f"the log does not tell of logins: {said[-500:]!r}")
    canaries.look(f"{form} log", said)
    say(f"{form}: {len(said):,} bytes of log")


def _login(server: Server, canaries: Canaries) -> None:
    """Send messages of credentials, good ones and others."""
    right, wrong, malformed, account = (
        canaries.texts[kind] for kind in ("right", "wrong", "malformed", "account")
    )
    for service, password in (("login", right), ("accounts", account)):
        said = _ask(server, canaries, service, repr({"bob": password}).encode())
        if said.strip() != ACCEPTED.encode():
            raise Failed(f"{service} does not let bob in: {said!r}")
        for message in (
            repr({"bob": wrong}),
            repr({"nobody": wrong}),
            repr({wrong: wrong}),
            f'{{"username": "bob", "password": "{wrong}"}}',
            f'{{"username": "bob", "password": "{malformed}", "x": 1}}',
            f"{{'bob': '{malformed}'",
            f"{{'bob': '{malformed}\\q'}}",
            f"{{'bob': '{malformed}\\x00'}}",
            malformed,
            malformed * 50,
            malformed * 1000,
            f"\x1b[2J{malformed}\x7f\u202e",
        ):
            _ask(server, canaries, service, message.encode())
        _ask(server, canaries, service, b"\xff\xfe" + malformed.encode())


def _ask(server: Server, canaries: Canaries, service: str, message: bytes) -> bytes:
    try:
        said = ask(f"127.0.0.1:{server.ports[service]}", message + b"\n")
    except ConnectionError:
        said = b""  # cut off before everything was read
    canaries.look("answers", said)
    return said


def _operate(server: Server, canaries: Canaries) -> None:
    """Ask the admin listener everything, and give it orders."""
    token, wrong = canaries.texts["token"], canaries.texts["wrong token"]
    for method, path, authorization in (
        ("GET", "/", ""),
        ("GET", "/metrics", ""),
        ("GET", "/healthz", ""),
        ("GET", "/services.json", ""),
        ("GET", "/sessions.json?limit=1000", ""),
        ("POST", "/sessions/999999/close", f"Bearer {token}"),
        ("POST", "/sources/192.0.2.7/close", f"Bearer {token}"),
        ("POST", "/sessions/1/close", f"Bearer {wrong}"),
        ("POST", "/sessions/1/close", f"Basic {wrong}"),
        ("POST", "/sessions/1/close", wrong),
        ("POST", f"/sessions/{wrong}/close", f"Bearer {token}"),
        ("POST", f"/sources/{wrong}/close", f"Bearer {token}"),
        ("GET", f"/sessions.json?token={wrong}&limit={wrong}", ""),
        ("GET", f"/{wrong}", f"Bearer {wrong}"),
        (wrong, "/metrics", ""),
    ):
        asking = http.client.HTTPConnection("127.0.0.1", server.ports["admin"], PATIENCE)
        try:
            asking.request(
                method, path, headers={"Authorization": authorization} if authorization else {}
            )
            answer = asking.getresponse()
            head = f"{answer.status} {answer.reason} {answer.headers}"
            canaries.look("pages", head.encode() + answer.read())
        finally:
            asking.close()


def _type(folder: Path, canaries: Canaries, given: str, *words: str) -> None:
    """Run our program with this on its standard input."""
    ended = subprocess.run(
        [program("sockapps"), *words],
        input=given.encode(),
        capture_output=True,
        env=environment(folder),
        timeout=PATIENCE,
    )
    canaries.look("screens", ended.stdout + ended.stderr)


def _onTerminal(
    folder: Path, canaries: Canaries, kind: str, answers: Iterable[tuple[str, str]], *words: str
) -> None:
    """
    Run our program on a terminal of its own, and answer what it asks.

    @param answers: Each with the words that ask for it; an empty one ends the program.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", _ON_TERMINAL, program("sockapps"), *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(folder, TERM=kind),
        start_new_session=True,
    )
    os.close(theirs)
    # A terminal that would be read forever is freed by the end of who writes to it.
    bound = threading.Timer(PATIENCE, process.kill)
    bound.start()
    screen, read = b"", 0
    try:
        with open(ours, "r+b", buffering=0) as terminal:
            for question, answer in answers:
                while question.encode() not in screen[read:]:
                    screen += terminal.read(1024)
                read = len(screen)
                if answer:
                    terminal.write(answer.encode() + b"\r")
                else:
                    process.terminate()
            while more := terminal.read(1024):
                screen += more
    except OSError:
        pass  # it has ended, and its terminal with it
    finally:
        bound.cancel()
    if process.wait(PATIENCE) == -signal.SIGKILL:
        raise Failed(f"it does not ask on a terminal: {screen[-500:]!r}")
    canaries.look("screens", screen)


def _start(folder: Path, canaries: Canaries, *words: str) -> None:
    """Start a daemon that cannot start."""
    ended = subprocess.run(
        [program("twistd"), "-n", "sockapps", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=folder,
        env=environment(folder),
        timeout=PATIENCE,
    )
    if ended.returncode == 0:
        raise Failed(f"{words} starts")
    canaries.look("errors", ended.stdout + ended.stderr)
