"""CSV and Parquet files as compact columns: delimiters, encodings, headers, damaged rows, samples."""

import gzip
import math
import tracemalloc
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icecore.core.errors import DataError
from icecore.user_data import plan
from icecore.user_data.column_table import TableOptions
from icecore.user_data.readers import csv_files
from icecore.user_data.readers.table_files import read_table
from user_data_samples import (
    describe,
    people,
    write_csv,
)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_delimiters_and_encodings(tmp_path: Path, delimiter: str, encoding: str):
    path = write_csv(tmp_path / "bücher 書.csv", [["Größe", "x"], ["a,b;c", "1.5"], ["é", "2"]], delimiter, encoding)
    table, files = read_table([path])
    assert table.columns["Größe"].distinct_texts == ["a,b;c", "é"]
    assert table.columns["x"].values.tolist() == [1.5, 2]
    assert files.tolist() == [0, 0]


def test_decimal_commas_in_tables_with_semicolons(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", [["a", "b"], ["1,5", "x,y"], ["-2,25", "z"]], ";")
    table, _ = read_table([path])
    assert table.columns["a"].values.tolist() == [1.5, -2.25]
    assert table.columns["b"].distinct_texts == ["x,y", "z"]


def test_a_gzipped_table_without_a_header(tmp_path: Path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"1,2,a\n3,4,b\n"))
    table, _ = read_table([path])
    assert list(table.columns) == ["column1", "column2", "column3"]
    assert table.columns["column1"].values.tolist() == [1, 3]


def test_a_header_may_count_the_columns(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", [["label", *range(5)], *([["a", *np.arange(5) / 7]] * 3)])
    assert list(read_table([path])[0].columns) == ["label", "0", "1", "2", "3", "4"]


def test_a_cell_that_is_not_a_number_is_missing_or_refused(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", [["a", "b"], *[[i, i] for i in range(99)], ["oops", 1]])
    table, _ = read_table([path])
    assert math.isnan(table.columns["a"].values[-1])
    assert "1 cell of column 'a', such as 'oops', counted as missing" in str(table.notes)
    with pytest.raises(DataError, match=r"t\.csv row 100: column 'a' must hold a number, but has 'oops'"):
        read_table([path], TableOptions(strict=True))


def test_a_ragged_row_is_skipped_or_refused(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3\n4,5\n")
    table, _ = read_table([path])
    assert table.columns["b"].values.tolist() == [2, 5]
    assert "1 damaged row: t.csv line 3" in str(table.notes)
    with pytest.raises(DataError, match=r"t\.csv line 3: the row has 1 cell instead of 2\. Correct it, or leave"):
        read_table([path], TableOptions(strict=True))


def test_lines_of_damaged_rows_count_blank_lines_and_line_breaks_in_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n\n1,"x\ny"\n2\n3,z\n\n4,u,v\n5,w\n')
    for rows_per_batch in (1, 2, 128):
        monkeypatch.setattr(csv_files, "ROWS_PER_BATCH", rows_per_batch)
        table, _ = read_table([path])
        assert table.columns["a"].values.tolist() == [1, 3, 5]
        assert table.columns["b"].distinct_texts == ["x\ny", "z", "w"]
        assert table.row_numbers.tolist() == [0, 2, 4]
        damaged = "t.csv line 5 (1 cell instead of 2), t.csv line 8 (3 cells instead of 2)"
        assert ("skipped", f"2 damaged rows: {damaged}") in table.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty. A table needs a header and at least one row"),
        ("a,b\n", r"t\.csv has no rows\. A table needs a header and at least one row"),
        ("a,a\n1,2\n", "has several columns named a"),
    ],
)
def test_errors_of_files_that_are_not_tables(tmp_path: Path, text: str, message: str):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table([tmp_path / "t.csv"])


def test_an_open_quotation_mark_is_reported_with_its_lines(tmp_path: Path):
    rows = [["a", "b", "y"], *([i, i % 3, "pq"[i % 2]] for i in range(40))]
    path = write_csv(tmp_path / "t.csv", rows)
    lines = path.read_text().splitlines()
    lines[30] = '1,"2,p'
    path.write_text("\n".join(lines))
    position, reason = "t.csv lines 31 to 41", "2 cells instead of 3, perhaps because a quotation mark is not closed"
    assert f"skipped: 1 damaged row: {position} ({reason})" in describe(plan(path))
    path.write_text('a,b\n"1,2\n1,2\n1,2\n')
    with pytest.raises(DataError, match=r"t\.csv has no rows, only 1 damaged row: t\.csv lines 2 to 4"):
        plan(path)


def test_the_size_of_chunks_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_csv(tmp_path / "t.csv", people(50))
    whole, _ = read_table([path])
    monkeypatch.setattr(csv_files, "ROWS_PER_CHUNK", 7)
    pieces, _ = read_table([path])
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(column.values, pieces.columns[name].values)
        assert column.levels == pieces.columns[name].levels


def test_a_sample_depends_on_row_numbers_and_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_csv(tmp_path / "t.csv", [["a"], *[[i] for i in range(1000)]])
    table, _ = read_table([path], TableOptions(max_rows=100))
    sample = table.columns["a"].values
    assert len(sample) == 100
    assert (np.diff(sample) > 0).all()
    np.testing.assert_array_equal(sample, table.row_numbers)
    assert abs(sample.mean() - 499.5) < 90  # 3 standard errors
    assert ("sampled", "100 of 1,000 rows (--max-rows)") in table.notes
    monkeypatch.setattr(csv_files, "ROWS_PER_CHUNK", 33)
    np.testing.assert_array_equal(read_table([path], TableOptions(max_rows=100))[0].columns["a"].values, sample)
    assert set(read_table([path], TableOptions(max_rows=100, seed=1))[0].columns["a"].values) != set(sample)


def test_parquet_gives_what_csv_gives(tmp_path: Path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    rows = people(40)
    columns = dict(zip(rows[0], map(list, zip(*rows[1:], strict=True)), strict=True))
    columns["height"][3] = None
    columns["born"] = [datetime.fromisoformat(text) for text in columns["born"]]
    arrays: dict[str, Any] = {**columns, "nested": [[1, 2]] * 40, "sure": [True, None] * 20}
    arrays["town"] = pa.array(columns["town"]).dictionary_encode()
    pq.write_table(pa.table(arrays), tmp_path / "t.parquet", row_group_size=7)
    rows[4][1] = ""
    write_csv(tmp_path / "t.csv", rows)
    (ours, _), (theirs, _) = read_table([tmp_path / "t.csv"]), read_table([tmp_path / "t.parquet"])
    for name, column in ours.columns.items():
        other = theirs.columns[name]
        assert (column.type, column.levels) == (other.type, other.levels)
        np.testing.assert_allclose(column.values, other.values, rtol=1e-7)
    assert ("dropped", "nested: lists, structures or bytes") in theirs.notes
    np.testing.assert_array_equal(theirs.columns["sure"].values, [1, math.nan] * 20)
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"bad\.parquet cannot be read as Parquet"):
        read_table([tmp_path / "bad.parquet"])


def test_reading_needs_little_more_memory_than_compact_columns(tmp_path: Path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    N = 1_000_000
    table = pa.table({name: np.arange(N, dtype=np.float32) % 1000 for name in "abc"} | {"y": np.arange(N) % 2})
    pq.write_table(table, tmp_path / "t.parquet")
    tracemalloc.start()
    columns, _ = read_table([tmp_path / "t.parquet"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    compact = sum(column.values.nbytes for column in columns.columns.values())
    assert compact == 16 * N
    assert peak < 3 * compact


@pytest.mark.parametrize("order", ["LE", "BE"])
@pytest.mark.parametrize("name", ["t.csv", "t.txt"])
def test_error_of_utf16_without_a_byte_order_mark(tmp_path: Path, order: str, name: str) -> None:
    (tmp_path / name).write_bytes("a,b\tc\n1,2\té\n".encode(f"utf-16-{order.lower()}"))
    with pytest.raises(
        DataError, match=rf"It may be UTF-16 without a byte-order mark\. .* iconv -f UTF-16{order} -t UTF-8"
    ):
        plan(tmp_path / name)
