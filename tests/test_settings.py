"""
Options and TOML become typed settings, or an error that names the key.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from sockapps.apps.chat import ChatFactory
from sockapps.apps.command import CommandFactory
from sockapps.apps.echo import EchoFactory
from sockapps.options import DatagramOptions, StreamOptions
from sockapps.settings import (
    SettingsError,
    keysOf,
    parseService,
    readConfig,
    serviceSettings,
    splitDescription,
)
from tests.dropins import declareApp


class ServiceStrings(SynchronousTestCase):
    """C{NAME:key=value:…}, as C{--service} has it."""

    def test_colonsSeparateAndBackslashesKeepWhatFollows(self) -> None:
        for text, parts in {
            "": [""],
            "a": ["a"],
            "a:b::c:": ["a", "b", "", "c", ""],
            r"a\:b:c": ["a:b", "c"],
            r"C\:\\dir": [r"C:\dir"],
            r"a\b": ["ab"],
            "a\\": ["a\\"],
            "a\\\nb:c": ["a\nb", "c"],
        }.items():
            assert splitDescription(text) == parts

    def test_valuesGoByTheirKeys(self) -> None:
        assert parseService("echo") == ("echo", {})
        assert parseService(r"command:root=/a\:b:framing=line:away=x=y") == (
            "command",
            {"root": "/a:b", "framing": "line", "away": "x=y"},
        )

    def test_whatIsNoKeyAndValueIsRefusedWithoutShowingIt(self) -> None:
        with pytest.raises(SettingsError) as refusal:
            parseService("login:auth=memory:s3cret")
        assert str(refusal.value) == (
            "--service=login: what follows auth=…: is no key=value; "
            "a colon in a value is written \\:"
        )
        with pytest.raises(SettingsError) as refusal:
            parseService("login:s3cret")
        assert "s3cret" not in str(refusal.value)


class Color(enum.Enum):
    RED = "red"


def upper(text: str) -> str:
    return text.upper()


@attrs.define
class Everything:
    """A factory that has an option of every kind."""

    whole: int = attrs.field(
        default=1, validator=attrs.validators.le(9), metadata={"help": "a whole number"}
    )
    number: float = attrs.field(default=0.5, metadata={"help": "a number"})
    truth: bool = attrs.field(default=False, metadata={"help": "a truth"})
    text: str = attrs.field(default="", converter=upper, metadata={"help": "a text"})
    texts: Sequence[str] = attrs.field(factory=tuple, metadata={"help": "texts"})
    pairs: Mapping[str, str] = attrs.field(factory=dict, metadata={"help": "pairs"})
    maybeWhole: int | None = attrs.field(default=None, metadata={"help": "perhaps a whole number"})
    color: Color = attrs.field(default=Color.RED, metadata={"help": "a color"})
    oneOf: str = attrs.field(
        default="a", validator=attrs.validators.in_(["a", "b"]), metadata={"help": "a or b"}
    )
    pin: int = attrs.field(
        default=1,
        validator=attrs.validators.ge(1000),
        metadata={"help": "a number that nobody may see", "secret": True},
    )
    inner: object = None


KEYS = keysOf(Everything)


def test_the_keys_of_a_factory_are_its_fields_that_have_a_help() -> None:
    assert "maybe_whole" in KEYS
    assert "inner" not in KEYS
    assert KEYS["whole"].help == "a whole number"
    assert KEYS["whole"].default == 1
    assert KEYS["texts"].default == ()
    assert keysOf(EchoFactory) == {}


@pytest.mark.parametrize(
    ("key", "given", "held"),
    [
        ("whole", "7", 7),
        ("whole", "-7", -7),
        ("whole", 7, 7),
        ("number", ".5", 0.5),
        ("number", "2", 2.0),
        ("number", 2, 2.0),
        ("number", 2.5, 2.5),
        ("truth", "yes", True),
        ("truth", "False", False),
        ("truth", True, True),
        ("text", "hi", "HI"),
        ("texts", "a,b", ("a", "b")),
        ("texts", ["a,b"], ("a,b",)),
        ("pairs", "a=b,c==", {"a": "b", "c": "="}),
        ("pairs", "", {}),
        ("pairs", {"a": "b"}, {"a": "b"}),
        ("maybe_whole", "7", 7),
        ("color", "red", Color.RED),
    ],
)
def test_a_value_is_read_as_what_its_field_holds(key: str, given: object, held: object) -> None:
    read = KEYS[key].read(given, "here")
    assert read == held
    assert type(read) is type(held)


@pytest.mark.parametrize(
    ("key", "given", "said"),
    [
        ("whole", "x", "must be a whole number, not 'x'"),
        ("whole", "٣", "must be a whole number, not '٣'"),
        ("whole", "1" * 5000, "must be a whole number, not '1"),
        ("whole", 1.5, "must be a whole number, not 1.5"),
        ("whole", True, "must be a whole number, not True"),
        ("whole", 10, "must be <= 9, not 10"),
        ("number", "1e5", "must be a number, not '1e5'"),
        ("number", "nan", "must be a number, not 'nan'"),
        ("number", float("nan"), "must be a number, not nan"),
        ("number", float("inf"), "must be a number, not inf"),
        ("number", 10**400, "must be a number, not 1000"),
        ("number", False, "must be a number, not False"),
        ("truth", "1", "must be true or false, not '1'"),
        ("text", 1, "must be text, not 1"),
        ("texts", [1], "must be a list of texts, not [1]"),
        ("pairs", "a", "must be a table of texts, or key=text,key=text, not 'a'"),
        ("pairs", {"a": 1}, "must be a table of texts, or key=text,key=text, not {'a': 1}"),
        ("maybe_whole", "x", "must be a whole number, not 'x'"),
        ("color", "blue", "must be a Color, not 'blue'"),
        ("one_of", "c", "must be one of a, b, not 'c'"),
        ("pin", "999", "cannot be used"),
        ("pin", "s3cret", "must be a whole number"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_in_words(
    key: str, given: object, said: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        KEYS[key].read(given, "here")
    text = str(refusal.value)
    assert text.startswith(f"here: {said}")
    assert KEYS[key].field.metadata.get("secret") is None or text == f"here: {said}"


def test_a_service_has_its_apps_defaults() -> None:
    settings = serviceSettings("echo", {})
    assert settings.name == settings.app.name == "echo"
    assert settings.listen == ("tcp:50007:interface=127.0.0.1",)
    assert settings.stream == StreamOptions()
    assert settings.datagram == DatagramOptions()
    assert isinstance(settings.makeFactory(), EchoFactory)


def test_a_service_takes_the_options_of_its_app_and_of_its_shell(tmp_path: Path) -> None:
    settings = serviceSettings(
        "public",
        {
            "app": "command",
            "root": str(tmp_path),
            "max_entries": "5",
            "framing": "line",
            "max_message": 1024,
            "max_peers": "9",
            "listen": ["tcp:0", "udp:0"],
        },
    )
    assert (settings.name, settings.app.name) == ("public", "command")
    assert settings.listen == ("tcp:0", "udp:0")
    assert settings.stream == StreamOptions(framing="line", maxMessage=1024)
    assert settings.datagram == DatagramOptions(maxPeers=9)
    factory = settings.makeFactory()
    assert isinstance(factory, CommandFactory)
    assert (factory.root, factory.maxEntries) == (str(tmp_path), 5)


def test_a_table_of_rules_reaches_the_app() -> None:
    factory = serviceSettings("chat", {"rules": {"no": "yes"}}).makeFactory()
    assert isinstance(factory, ChatFactory)
    assert factory.rules == {"no": "yes"}


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("ecko", {}, "ecko: there is no app 'ecko'; did you mean 'echo'?"),
        ("zzz", {}, "zzz: there is no app 'zzz'; there are chat, command, echo, gate, hello,"),
        ("mine", {"app": 5}, "mine: there is no app 5; there are chat, "),
        ("echo", {"frming": "line"}, "echo: there is no key 'frming'; did you mean 'framing'?"),
        ("echo", {"zzz": ""}, "echo: there is no key 'zzz'; there are allow, amplification, "),
        (
            "echo",
            {"auth": "s3cret"},
            "echo: there is no key 'auth'; there are allow, amplification, ",
        ),
        ("echo", {"framing": "lines"}, "echo.framing: must be one of auto, line, chunk, "),
        ("echo", {"max_message": "0"}, "echo.max_message: must be >= 1, not '0'"),
        ("echo", {"quiet": 0}, "echo.quiet: must be > 0, not 0"),
        ("echo", {"listen": 7000}, "echo.listen: must be an endpoint or a list of them, not 7000"),
        ("echo", {"listen": []}, "echo.listen: must be an endpoint or a list of them, not []"),
        ("echo", {"listen": [1]}, "echo.listen: must be an endpoint or a list of them, not [1]"),
        ("command", {"root": "/nowhere"}, "command.root: root must be a folder, and '/nowhere' is"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_words(
    name: str, given: dict[str, object], said: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        serviceSettings(name, given)
    assert str(refusal.value).startswith(said)
    assert "s3cret" not in str(refusal.value)


def test_a_refused_value_that_came_from_elsewhere_is_said_to_be_there() -> None:
    elsewhere = {"quiet": "f.toml: echo", "app": "f.toml: echo", "listen": "f.toml: echo"}
    with pytest.raises(SettingsError, match=r"^f.toml: echo.quiet: must be > 0"):
        serviceSettings("echo", {"quiet": 0}, "echo", elsewhere)
    with pytest.raises(SettingsError, match=r"^f.toml: echo: there is no app"):
        serviceSettings("echo", {"app": "no"}, "echo", elsewhere)
    with pytest.raises(SettingsError, match=r"^echo: there is no key"):
        serviceSettings("echo", {"no": 1}, "echo", elsewhere)
    settings = serviceSettings("echo", {"listen": "tcp:0"}, "echo", elsewhere)
    assert settings.listenPlace == "f.toml: echo.listen"


def test_an_app_that_cannot_work_with_its_options_says_so_when_it_is_made() -> None:
    settings = serviceSettings("login", {"auth": ["nonsense:s3cret"]}, "f.toml: login")
    with pytest.raises(SettingsError, match=r"^f.toml: login: there is no such checker") as refusal:
        settings.makeFactory()
    assert "s3cret" not in str(refusal.value)


@attrs.define(slots=False)
class NeedyFactory(Factory[Any]):
    """A factory with an option that it cannot do without."""

    file: str = attrs.field(metadata={"help": "a file that is there"})

    def __attrs_post_init__(self) -> None:
        Path(self.file).read_bytes()


@attrs.define
class LostFactory:
    """A factory whose author imported a type for the type checker alone."""

    lost: "NowhereToBeFound" = attrs.field(default=1, metadata={"help": ""})  # type: ignore[name-defined]  # noqa: F821, UP037  # so


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("nowhere.Factory", "nowhere.Factory: ObjectNotFound: "),
        ("tests.test_settings.Nothing", "tests.test_settings.Nothing: AttributeError: "),
        ("not a name", "not a name: "),
        ("tests.test_settings.LostFactory", "LostFactory: name 'NowhereToBeFound' is not defined"),
    ],
)
def test_an_app_that_cannot_be_loaded_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, factory: str, said: str
) -> None:
    declareApp(monkeypatch, tmp_path, factory)
    with pytest.raises(SettingsError) as refusal:
        serviceSettings("extra", {})
    assert str(refusal.value).startswith(f"extra: the app extra cannot be loaded: {said}")


def test_an_option_that_an_app_needs_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    declareApp(monkeypatch, tmp_path, "tests.test_settings.NeedyFactory")
    with pytest.raises(SettingsError, match=r"^extra.file: is needed: a file that is there$"):
        serviceSettings("extra", {})
    with pytest.raises(SettingsError, match=r"^extra: .*No such file or directory"):
        serviceSettings("extra", {"file": str(tmp_path / "no")}).makeFactory()


def test_a_file_has_a_table_for_each_service(tmp_path: Path) -> None:
    file = tmp_path / "services.toml"
    file.write_text('[echo]\n[mine]\napp = "chat"\nquiet = 1.5\n[mine.rules]\na = "b"\n')
    assert readConfig(str(file)) == {
        "echo": {},
        "mine": {"app": "chat", "quiet": 1.5, "rules": {"a": "b"}},
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[echo]\nframing = line\n", "is no TOML: Invalid value (at line 2, column 11)"),
        (b"[echo\n", "is no TOML: Expected ']' at the end of a table declaration (at line 1, "),
        (b"[echo]\n\xff = 1\n", "is no TOML: 'utf-8' codec can't decode byte 0xff"),
        (b"[echo]\nquiet = " + b"9" * 5000, "is no TOML: Exceeds the limit"),
        (b"a = " + b"[" * 100_000, "is no TOML: "),
        (b'framing = "line"\n', "framing stands in no service's table, like [echo]"),
        (b"", "names no service; a table starts one, like [echo]"),
    ],
)
def test_a_file_that_is_no_table_of_services_is_refused(
    tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "services.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as refusal:
        readConfig(str(file))
    assert str(refusal.value).startswith(f"{file}: {said}")
    assert "\n" not in str(refusal.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no.toml: No such file or directory$"):
        readConfig(str(tmp_path / "no.toml"))
    with pytest.raises(SettingsError, match=r": Is a directory$"):
        readConfig(str(tmp_path))
