"""What cells are taken for: classes called "none", codes with leading zeros, numbers with signs; rare classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icecore.core.errors import ConfigError, DataError
from icecore.user_data import DataEncoder, DataSettings, Plan, encode, from_arrays, plan
from icecore.user_data.columns import coded
from icecore.user_data.readers.tables import read_table
from icecore.user_data.records import column_of
from icecore.user_data.targets import split_rows

N = 120
CLASSES = DataSettings(task="classification")


def table(path: Path, **columns: Sequence[Any]) -> Path:
    """A CSV of the columns, each of which is repeated to N rows."""
    rows = [",".join(columns)]
    rows += [",".join(f'"{cells[i % len(cells)]}"' for cells in columns.values()) for i in range(N)]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def said(found: Plan) -> str:
    return "\n".join(f"{what}: {text}" for what, text in found.describe())


def numbers() -> list[float]:
    return np.random.default_rng(0).normal(size=N).round(3).tolist()


# ------------------------------------------------------------------------------------------ missing or a class


@pytest.mark.parametrize("words", [("+", "-"), ("none", "mild", "severe"), ("?", "NA"), ("N/A", "None", "yes")])
def test_words_for_missing_are_classes_of_a_text_target(tmp_path: Path, words: tuple[str, ...]) -> None:
    found = plan(table(tmp_path / "t.csv", x=numbers(), y=words))
    arrays = from_arrays(np.array(numbers())[:, None], [words[i % len(words)] for i in range(N)])
    for each in (found, arrays):
        assert each.encoder.target.classes == (tuple(sorted(words)),)
        assert sum(map(len, each.splits.values())) == N
        assert "no target" not in said(each)
    rows = encode(found.encoder, tmp_path / "t.csv", score=True)
    assert rows.targets is not None
    assert np.bincount(rows.targets[:, 0, 0].long()).tolist() == [N // len(words)] * len(words)


def test_words_that_are_no_class_are_named(tmp_path: Path) -> None:
    words = ("mild", "severe", "null", "NaN", "", "none")
    found = plan(table(tmp_path / "t.csv", x=numbers(), severity=words))
    arrays = from_arrays(
        np.array(numbers())[:, None], [words[i % 6] for i in range(N)], DataSettings(target=("severity",))
    )
    for each in (found, arrays):
        assert each.encoder.target.classes == (("mild", "none", "severe"),)
        parts = dict(each.notes)["no target"].split(", ")
        assert sorted(parts) == ["20 rows whose severity is 'NaN'", "20 rows whose severity is 'null'"]
        assert "dropped: 60 rows without a target" in said(each)


def test_words_in_a_target_of_numbers_are_named(tmp_path: Path) -> None:
    cells = [*numbers()[:38], "NA", "nan"]
    found = plan(table(tmp_path / "t.csv", x=numbers(), price=cells))
    assert found.encoder.target.task == "regression"
    assert "no target: 3 rows whose price is 'NA', 3 rows whose price is 'nan'" in said(found)


def test_words_for_missing_stay_missing_elsewhere(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", town=("Ulm", "none", "Köln", "-", "NA"), x=numbers(), y=("p", "q"))
    column = read_table([path])[0].columns["town"]
    assert column.texts == ["Ulm", "Köln"]
    assert column.values[:6].tolist() == [0, -1, 1, -1, -1, 0]
    assert plan(path).encoder.inputs.columns[0].levels == ("Köln", "Ulm")  # type: ignore[attr-defined]


def test_labels_of_lines_follow_the_same_rules(tmp_path: Path) -> None:
    lines = [f"{label}\tAC{'G' * (i % 7)}" for i in range(20) for label in ("-", "+", "null")]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    found = plan(tmp_path / "t.txt")
    assert found.encoder.target.classes == (("+", "-"),)
    assert "no target: 20 rows whose label is 'null'" in said(found)


def test_words_of_series_are_classes_too(tmp_path: Path) -> None:
    rows = [f"s{i},{t},{i % 2 + t},{('none', 'some')[i % 2]}" for i in range(30) for t in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(["s,t,v,kind", *rows]))
    found = plan(tmp_path / "t.csv", DataSettings(series="s", time="t"))
    assert found.encoder.target.classes == (("none", "some"),)


# ------------------------------------------------------------------------------------------ leading zeros


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
def test_what_a_code_is(cells: list[str], code: str) -> None:
    assert coded(cells) == code


def test_codes_are_classes_and_categories(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", zip=("01069", "89073", "50667"), x=numbers(), y=("01", "1", "10"))
    found = plan(path)
    assert found.encoder.target.classes == (("01", "1", "10"),)
    assert found.encoder.inputs.columns[0].levels == ("01069", "50667", "89073")  # type: ignore[attr-defined]
    assert "codes: zip, y: leading zeros, as in '01069', so texts and no numbers" in said(found)
    # new rows are read alike, though none of them has a leading zero
    new = table(tmp_path / "new.csv", zip=("89073", "50667"), x=numbers(), y=("1", "10"))
    rows = encode(DataEncoder.from_json(found.encoder.to_json()), new, score=True)
    assert rows.targets is not None
    assert set(rows.targets[:, 0, 0].tolist()) == {1, 2}
    assert not any("slot" in text for _, text in rows.notes)


def test_codes_are_no_numbers_to_predict(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", x=numbers(), y=[f"{i:03}" for i in range(N)])
    with pytest.raises(ConfigError, match="target y has leading zeros, as in '000', and so is text; regression needs"):
        plan(path, DataSettings(task="regression"))


def test_programs_that_took_codes_for_numbers_still_do(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", a=("1", "2", "3"), x=numbers(), y=("1", "2"))
    old = plan(path)
    new = table(tmp_path / "new.csv", a=("01", "02", "03"), x=numbers(), y=("01", "02"))
    ours, theirs = (encode(old.encoder, each, score=True) for each in (path, new))
    assert ours.inputs.equal(theirs.inputs)
    assert ours.targets is not None
    assert theirs.targets is not None
    assert ours.targets.equal(theirs.targets)


def test_labels_of_lines_with_leading_zeros(tmp_path: Path) -> None:
    path, new = tmp_path / "t.txt", tmp_path / "new.txt"
    path.write_text("\n".join(f"{label}\tAC{'G' * (i % 7)}" for i in range(20) for label in ("001", "1")))
    new.write_text("1\tACG\n1\tAC\n")
    found = plan(path)
    assert found.encoder.target.classes == (("001", "1"),)
    rows = encode(found.encoder, new, score=True)
    assert rows.targets is not None
    assert rows.targets[:, 0, 0].tolist() == [1, 1]


def test_times_and_values_of_series_are_numbers_all_the_same(tmp_path: Path) -> None:
    rows = [f"s{i},{t:03},{5 * (i % 2) + t:02},{'pq'[i % 2]}" for i in range(30) for t in (2, 10, 1)]
    (tmp_path / "t.csv").write_text("\n".join(["s,t,v,y", *rows]))
    found = plan(tmp_path / "t.csv", DataSettings(series="s", time="t", values=("v",)))
    rows = encode(found.encoder, tmp_path / "t.csv")
    mean, std = found.encoder.inputs.mean[0], found.encoder.inputs.std[0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(rows.inputs[0, :, 0] * std + mean, [1, 2, 10], rtol=1e-5)


# ------------------------------------------------------------------------------------------ nearly numbers


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ((*range(1, 20), "<0.5"), "95% numbers, but e.g. '<0.5'"),
        (("$12,345", "$5", "-$1,000.50"), "100% numbers, but written as '$12,345'"),
        (("1.5%", "20 %"), "100% numbers, but written as '1.5%'"),
        (("1,234.50", "7"), "100% numbers, but written as '1,234.50'"),
        (("1.234,50", "7,5"), "100% numbers, but written as '1.234,50'"),
        (("12 €", "3", "free"), "66% numbers, but e.g. 'free'"),
    ],
)
def test_texts_that_look_like_numbers_are_named(tmp_path: Path, odd: Sequence[Any], words: str) -> None:
    path = table(tmp_path / "t.csv", lab=odd, x=numbers(), y=("p", "q"))
    found = plan(path)
    assert f"not numbers: lab: {words}: mend these" in said(found)
    with pytest.raises(DataError, match=r"t\.csv: lab: .* numbers, but .*: mend these cells, --drop the column"):
        plan(path, DataSettings(strict=True))
    strict = plan(path, DataSettings(strict=True, drop=("lab",)))
    # to predict with, what was learned of the column is asked, and that is no doubt
    assert len(encode(found.encoder, path, strict=True)) == len(encode(strict.encoder, path, strict=True)) == N


def test_of_many_columns_that_look_like_numbers_some_are_shown(tmp_path: Path) -> None:
    held: dict[str, Sequence[Any]] = {f"c{i}": ("1%", "2%") for i in range(7)}
    found = plan(table(tmp_path / "t.csv", **held, x=numbers(), y=("p", "q")))
    told = [text for what, text in found.notes if what == "not numbers"]
    assert len(told) == 6
    assert told[4].startswith("c4: 100% numbers")
    assert told[5].startswith("c5, c6 neither")


@pytest.mark.parametrize("cells", [("1", "2", "x", "y", "z"), ("12:30", "1.2.3"), ("1,2,3", "4,5,6"), ("a", "NA", "-")])
def test_texts_that_are_texts(tmp_path: Path, cells: Sequence[str]) -> None:
    path = table(tmp_path / "t.csv", lab=cells, x=numbers(), y=("p", "q"))
    assert "not numbers" not in said(plan(path, DataSettings(strict=True)))


def test_a_target_that_looks_like_numbers_says_so(tmp_path: Path) -> None:
    cells = [f"{1 + i / 7:.3f}" for i in range(N - 10)] + ["<0.5"] * 10
    path = table(tmp_path / "t.csv", x=numbers(), y=cells)
    with pytest.raises(DataError, match=r"different texts in 120 rows; 91% numbers, but e\.g\. '<0\.5': mend these"):
        plan(path)
    with pytest.raises(ConfigError, match=r"target y: 91% numbers, but e\.g\. '<0\.5'; regression needs numbers"):
        plan(path, DataSettings(task="regression"))
    with pytest.raises(DataError, match=r"y: 91% numbers"):
        plan(path, DataSettings(strict=True))


# ------------------------------------------------------------------------------------------ rare classes


@pytest.mark.parametrize("counts", [(500, 3), (500, 4, 3), (90, 5, 5), (3, 3, 3), (40, *[3] * 30), (997, 3, 2, 1)])
@pytest.mark.parametrize("seed", range(5))
def test_every_split_has_a_row_of_each_class_that_can_spare_them(counts: tuple[int, ...], seed: int) -> None:
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = split_rows({"y": column_of("y", y)}, "classification", None, DataSettings(seed=seed))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(y)))
    assert set(y[parts["train"]]) == set(range(len(counts)))
    for name in ("val", "test"):
        assert {c for c, count in enumerate(counts) if count >= 3} <= set(y[parts[name]])
    if len(counts) < 4:
        share = 0.15 * len(y)
        assert all(abs(len(parts[name]) - max(share, len(counts))) <= 1 for name in ("val", "test"))


def test_without_a_test_split_none_is_drawn() -> None:
    y = np.repeat([0, 1], [97, 3])
    parts = split_rows({"y": column_of("y", y)}, "classification", None, DataSettings(test=0))
    assert len(parts["test"]) == 0
    assert 1 in y[parts["val"]]


def test_classes_that_a_split_lacks_are_named(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(N, 2))
    y = np.array(["neg"] * (N - 2) + ["pos"] * 2)
    lacking = dict(from_arrays(x, y).notes)
    assert lacking["test"] == "has no row of: pos"
    np.savez(tmp_path / "d.npz", x_train=x, y_train=np.tile(["a", "b"], N // 2), x_test=x[:9], y_test=["a"] * 9)
    given = dict(plan(tmp_path / "d.npz").notes)
    assert (given.get("val"), given["test"]) == (None, "has no row of: b")
    several = np.stack([np.arange(N) % 2, np.arange(N) == 0], 1).astype(int)
    assert dict(from_arrays(x, several, CLASSES).notes)["test"] == "has no row of: y1 1"


# ------------------------------------------------------------------------------------------ wording and files


def test_missing_numbers_are_flagged_only_where_training_had_some() -> None:
    X = np.random.default_rng(0).normal(size=(40, 2))
    X[::5, 0] = np.nan
    encoder = from_arrays(X, np.arange(40) % 2).encoder
    notes = encode(encoder, np.array([[np.nan, np.nan], [1.0, np.nan]])).notes
    assert notes == [
        ("filled", "missing numbers by the mean, and flagged: x0 (1)"),
        ("filled", "missing numbers by the mean, not flagged, as none were missing in training: x1 (2)"),
    ]


@pytest.mark.parametrize("order", ["LE", "BE"])
@pytest.mark.parametrize("name", ["t.csv", "t.txt"])
def test_utf16_without_its_mark_is_named(tmp_path: Path, order: str, name: str) -> None:
    (tmp_path / name).write_bytes("a,b\tc\n1,2\té\n".encode(f"utf-16-{order.lower()}"))
    with pytest.raises(DataError, match=rf"UTF-16 without a byte-order mark .* iconv -f UTF-16{order} -t UTF-8"):
        plan(tmp_path / name)


def test_the_plan_says_how_many_rows_a_class_has() -> None:
    found = from_arrays(np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2)
    a, b = found.encoder.target.counts[0]
    assert dict(found.describe())["classes of y"] == f"2: 0 ({a}), 1 ({b})"
