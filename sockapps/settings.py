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
from typing import Any, get_type_hints

import attrs
import cattrs
from twisted.internet.interfaces import IProtocolFactory

from sockapps.datagram import DatagramOptions
from sockapps.interfaces import ISocketApp
from sockapps.registry import findApps
from sockapps.stream import StreamOptions


class SettingsError(ValueError):
    """A setting that cannot be used: where it stands, what is wrong, what would be right."""


@attrs.frozen
class ServiceSettings:
    """
    What one service is to be.

    @ivar name: What the log calls it.
    @ivar listen: The endpoint descriptions it listens on.
    @ivar makeFactory: What builds the app's protocol factory, its options applied.
    """

    name: str
    app: ISocketApp
    listen: tuple[str, ...]
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

    def read(self, value: object, where: str) -> Any:
        """
        Make a value given in an option or a file what the field holds.

        @param where: Where it was given, for the error.
        @raise SettingsError: it is not of the field's type, or out of its range.
        """
        shown = "" if self.field.metadata.get("secret") else f", not {value!r}"
        try:
            typed = _CONVERTER.structure(value, self.type)
        except _Unreadable as error:
            raise SettingsError(f"{where}: must be {error}{shown}") from None
        convert: Any = self.field.converter
        if convert is not None:
            typed = convert(typed)
        if self.field.validator is not None:
            try:
                self.field.validator(None, self.field, typed)
            except (ValueError, TypeError) as error:
                said = str(error.args[0]).removeprefix(f"'{self.field.name}' ")
                raise SettingsError(f"{where}: {said}") from None
        return typed


def keysOf(owner: Any) -> dict[str, Key]:
    """
    The keys of an attrs class: its fields that have a C{help}, by the name they are written as.

    @param owner: The class; anything that is no attrs class has none.
    """
    if not attrs.has(owner):
        return {}
    types = get_type_hints(owner)
    fields = [field for field in attrs.fields(owner) if "help" in field.metadata]
    keys = [Key(_snake(field.name), field, types[field.name]) for field in fields]
    return {key.name: key for key in keys}


def serviceSettings(
    name: str, given: Mapping[str, object], where: str | None = None
) -> ServiceSettings:
    """
    Settle what one service is to be.

    @param name: The service's name; the app's too, where C{given} names no C{app}.
    @param given: The values by key: text, as an option has it, or typed, as TOML has it.
    @param where: What the errors call the place; by default the name.
    @raise SettingsError: there is no such app or key, or a value cannot be used.
    """
    where = where or name
    values = dict(given)
    app = _app(values.pop("app", name), where)
    try:
        factory = app.loadFactory()
    except ImportError as error:
        raise SettingsError(f"{where}: the app {app.name} cannot be loaded: {error}") from None
    shell: dict[str, tuple[type, Key]] = {
        key.name: (owner, key)
        for owner in (StreamOptions, DatagramOptions)
        for key in keysOf(owner).values()
    }
    own = keysOf(factory)
    listen: tuple[str, ...] = (app.listens,)
    chosen: dict[type, dict[str, Any]] = {
        StreamOptions: {"framing": app.framing},
        DatagramOptions: {},
    }
    options: dict[str, Any] = {}
    for word, value in values.items():
        place = f"{where}.{word}"
        if word in own:
            options[own[word].field.name] = own[word].read(value, place)
        elif word in shell:
            owner, key = shell[word]
            chosen[owner][key.field.name] = key.read(value, place)
        elif word == "listen":
            listen = _listen(value, place)
        else:
            raise SettingsError(
                f"{where}: there is no key {word!r}"
                + _suggestion(word, ["app", "listen", *shell, *own])
            )

    def makeFactory() -> IProtocolFactory:
        try:
            return IProtocolFactory(factory(**options))
        except ValueError as error:
            raise SettingsError(f"{where}: {error}") from None

    return ServiceSettings(
        name,
        app,
        listen,
        StreamOptions(**chosen[StreamOptions]),
        DatagramOptions(**chosen[DatagramOptions]),
        makeFactory,
    )


def parseService(text: str) -> tuple[str, dict[str, object]]:
    """
    Take C{NAME:key=value:…} apart; a backslash keeps a colon or a backslash in a value.

    @return: The name, and the values by key.
    @raise SettingsError: a part is no C{key=value}.
    """
    name, *parts = splitDescription(text)
    values: dict[str, object] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise SettingsError(
                f"--service={name}: {part!r} is no key=value (a colon in a value is written \\:)"
            )
        values[key] = value
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
            parts[-1] += piece[1:] if piece.startswith("\\") else piece
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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not TOML: {error}") from None
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: {name} stands in no service's table, like [echo]")
    if not tables:
        raise SettingsError(f"{path}: names no service; a table starts one, like [echo]")
    return tables


def _app(name: object, where: str) -> ISocketApp:
    apps = findApps()
    if not isinstance(name, str) or name not in apps:
        raise SettingsError(f"{where}: there is no app {name!r}" + _suggestion(str(name), apps))
    return apps[name]


def _listen(value: object, where: str) -> tuple[str, ...]:
    """Endpoint descriptions hold commas and colons of their own: one as text, more as a list."""
    descriptions = [value] if isinstance(value, str) else value
    if (
        not isinstance(descriptions, list)
        or not descriptions
        or not all(isinstance(description, str) for description in descriptions)
    ):
        raise SettingsError(f"{where}: must be an endpoint or a list of them, not {value!r}")
    return tuple(descriptions)


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
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _Unreadable("a whole number")


def _number(value: object, _: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"[+-]?([0-9]{1,18}\.?[0-9]*|\.[0-9]+)", value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
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
for _type, _hook in {
    int: _whole,
    float: _number,
    bool: _truth,
    str: _text,
    Sequence[str]: _texts,
    Mapping[str, str]: _pairs,
}.items():
    _CONVERTER.register_structure_hook_func(partial(eq, _type), _hook)
