"""Tables of time series, long and wide."""

from pathlib import Path

import numpy as np
import pytest
import torch

from icecore.core.errors import DataError
from icecore.user_data import DataSettings, encode, from_arrays, plan
from user_data_samples import write_csv


def waves(count: int = 30) -> tuple[list[np.ndarray], list[str]]:
    rng = np.random.default_rng(0)
    labels = ["slow" if i % 2 else "fast" for i in range(count)]
    return [np.sin(np.arange(10 + i % 5) * (1 + i % 2)) + rng.normal(0, 0.1, 10 + i % 5) for i in range(count)], labels


def test_series_long_wide_and_in_memory_are_the_same(tmp_path: Path):
    series, labels = waves()
    width = max(map(len, series))
    wide = [[*s, *[""] * (width - len(s)), label] for s, label in zip(series, labels, strict=True)]
    write_csv(tmp_path / "wide.csv", [[*(f"t{i}" for i in range(width)), "label"], *wide])
    rng = np.random.default_rng(1)
    long = [[f"s{i:02}", t, v, labels[i]] for i, s in enumerate(series) for t, v in enumerate(s)]
    order = rng.permutation(len(long))  # points in any order, series in order of appearance
    first = [next(k for k in range(len(long)) if long[k][0] == f"s{i:02}") for i in range(len(series))]
    rest = [k for k in order if k not in set(first)]
    write_csv(tmp_path / "long.csv", [["series", "time", "value", "label"], *[long[k] for k in [*first, *rest]]])
    settings = DataSettings(target=("label",))
    plans = [
        plan(tmp_path / "wide.csv", DataSettings(kind="series")),
        plan(tmp_path / "long.csv", DataSettings(series="series", time="time")),
        from_arrays([s.astype(np.float32) for s in series], labels, settings),
    ]
    for data_plan in plans:
        assert (data_plan.encoder.spec.length, data_plan.encoder.spec.size) == (14, 1)
        for name in ("train", "val", "test"):
            torch.testing.assert_close(
                data_plan.splits[name].inputs, plans[0].splits[name].inputs, rtol=1e-4, atol=1e-5
            )
            assert torch.equal(data_plan.splits[name].lengths, plans[0].splits[name].lengths)  # type: ignore[arg-type]
    rows = encode(plans[1].encoder, tmp_path / "long.csv", score=True)
    assert list(rows.names[:2]) == ["s00", "s01"]


def test_error_of_times_that_are_text(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", [["s", "t", "v", "y"], ["a", "early", 1, 0], ["b", "late", 2, 1]])
    with pytest.raises(
        DataError, match="Column 't' orders the points of a series, so it must hold numbers or ISO dates"
    ):
        plan(path, DataSettings(series="s", time="t"))


def test_error_of_a_target_that_changes_within_a_series(tmp_path: Path):
    path = write_csv(tmp_path / "t.csv", [["s", "v", "y"], ["a", 1, 0], ["b", 2, 1], ["b", 3, 0]])
    with pytest.raises(DataError, match="target 'y' changes within the series 'b'"):
        plan(path, DataSettings(series="s"))


def test_targets_of_series_may_be_words_for_missing_values(tmp_path: Path) -> None:
    rows = [f"s{i},{t},{i % 2 + t},{('none', 'some')[i % 2]}" for i in range(30) for t in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(["s,t,v,kind", *rows]))
    data_plan = plan(tmp_path / "t.csv", DataSettings(series="s", time="t"))
    assert data_plan.encoder.target.classes == (("none", "some"),)


def test_times_and_values_of_series_are_numbers_despite_leading_zeros(tmp_path: Path) -> None:
    rows = [f"s{i},{t:03},{5 * (i % 2) + t:02},{'pq'[i % 2]}" for i in range(30) for t in (2, 10, 1)]
    (tmp_path / "t.csv").write_text("\n".join(["s,t,v,y", *rows]))
    data_plan = plan(tmp_path / "t.csv", DataSettings(series="s", time="t", values=("v",)))
    rows = encode(data_plan.encoder, tmp_path / "t.csv")
    mean, std = data_plan.encoder.inputs.mean[0], data_plan.encoder.inputs.std[0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(rows.inputs[0, :, 0] * std + mean, [1, 2, 10], rtol=1e-5)
