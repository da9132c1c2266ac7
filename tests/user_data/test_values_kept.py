"""No value and no label changes on its way in without a word: numbers, codes, decimal commas, truth values, dates."""

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icecore.core.errors import DataError
from icecore.user_data import DataEncoder, DataSettings, encode, from_arrays, plan
from icecore.user_data.columns import Column, column_from_values
from icecore.user_data.number_formats import NumberFormat, find_number_format
from icecore.user_data.readers.source_kinds import read_path
from icecore.user_data.readers.table_files import read_table
from icecore.user_data.records import TextRecords
from user_data_samples import ROWS, describe, random_column, write_columns

LARGE = (12345678901234567, 12345678901234568, 12345678901234569)


@pytest.mark.parametrize(
    "labels",
    [
        ("1_1", "1_11", "11_1"),
        ("1.1", "1.10", "1.2"),
        ("1", "1.0", "2"),
        ("1e3", "1000", "10E2"),
        ("+1", "1", "-1"),
        ("1", "١", "2"),
        tuple(map(str, LARGE)),
        ("0.1", "0.2", "0.30"),
        ("1", "2", "3a"),
        ("5%", "6%", "7%"),
    ],
)
def test_labels_are_the_very_texts(tmp_path: Path, labels: Sequence[str]) -> None:
    path = write_columns(tmp_path / "t.csv", x=random_column(), label=labels)
    data_plan = plan(path, DataSettings(task="classification"))
    assert sorted(data_plan.encoder.target.classes[0]) == sorted(labels)
    assert sum(map(len, data_plan.splits.values())) == ROWS
    encoder = DataEncoder.from_json(data_plan.encoder.to_json())
    rows = encode(encoder, path, score=True)
    assert rows.targets is not None
    shown = [encoder.target.classes[0][int(code)] for code in rows.targets[:3, 0, 0]]
    assert shown == list(labels)


def test_one_cell_that_is_no_number_makes_labels_texts(tmp_path: Path) -> None:
    labels = [str(1 + i % 2) for i in range(ROWS - 1)] + ["2_2"]
    assert plan(write_columns(tmp_path / "t.csv", x=random_column(), y=labels)).encoder.target.counts[0][-1] == 1


def test_large_whole_numbers_are_exact(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cells = [LARGE[i % 3] for i in range(ROWS)]
    for values in (pa.array(cells), pa.array([None, *cells[1:]], pa.int64()), pa.array(cells, pa.uint64())):
        pq.write_table(pa.table({"x": random_column(), "label": values}), tmp_path / "t.parquet")
        assert plan(tmp_path / "t.parquet").encoder.target.labels().tolist() == list(LARGE)
    for labels in (np.array(cells), cells, np.array([*cells[1:], None], object)):
        assert from_arrays(np.array(random_column())[:, None], labels).encoder.target.labels().tolist() == list(LARGE)


def test_a_column_named_as_text_is_text_byte_for_byte(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ["1" + "".join(rng.choice(list("01"), 40)) for _ in range(ROWS - 3)] + ["NA", "-", "1,5"]
    path = write_columns(tmp_path / "t.csv", bits=texts, y=("p", "q"))
    for delimiter in ",;":
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows([["bits", "y"], *[[t, "pq"[len(t) % 2]] for t in texts]])
        records = read_path(path, DataSettings(column="bits"))[1]
        assert isinstance(records, TextRecords)
        assert list(records.texts) == texts
    # strings of digits that no number holds are not numbers either if nobody says so
    path = write_columns(tmp_path / "long.csv", bits=texts[: ROWS - 3], x=random_column(), y=("p", "q"))
    assert "bits: read as text because its numbers are too long to be exact" in describe(plan(path))


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (("5%", "3.5 %"), [5, 3.5]),
        (("$3", "-$1,000.50"), [3, -1000.5]),
        (("€ 3", "4 €", "5"), [3, 4, 5]),
        (("1,5", "900"), [1.5, 900]),
        (("0,123", "1,201"), [0.123, 1.201]),
        (("1.234,50", "7,5"), [1234.5, 7.5]),
        (("1,234,567", "1,201"), [1234567, 1201]),
        (("1 234", "5"), [1234, 5]),
    ],
)
@pytest.mark.parametrize("delimiter", ",;")
def test_numbers_in_other_forms_are_parsed(
    tmp_path: Path, cells: Sequence[str], values: Sequence[float], delimiter: str
) -> None:
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        rows = [["v", "y"], *[[cells[i % len(cells)], "pq"[i % 2]] for i in range(ROWS)]]
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert read_table([path])[0].columns["v"].values[: len(values)].tolist() == pytest.approx(values)
    data_plan = plan(path)
    assert "written: numbers and dates are read by how they are written: v like 1" in describe(data_plan)
    # a single new row does not show the format, but the program knows it
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([rows[0], rows[1]])
    column = data_plan.encoder.inputs.columns[0]  # type: ignore[attr-defined]
    row = encode(DataEncoder.from_json(data_plan.encoder.to_json()), path).inputs
    assert row.item() * column.std[0] + column.mean[0] == pytest.approx(values[0], rel=1e-4)


@pytest.mark.parametrize("delimiter", ",;")
def test_a_decimal_comma_that_may_separate_thousands_is_not_guessed(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        cells = ("900", "1,201")
        rows = [["v", "x", "y"], *[[cells[i % 2], i, "pq"[i % 3 % 2]] for i in range(ROWS)]]
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert "v is read as text: '1,201' may be 1.201 or 1201 (--decimal point or comma)" in describe(plan(path))
    for mark, value in (("comma", 1.201), ("point", 1201)):
        data_plan = plan(path, DataSettings(decimal=mark))  # type: ignore[arg-type]
        column = data_plan.encoder.inputs.columns[0]  # type: ignore[attr-defined]
        assert column.mean[0] == pytest.approx((900 + value) / 2, abs=abs(900 - value) / 4)


def test_number_formats_are_restored_from_their_example() -> None:
    for cells in (["1,5"], ["1,234.5"], ["5%"], ["$3"], ["1 234,5 €"]):
        number_format, _ = find_number_format(cells)
        assert number_format is not None
        assert NumberFormat.from_example(str(number_format)) == number_format
    with pytest.raises(ValueError, match=r"is not a number like 1234\.5%"):
        NumberFormat(".", "", "%").parse("$5")


@pytest.mark.parametrize("spelling", [("TRUE", "FALSE"), ("True", "False"), ("true", "false"), ("tRue", "faLse")])
def test_truth_values_are_the_same_in_every_spelling(tmp_path: Path, spelling: tuple[str, str]) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    trained = write_columns(tmp_path / "t.csv", flag=("TRUE", "FALSE", "NA"), x=random_column(), y=("TRUE", "FALSE"))
    new = write_columns(tmp_path / "n.csv", flag=(*spelling, "NA"), x=random_column(), y=spelling)
    encoder = plan(trained).encoder
    assert encoder.target.classes == (("FALSE", "TRUE"),)
    expected, rows = (encode(encoder, path, score=True) for path in (trained, new))
    assert rows.inputs.equal(expected.inputs)
    assert rows.targets is not None
    assert expected.targets is not None
    assert rows.targets.equal(expected.targets)
    flags = [(True, False, None)[i % 3] for i in range(ROWS)]
    table = pa.table({"flag": flags, "x": random_column(), "y": [i % 2 == 0 for i in range(ROWS)]})
    pq.write_table(table, tmp_path / "t.parquet")
    assert encode(encoder, tmp_path / "t.parquet", score=True).inputs.equal(expected.inputs)
    of_parquet = plan(tmp_path / "t.parquet").encoder
    stored = encode(of_parquet, tmp_path / "t.parquet").inputs
    np.testing.assert_array_equal(encode(of_parquet, new, score=True).inputs, stored)


def test_a_column_whose_cells_are_all_unknown_is_an_error(tmp_path: Path) -> None:
    encoder = plan(write_columns(tmp_path / "t.csv", town=("Ulm", "Bonn"), x=random_column(), y=("p", "q"))).encoder
    spelled = write_columns(tmp_path / "n.csv", town=("ulm", "bonn"), x=random_column())
    with pytest.raises(DataError, match="column 'town': none of its 120 values was in training, for example 'ulm'"):
        encode(encoder, spelled)
    numbers = write_columns(tmp_path / "n.csv", town=("Ulm",), x=("low", "high"))
    with pytest.raises(DataError, match="column 'x': none of its 120 cells is a number as in training"):
        encode(encoder, numbers)


def test_dates_that_begin_with_the_day_or_the_month(tmp_path: Path) -> None:
    moment = datetime(2024, 12, 31, tzinfo=UTC).timestamp()
    for cells in (("31/12/2024", "01/02/2024"), ("31.12.2024", "01.02.2024"), ("12/31/2024", "01/02/2024")):
        path = write_columns(tmp_path / "t.csv", when=(*cells, *cells), x=random_column(), y=("p", "q"))
        assert read_table([path])[0].columns["when"].values[0] == moment
        data_plan = plan(path)
        one = write_columns(tmp_path / "one.csv", when=("01/02/2024".replace("/", cells[0][2]),), x=(1,))
        new = encode(DataEncoder.from_json(data_plan.encoder.to_json()), one).inputs
        assert new[0, 0] == encode(data_plan.encoder, path).inputs[1, 0]


def test_infinite_numbers_are_said(tmp_path: Path) -> None:
    path = write_columns(tmp_path / "t.csv", x=[*random_column()[:-1], "inf"], y=("p", "q"))
    assert "infinite: 1 cell of 'x': counted as very large or very small" in describe(plan(path))


@pytest.mark.parametrize("mixed", [["a", 1], [1, True], [1.5, "1.5"], [b"x", 1]])
def test_values_of_several_types_are_refused_by_name(mixed: list[Any]) -> None:
    with pytest.raises(DataError, match="y must hold numbers or texts, but has values of several other types: "):
        column_from_values("y", mixed * 10)


def test_objects_with_missing_values() -> None:
    pd = pytest.importorskip("pandas")
    values: list[tuple[Any, Column]] = [
        ([1, None, pd.NA], Column("y", "number", np.array([1, np.nan, np.nan]), (), "int")),
        ([True, None], Column("y", "number", np.array([1, np.nan]), (), "bool")),
        (["a", pd.NA], Column("y", "text", np.array([0, -1]), ["a"], "str")),
        (pd.Series([1.5, None]), Column("y", "number", np.array([1.5, np.nan]), (), "float")),
        (pd.to_datetime(pd.Series(["1970-01-02", None])), Column("y", "date", np.array([86400, np.nan]), (), "date")),
        (pd.Series(["b", None], dtype="category"), Column("y", "text", np.array([0, -1]), ["b"], "str")),
    ]
    for items, expected in values:
        column = column_from_values("y", items)
        np.testing.assert_array_equal(column.values, expected.values)
        assert (column.type, column.levels, column.origin) == (expected.type, expected.levels, expected.origin)
