"""Tables of one's own: CSV and Parquet as compact columns, tokens by columns, series long and wide."""

import csv
import gzip
import math
import tracemalloc
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icecore.core.errors import ConfigError, DataError, UserError
from icecore.user_data import DataEncoder, DataSettings, encode, from_arrays, plan
from icecore.user_data.columns import date, number
from icecore.user_data.encoders.tablecode import FARTHEST, TableEncoder, date_parts
from icecore.user_data.readers import tables as own_tables
from icecore.user_data.readers.tables import read_table
from icecore.user_data.records import column_of


def write(path: Path, rows: Iterable[Sequence[Any]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def people(count: int = 60) -> list[list[Any]]:
    """A table with a column of each kind: the class is whether the height is above 1.5."""
    rng = np.random.default_rng(0)
    rows: list[list[Any]] = [["id", "height", "town", "born", "remark", "planet", "tall"]]
    for i in range(count):
        height = round(float(rng.uniform(1, 2)), 3)
        town, born = ("Ulm", "Köln", "北京")[i % 3], f"{1950 + i % 50}-0{1 + i % 9}-1{i % 10}"
        remark = " ".join(rng.choice(list("abcdefgh"), 12))
        rows.append([i + 100, height, town, born, remark, "Earth", "yes" if height > 1.5 else "no"])
    return rows


def notes(found: Any) -> str:
    return "\n".join(f"{what}: {text}" for what, text in found.describe())


# ------------------------------------------------------------------------------------------ cells and columns


@pytest.mark.parametrize(("cell", "value"), [("1", 1), (" -2.5e3 ", -2500), ("NA", math.nan), ("", math.nan)])
def test_numbers(cell: str, value: float):
    np.testing.assert_equal(number(cell), value)


@pytest.mark.parametrize("cell", ["2021-03-04", "2021-03-04T05:06:07", "2021-03-04 05:06:07+02:00", "2021/03/04"])
def test_dates_are_seconds_since_1970(cell: str):
    moment = datetime.fromisoformat(cell.replace("/", "-"))
    assert date(cell) == moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


@pytest.mark.parametrize("cell", ["20210304", "3.5", "yesterday", "04.03.2021"])
def test_what_is_no_date(cell: str):
    with pytest.raises(ValueError, match=r"."):
        date(cell)


def test_parts_of_a_date_agree_with_datetime():
    moments = ["1969-12-31T23:59:59+00:00", "2024-02-29T12:00:00+00:00", "2000-01-01T00:00:01+00:00"]
    parts = date_parts(np.array([datetime.fromisoformat(m).timestamp() for m in moments] + [math.nan]))
    for text, (days, month, weekday, second) in zip(moments, parts, strict=False):
        moment = datetime.fromisoformat(text)
        assert days == pytest.approx(moment.timestamp() / 86400)
        of_day = moment.hour * 3600 + moment.minute * 60 + moment.second
        assert (month, weekday, second) == (moment.month, moment.weekday(), of_day)
    assert np.isnan(parts[3]).all()


def test_labels_of_numbers_are_written_as_people_do():
    assert column_of("y", np.array([3.0, 1.0, math.nan])).labelled().levels == ["1", "3"]
    assert column_of("y", [0.5, 1.0]).labelled().levels == ["0.5", "1.0"]
    assert column_of("y", [True, False]).labelled().levels == ["False", "True"]
    assert column_of("y", np.array(["b", "a", None], object)).labelled().values.tolist() == [1, 0, -1]
    with pytest.raises(DataError, match="y: expected numbers or texts, found complex128"):
        column_of("y", np.array([1j]))


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_delimiters_and_encodings(tmp_path: Path, delimiter: str, encoding: str):
    path = write(tmp_path / "bücher 書.csv", [["Größe", "x"], ["a,b;c", "1.5"], ["é", "2"]], delimiter, encoding)
    table, files = read_table([path])
    assert table.columns["Größe"].texts == ["a,b;c", "é"]
    assert table.columns["x"].values.tolist() == [1.5, 2]
    assert files.tolist() == [0, 0]


def test_decimal_commas_where_semicolons_delimit(tmp_path: Path):
    path = write(tmp_path / "t.csv", [["a", "b"], ["1,5", "x,y"], ["-2,25", "z"]], ";")
    table, _ = read_table([path])
    assert table.columns["a"].values.tolist() == [1.5, -2.25]
    assert table.columns["b"].texts == ["x,y", "z"]


def test_gzip_and_a_missing_header(tmp_path: Path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"1,2,a\n3,4,b\n"))
    table, _ = read_table([path])
    assert list(table.columns) == ["column1", "column2", "column3"]
    assert table.columns["column1"].values.tolist() == [1, 3]


def test_a_header_of_counted_columns_is_a_header(tmp_path: Path):
    path = write(tmp_path / "t.csv", [["label", *range(5)], *([["a", *np.arange(5) / 7]] * 3)])
    assert list(read_table([path])[0].columns) == ["label", "0", "1", "2", "3", "4"]


def test_a_cell_that_is_no_number_is_missing_or_refused(tmp_path: Path):
    path = write(tmp_path / "t.csv", [["a", "b"], *[[i, i] for i in range(99)], ["oops", 1]])
    table, _ = read_table([path])
    assert math.isnan(table.columns["a"].values[-1])
    assert "1 cell of 'a', say 'oops'" in str(table.notes)
    with pytest.raises(DataError, match=r"t.csv row 100: column 'a' has 'oops', expected a number"):
        read_table([path], strict=True)


def test_a_ragged_row_is_skipped_or_refused(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n3\n4,5\n")
    table, _ = read_table([path])
    assert table.columns["b"].values.tolist() == [2, 5]
    assert "1 damaged row: t.csv line 3" in str(table.notes)
    with pytest.raises(DataError, match=r"t\.csv line 3: expected 2 cells, found 1"):
        read_table([path], strict=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a header and rows"),
        ("a,b\n", r"t\.csv: has no rows; expected a header and at least one row"),
        ("a,a\n1,2\n", "several columns are called a"),
    ],
)
def test_files_that_are_no_tables(tmp_path: Path, text: str, message: str):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_table([tmp_path / "t.csv"])


def test_a_quote_left_open_says_what_it_took(tmp_path: Path):
    rows = [["a", "b", "y"], *([i, i % 3, "pq"[i % 2]] for i in range(40))]
    path = write(tmp_path / "t.csv", rows)
    lines = path.read_text().splitlines()
    lines[30] = '1,"2,p'
    path.write_text("\n".join(lines))
    assert "skipped: 1 damaged row: t.csv lines 31 to 41 (expected 3 cells, found 2)" in notes(plan(path))
    path.write_text('a,b\n"1,2\n1,2\n1,2\n')
    with pytest.raises(DataError, match=r"t\.csv: has no rows but 1 damaged one: t\.csv lines 2 to 4"):
        plan(path)


def test_numbers_beyond_float32_are_as_far_as_can_be(tmp_path: Path):
    rows = [["a", "y"], *([i, i % 2] for i in range(40)), ["1e39", 1], ["-1e300", 0]]
    path = write(tmp_path / "t.csv", rows)
    X = np.array([[float(a)] for a, _ in rows[1:]])
    for found in (plan(path), from_arrays(X, [y for _, y in rows[1:]])):
        task = found.task()
        tokens = torch.cat([batch.tokens for split in ("train", "val", "test") for batch in task.batches(split, 100)])
        assert tokens.isfinite().all()
        assert {tokens.min().item(), tokens.max().item()} == {-FARTHEST, FARTHEST}
        assert 0.5 < task.splits["train"].inputs.nan_to_num(0, 0, 0).std() < 2
    with pytest.raises(DataError, match="target 'y' has values too large to square"):
        from_arrays(np.arange(40)[:, None], np.arange(40) * 1e200)


def test_the_likeliest_of_several_usual_names_is_the_target(tmp_path: Path):
    rows = [["x", "y", "label"], *([i, i / 7, "pq"[i % 2]] for i in range(40))]
    assert plan(write(tmp_path / "t.csv", rows)).encoder.target.names == ("label",)


def test_chunks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "t.csv", people(50))
    whole, _ = read_table([path])
    monkeypatch.setattr(own_tables, "CHUNK", 7)
    pieces, _ = read_table([path])
    for name, column in whole.columns.items():
        np.testing.assert_array_equal(column.values, pieces.columns[name].values)
        assert column.levels == pieces.columns[name].levels


def test_a_sample_depends_on_row_numbers_and_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write(tmp_path / "t.csv", [["a"], *[[i] for i in range(1000)]])
    table, _ = read_table([path], max_rows=100)
    kept = table.columns["a"].values
    assert len(kept) == 100
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(kept, table.numbers)
    assert abs(kept.mean() - 499.5) < 90  # 3 standard errors
    assert ("sampled", "100 of 1,000 rows (--max-rows)") in table.notes
    monkeypatch.setattr(own_tables, "CHUNK", 33)
    np.testing.assert_array_equal(read_table([path], max_rows=100)[0].columns["a"].values, kept)
    assert set(read_table([path], max_rows=100, seed=1)[0].columns["a"].values) != set(kept)


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
    write(tmp_path / "t.csv", rows)
    (ours, _), (theirs, _) = read_table([tmp_path / "t.csv"]), read_table([tmp_path / "t.parquet"])
    for name, column in ours.columns.items():
        other = theirs.columns[name]
        assert (column.type, column.levels) == (other.type, other.levels)
        np.testing.assert_allclose(column.values, other.values, rtol=1e-7)
    assert ("dropped", "nested: lists, structures or bytes") in theirs.notes
    np.testing.assert_array_equal(theirs.columns["sure"].values, [1, math.nan] * 20)
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-9])
    with pytest.raises(DataError, match=r"bad\.parquet: cannot be read as Parquet"):
        read_table([tmp_path / "bad.parquet"])


def test_memory_is_that_of_compact_columns(tmp_path: Path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    N = 1_000_000
    table = pa.table({name: np.arange(N, dtype=np.float32) % 1000 for name in "abc"} | {"y": np.arange(N) % 2})
    pq.write_table(table, tmp_path / "t.parquet")
    tracemalloc.start()
    found, _ = read_table([tmp_path / "t.parquet"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    compact = sum(column.values.nbytes for column in found.columns.values())
    assert compact == 16 * N
    assert peak < 3 * compact


# ------------------------------------------------------------------------------------------ tokens


def test_every_kind_of_column(tmp_path: Path):
    found = plan(write(tmp_path / "people.csv", people()))
    code = found.encoder.inputs
    assert isinstance(code, TableEncoder)
    assert [(c.name, c.type) for c in code.columns] == [("height", "number"), ("town", "text"), ("born", "date")]
    assert code.columns[1].levels == ("Köln", "Ulm", "北京")
    text = notes(found)
    assert "dropped: id: another number in every row" in text
    assert "dropped: remark: texts rather than categories" in text
    assert "dropped: planet: constant" in text
    assert "target: 'tall', the last column" in text
    assert found.encoder.target.classes == (("no", "yes"),)


def test_tokens_hold_each_column_in_slots_of_its_own():
    X = np.random.default_rng(0).normal(3, 5, (40, 5))
    X[::7, 2] = math.nan
    found = from_arrays(X, np.arange(40) % 2)
    task = found.task()
    batch = next(task.batches("train", 100))
    rows = found.splits["train"].inputs
    assert batch.tokens.shape == (len(rows), 5, 6)  # one column has a flag
    slots = [[0], [1], [2, 3], [4], [5]]
    for token, own in enumerate(slots):
        others = [slot for slot in range(6) if slot not in own]
        assert not batch.tokens[:, token, others].any()
        expected = rows[:, token].nan_to_num(0)
        torch.testing.assert_close(batch.tokens[:, token, own[0]], expected)
    assert torch.equal(batch.tokens[:, 2, 3], rows[:, 2].isnan().float())
    assert rows[:, 0].mean().abs() < 1e-6
    assert rows[:, 0].std(correction=0) == pytest.approx(1, rel=1e-5)


def test_many_columns_share_tokens_and_slots():
    X = np.random.default_rng(0).normal(size=(20, 1000))
    found = from_arrays(X, np.arange(20) % 2)
    spec = found.encoder.spec
    assert (spec.length, spec.size) == (63, 16)
    batch = next(found.task().batches("train", 20))
    torch.testing.assert_close(batch.tokens.flatten(1)[:, :1000], found.splits["train"].inputs)


def test_numbers_beyond_belief_are_bounded():
    X = np.random.default_rng(0).normal(size=(30, 2))
    encoder = from_arrays(X, np.arange(30) % 2).encoder
    rows = encode(encoder, np.array([[1e30, -np.inf]]))
    assert next(rows.task(encoder).batches("test", 1)).tokens.abs().amax() == FARTHEST


def test_new_rows_of_a_table(tmp_path: Path):
    rows = people()
    encoder = DataEncoder.from_json(plan(write(tmp_path / "people.csv", rows)).encoder.to_json())
    order = [2, 1, 3, 0]
    new = [[row[i] for i in order] for row in rows[:9]]  # other order, fewer columns, no target
    new[1][0] = "Atlantis"
    new[2][1] = ""
    found = encode(encoder, write(tmp_path / "new.csv", new))
    assert (len(found), found.targets) == (8, None)
    assert "1 cell of 'town' without a slot for the category" in str(found.notes)
    assert "height (1)" in str(found.notes)
    again = encode(encoder, tmp_path / "people.csv", score=True)
    torch.testing.assert_close(found.inputs[2:], again.inputs[2:8])
    with pytest.raises(DataError, match="lacks 1 column seen in training: height; add it"):
        encode(encoder, write(tmp_path / "less.csv", [row[2:] for row in rows]))
    with pytest.raises(DataError, match="has no column tall to score against"):
        encode(encoder, tmp_path / "new.csv", score=True)
    rows[5][-1] = "perhaps"
    with pytest.raises(DataError, match="1 row of classes of 'tall' that training rows lack: perhaps"):
        encode(encoder, write(tmp_path / "odd.csv", rows), score=True)
    assert "perhaps" in str(encode(encoder, tmp_path / "odd.csv").notes)


def test_one_column_of_sequences(tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = [[i, "".join(rng.choice(list("ACGT"), rng.integers(5, 20))), i % 2] for i in range(40)]
    path = write(tmp_path / "dna.csv", [["id", "dna", "label"], *rows])
    found = plan(path)
    assert found.encoder.inputs.describe() == "texts of up to 19 characters out of 4, one a token"
    assert found.encoder.settings.column == "dna"
    named = plan(path, DataSettings(column="dna"))
    assert named.sha256() == found.sha256()
    assert len(encode(found.encoder, write(tmp_path / "new.csv", [["dna"], ["ACGT"], ["NNN"]]))) == 2
    with pytest.raises(ConfigError, match="unknown sequence column 'rna'; did you mean 'dna'"):
        plan(path, DataSettings(column="rna"))


def test_a_split_column_and_files_by_split(tmp_path: Path):
    rows = people(60)
    header, body = rows[0], rows[1:]
    split = ["train"] * 40 + ["valid"] * 8 + ["test"] * 12
    path = write(tmp_path / "one.csv", [[*header, "split"], *[[*r, s] for r, s in zip(body, split, strict=True)]])
    one = plan(path, DataSettings(target=("tall",)))
    folder = tmp_path / "three"
    folder.mkdir()
    for name, part in {"train": body[:40], "val": body[40:48], "test": body[48:]}.items():
        write(folder / f"{name}.csv", [header, *part])
    three = plan(folder, DataSettings(target=("tall",)))
    assert [len(part) for part in one.splits.values()] == [40, 8, 12]
    assert one.sha256() == three.sha256()


def test_columns_that_do_not_exist(tmp_path: Path):
    path = write(tmp_path / "people.csv", people())
    with pytest.raises(UserError, match="unknown target column 'tal'; did you mean 'tall'"):
        plan(path, DataSettings(target=("tal",)))
    with pytest.raises(UserError, match="unknown column 'hight'; did you mean 'height'"):
        plan(path, DataSettings(drop=("hight",)))


# ------------------------------------------------------------------------------------------ series


def waves(count: int = 30) -> tuple[list[np.ndarray], list[str]]:
    rng = np.random.default_rng(0)
    labels = ["slow" if i % 2 else "fast" for i in range(count)]
    return [np.sin(np.arange(10 + i % 5) * (1 + i % 2)) + rng.normal(0, 0.1, 10 + i % 5) for i in range(count)], labels


def test_series_long_wide_and_in_memory_are_the_same(tmp_path: Path):
    series, labels = waves()
    width = max(map(len, series))
    wide = [[*s, *[""] * (width - len(s)), label] for s, label in zip(series, labels, strict=True)]
    write(tmp_path / "wide.csv", [[*(f"t{i}" for i in range(width)), "label"], *wide])
    rng = np.random.default_rng(1)
    long = [[f"s{i:02}", t, v, labels[i]] for i, s in enumerate(series) for t, v in enumerate(s)]
    order = rng.permutation(len(long))  # points in any order, series in order of appearance
    first = [next(k for k in range(len(long)) if long[k][0] == f"s{i:02}") for i in range(len(series))]
    rest = [k for k in order if k not in set(first)]
    write(tmp_path / "long.csv", [["series", "time", "value", "label"], *[long[k] for k in [*first, *rest]]])
    settings = DataSettings(target=("label",))
    plans = [
        plan(tmp_path / "wide.csv", DataSettings(kind="series")),
        plan(tmp_path / "long.csv", DataSettings(series="series", time="time")),
        from_arrays([s.astype(np.float32) for s in series], labels, settings),
    ]
    for found in plans:
        assert (found.encoder.spec.length, found.encoder.spec.size) == (14, 1)
        for name in ("train", "val", "test"):
            torch.testing.assert_close(found.splits[name].inputs, plans[0].splits[name].inputs, rtol=1e-4, atol=1e-5)
            assert torch.equal(found.splits[name].lengths, plans[0].splits[name].lengths)  # type: ignore[arg-type]
    rows = encode(plans[1].encoder, tmp_path / "long.csv", score=True)
    assert list(rows.names[:2]) == ["s00", "s01"]


def test_rows_to_predict_are_all_kept_and_numbered_as_in_the_file(tmp_path: Path):
    found = plan(write(tmp_path / "people.csv", people()), DataSettings(max_rows=30))
    assert sum(len(part) for part in found.splits.values()) == 30
    lines = (tmp_path / "people.csv").read_text(encoding="utf-8").splitlines()
    lines[3] = "cut,short"
    (tmp_path / "cut.csv").write_text("\n".join(lines), encoding="utf-8")
    rows = encode(found.encoder, tmp_path / "cut.csv")
    assert list(rows.names) == [str(i) for i in range(60) if i != 2]
    assert "1 damaged row: cut.csv line 4" in str(rows.notes)


def test_times_that_cannot_be_ordered(tmp_path: Path):
    path = write(tmp_path / "t.csv", [["s", "t", "v", "y"], ["a", "early", 1, 0], ["b", "late", 2, 1]])
    with pytest.raises(DataError, match="column 't' is text; expected numbers or ISO dates"):
        plan(path, DataSettings(series="s", time="t"))


def test_a_target_that_changes_within_a_series(tmp_path: Path):
    path = write(tmp_path / "t.csv", [["s", "v", "y"], ["a", 1, 0], ["b", 2, 1], ["b", 3, 0]])
    with pytest.raises(DataError, match="target 'y' changes within series 'b'"):
        plan(path, DataSettings(series="s"))
