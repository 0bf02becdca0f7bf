"""
Tests for L{sockapps.accounts.commands}: what a person types and sees.
"""

from __future__ import annotations

import os
import pty
import sqlite3
import subprocess
import sys
from contextlib import closing, redirect_stdout
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sockapps.accounts.commands import accounts
from sockapps.accounts.passwords import fits, passwordBytes
from sockapps.accounts.store import AccountStore

PROGRAM = "from sockapps.accounts.commands import accounts; accounts(prog_name='accounts')"


class Person:
    """Types commands for one accounts file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = AccountStore(path)

    def types(self, *words: str, then: str | bytes = "") -> Result:
        """Run a command, and give it this input."""
        return CliRunner().invoke(accounts, ["--file", str(self.path), *words], input=then)

    def canLogIn(self, name: str, password: str) -> bool:
        """Find whether a password is an account's, with a fresh connection."""
        return fits(self.store.hashOf(name), passwordBytes(password))


@pytest.fixture
def person(tmp_path: Path) -> Person:
    """A person without any account yet."""
    return Person(tmp_path / "state" / "accounts.db")


def outcome(result: Result) -> tuple[int, str, str]:
    """What a shell sees of a command."""
    return result.exit_code, result.stdout, result.stderr


def test_anAccountsLifeFromAPipe(person: Person) -> None:
    added = person.types("add", "张三", "--password-stdin", then="123\nnot this\n")
    assert outcome(added) == (0, "Added '张三'.\n", "")
    assert person.canLogIn("张三", "123")
    person.types("add", "--password-stdin", "bob", then=b"no line end")
    assert person.canLogIn("bob", "no line end")
    assert outcome(person.types("list")) == (0, "bob\n张三\n", "")
    changed = person.types("passwd", "张三", "--password-stdin", then=" 4 5\r\n")
    assert outcome(changed) == (0, "Changed the password of '张三'.\n", "")
    assert person.canLogIn("张三", " 4 5")
    assert not person.canLogIn("张三", "123")
    assert outcome(person.types("remove", "张三")) == (0, "Removed '张三'.\n", "")
    assert outcome(person.types("list")) == (0, "bob\n", "")


def test_thePasswordIsAskedForTwiceAndNotShown(person: Person) -> None:
    added = person.types("add", "bob", then="secret\nsecret\n")
    assert added.exit_code == 0
    assert added.stdout.count(":") == 2
    assert "secret" not in added.output
    assert person.canLogIn("bob", "secret")
    differing = person.types("passwd", "bob", then="one\ntwo\nthree\nthree\n")
    assert "do not match" in differing.output
    assert person.canLogIn("bob", "three")


def test_whoGivesUpAtThePromptChangesNothing(person: Person) -> None:
    assert outcome(person.types("add", "bob", then="one\n"))[0] == 1
    assert person.store.names() == []


@pytest.mark.parametrize(
    ("words", "then", "says"),
    [
        (["add", "bob"], "", "there is an account 'bob' already"),
        (["passwd", "eve"], "", "there is no account 'eve'"),
        (["remove", "eve"], "", "there is no account 'eve'"),
        (["remove", "a\nb"], "", r"the name 'a\nb' has characters that do not print"),
        (["add", "x" * 65], "", "a name has 65 characters; it must have 1 to 64"),
        (
            ["add", "eve", "--password-stdin"],
            "\nsecret\n",
            "the password is empty",
        ),
        (
            ["add", "eve", "--password-stdin"],
            b"\xffsecret\n",
            "the password is not valid Unicode text",
        ),
        (
            ["passwd", "bob", "--password-stdin"],
            "é" * 5000,
            "the password has more than 1024 bytes",
        ),
    ],
)
def test_whatCannotBeDoneIsOneLineAndExitCode1(
    person: Person, words: list[str], then: str | bytes, says: str
) -> None:
    person.types("add", "bob", "--password-stdin", then="123\n")
    assert outcome(person.types(*words, then=then)) == (1, "", f"Error: {says}\n")
    assert person.store.names() == ["bob"]
    assert person.canLogIn("bob", "123")


@pytest.mark.parametrize("words", [["list"], ["remove", "bob"], ["passwd", "bob"]])
def test_aMissingFileIsNamedAndNotMade(person: Person, words: list[str]) -> None:
    assert outcome(person.types(*words)) == (
        1,
        "",
        f"Error: accounts file {person.path}: there is no such file; adding an account makes it\n",
    )
    assert not person.path.parent.exists()


@pytest.mark.parametrize("words", [["add"], ["add", "bob", "secret"], ["shred"], ["list", "-x"]])
def test_wrongUsageIsExitCode2AndAPasswordInTheArgumentsIsWrong(
    person: Person, words: list[str]
) -> None:
    assert person.types(*words).exit_code == 2
    assert not person.path.exists()


def test_withoutAFileItIsTheDefaultOne(tmp_path: Path) -> None:
    environ = {"STATE_DIRECTORY": "", "XDG_STATE_HOME": str(tmp_path)}
    done = CliRunner(env=environ).invoke(accounts, ["add", "bob", "--password-stdin"], input="1\n")
    assert done.exit_code == 0
    assert AccountStore(tmp_path / "sockapps" / "accounts.db").names() == ["bob"]


def addOddNames(person: Person) -> None:
    """Add names that only another program could have stored, or that look like markup."""
    now = 86400 * 365.0
    store = AccountStore(person.path, clock=lambda: now)
    store.prepare()
    store.add("[red]bob[/red]", "$argon2id$")
    with closing(sqlite3.connect(person.path, isolation_level=None)) as db:
        db.execute("INSERT INTO account VALUES (?, '', 0, 0)", ("\x1b]0;x\x07\n",))


def test_oddNamesAreListedOneALineAndEscaped(person: Person) -> None:
    addOddNames(person)
    assert outcome(person.types("list")) == (0, "\\x1b]0;x\\x07\\n\n[red]bob[/red]\n", "")


def test_onATerminalTheListIsATable(person: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    addOddNames(person)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal, redirect_stdout(terminal):
        accounts.main(["--file", str(person.path), "list"], standalone_mode=False)
    with os.fdopen(ours, "rb") as screen:
        seen = os.read(screen.fileno(), 65536).decode()
    for text in ("Name", "Created", "Changed", "[red]bob[/red]", "\\x1b]0;x\\x07\\n", "1971-01-01"):
        assert text in seen


def test_aRealTerminalDoesNotShowThePassword(person: Person) -> None:
    ours, theirs = pty.openpty()
    # Opening the terminal makes it the new session's own, which getpass asks on.
    code = f"import os; os.open(os.ttyname(0), os.O_RDWR); {PROGRAM}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--file", person.path, "add", "bob"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        for prompts in (1, 2):
            while seen.count(b": ") < prompts:
                seen += terminal.read(1024)
            terminal.write(b"secret\n")
        stdout, _ = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (0, b"Added 'bob'.\n")
    assert b"secret" not in seen
    assert person.canLogIn("bob", "secret")


def test_withoutATerminalItDoesNotAsk(person: Person) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--file", person.path, "add", "bob"],
        input="secret\nsecret\n",
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=30,
    )
    says = "Error: there is no terminal to ask for the password on; use --password-stdin\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", says)
    assert person.store.names() == []


@pytest.mark.parametrize("words", [["add", "eve", "--password-stdin"], ["list"]])
def test_anAnswerThatCannotBeWrittenIsOneLineAndExitCode1(person: Person, words: list[str]) -> None:
    person.types("add", "bob", "--password-stdin", then="123\n")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "--file", person.path, *words],
            input="secret\n",
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
        )
    says = "standard output: No space left on device; what was to be changed is changed"
    assert (done.returncode, done.stderr) == (1, f"Error: {says}\n")
    assert person.store.names() == (["bob", "eve"] if words[0] == "add" else ["bob"])
