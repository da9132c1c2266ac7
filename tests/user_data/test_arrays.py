"""Arrays in files and in memory, and sequences of any lengths as tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icecore.core.errors import DataError
from icecore.user_data import DataSettings, encode, from_arrays, plan


def test_arrays_in_files_and_in_memory_are_the_same(tmp_path: Path):
    X = np.random.default_rng(0).normal(size=(40, 6, 2))
    y = np.arange(40) % 3
    np.savez(tmp_path / "a.npz", X=X, y=y)
    np.save(tmp_path / "b.npy", X)
    np.save(tmp_path / "b_y.npy", y)
    expected = from_arrays(X, y)
    assert plan(tmp_path / "a.npz").sha256() == plan(tmp_path / "b.npy").sha256() == expected.sha256()
    assert (expected.encoder.spec.length, expected.encoder.spec.size) == (6, 2)
    rows = encode(expected.encoder, X[:3])
    torch.testing.assert_close(rows.inputs, encode(expected.encoder, tmp_path / "a.npz", score=True).inputs[:3])


def test_arrays_named_by_split(tmp_path: Path):
    X, y = np.random.default_rng(0).normal(size=(50, 4)), np.arange(50) % 2
    np.savez(tmp_path / "a.npz", x_train=X[:40], y_train=y[:40], x_test=X[40:], y_test=y[40:])
    data_plan = plan(tmp_path / "a.npz")
    assert [len(part) for part in data_plan.splits.values()] == [34, 6, 10]


def test_sequences_of_any_length_are_padded_and_standardised():
    rng = np.random.default_rng(0)
    rows = [rng.normal(5, 3, (n, 2)) for n in rng.integers(3, 12, 60)]
    rows[0][1, 0] = np.nan
    data_plan = from_arrays(rows, np.arange(60) % 2, DataSettings(patch=2, val=0.2, test=0.2))
    spec = data_plan.encoder.spec
    encoder: Any = data_plan.encoder.inputs
    assert (spec.length, spec.size) == (6, 2 * (2 + encoder.flags))
    encoded = encode(data_plan.encoder, rows)
    assert encoded.lengths is not None
    np.testing.assert_array_equal(encoded.lengths, [-(-len(r) // 2) for r in rows])
    width = spec.size // 2
    points = encoded.inputs.view(60, -1, width)
    torch.testing.assert_close(
        points[5, : len(rows[5]), :2],
        torch.tensor((rows[5] - encoder.mean) / encoder.std).float(),
        rtol=1e-4,
        atol=1e-5,
    )
    assert not points[5, len(rows[5]) :].any()
    with pytest.raises(DataError, match="must have 2 values per point, as in training, but have 3"):
        encode(data_plan.encoder, [np.zeros((4, 3))])
    cut = encode(data_plan.encoder, [np.zeros((40, 2))])
    assert "1 sequence after the first" in str(cut.notes)


def test_long_sequences_get_several_points_per_token():
    data_plan = from_arrays(np.random.default_rng(0).normal(size=(20, 1000, 1)), np.arange(20) % 2)
    assert (data_plan.encoder.spec.length, data_plan.encoder.spec.size) == (250, 4)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros((4, 2)), [0, 1], r"one target for each of the 4 rows, but the targets have shape \(2,\)"),
        (np.zeros((4, 2, 2, 2)), [0, 1, 0, 1], r"Images must have shape \(N, H, W, C\) with 1, 3 or 4 channels"),
        (np.zeros((4, 2), complex), [0, 1, 0, 1], "must be real numbers, but have type complex128"),
        ([], [], "The inputs are empty"),
        (np.ones((40, 2)), np.arange(40) % 2, "No column is left to learn from"),
        (np.eye(40), np.zeros(40, int), "Target 'y' has only the class '0' in the training rows"),
        (np.eye(40), np.full(40, np.nan), "no row has a target"),
        ([np.zeros((3, 2)), np.zeros((3, 1))], [0, 1], r"with one V for all; their shapes are \(3, 2\), \(3, 1\)"),
    ],
)
def test_errors_of_arrays_in_memory(X: Any, y: Any, message: str):
    with pytest.raises(DataError, match=message):
        from_arrays(X, y)


def test_errors_of_array_files(tmp_path: Path):
    np.save(tmp_path / "lone.npy", np.eye(4))
    with pytest.raises(DataError, match="has inputs but no targets"):
        plan(tmp_path / "lone.npy")
    np.savez(tmp_path / "o.npz", X=np.array([[1], "a"], object))
    with pytest.raises(DataError, match="Save it as an array of numbers or fixed-length texts"):
        plan(tmp_path / "o.npz")
    np.savez(tmp_path / "z.npz", z=np.eye(3))
    with pytest.raises(DataError, match="must have the arrays X and y, but has: z"):
        plan(tmp_path / "z.npz")


def test_errors_of_damaged_array_files_and_unequal_shapes(tmp_path: Path):
    path = tmp_path / "a.npz"
    rows = {"x_train": np.zeros((9, 3)), "y_train": np.arange(9) % 2, "x_test": np.zeros((9, 4)), "y_test": np.zeros(9)}
    np.savez(path, **rows)
    with pytest.raises(DataError, match=r"with one shape in all splits, but they have shapes \(9, 3\), \(9, 4\)"):
        plan(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    with pytest.raises(DataError, match=r"cannot be read as an array .*download or copy it again"):
        plan(path)
    np.savez(path, X=np.float64(1), y=np.float64(2))
    with pytest.raises(DataError, match="must hold arrays of rows"):
        plan(path)
