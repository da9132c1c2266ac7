"""Checks of an encoder that was read from a program: it comes with somebody else's file, and decides about memory."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from icecore.core.errors import ConfigError
from icecore.core.settings import check_types
from icecore.core.text import shortened
from icecore.user_data.cell_types import cell_parser
from icecore.user_data.columns import ColumnType
from icecore.user_data.encoders.column_encoder import ColumnEncoder
from icecore.user_data.encoders.image_encoder import ImageEncoder
from icecore.user_data.encoders.sequence_encoder import SequenceEncoder
from icecore.user_data.encoders.table_encoder import TableEncoder
from icecore.user_data.encoders.text_encoder import TextEncoder
from icecore.user_data.forecast_windows import ForecastPlan
from icecore.user_data.targets import TargetEncoder

#: more numbers than the tokens of any row have
MAX_ENCODER_NUMBERS = 2**26
#: larger numbers cannot be standardised in float64
LARGEST_STATISTIC = 1e300
#: numbers of a column that are stored, by type; text has none
COLUMN_NUMBERS = {"number": 1, "date": 4, "text": 0}


def check_encoder(types: Any, inputs: Any, target: TargetEncoder) -> None:
    """Raise ConfigError for values of the wrong type, sizes out of range, and lists that do not fit each other."""
    if not isinstance(types, Mapping) or not set(map(str, types.values())) <= set(get_args(ColumnType)):
        raise ConfigError(f"types: expected the types of columns, found {shortened(types)}")
    if isinstance(inputs, TableEncoder):
        _check_table(inputs)
    else:
        check_types(type(inputs), vars(inputs))
    if isinstance(inputs, ImageEncoder):
        _require(inputs.channels in (1, 3), "channels must be 1 or 3")
        _in_range("side", inputs.side)
        _in_range("patch", inputs.patch)
        _require(inputs.side % inputs.patch == 0, "patch must divide side")
        _require(inputs.white is None or 0 < inputs.white <= LARGEST_STATISTIC, "white must be above 0")
        _check_statistics(inputs.mean, inputs.std, inputs.channels)
    elif isinstance(inputs, SequenceEncoder):
        _in_range("points", inputs.points)
        _in_range("patch", inputs.patch)
        _check_statistics(inputs.mean, inputs.std, len(inputs.mean) or 1)
    elif isinstance(inputs, TextEncoder):
        _in_range("length", inputs.length)
        _require(list(inputs.characters) == sorted(set(inputs.characters)), "characters must be sorted")
    numbers = inputs.length * inputs.token_size
    _require(numbers <= MAX_ENCODER_NUMBERS, "its rows are larger than any that icecore makes")
    _check_target(target)


def check_formats(formats: Any) -> None:
    """Raise ConfigError for formats of numbers and dates that icecore does not know."""
    known = isinstance(formats, Mapping) and all(isinstance(form, str) for form in formats.values())
    try:
        for form in formats.values() if known else ():
            cell_parser("number", form)
    except ValueError:
        known = False
    _require(known, f"formats must say how numbers and dates are written, but are {shortened(formats)}")


def check_forecast(forecast: ForecastPlan | None, inputs: Any) -> None:
    """Raise ConfigError for windows of sizes out of range, or of other sizes than the inputs."""
    if forecast is None:
        return
    check_types(ForecastPlan, vars(forecast))
    for name in ("horizon", "context", "season"):
        _in_range(name, getattr(forecast, name))
    _require(isinstance(inputs, SequenceEncoder) and inputs.points == forecast.context, "windows must fit the inputs")


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ConfigError(f"The encoder of the program is damaged: {sentence}.")


def _in_range(name: str, value: int) -> None:
    most = MAX_ENCODER_NUMBERS
    _require(1 <= value <= most, f"{name} must be 1 to {most:,}, but is {shortened(value)}")


def _check_statistics(mean: Sequence[float], std: Sequence[float], count: int) -> None:
    _require(len(mean) == len(std) == count, f"there must be {count} means and standard deviations")
    _require(all(abs(value) <= LARGEST_STATISTIC for value in mean), "means must be finite")
    _require(all(0 < value <= LARGEST_STATISTIC for value in std), "standard deviations must be above 0")


def _check_table(inputs: TableEncoder) -> None:
    _require(isinstance(inputs.patch, int) and not isinstance(inputs.patch, bool), "patch must be a whole number")
    _in_range("patch", inputs.patch)
    for column in inputs.columns:
        check_types(ColumnEncoder, vars(column))
        _check_statistics(column.mean, column.std, COLUMN_NUMBERS[column.type])
    names = {column.name for column in inputs.columns}
    _require(0 < len(names) == len(inputs.columns), "each column must have a name of its own")


def _check_target(target: TargetEncoder) -> None:
    check_types(TargetEncoder, vars(target))
    k = len(target.names)
    _require(0 < k == len(target.origins) == len(set(target.names)), "each target must have a name and a type")
    if target.task == "regression":
        _require(not target.classes, "numbers have no classes")
        _check_statistics(target.mean, target.std, k)
        return
    _require(len(target.classes) == len(target.counts) == k, "each target must have classes and their counts")
    for number, (labels, counts) in enumerate(zip(target.classes, target.counts, strict=True)):
        _require(0 < len(labels) == len(counts) == len(set(labels)), "each class must have a count")
        _require(all(0 < count < 2**53 for count in counts), "each class must have training rows")
        target.labels(number)  # raises for labels that are not of the type of the data
