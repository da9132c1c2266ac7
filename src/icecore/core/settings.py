"""Settings as dataclass fields that carry their own help text and check.

One description of a setting (type, default, help, check) serves Python, the command line, grid files and the
estimators, so they cannot disagree. The types are those of the annotations.
"""

import dataclasses
import functools
import math
import numbers
import types
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from icecore.core.errors import ConfigError, unknown_name
from icecore.core.text import shortened

#: raises ConfigError if a value, given with the name of its setting, is not allowed
Check = Callable[[str, Any], None]
Settings = TypeVar("Settings")


def setting(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    check: Check | None = None,
    group: str = "",
    default_note: str = "",
    default_factory: Any = dataclasses.MISSING,
) -> Any:
    """A dataclass field that is a setting.

    Parameters:
        default: value if the user gives none; without it, the setting is required
        help: what the setting does, as a full sentence for `--help`
        check: raises ConfigError for a value of the right type that is not allowed; it is not called with None
        group: heading under which the command line lists the setting
        default_note: where the value comes from if the user gives none, in cases where `default` is not used
        default_factory: builds the default of a mutable setting
    """
    metadata = {"help": help, "check": check, "group": group, "default_note": default_note}
    if default is not dataclasses.MISSING:
        return dataclasses.field(default=default, metadata=metadata)
    return dataclasses.field(default_factory=default_factory, metadata=metadata)


def from_values(cls: type[Settings], values: Mapping[str, Any]) -> Settings:
    """An instance of the settings dataclass `cls`. Raises ConfigError for unknown names and for missing ones."""
    check_names(cls, values)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise ConfigError(f"The setting {field.name!r} is missing.")
    return cls(**values)


@functools.cache
def type_hints(cls: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields by name."""
    return get_type_hints(cls)


def check_names(cls: type, names: Iterable[str]) -> None:
    """Raise ConfigError for a name that is not a setting of the dataclass `cls`, with the nearest ones that are."""
    known = {field.name for field in dataclasses.fields(cls)}
    for name in names:
        if name not in known:
            raise unknown_name("setting", name, known)


def check_types(cls: type, values: Mapping[str, Any]) -> None:
    """Raise ConfigError if a value is not of the type of its field in `cls`, for example text for a number."""
    hints = type_hints(cls)
    for name, value in values.items():
        _check_type(name, value, hints[name])


def check_settings(settings: Any) -> None:
    """Check the values of a settings instance and convert them to the types of their fields.

    Lists become tuples, and numbers of other types, say of NumPy, become Python's. Raises ConfigError for the first
    value that is not allowed.
    """
    cls = type(settings)
    check_types(cls, vars(settings))
    for name, hint in type_hints(cls).items():
        object.__setattr__(settings, name, _convert(getattr(settings, name), hint))
    for field in dataclasses.fields(settings):
        check, value = field.metadata.get("check"), getattr(settings, field.name)
        if check is not None and value is not None:
            check(field.name, value)


def must(condition: Callable[[Any], bool], expected: str) -> Check:
    """A check with a message of the form "name: expected ..., found ..."."""

    def check(name: str, value: Any) -> None:
        if not condition(value):
            raise ConfigError(f"{name}: expected {expected}, found {shortened(value)}")

    return check


def at_least(minimum: int) -> Check:
    """A check for numbers of at least `minimum`."""
    return must(lambda value: value >= minimum, f"at least {minimum}")


def one_of(kind: str, names: Collection[str]) -> Check:
    """A check for one of several names; the error message suggests the nearest ones."""

    def check(_: str, value: Any) -> None:
        if value not in names:
            raise unknown_name(kind, value, names)

    return check


def is_whole_number(text: str, least: int, most: int) -> bool:
    """Whether a text is a number from `least` to `most`, in plain digits."""
    # int() refuses thousands of digits
    return text.isascii() and text.isdecimal() and len(text) <= 18 and least <= int(text) <= most


def positive(value: float) -> bool:
    """Whether a number is finite and above zero."""
    return math.isfinite(value) and value > 0


def _check_type(name: str, value: Any, hint: Any) -> None:
    if _is_instance(value, hint):
        return
    if get_origin(hint) is Mapping and isinstance(value, Mapping):
        # name the entry that is wrong, not the whole table
        for key, entry in value.items():
            _check_type(f"{name} of {key}", entry, get_args(hint)[1])
    raise ConfigError(f"{name}: expected {describe_type(hint)}, found {shortened(value)}")


def _is_instance(value: Any, hint: Any) -> bool:
    """Whether `value` is of an annotated type. Whole numbers count as numbers, and any collection as a list."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_is_instance(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        is_list = isinstance(value, Collection) and not isinstance(value, str | Mapping)
        return is_list and all(_is_instance(item, arguments[0]) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(_is_instance(entry, arguments[1]) for entry in value.values())
    if hint in (int, float):
        return isinstance(value, numbers.Integral if hint is int else numbers.Real) and not isinstance(value, bool)
    return isinstance(value, hint)


def _convert(value: Any, hint: Any) -> Any:
    """`value`, which is of the annotated type in the wide sense of `_is_instance`, as exactly that type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if value is None:
        return None
    if origin in (Union, types.UnionType):
        return _convert(value, next(argument for argument in arguments if _is_instance(value, argument)))
    if origin is tuple:
        return tuple(_convert(item, arguments[0]) for item in value)
    if origin is Mapping:
        return {key: _convert(entry, arguments[1]) for key, entry in value.items()}
    if hint is int:
        return int(value)
    try:
        return float(value) if hint is float else value
    except OverflowError:  # a whole number with hundreds of digits
        return math.inf if value > 0 else -math.inf


def describe_type(hint: Any, plural: bool = False) -> str:
    """An annotated type in words, for messages: "a number", "a list of whole numbers"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(each, plural) for each in arguments if each is not types.NoneType)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        return f"a list of {describe_type(arguments[0], plural=True)}"
    if origin is Mapping:
        return f"a table of names and {describe_type(arguments[1], plural=True)}"
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "value"}[hint]
    if plural:
        return {str: "texts"}.get(hint, words + "s")
    return words if hint in (str, bool) else f"a {words}"
