"""Settings dataclasses: values are checked against annotations and rules, and messages name the setting."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from icecore.core.errors import ConfigError
from icecore.core.settings import at_least, check_settings, check_types, describe_type, from_values, one_of, setting


@dataclass(frozen=True, kw_only=True)
class Example:
    """Settings of every type."""

    name: str = setting(help="A name.", check=one_of("name", ["alpha", "beta"]))
    count: int = setting(3, help="A count.", check=at_least(2))
    share: float | None = setting(None, help="A share.", check=at_least(0))
    kind: Literal["near", "far"] = setting("near", help="A kind.")
    widths: tuple[int, ...] = setting((), help="Widths.")
    table: Mapping[str, float] = setting(default_factory=dict, help="A table.")
    options: Mapping[str, Any] = setting(default_factory=dict, help="Options.")
    strict: bool = setting(False, help="A flag.")


@pytest.mark.parametrize(
    "values",
    [
        {"count": 5, "share": 1, "kind": "far", "strict": True},
        {"share": None, "widths": [1, 2], "table": {"a": 1, "b": 0.5}, "options": {"a": "text", "b": [1]}},
        {"widths": (), "share": 0.5},
    ],
)
def test_values_of_the_declared_types_are_accepted(values: dict[str, Any]) -> None:
    check_types(Example, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": 1}, "name: expected text, found 1"),
        ({"count": 2.5}, "count: expected a whole number, found 2.5"),
        ({"count": True}, "count: expected a whole number, found True"),
        ({"count": None}, "count: expected a whole number, found None"),
        ({"share": "half"}, "share: expected a number, found 'half'"),
        ({"kind": "nearby"}, "kind: expected one of near, far, found 'nearby'"),
        ({"widths": 3}, "widths: expected a list of whole numbers, found 3"),
        ({"widths": "12"}, "widths: expected a list of whole numbers, found '12'"),
        ({"widths": [1, False]}, r"widths: expected a list of whole numbers, found \[1, False\]"),
        ({"table": {"a": "b"}}, "table of a: expected a number, found 'b'"),
        ({"table": [1]}, r"table: expected a table of names and numbers, found \[1\]"),
        ({"options": 1}, "options: expected a table of names and values, found 1"),
        ({"strict": 1}, "strict: expected true or false, found 1"),
    ],
)
def test_values_of_other_types_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_types(Example, values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "aplha"}, "Unknown name 'aplha'. Did you mean 'alpha'"),
        ({"name": "beta", "count": 1}, "count: expected at least 2, found 1"),
        ({"name": "beta", "share": -0.5}, "share: expected at least 0, found -0.5"),
    ],
)
def test_checks_name_the_setting(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(Example(**values))


def test_a_check_is_skipped_if_there_is_no_value() -> None:
    check_settings(Example(name="beta", share=None))


def test_values_become_the_types_of_their_fields() -> None:
    values: Any = {"count": np.int64(5), "share": np.float32(0.5), "widths": [np.int32(1), 2], "table": {"a": 1}}
    example = Example(name="beta", **values)
    check_settings(example)
    assert example == Example(name="beta", count=5, share=0.5, widths=(1, 2), table={"a": 1.0})
    for value, kind in (
        (example.count, int),
        (example.share, float),
        (example.widths[0], int),
        (example.table["a"], float),
    ):
        assert type(value) is kind


def test_settings_from_a_table_of_values() -> None:
    assert from_values(Example, {"name": "beta", "count": 7}) == Example(name="beta", count=7)
    with pytest.raises(ConfigError, match=r"Unknown setting 'cuont'\. Did you mean 'count'"):
        from_values(Example, {"name": "beta", "cuont": 7})
    with pytest.raises(ConfigError, match="The setting 'name' is missing"):
        from_values(Example, {"count": 7})


def test_types_in_words() -> None:
    assert describe_type(tuple[str, ...]) == "a list of texts"
    assert describe_type(int | None) == "a whole number"
