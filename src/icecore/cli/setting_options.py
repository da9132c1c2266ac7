"""Command-line options made from the fields of settings dataclasses.

A field's name, type, default, help and group become an option, so a new setting needs no line here.
"""

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, get_args, get_origin

import typer

from icecore.cli.option_values import read_list, read_numbers, read_pairs
from icecore.core.settings import type_hints

#: options whose name is not that of the field
OPTION_NAMES = {"task_options": "--task-option", "start": "--start-from", "lrs": "--lr"}


@dataclasses.dataclass(frozen=True)
class SettingOption:
    """The option of one field.

    hint  the field's type without None
    name  for example --batch-size
    """

    field: dataclasses.Field[Any]
    hint: Any
    name: str

    def parameter(self) -> inspect.Parameter:
        """The parameter from which typer builds the option."""
        metadata, default = self.field.metadata, self._default()
        declared = f"{self.name}/--no-{self.name[2:]}" if self.hint is bool and default else self.name
        info = typer.Option(
            declared,
            help=metadata.get("help"),
            rich_help_panel=metadata.get("group") or None,
            metavar=self._metavar(),
            show_default=metadata.get("default_note") or (self._listed_default() if default is None else True),
        )
        return inspect.Parameter(
            self.field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[self._type(), info],
        )

    def read(self, value: Any) -> Any:
        """The value of the setting; None if the option was not given. Raises ConfigError."""
        origin, arguments = get_origin(self.hint), get_args(self.hint)
        if value is None:
            return None
        if origin is tuple and arguments[0] is str:
            return tuple(read_list(value))
        if origin is tuple:
            return tuple(read_numbers(self.name, value, arguments[0]))
        if origin is Mapping and arguments[1] is float:
            return read_pairs(self.name, read_list(value), float)
        return read_pairs(self.name, value) if origin is Mapping else value

    def _type(self) -> Any:
        """What typer itself reads: a scalar, a flag, or text for `read`."""
        if get_origin(self.hint) is Mapping and get_args(self.hint)[1] is Any:
            return list[str] | None
        if self.hint is bool:
            return bool
        scalar = self.hint if self.hint in (int, float) else str
        return scalar | None

    def _default(self) -> Any:
        """The default that typer passes on; None where the setting is left to its owner."""
        if self.hint is bool:
            return self.field.default is True
        has_scalar = self.hint in (int, float) or get_origin(self.hint) not in (tuple, Mapping)
        has_default = self.field.default is not dataclasses.MISSING and not self.field.metadata.get("default_note")
        return self.field.default if has_scalar and has_default else None

    def _listed_default(self) -> str | bool:
        """The default of a list, as it would be typed."""
        default = self.field.default
        return ",".join(map(_typed, default)) if isinstance(default, tuple) and default else False

    def _metavar(self) -> str | None:
        if get_origin(self.hint) is tuple:
            return "LIST"
        return "NAME=VALUE" if get_origin(self.hint) is Mapping else None


def _typed(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def with_settings(
    cls: type,
    parameter: str,
    omit: Collection[str] = (),
    names: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., None]], Any]:
    """A decorator that gives a command an option for each field of `cls` in place of one `parameter`.

    The command receives a dict of the settings that were given or have a plain default. Fields in `omit` get no
    option; `names` are those of options whose name in this command is not that of the field, and `defaults` are values
    that this command has in place of the fields' own defaults.
    """
    named = {**OPTION_NAMES, **(names or {})}
    hints = type_hints(cls)
    options = [
        SettingOption(
            field, _without_none(hints[field.name]), named.get(field.name, "--" + field.name.replace("_", "-"))
        )
        for field in _fields_with_defaults(cls, defaults or {})
        if field.name not in omit
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)

        @functools.wraps(command)
        def call(**arguments: Any) -> None:
            values = {option.field.name: option.read(arguments.pop(option.field.name)) for option in options}
            command(**arguments, **{parameter: {name: value for name, value in values.items() if value is not None}})

        parameters: list[inspect.Parameter] = []
        for given in signature.parameters.values():
            if given.name == parameter:
                parameters += [option.parameter() for option in options]
            else:
                parameters.append(given.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return call

    return decorate


def _fields_with_defaults(cls: type, defaults: Mapping[str, Any]) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass, some with other defaults than their own."""
    fields = []
    for field in dataclasses.fields(cls):
        if field.name in defaults:
            field = copy.copy(field)
            field.default = defaults[field.name]
            field.metadata = {**field.metadata, "default_note": ""}  # type: ignore[assignment]
        fields.append(field)
    return fields


def _without_none(hint: Any) -> Any:
    """`X` of `X | None`."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(hint) else hint
