"""
Options and TOML become typed settings, or an error that names the key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from operator import eq
from types import MappingProxyType
from typing import Any, TypeVar, get_type_hints

import attrs
import cattrs
from twisted.internet.interfaces import IProtocolFactory

from sockapps.interfaces import ISocketApp
from sockapps.options import AdmissionOptions, DatagramOptions, StreamOptions
from sockapps.printable import shown
from sockapps.registry import findApps

T = TypeVar("T")


LONGEST_SHOWN = 100
"""Characters of a value in an error."""


class SettingsError(ValueError):
    """A setting that cannot be used: where it stands, what is wrong, what would be right."""

    def __init__(self, said: str) -> None:
        # Names of tables, keys and files may hold what acts on a terminal.
        super().__init__(shown(said))


@attrs.frozen
class ServiceSettings:
    """
    What one service is to be.

    @ivar name: What the log calls it.
    @ivar listen: The endpoint descriptions it listens on.
    @ivar listenPlace: Where those were given, for errors.
    @ivar makeFactory: What builds the app's protocol factory, its options applied.
    """

    name: str
    app: ISocketApp
    listen: tuple[str, ...]
    listenPlace: str
    admission: AdmissionOptions
    stream: StreamOptions
    datagram: DatagramOptions
    makeFactory: Callable[[], IProtocolFactory]


@attrs.frozen
class Key:
    """
    One key of a service's settings.

    @ivar name: As it is written: C{max_message}.
    @ivar help: What it is, in one line.
    @ivar default: What it is where nobody says.
    """

    name: str
    field: attrs.Attribute[Any]
    type: Any

    @property
    def help(self) -> str:
        return str(self.field.metadata["help"])

    @property
    def default(self) -> Any:
        default: Any = self.field.default
        return default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]  # attrs types it as a function

    @property
    def needed(self) -> bool:
        return self.field.default is attrs.NOTHING

    def read(self, value: object, where: str) -> Any:
        """
        Make a value given in an option or a file what the field holds.

        @param where: Where it was given, for the error.
        @raise SettingsError: it is not of the field's type, or out of its range.
        """
        shown = "" if self.field.metadata.get("secret") else f", not {_quoted(value)}"
        convert: Any = self.field.converter
        try:
            typed = _CONVERTER.structure(value, self.type)
            if convert is not None:
                typed = convert(typed)
        except _Unreadable as error:
            raise SettingsError(f"{where}: must be {error}{shown}") from None
        except Exception:
            # A type of a third party's, whose own words may show what must not be shown.
            name = getattr(self.type, "__name__", self.type)
            raise SettingsError(f"{where}: must be a {name}{shown}") from None
        if self.field.validator is not None:
            try:
                self.field.validator(None, self.field, typed)
            except (ValueError, TypeError) as error:
                raise SettingsError(f"{where}: {self._refusal(error, typed)}{shown}") from None
        return typed

    def _refusal(self, error: Exception, value: object) -> str:
        """Say what a validator wants, without the value that it did not get."""
        options = getattr(self.field.validator, "options", None)
        if options is not None:
            return f"must be one of {', '.join(map(str, options))}"
        said = str(error.args[0]).removeprefix(f"'{self.field.name}' ").removesuffix(f": {value}")
        return "cannot be used" if self.field.metadata.get("secret") else said


def keysOf(owner: Any) -> dict[str, Key]:
    """
    The keys of an attrs class: its fields that have a C{help}, by the name they are written as.

    @param owner: The class; anything that is no attrs class has none.
    @raise ImportError: the type of one of its fields is nowhere to be found.
    """
    if not attrs.has(owner):
        return {}
    try:
        types = get_type_hints(owner)
    except NameError as error:
        raise ImportError(f"{owner.__name__}: {error}") from error
    fields = [field for field in attrs.fields(owner) if "help" in field.metadata]
    keys = [Key(_snake(field.name), field, types[field.name]) for field in fields]
    return {key.name: key for key in keys}


def serviceSettings(
    name: str,
    given: Mapping[str, object],
    where: str = "",
    elsewhere: Mapping[str, str] = MappingProxyType({}),
) -> ServiceSettings:
    """
    Settle what one service is to be.

    @param name: The service's name; the app's too, where C{given} names no C{app}.
    @param given: The values by key: text, as an option has it, or typed, as TOML has it.
    @param where: What the errors call the place; by default the name.
    @param elsewhere: Other places, of values that came from there, by their keys.
    @raise SettingsError: there is no such app or key, or a value cannot be used.
    """
    where = where or name
    values = dict(given)
    app = _app(values.pop("app", name), elsewhere.get("app", where))
    try:
        factory = app.loadFactory()
        own = keysOf(factory)
    except ImportError as error:
        raise SettingsError(f"{where}: the app {app.name} cannot be loaded: {error}") from None
    shell: dict[str, tuple[type, Key]] = {
        key.name: (owner, key)
        for owner in (AdmissionOptions, StreamOptions, DatagramOptions)
        for key in keysOf(owner).values()
    }
    listen: tuple[str, ...] = (app.listens,)
    chosen: dict[type, dict[str, Any]] = {
        AdmissionOptions: {},
        StreamOptions: {"framing": app.framing},
        DatagramOptions: {},
    }
    options: dict[str, Any] = {}
    for word, value in values.items():
        place = f"{elsewhere.get(word, where)}.{word}"
        if word in own:
            options[own[word].field.name] = own[word].read(value, place)
        elif word in shell:
            owner, key = shell[word]
            chosen[owner][key.field.name] = key.read(value, place)
        elif word == "listen":
            listen = _listen(value, place)
        else:
            raise SettingsError(
                f"{elsewhere.get(word, where)}: there is no key {_quoted(word)}"
                + _suggestion(word, ["app", "listen", *shell, *own])
            )
    for key in own.values():
        if key.needed and key.field.name not in options:
            raise SettingsError(f"{where}.{key.name}: is needed: {key.help}")

    def makeFactory() -> IProtocolFactory:
        try:
            return IProtocolFactory(factory(**options))
        except (ValueError, OSError) as error:
            raise SettingsError(f"{where}: {error}") from None

    return ServiceSettings(
        name,
        app,
        listen,
        f"{elsewhere.get('listen', where)}.listen",
        AdmissionOptions(**chosen[AdmissionOptions]),
        StreamOptions(**chosen[StreamOptions]),
        DatagramOptions(**chosen[DatagramOptions]),
        makeFactory,
    )


def tableSettings(owner: type[T], given: Mapping[str, object], where: str) -> T:
    """
    Settle what one of the process's own tables says.

    @param owner: The attrs class that its keys belong to.
    @param where: What the errors call the place.
    @raise SettingsError: there is no such key, or a value cannot be used.
    """
    keys = keysOf(owner)
    chosen: dict[str, Any] = {}
    for word, value in given.items():
        if word not in keys:
            raise SettingsError(
                f"{where}: there is no key {_quoted(word)}" + _suggestion(word, keys)
            )
        chosen[keys[word].field.name] = keys[word].read(value, f"{where}.{word}")
    try:
        return owner(**chosen)
    except ValueError as error:
        raise SettingsError(f"{where}.{error}") from None


def parseService(text: str) -> tuple[str, dict[str, object]]:
    """
    Take C{NAME:key=value:…} apart; a backslash keeps a colon or a backslash in a value.

    @return: The name, and the values by key.
    @raise SettingsError: a part is no C{key=value}.
    """
    name, *parts = splitDescription(text)
    values: dict[str, object] = {}
    before = name
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            # What it is stays unsaid: it can be the rest of a value that is secret.
            raise SettingsError(
                f"--service={name}: what follows {before}: is no key=value; "
                "a colon in a value is written \\:"
            )
        values[key] = value
        before = f"{key}=…"
    return name, values


def splitDescription(text: str) -> list[str]:
    """
    Split at colons, as Twisted's endpoint strings are: a backslash keeps the next character.
    """
    parts = [""]
    for piece in re.findall(r"\\.|:|[^\\:]+|\\", text, re.DOTALL):
        if piece == ":":
            parts.append("")
        else:
            parts[-1] += piece if piece == "\\" else piece.removeprefix("\\")
    return parts


def readConfig(path: str) -> dict[str, dict[str, object]]:
    """
    Read a TOML file of services, one table each.

    @return: The values by key, by the services' names.
    @raise SettingsError: the file cannot be read, is no TOML, or holds something else.
    """
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        # Not TOMLDecodeError alone: bytes that are no UTF-8, and numbers beyond Python's limit.
        raise SettingsError(f"{path}: is no TOML: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: {name} stands in no service's table, like [echo]")
    if not tables:
        raise SettingsError(f"{path}: names no service; a table starts one, like [echo]")
    return tables


def _app(name: object, where: str) -> ISocketApp:
    apps = findApps()
    if not isinstance(name, str) or name not in apps:
        word = name if isinstance(name, str) else ""
        raise SettingsError(f"{where}: there is no app {_quoted(name)}" + _suggestion(word, apps))
    return apps[name]


def _listen(value: object, where: str) -> tuple[str, ...]:
    """Endpoint descriptions hold commas and colons of their own: one as text, more as a list."""
    descriptions = [value] if isinstance(value, str) else value
    if (
        not isinstance(descriptions, list)
        or not descriptions
        or not all(isinstance(description, str) for description in descriptions)
    ):
        raise SettingsError(f"{where}: must be an endpoint or a list of them, not {_quoted(value)}")
    return tuple(descriptions)


def _quoted(value: object) -> str:
    """Show in an error what was given, the beginning of it where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of too many digits, tables too deep
        return f"this {type(value).__name__}, too large to be shown"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _suggestion(word: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = get_close_matches(word, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def _snake(name: str) -> str:
    return re.sub("([A-Z])", r"_\1", name).lower()


class _Unreadable(Exception):
    """What a value must be, to follow "must be"."""


def _whole(value: object, _: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", value):
        return int(value)
    # Within the same bounds: in C not every number is one.
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        return value
    raise _Unreadable("a whole number")


def _number(value: object, _: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"[+-]?([0-9]{1,18}\.?[0-9]*|\.[0-9]+)", value):
        return float(value)
    # Within bounds: TOML has inf and nan too, and whole numbers that no float can hold.
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18:
        return float(value)
    raise _Unreadable("a number")


def _truth(value: object, _: Any) -> bool:
    truth = {"true": True, "yes": True, "false": False, "no": False}.get(str(value).lower())
    if truth is None:
        raise _Unreadable("true or false")
    return truth


def _text(value: object, _: Any) -> str:
    if isinstance(value, str):
        return value
    raise _Unreadable("text")


def _texts(value: object, _: Any) -> Sequence[str]:
    if isinstance(value, str):
        return tuple(value.split(","))
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(value)
    raise _Unreadable("a list of texts")


def _pairs(value: object, _: Any) -> Mapping[str, str]:
    if isinstance(value, str):
        split = [pair.partition("=") for pair in value.split(",")] if value else []
        if all(equals for _, equals, _ in split):
            return {key: text for key, _, text in split}
    elif isinstance(value, dict) and all(isinstance(text, str) for text in value.values()):
        return value
    raise _Unreadable("a table of texts, or key=text,key=text")


_CONVERTER = cattrs.Converter()
_CONVERTER.register_structure_hook(int, _whole)
_CONVERTER.register_structure_hook(float, _number)
_CONVERTER.register_structure_hook(bool, _truth)
_CONVERTER.register_structure_hook(str, _text)
_CONVERTER.register_structure_hook_func(partial(eq, Sequence[str]), _texts)
_CONVERTER.register_structure_hook_func(partial(eq, Mapping[str, str]), _pairs)
