"""What cells mean: numbers, dates, codes with leading zeros, missing values or classes named "none"."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icecore.core.errors import ConfigError, DataError
from icecore.user_data import DataEncoder, DataSettings, encode, from_arrays, plan
from icecore.user_data.cell_types import find_leading_zero, parse_date, parse_number
from icecore.user_data.columns import column_from_values
from icecore.user_data.readers.table_files import read_table
from user_data_samples import (
    ROWS,
    describe,
    random_column,
    write_columns,
)


@pytest.mark.parametrize(("cell", "value"), [("1", 1), (" -2.5e3 ", -2500), ("NA", math.nan), ("", math.nan)])
def test_numbers_and_missing_values(cell: str, value: float):
    np.testing.assert_equal(parse_number(cell), value)


@pytest.mark.parametrize("cell", ["2021-03-04", "2021-03-04T05:06:07", "2021-03-04 05:06:07+02:00", "2021/03/04"])
def test_dates_are_seconds_since_1970(cell: str):
    moment = datetime.fromisoformat(cell.replace("/", "-"))
    assert parse_date(cell) == moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


@pytest.mark.parametrize("cell", ["2021-03", "2021/03"])
def test_a_month_is_its_first_day(cell: str):
    assert parse_date(cell) == datetime(2021, 3, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize("cell", ["2021-13", "2021-3", "9021-03", "20210304", "3.5", "yesterday", "04.03.2021"])
def test_texts_that_are_not_dates(cell: str):
    with pytest.raises(ValueError, match="is not an ISO 8601 date"):
        parse_date(cell)


def test_numbers_become_labels_without_needless_decimals():
    assert column_from_values("y", np.array([3.0, 1.0, math.nan])).as_labels().levels == ["1", "3"]
    assert column_from_values("y", [0.5, 1.0]).as_labels().levels == ["0.5", "1.0"]
    assert column_from_values("y", [True, False]).as_labels().levels == ["False", "True"]
    assert column_from_values("y", np.array(["b", "a", None], object)).as_labels().values.tolist() == [1, 0, -1]
    with pytest.raises(DataError, match="y must hold numbers or texts, but has values of type complex128"):
        column_from_values("y", np.array([1j]))


@pytest.mark.parametrize("words", [("+", "-"), ("none", "mild", "severe"), ("?", "NA"), ("N/A", "None", "yes")])
def test_words_for_missing_values_can_be_classes_of_a_text_target(tmp_path: Path, words: tuple[str, ...]) -> None:
    data_plan = plan(write_columns(tmp_path / "t.csv", x=random_column(), y=words))
    arrays = from_arrays(np.array(random_column())[:, None], [words[i % len(words)] for i in range(ROWS)])
    for each in (data_plan, arrays):
        assert each.encoder.target.classes == (tuple(sorted(words)),)
        assert sum(map(len, each.splits.values())) == ROWS
        assert "no target" not in describe(each)
    rows = encode(data_plan.encoder, tmp_path / "t.csv", score=True)
    assert rows.targets is not None
    assert np.bincount(rows.targets[:, 0, 0].long()).tolist() == [ROWS // len(words)] * len(words)


def test_words_that_cannot_be_classes_are_counted(tmp_path: Path) -> None:
    words = ("mild", "severe", "null", "NaN", "", "none")
    data_plan = plan(write_columns(tmp_path / "t.csv", x=random_column(), severity=words))
    arrays = from_arrays(
        np.array(random_column())[:, None], [words[i % 6] for i in range(ROWS)], DataSettings(target=("severity",))
    )
    for each in (data_plan, arrays):
        assert each.encoder.target.classes == (("mild", "none", "severe"),)
        parts = dict(each.notes)["no target"].split(", ")
        assert sorted(parts) == ["20 rows where severity is 'NaN'", "20 rows where severity is 'null'"]
        assert "dropped: 60 rows without a target" in describe(each)


def test_words_in_a_numeric_target_are_counted(tmp_path: Path) -> None:
    cells = [*random_column()[:38], "NA", "nan"]
    data_plan = plan(write_columns(tmp_path / "t.csv", x=random_column(), price=cells))
    assert data_plan.encoder.target.task == "regression"
    assert "no target: 3 rows where price is 'NA', 3 rows where price is 'nan'" in describe(data_plan)


def test_words_for_missing_values_are_missing_in_other_columns(tmp_path: Path) -> None:
    path = write_columns(tmp_path / "t.csv", town=("Ulm", "none", "Köln", "-", "NA"), x=random_column(), y=("p", "q"))
    column = read_table([path])[0].columns["town"]
    assert column.distinct_texts == ["Ulm", "Köln"]
    assert column.values[:6].tolist() == [0, -1, 1, -1, -1, 0]
    assert plan(path).encoder.inputs.columns[0].levels == ("Köln", "Ulm")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        (["1", "007"], "007"),
        (["00", "x"], "00"),
        (["0", "1", "10"], ""),
        (["0.5", "01"], ""),
        (["-05", "01"], ""),
        (["x", "y"], ""),
        ([], ""),
    ],
)
def test_leading_zeros_mean_codes(cells: list[str], code: str) -> None:
    assert find_leading_zero(cells) == code


def test_codes_are_classes_and_categories(tmp_path: Path) -> None:
    path = write_columns(tmp_path / "t.csv", zip=("01069", "89073", "50667"), x=random_column(), y=("01", "1", "10"))
    data_plan = plan(path)
    assert data_plan.encoder.target.classes == (("01", "1", "10"),)
    assert data_plan.encoder.inputs.columns[0].levels == ("01069", "50667", "89073")  # type: ignore[attr-defined]
    assert "codes: zip, y: read as text because of leading zeros, as in '01069'" in describe(data_plan)
    # new rows are read in the same way, even if none of them has a leading zero
    new = write_columns(tmp_path / "new.csv", zip=("89073", "50667"), x=random_column(), y=("1", "10"))
    rows = encode(DataEncoder.from_json(data_plan.encoder.to_json()), new, score=True)
    assert rows.targets is not None
    assert set(rows.targets[:, 0, 0].tolist()) == {1, 2}
    assert not any("slot" in text for _, text in rows.notes)


def test_codes_cannot_be_predicted_by_regression(tmp_path: Path) -> None:
    path = write_columns(tmp_path / "t.csv", x=random_column(), y=[f"{i:03}" for i in range(ROWS)])
    with pytest.raises(
        ConfigError, match="Regression needs numeric targets, but y is text because of leading zeros, as in '000'"
    ):
        plan(path, DataSettings(task="regression"))


def test_columns_that_were_numeric_in_training_stay_numeric(tmp_path: Path) -> None:
    path = write_columns(tmp_path / "t.csv", a=("1", "2", "3"), x=random_column(), y=("1", "2"))
    old = plan(path)
    new = write_columns(tmp_path / "new.csv", a=("01", "02", "03"), x=random_column(), y=("01", "02"))
    plain, with_zeros = (encode(old.encoder, each, score=True) for each in (path, new))
    assert plain.inputs.equal(with_zeros.inputs)
    assert plain.targets is not None
    assert with_zeros.targets is not None
    assert plain.targets.equal(with_zeros.targets)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ((*range(1, 20), "<0.5"), "95 % of its cells are numbers, but '<0.5' is not"),
        (("$12,345", "€5"), "all of its cells are numbers, but not plain ones, for example '$12,345'"),
        (("1.5%", "0.2"), "all of its cells are numbers, but not plain ones, for example '1.5%'"),
        (("900", "1,201"), "'1,201' may be 1.201 or 1201 (--decimal point or comma)"),
        (("1,201", "12,345"), "'1,201' may be 1.201 or 1201 (--decimal point or comma)"),
        (("03/04/2024", "05/06/2024"), "'03/04/2024' may begin with the day or with the month (--dates day-first or"),
        (("12 €", "3", "free"), "66 % of its cells are numbers, but 'free' is not"),
    ],
)
def test_text_columns_that_look_numeric_are_reported(tmp_path: Path, odd: Sequence[Any], words: str) -> None:
    path = write_columns(tmp_path / "t.csv", lab=odd, x=random_column(), y=("p", "q"))
    data_plan = plan(path)
    assert f"not numbers: lab is read as text: {words}" in describe(data_plan)
    with pytest.raises(
        DataError,
        match=r"t\.csv: column 'lab' is not numeric: .*\. Write .* drop the column with --drop",
    ):
        plan(path, DataSettings(strict=True))
    strict = plan(path, DataSettings(strict=True, drop=("lab",)))
    # for prediction the column is known to be text, so there is nothing to report
    assert len(encode(data_plan.encoder, path, strict=True)) == len(encode(strict.encoder, path, strict=True)) == ROWS


def test_of_many_columns_that_look_numeric_five_are_described(tmp_path: Path) -> None:
    columns: dict[str, Sequence[Any]] = {f"c{i}": ("1%", "2") for i in range(7)}
    data_plan = plan(write_columns(tmp_path / "t.csv", **columns, x=random_column(), y=("p", "q")))
    messages = [message for topic, message in data_plan.notes if topic == "not numbers"]
    assert len(messages) == 6
    assert messages[4].startswith("c4 is read as text: all of its cells are numbers, but not plain ones")
    assert messages[5].startswith("c5, c6: read as text, though most cells look like numbers")


@pytest.mark.parametrize("cells", [("1", "2", "x", "y", "z"), ("12:30", "1.2.3"), ("1,2,3", "4,5,6"), ("a", "NA", "-")])
def test_text_columns_that_do_not_look_numeric(tmp_path: Path, cells: Sequence[str]) -> None:
    path = write_columns(tmp_path / "t.csv", lab=cells, x=random_column(), y=("p", "q"))
    assert "not numbers" not in describe(plan(path, DataSettings(strict=True)))


def test_errors_of_a_target_that_looks_numeric(tmp_path: Path) -> None:
    cells = [f"{1 + i / 7:.3f}" for i in range(ROWS - 10)] + ["<0.5"] * 10
    path = write_columns(tmp_path / "t.csv", x=random_column(), y=cells)
    with pytest.raises(
        DataError,
        match=r"different texts in 120 rows, .* 91 % of its cells are numbers, but '<0\.5' is not\. Write these",
    ):
        plan(path)
    with pytest.raises(
        ConfigError, match=r"Not numeric: y \(91 % of its cells are numbers, but '<0\.5' is not\)\. Write these cells"
    ):
        plan(path, DataSettings(task="regression"))
    with pytest.raises(DataError, match=r"column 'y' is not numeric: 91 % of its cells"):
        plan(path, DataSettings(strict=True))
