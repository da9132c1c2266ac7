"""Other spellings of what test_what_is_guessed.py tests: headers, numbers, lists of series, names of splits."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from icecore.core.errors import DataError
from icecore.user_data import DataSettings, encode, from_arrays, plan
from user_data_samples import describe

LABELS = ["a", "b"] * 20


def write(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


# ------------------------------------------------------------------------------- the first row


@pytest.mark.parametrize("first", ["NA,2,b", ",1,b", "1,,a", "?,1,a", "null,3,b"])
def test_a_first_row_with_a_missing_cell_beside_numbers_is_no_header(tmp_path: Path, first: str) -> None:
    rows = [f"{i * 7 % 5}.5,{i * 3 % 7},{'ab'[i % 2]}" for i in range(40)]
    data_plan = plan(write(tmp_path / "t.csv", [first, *rows]))
    assert sum(map(len, data_plan.splits.values())) == 41
    assert data_plan.encoder.target.names == ("column3",)


@pytest.mark.parametrize("header", [",0,1", "a,b,label", "NA,K,label", ",x,label"])
def test_headers_stay_headers(tmp_path: Path, header: str) -> None:
    rows = [f"{i * 7 % 5}.5,{i * 3 % 7}.25,{'ab'[i % 2]}" for i in range(40)]
    assert sum(map(len, plan(write(tmp_path / "t.csv", [header, *rows])).splits.values())) == 40


def test_a_first_row_of_texts_that_come_again_is_no_header(tmp_path: Path) -> None:
    rows = [f"{'C' * (i % 9 + 1)}O{'N' * (i // 9)}\t{'ab'[i % 2]}" for i in range(40)]
    data_plan = plan(write(tmp_path / "m.tsv", rows))
    assert data_plan.encoder.target.classes == (("a", "b"),)
    assert sum(map(len, data_plan.splits.values())) == 40


@pytest.mark.parametrize("header", ["SMILES\tlabel", "smiles\tactivity class"])
def test_a_line_that_names_the_columns_is_no_text(tmp_path: Path, header: str) -> None:
    rows = [f"{'C' * (i % 9 + 1)}O{'N' * (i // 9)}\t{'ab'[i % 2]}" for i in range(40)]
    data_plan = plan(write(tmp_path / "m.smi", [header, *rows]))
    assert data_plan.encoder.target.classes == (("a", "b"),)
    assert "header: the first line names the columns" in describe(data_plan)
    new = encode(data_plan.encoder, write(tmp_path / "new.smi", ["smiles", "CCO", "CCN"]))
    assert len(new) == 2


# ------------------------------------------------------------------------------- numbers and missing values


@pytest.mark.parametrize(
    "cells", [["\u22123", "4", "5"], ["(3)", "4", "5"], ["($3)", "$4", "$5"], ["(3,50)", "4,25", "5,5"]]
)
def test_negative_numbers_as_typesetters_and_accountants_write_them(tmp_path: Path, cells: list[str]) -> None:
    rows = [f"{cells[i * 7 % 3]};{'ab'[i % 2]}" for i in range(60)]
    data_plan = plan(write(tmp_path / "t.csv", ["x;label", *rows]))
    (column,) = data_plan.encoder.inputs.columns  # type: ignore[attr-defined]
    assert column.type == "number"
    assert "written: numbers and dates are read by how they are written" in describe(data_plan)
    new = encode(data_plan.encoder, write(tmp_path / "new.csv", ["x;y", *(f"{cell};1" for cell in cells)]))
    first, second, third = (new.inputs[:, 0] * column.std[0] + column.mean[0]).tolist()
    assert first < 0 < second < third


def test_a_row_without_any_value_is_named(tmp_path: Path) -> None:
    rows = [f"{i * 7 % 11},{i * 3 % 7},{'xyz'[i % 3]},{'ab'[i % 2]}" for i in range(60)]
    data_plan = plan(write(tmp_path / "t.csv", ["p,q,r,label", *rows]))
    new = encode(data_plan.encoder, write(tmp_path / "new.csv", ["p,q,r", "1,2,x", ",,", "3,,"]))
    assert ("empty", "no values in 1 row (1)") in new.notes
    assert not [text for name, text in new.notes if name == "written"]


def test_whole_numbers_of_pandas_with_missing_ones_are_exact() -> None:
    pandas = pytest.importorskip("pandas")
    codes = pandas.array([10**17 + 1, 10**17 + 2, None] * 20, dtype="Int64")
    x = pandas.DataFrame({"x": np.random.default_rng(0).normal(size=60)})
    data_plan = from_arrays(x, codes, DataSettings(task="classification"))
    assert data_plan.encoder.target.classes == ((str(10**17 + 1), str(10**17 + 2)),)
    assert "dropped: 20 rows without a target" in describe(data_plan)
    flags = pandas.array([True, False, None] * 20, dtype="boolean")
    assert from_arrays(x, flags).encoder.target.classes == (("False", "True"),)


def test_numbers_beside_texts_are_no_labels() -> None:
    with pytest.raises(
        DataError, match=r"y must hold numbers or texts, but has values of several other types: int, str"
    ):
        from_arrays(np.arange(80.0).reshape(40, 2), [1, "a"] * 20)


# ------------------------------------------------------------------------------- series


def test_axes_of_lists_of_series() -> None:
    rng = np.random.default_rng(0)
    wide = [rng.normal(size=(3, 50)) for _ in LABELS]
    as_points = from_arrays(wide, LABELS)
    assert "axes: (40, 3, 50) has 3 points in time with 50 values each; if time is last" in describe(as_points)
    turned = from_arrays(wide, LABELS, DataSettings(axes="time-last"))
    assert (turned.encoder.spec.length, turned.encoder.spec.size) == (50, 3)
    assert len(encode(turned.encoder, wide[:3])) == 3
    single = from_arrays([rng.normal(size=(1, 30)) for _ in LABELS], LABELS)
    assert (single.encoder.spec.length, single.encoder.spec.size) == (30, 1)


def test_an_array_file_may_be_said_to_hold_series(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.random.default_rng(0).normal(size=(40, 30)), y=np.arange(40) % 2)
    data_plan = plan(tmp_path / "a.npz", DataSettings(kind="series"))
    assert (data_plan.encoder.form, data_plan.encoder.spec.length) == ("sequences", 30)
    np.savez(tmp_path / "new.npz", X=np.ones((3, 30)))
    assert len(encode(data_plan.encoder, tmp_path / "new.npz")) == 3


def test_a_column_that_counts_the_rows_is_no_point_of_their_series(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [",".join([str(i), *(f"{v:.3f}" for v in rng.normal(size=9)), "ab"[i >= 30]]) for i in range(60)]
    path = write(tmp_path / "t.csv", [",".join(["id", *(f"t{i}" for i in range(9)), "label"]), *rows])
    data_plan = plan(path, DataSettings(kind="series"))
    assert data_plan.encoder.spec.length == 9
    assert "left out: id: it counts the rows (--keep takes it)" in describe(data_plan)
    assert plan(path, DataSettings(kind="series", keep=("id",))).encoder.spec.length == 10


def test_the_split_may_begin_the_name_of_an_archive(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("TRAIN", "TEST"):
        rows = ["\t".join(["12"[i % 2], *(f"{v:.3f}" for v in rng.normal(size=20))]) for i in range(40)]
        write(tmp_path / f"{split}_Set.tsv", rows)
    data_plan = plan(tmp_path / "TRAIN_Set.tsv")
    assert (data_plan.encoder.target.names, data_plan.encoder.spec.length) == (("label",), 20)
    assert len(data_plan.splits["test"]) == 40


def test_folders_that_may_be_splits_are_refused_with_the_likely_ones(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("seg_train/a", "seg_train/b", "seg_test/a", "seg_test/b"):
        (tmp_path / name).mkdir(parents=True)
        image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name / "0.png")
    with pytest.raises(DataError, match="--split seg_test=test,seg_train=train"):
        plan(tmp_path)
