"""Splits: complete, disjoint, stratified, with rare classes in each, or as the data have them."""

from pathlib import Path

import numpy as np
import pytest

from icecore.core.errors import ConfigError, DataError
from icecore.user_data import DataSettings, from_arrays, plan, splits
from icecore.user_data.columns import column_from_values
from icecore.user_data.splits import split_rows
from user_data_samples import ROWS, people, random_rows, write_csv

CLASSIFICATION = DataSettings(task="classification")


@pytest.mark.parametrize("counts", [(50, 50), (300, 30, 7), (90, 5, 5), (2, 2)])
def test_splits_are_complete_disjoint_and_stratified(counts: tuple[int, ...]):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    columns = {"y": column_from_values("y", y)}
    parts = split_rows(columns, "classification", None, DataSettings())
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(y)))
    for share, name in ((0.15, "val"), (0.15, "test")):
        assert abs(len(parts[name]) - share * len(y)) <= 1
        counts_held_out = np.bincount(y[parts[name]], minlength=len(counts))
        assert np.abs(counts_held_out - share * np.array(counts)).max() <= 3
    assert set(y[parts["train"]]) == set(y)
    again = split_rows(columns, "classification", None, DataSettings())
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    other = split_rows(columns, "classification", None, DataSettings(seed=1))
    assert len(y) < 10 or set(other["test"]) != set(parts["test"])


def test_splits_of_numbers_have_the_same_quantiles():
    y = np.random.default_rng(0).normal(size=1000)
    parts = split_rows({"y": column_from_values("y", y)}, "regression", None, DataSettings())
    quantiles = np.quantile(y, [0.1, 0.5, 0.9])
    for index in parts.values():
        np.testing.assert_allclose(np.quantile(y[index], [0.1, 0.5, 0.9]), quantiles, atol=0.08)


def test_the_only_row_of_a_class_is_for_training():
    y = np.array(["a"] * 30 + ["b"] * 30 + ["once"])
    data_plan = from_arrays(random_rows(61), y)
    assert data_plan.encoder.target.counts[0][-1] == 1


def test_errors_of_shares_and_too_few_rows():
    with pytest.raises(ConfigError, match="val is 0, but validation rows are needed"):
        from_arrays(random_rows(), np.arange(100) % 2, DataSettings(val=0))
    with pytest.raises(ConfigError, match=r"less than 1 together, but are 0\.5 and 0\.5"):
        DataSettings(val=0.5, test=0.5)
    with pytest.raises(DataError, match="The data have 1 row, too few for a val split"):
        from_arrays(random_rows(1), ["a"])
    with pytest.raises(
        DataError,
        match=r"3 rows, too few for a val split\. Provide at least 4 rows and several of each class",
    ):
        from_arrays(random_rows(3), ["a", "b", "c"], DataSettings(task="classification"))
    with pytest.raises(
        DataError, match=r"Target 'y' has 61 classes with one row each\. Give each class several rows\.$"
    ):
        from_arrays(random_rows(61), [f"name{i}" for i in range(61)], DataSettings(task="classification"))
    with pytest.raises(DataError, match=r"has 61 classes with one row each\. .*, or set --task regression\.$"):
        from_arrays(random_rows(61), np.linspace(0, 1, 61), DataSettings(task="classification"))


def test_the_number_of_held_out_rows_is_limited(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(splits, "MAX_HELD_OUT_ROWS", 7)
    data_plan = from_arrays(random_rows(), np.arange(100) % 2)
    assert {name: len(part) for name, part in data_plan.splits.items()} == {"train": 86, "val": 7, "test": 7}


def test_without_a_test_split_the_validation_split_is_reported():
    data_plan = from_arrays(random_rows(), np.arange(100) % 2, DataSettings(test=0))
    assert data_plan.task().test_splits == ("val",)
    assert ("splits", "train 85, val 15, test 0 (the score is that of val)") in data_plan.describe()


@pytest.mark.parametrize("counts", [(500, 3), (500, 4, 3), (90, 5, 5), (3, 3, 3), (40, *[3] * 30), (997, 3, 2, 1)])
@pytest.mark.parametrize("seed", range(5))
def test_every_split_has_a_row_of_each_class_with_three_rows(counts: tuple[int, ...], seed: int) -> None:
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = split_rows({"y": column_from_values("y", y)}, "classification", None, DataSettings(seed=seed))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(y)))
    assert set(y[parts["train"]]) == set(range(len(counts)))
    for name in ("val", "test"):
        assert {c for c, count in enumerate(counts) if count >= 3} <= set(y[parts[name]])
    if len(counts) < 4:
        share = 0.15 * len(y)
        assert all(abs(len(parts[name]) - max(share, len(counts))) <= 1 for name in ("val", "test"))


def test_without_a_test_split_none_is_drawn() -> None:
    y = np.repeat([0, 1], [97, 3])
    parts = split_rows({"y": column_from_values("y", y)}, "classification", None, DataSettings(test=0))
    assert len(parts["test"]) == 0
    assert 1 in y[parts["val"]]


def test_classes_that_a_split_lacks_are_noted(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(ROWS, 2))
    y = np.array(["neg"] * (ROWS - 2) + ["pos"] * 2)
    notes = dict(from_arrays(x, y).notes)
    assert notes["test"] == "no rows of: pos"
    np.savez(tmp_path / "d.npz", x_train=x, y_train=np.tile(["a", "b"], ROWS // 2), x_test=x[:9], y_test=["a"] * 9)
    notes = dict(plan(tmp_path / "d.npz").notes)
    assert (notes.get("val"), notes["test"]) == (None, "no rows of: b")
    several = np.stack([np.arange(ROWS) % 2, np.arange(ROWS) == 0], 1).astype(int)
    assert dict(from_arrays(x, several, CLASSIFICATION).notes)["test"] == "no rows of: y1 1"


def test_error_of_classes_without_training_rows(tmp_path: Path):
    x, y = random_rows(40), np.array(["a", "b"] * 20)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:4], y_test=np.array(["a", "b", "c", "d"]))
    with pytest.raises(DataError, match=r"\(test\): 2 rows of target 'y' with classes that no training row has: c, d"):
        plan(tmp_path / "d.npz")


def test_a_split_column_and_files_by_split_give_the_same_splits(tmp_path: Path):
    rows = people(60)
    header, body = rows[0], rows[1:]
    split = ["train"] * 40 + ["valid"] * 8 + ["test"] * 12
    path = write_csv(tmp_path / "one.csv", [[*header, "split"], *[[*r, s] for r, s in zip(body, split, strict=True)]])
    one = plan(path, DataSettings(target=("tall",)))
    folder = tmp_path / "three"
    folder.mkdir()
    for name, part in {"train": body[:40], "val": body[40:48], "test": body[48:]}.items():
        write_csv(folder / f"{name}.csv", [header, *part])
    three = plan(folder, DataSettings(target=("tall",)))
    assert [len(part) for part in one.splits.values()] == [40, 8, 12]
    assert one.sha256() == three.sha256()
