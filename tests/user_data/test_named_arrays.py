"""Arrays of NumPy files by name: splits in the usual spellings, targets, and labels in a table beside them."""

from pathlib import Path

import numpy as np
import pytest

from icecore.core.errors import ConfigError, DataError
from icecore.user_data import DataSettings, encode, plan
from icecore.user_data.input_files import check_not_input
from user_data_samples import describe

SIZES = {"train": 40, "val": 8, "test": 12}


def parts() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {split: (rng.normal(size=(count, 3)), np.arange(count) % 2) for split, count in SIZES.items()}


@pytest.mark.parametrize(
    ("inputs", "targets", "val"),
    [
        ("X_{}", "y_{}", "val"),
        ("x_{}", "y_{}", "valid"),
        ("{}_x", "{}_y", "dev"),
        ("{}_images", "{}_labels", "val"),
        ("X{}", "Y{}", "Validation"),
        ("x{}", "y{}", "val"),
    ],
)
def test_splits_are_found_in_the_names_of_arrays(tmp_path: Path, inputs: str, targets: str, val: str) -> None:
    names = {"train": "Train" if val[0] == "V" else "train", "val": val, "test": "Test" if val[0] == "V" else "test"}
    arrays = {inputs.format(names[split]): X for split, (X, _) in parts().items()}
    arrays |= {targets.format(names[split]): y for split, (_, y) in parts().items()}
    np.savez(tmp_path / "d.npz", **arrays)  # pyright: ignore[reportArgumentType]
    data_plan = plan(tmp_path / "d.npz")
    assert {name: len(part) for name, part in data_plan.splits.items()} == SIZES
    assert len(plan(tmp_path / "d.npz", DataSettings(split="none")).splits["test"]) == 9
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    first = inputs.format(names["train"])
    for path in (tmp_path / f"{first}.npy", tmp_path):
        (tmp_path / "d.npz").unlink(missing_ok=True)
        assert plan(path).sha256() == data_plan.sha256()
    rows = encode(data_plan.encoder, tmp_path / f"{inputs.format(names['test'])}.npy", score=True)
    assert len(rows) == SIZES["test"]
    for name in arrays:
        with pytest.raises(ConfigError, match="is also an input file"):
            check_not_input(tmp_path / f"{name}.npy", tmp_path / f"{first}.npy")


def test_the_target_of_a_file_of_arrays_is_honoured_or_refused(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(40, 3))
    np.savez(tmp_path / "d.npz", X=X, y=np.arange(40) % 3, family=np.array(["p", "q"] * 20), ids=np.arange(40))
    data_plan = plan(tmp_path / "d.npz", DataSettings(target=("family",)))
    assert (data_plan.encoder.target.names, data_plan.encoder.target.classes) == (("family",), (("p", "q"),))
    assert "left out: arrays ids, y: not used" in describe(data_plan)
    assert len(encode(data_plan.encoder, tmp_path / "d.npz", score=True)) == 40
    with pytest.raises(ConfigError, match=r"Unknown target 'famly'\. Did you mean 'family'"):
        plan(tmp_path / "d.npz", DataSettings(target=("famly",)))
    several = np.stack([np.arange(40) % 3, np.arange(40) % 2], 1)
    np.savez(tmp_path / "s.npz", X=X, y=several)
    assert plan(tmp_path / "s.npz", DataSettings(target=("a", "b"))).encoder.target.names == ("a", "b")


def test_bytes_in_one_split_and_shares_in_another_are_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
    y = np.arange(20) % 2
    np.savez(tmp_path / "d.npz", x_train=pixels, y_train=y, x_test=pixels / 255, y_test=y)
    with pytest.raises(
        DataError, match="must hold inputs of one type in all splits, but they have the types uint8, float64"
    ):
        plan(tmp_path / "d.npz")


@pytest.mark.parametrize("start", [0, 1])
def test_labels_that_ids_order_belong_to_their_rows(tmp_path: Path, start: int) -> None:
    X = np.random.default_rng(0).normal(size=(40, 3))
    np.save(tmp_path / "X.npy", X)
    order = np.random.default_rng(1).permutation(40)
    rows = [f"{i + start},{'pq'[i % 2]},{i}" for i in order]
    (tmp_path / "X.labels.csv").write_text("\n".join(["id,label,note", *rows]))
    data_plan = plan(tmp_path / "X.npy")
    assert "labels: in the order of column 'id'" in describe(data_plan)
    assert "target: 'label', because of its name" in describe(data_plan)
    scored = encode(data_plan.encoder, tmp_path / "X.npy", score=True)
    assert scored.targets is not None
    assert scored.targets[:, 0, 0].tolist() == [i % 2 for i in range(40)]


def test_counters_in_arrays_are_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", X=np.stack([np.arange(40), rng.normal(size=40)], 1), y=np.arange(40) // 20)
    assert "counters: x0: a different number in every row. If it is an id, --drop it" in describe(
        plan(tmp_path / "d.npz")
    )
    dropped = plan(tmp_path / "d.npz", DataSettings(drop=("x0",)))
    assert dropped.encoder.spec.length == 1
    assert len(encode(dropped.encoder, tmp_path / "d.npz")) == 40
    with pytest.raises(ConfigError, match="Unknown column 'x7'"):
        plan(tmp_path / "d.npz", DataSettings(drop=("x7",)))


def test_infinite_numbers_of_arrays_are_said(tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(40, 9))
    X[3, 1] = np.inf
    y = np.arange(40) / 7
    y[5] = -np.inf
    np.savez(tmp_path / "d.npz", X=X, y=y)
    data_plan = plan(tmp_path / "d.npz")
    assert "infinite: 1 cell of 'x1': counted as very large or very small" in describe(data_plan)
    assert "infinite: 1 row where y is infinite, so they have no target" in describe(data_plan)
    series = plan(tmp_path / "d.npz", DataSettings(kind="series"))
    assert "infinite: 1 value: counted as missing" in describe(series)
