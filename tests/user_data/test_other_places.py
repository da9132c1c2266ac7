"""The rules of test_what_is_guessed.py in other places: sheets, archives, images, links, data frames, Parquet."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icecore.core.errors import ConfigError, DataError
from icecore.core.storage import cache_dir
from icecore.user_data import DataEncoder, DataSettings, Plan, encode, from_arrays, plan
from icecore.user_data.input_files import check_not_input
from icecore.user_data.split_names import split_of_cell
from user_data_samples import ROWS, describe, encode_image, random_column, write_columns, write_files

LARGE = (12345678901234567, 12345678901234568, 12345678901234569)


def names_of_inputs(data_plan: Plan) -> list[str]:
    return [column.name for column in data_plan.encoder.inputs.columns]  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------- headers


@pytest.mark.parametrize("first", [[3.5, "?", "a"], [1, 2, "b"], [None, 1.5, "a"]])
def test_a_sheet_without_a_header_keeps_its_first_row(tmp_path: Path, first: list[Any]) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in [first, *([i * 7 % 5 + 0.5, i * 3 % 7, "ab"[i % 2]] for i in range(40))]:
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    data_plan = plan(tmp_path / "t.xlsx")
    assert sum(map(len, data_plan.splits.values())) == 41
    assert "header: t.xlsx has none; its columns are called column1 to column3" in describe(data_plan)


def test_lines_that_repeat_the_header_are_no_rows(tmp_path: Path) -> None:
    path = write_columns(tmp_path / "t.csv", x=random_column(), y=("p", "q"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, *lines]))
    data_plan = plan(path)
    assert data_plan.encoder.target.classes == (("p", "q"),)
    assert "skipped: 1 line of t.csv that repeats the header" in describe(data_plan)
    assert sum(map(len, data_plan.splits.values())) == 2 * ROWS


# ------------------------------------------------------------------------------- numbers and codes


def test_codes_that_floats_would_merge_are_categories(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pd = pytest.importorskip("pandas")
    cells = [LARGE[i % 3] for i in range(ROWS)]
    y = ["pq"[i % 3 == 0] for i in range(ROWS)]
    path = write_columns(tmp_path / "t.csv", code=cells, x=random_column(), y=y)
    pq.write_table(pa.table({"code": cells, "x": random_column(), "y": y}), tmp_path / "t.parquet")
    frame = pd.DataFrame({"code": cells, "x": random_column()})
    plans = [plan(path), plan(tmp_path / "t.parquet"), from_arrays(frame, y)]
    array = np.stack([np.array(cells), np.arange(ROWS) * 37 % 101], 1)
    plans.append(from_arrays(array, y))
    for data_plan, new in zip(plans, (path, tmp_path / "t.parquet", frame, array), strict=True):
        assert "read as text because its numbers are too long to be exact, as in '12345678901234567'" in describe(
            data_plan
        )
        columns = data_plan.encoder.inputs.columns  # type: ignore[attr-defined]
        assert columns[0].levels == tuple(map(str, LARGE))
        rows = encode(DataEncoder.from_json(data_plan.encoder.to_json()), new)
        assert rows.inputs[:3, 0].tolist() == [1, 2, 3]


def test_large_numbers_that_stay_different_are_numbers(tmp_path: Path) -> None:
    moments = [1_700_000_000_000_000_000 + 10**6 * i * i for i in range(ROWS)]
    path = write_columns(tmp_path / "t.csv", nanoseconds=moments[::-7] + moments[::-7], x=random_column(), y=("p", "q"))
    assert plan(path).encoder.inputs.columns[0].type == "number"  # type: ignore[attr-defined]


def test_numbers_with_units_are_no_texts_to_learn(tmp_path: Path) -> None:
    for cells in (
        [f"{i}.5 kg" for i in range(ROWS)],
        [f"USD {i}" for i in range(ROWS)],
        [f"{i}ms" for i in range(ROWS)],
    ):
        path = write_columns(tmp_path / "t.csv", amount=cells, y=("p", "q"))
        with pytest.raises(DataError, match="No column is left to learn from"):
            plan(path)
        beside = plan(write_columns(tmp_path / "t.csv", amount=cells, x=random_column(), y=("p", "q")))
        assert "amount is read as text: all of its cells are numbers with '" in describe(beside)
    weeks = plan(write_columns(tmp_path / "t.csv", week=[f"{i % 5}th" for i in range(ROWS)], y=("p", "q")))
    assert "not numbers" not in describe(weeks)


def test_infinite_numbers_of_parquet_and_frames_are_said(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pd = pytest.importorskip("pandas")
    columns = {"x": [*random_column()[:-1], float("inf")], "y": [i % 2 for i in range(ROWS)]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    for data_plan in (plan(tmp_path / "t.parquet"), from_arrays(pd.DataFrame({"x": columns["x"]}), columns["y"])):
        assert "infinite: 1 cell of 'x': counted as very large or very small" in describe(data_plan)


@pytest.mark.parametrize("kind", ["day", "minute"])
def test_dates_that_count_the_rows_are_dropped(tmp_path: Path, kind: str) -> None:
    step = {"day": "D", "minute": "m"}[kind]
    dates = np.datetime64("2024-01-01T00:00") + np.arange(ROWS).astype(f"timedelta64[{step}]")
    labels = ["p"] * 60 + ["q"] * 60
    path = write_columns(tmp_path / "t.csv", when=dates.astype(str).tolist(), x=random_column(), y=labels)
    data_plan = plan(path)
    assert "dropped: when: a different date in every row, so it is an id (--keep takes it)" in describe(data_plan)
    assert names_of_inputs(plan(path, DataSettings(keep=("when",)))) == ["when", "x"]
    shuffled = np.random.default_rng(0).permutation(dates).astype(str).tolist()
    assert names_of_inputs(plan(write_columns(tmp_path / "s.csv", when=shuffled, x=random_column(), y=labels))) == [
        "when",
        "x",
    ]


# ------------------------------------------------------------------------------- ids, groups and copies


def test_the_letters_of_ids_are_not_learned(tmp_path: Path) -> None:
    path = write_columns(tmp_path / "t.csv", id=[f"a{i}" for i in range(ROWS)], breed=("p", "q"))
    with pytest.raises(DataError, match=r"No column is left to learn from \(id: .*name it with --column"):
        plan(path)
    assert plan(path, DataSettings(column="id")).encoder.form == "strings"
    named = plan(write_columns(tmp_path / "t.csv", name=[f"a{i}" for i in range(ROWS)], country=("p", "q")))
    assert named.encoder.settings.column == "name"


def grey(value: int) -> bytes:
    """An image file of one brightness."""
    file = io.BytesIO()
    pytest.importorskip("PIL.Image").new("L", (8, 8), value).save(file, "png")
    return file.getvalue()


def patients(count: int) -> list[str]:
    return [f"P{i // 3}" for i in range(count)]


def groups_of_splits(data_plan: Plan, values: Sequence[Any]) -> list[set[Any]]:
    """The groups in each split, by the first value of each row."""
    return [{values[int(row.flatten()[0])] for row in part.inputs} for part in data_plan.splits.values()]


def test_images_of_one_patient_share_a_split(tmp_path: Path) -> None:
    write_files(tmp_path, {f"{i}.png": grey(i) for i in range(60)})
    rows = [f"{i}.png,{who},{'pq'[i % 2]}" for i, who in enumerate(patients(60))]
    (tmp_path / "labels.csv").write_text("\n".join(["file,patient_id,label", *rows]))
    data_plan = plan(tmp_path)
    assert "groups: 20 groups: rows with one 'patient_id' share a split, and it is no input" in describe(data_plan)
    first, *others = groups_of_splits(data_plan, patients(60))
    assert not any(first & other for other in others)


def test_texts_and_series_of_one_person_share_a_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdef"), 20)) for _ in range(60)]
    rows = [f"{text},{who},{'pq'[i % 2]}" for i, (text, who) in enumerate(zip(texts, patients(60), strict=True))]
    (tmp_path / "t.csv").write_text("\n".join(["text,speaker,label", *rows]))
    by_text = plan(tmp_path / "t.csv", DataSettings(column="text"))
    points = [
        f"s{i},{t},{rng.normal():.3f},{who},{'pq'[i % 2]}" for i, who in enumerate(patients(60)) for t in range(5)
    ]
    (tmp_path / "s.csv").write_text("\n".join(["s,t,v,subject,label", *points]))
    by_series = plan(tmp_path / "s.csv", DataSettings(series="s", time="t"))
    for data_plan, name in ((by_text, "speaker"), (by_series, "subject")):
        assert f"groups: 20 groups: rows with one {name!r} share a split" in describe(data_plan)
        assert all(len(part) % 3 == 0 for part in data_plan.splits.values())


def test_copies_of_images_in_archives_and_cells_share_a_split(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for i in range(60):
            archive.writestr(f"{'ab'[i % 2]}/{i}.png", grey(i % 30))
    data_plan = plan(tmp_path / "z.zip")
    assert "copies: 30 rows with the inputs of another; copies share a split" in describe(data_plan)
    first, *others = groups_of_splits(data_plan, range(60))
    assert not any(first & other for other in others)


def test_doubled_points_without_times_are_said(tmp_path: Path) -> None:
    rows = [f"{s},{t},{s + t / 7:.3f},{'pq'[s % 2]}" for s in range(20) for t in range(6)]
    (tmp_path / "t.csv").write_text("\n".join(["s,t,v,label", *(row for row in rows for _ in range(2))]))
    data_plan = plan(tmp_path / "t.csv", DataSettings(series="s", values=("v",)))
    assert "copies: 120 rows like the one before, kept as a point: no --time says" in describe(data_plan)


# ------------------------------------------------------------------------------- splits and targets


def test_cells_that_name_splits() -> None:
    assert [split_of_cell("is_test", word) for word in ("True", "0", "maybe")] == ["test", "train", ""]
    assert [split_of_cell("in_train", word) for word in ("1", "FALSE")] == ["train", "test"]
    assert split_of_cell("is_red", "1") == split_of_cell("island", "1") == ""


@pytest.mark.parametrize(("name", "cells"), [("is_test", "01"), ("is_train", ("True", "False")), ("in_test", "01")])
def test_columns_of_truth_values_may_name_splits(tmp_path: Path, name: str, cells: Sequence[str]) -> None:
    column = [cells[i % 4 == 0] for i in range(ROWS)]
    path = write_columns(tmp_path / "t.csv", **{"x": random_column(), name: column, "label": ("p", "q", "r")})
    data_plan = plan(path)
    assert len(data_plan.splits["test"]) == ROWS // 4
    assert f"splits: those that column {name!r} names" in describe(data_plan)
    assert names_of_inputs(plan(path, DataSettings(split="none"))) == ["x", name]


@pytest.mark.parametrize("name", ["phase", "dataset", "which part", "ML"])
def test_cells_that_say_train_and_test_are_splits_whatever_the_name_of_the_column(tmp_path: Path, name: str) -> None:
    path = write_columns(
        tmp_path / "t.csv", **{"x": random_column(), name: ("train", "Test", "train"), "y": ("p", "q")}
    )
    data_plan = plan(path)
    assert len(data_plan.splits["test"]) == ROWS // 3
    assert f"splits: those that column {name!r} names" in describe(data_plan)
    other = plan(write_columns(tmp_path / "t.csv", x=random_column(), stage=("dev", "test"), y=("p", "q", "r")))
    assert names_of_inputs(other) == ["x", "stage"]


def test_no_other_label_takes_the_place_of_the_target(tmp_path: Path) -> None:
    """Neither of records that lack the field, nor in a table that is scored."""
    records = [
        f">s{i} label={i % 5}{f' family={chr(112 + i % 2)}' if i < 30 else ''}\n{'ACDE'[i % 4] * (4 + i)}"
        for i in range(40)
    ]
    (tmp_path / "s.fasta").write_text("\n".join(records))
    data_plan = plan(tmp_path / "s.fasta", DataSettings(target=("family",)))
    assert data_plan.encoder.target.classes == (("p", "q"),)
    assert "labels: 30 of 40 sequences have one; without: s30, s31, s32 and 7 more" in describe(data_plan)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "n.fasta").write_text(">s1\nACDE\n>s2\nAC\n")
    (tmp_path / "new" / "labels.csv").write_text("id,length\ns1,p\ns2,q\n")
    assert encode(data_plan.encoder, tmp_path / "new" / "n.fasta").targets is None


def test_a_truth_value_that_may_be_the_target_or_a_feature_is_no_split(tmp_path: Path) -> None:
    path = write_columns(tmp_path / "t.csv", x=random_column(), is_valid=("1", "0", "1"), y=("p", "q"))
    assert names_of_inputs(plan(path)) == ["x", "is_valid"]
    assert len(plan(path, DataSettings(split="is_valid")).splits["val"]) == 80
    last = plan(write_columns(tmp_path / "t.csv", x=random_column(), is_test=("1", "0")))
    assert last.encoder.target.names == ("is_test",)


def test_a_table_beside_folders_of_classes_is_used_if_the_target_says_so(tmp_path: Path) -> None:
    files = {f"{['cat', 'dog'][i % 2]}/{i}.png": encode_image("L", (8, 8), 3 * i) for i in range(40)}
    write_files(tmp_path, files)
    rows = "".join(f"{i},{'pqr'[i % 3]}\n" for i in range(40))
    (tmp_path / "labels.csv").write_text(f"id,breed\n{rows}")
    folders = plan(tmp_path)
    assert folders.encoder.target.classes == (("cat", "dog"),)
    assert "left out: labels.csv: the folders are the classes (--target takes a column of it)" in describe(folders)
    breeds = plan(tmp_path, DataSettings(target=("breed",)))
    assert breeds.encoder.target.classes == (("p", "q", "r"),)
    assert len(encode(breeds.encoder, tmp_path, score=True)) == 40
    assert len(encode(folders.encoder, tmp_path, score=True)) == 40


def test_a_target_that_a_data_frame_lacks_is_refused() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": random_column(), "y": ["p", "q"] * (ROWS // 2)})
    with pytest.raises(ConfigError, match=r"Unknown target column 'z'\. Known: x, y"):
        from_arrays(frame, None, DataSettings(target=("y", "z")))


def test_folders_of_tables_whose_names_say_nothing_are_said(tmp_path: Path) -> None:
    for name in ("walking", "running"):
        (tmp_path / name).mkdir()
        write_columns(tmp_path / name / "1.csv", x=random_column(), y=("p", "q"))
    text = describe(plan(tmp_path))
    assert "left out: the names of the folders running, walking: rename them, as in class=running" in text
    for name in ("walking", "running"):
        (tmp_path / name).rename(tmp_path / f"class={name}")
    assert plan(tmp_path).encoder.target.classes == (("running", "walking"),)


def test_files_that_are_not_read_are_said(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    write_columns(tmp_path / "t.csv", x=random_column(), y=("p", "q"))
    write_columns(tmp_path / "more" / "u.csv", x=random_column(), y=("p", "q"))
    (tmp_path / "s.fasta").write_text(">a\nACGT\n")
    data_plan = plan(tmp_path, DataSettings(kind="table"))
    assert "left out: 2 other files in the folder: more/u.csv, s.fasta" in describe(data_plan)


def test_a_class_whose_files_are_no_images_does_not_vanish_without_a_word(tmp_path: Path) -> None:
    names = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(8)]
    files = {name: encode_image("L", (8, 8), 9 * i) for i, name in enumerate(names)}
    write_files(tmp_path, {**files, "cow/1.heic": b"x", "cow/2.heic": b"x", "labels.txt": b"x"})
    (tmp_path / "hen").mkdir()
    text = describe(plan(tmp_path))
    assert "left out: 2 files that are no image by name: cow/1.heic, cow/2.heic" in text
    assert "left out: folders without images: cow, hen" in text


@pytest.mark.parametrize("name", ["t.txt", "s.fasta"])
def test_the_encoding_of_texts_is_said(tmp_path: Path, name: str) -> None:
    form = "{}\t{}" if name == "t.txt" else ">s label={}\n{}"
    lines = [form.format("pq"[i % 2], "äöü"[i % 3] * (3 + i % 9) + "abc"[i % 2]) for i in range(40)]
    (tmp_path / name).write_text("\n".join(lines), encoding="latin-1")
    assert f"encoding: {name}: Latin-1" in describe(plan(tmp_path / name))


def test_shares_are_not_taken_for_per_cent(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    cells = [f"{i % 50}%" for i in range(ROWS)]
    encoder = plan(write_columns(tmp_path / "t.csv", share=cells, x=random_column(), y=("p", "q"))).encoder
    with pytest.raises(DataError, match="column 'share': none of its 120 cells is a number as in training"):
        encode(encoder, write_columns(tmp_path / "n.csv", share=("0.05", "0.1"), x=random_column()))
    pq.write_table(pa.table({"share": [5.0] * 3, "x": [1.0] * 3}), tmp_path / "n.parquet")
    notes = encode(encoder, tmp_path / "n.parquet").notes
    assert ("per cent", "share: these numbers are taken as per cent, as in training: 5 is 5 %") in notes


# ------------------------------------------------------------------------------- axes, links, outputs, the home folder


def test_the_axis_of_time_in_cells_of_parquet(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    y = ["p", "q"] * 20
    wide, flat = rng.normal(size=(40, 3, 50)), rng.normal(size=(40, 1, 50))
    pq.write_table(pa.table({"values": wide.tolist(), "y": y}), tmp_path / "w.parquet")
    pq.write_table(pa.table({"values": flat.tolist(), "y": y}), tmp_path / "f.parquet")
    assert "axes: (40, 3, 50) has 3 points in time with 50 values each; if time is last" in describe(
        plan(tmp_path / "w.parquet")
    )
    turned = plan(tmp_path / "w.parquet", DataSettings(axes="time-last"))
    assert (turned.encoder.spec.length, turned.encoder.spec.size) == (50, 3)
    encoder = DataEncoder.from_json(turned.encoder.to_json())
    np.testing.assert_allclose(encode(encoder, tmp_path / "w.parquet").inputs, encode(encoder, wide).inputs, atol=1e-6)
    single = plan(tmp_path / "f.parquet")
    assert (single.encoder.spec.length, single.encoder.spec.size) == (50, 1)
    pq.write_table(pa.table({"values": [None, [[]], *wide.tolist()[2:]], "y": y}), tmp_path / "e.parquet")
    assert "empty: no values in 2 rows" in describe(plan(tmp_path / "e.parquet", DataSettings(axes="time-last")))


def test_links_to_nothing_are_refused(tmp_path: Path) -> None:
    names = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(8)]
    write_files(tmp_path, {name: encode_image("L", (8, 8), 9 * i) for i, name in enumerate(names)})
    (tmp_path / "cow").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=r"cow is a link to something that is not there"):
        plan(tmp_path)
    (tmp_path / "cow").rename(tmp_path / ".cow")
    assert plan(tmp_path).encoder.target.classes == (("cat", "dog"),)


def test_no_output_is_written_over_what_is_read_beside_the_data(tmp_path: Path) -> None:
    for name in ("Set_TRAIN.tsv", "Set_TEST.tsv", "t.csv", "img/a.png"):
        write_files(tmp_path, {name: b"1\t2\n"})
    for out, data in (("Set_TEST.tsv", "Set_TRAIN.tsv"), ("set_test.tsv", "Set_TRAIN.tsv"), ("img/a.png", "t.csv")):
        with pytest.raises(ConfigError, match="is also an input file and would be overwritten"):
            check_not_input(tmp_path / out, tmp_path / data)
    check_not_input(tmp_path / "t.png", tmp_path / "t.csv")
    check_not_input(tmp_path / "out.csv", tmp_path / "Set_TRAIN.tsv")


def test_the_home_folder_is_found_in_a_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ICECORE_CACHE", "~/cache")
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("ICECORE_CACHE")
    assert cache_dir() == tmp_path / ".cache" / "icecore"
