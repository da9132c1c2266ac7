"""Tables of time series, long and wide."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from icecore.core.errors import DataError
from icecore.user_data import DataEncoder, DataSettings, encode, from_arrays, plan
from user_data_samples import describe, write_csv


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


# ------------------------------------------------------------------------------- new rows are read as those of training


def wide_table(path: Path, cell: Callable[[float], str] = str, count: int = 40) -> list[str]:
    rng = np.random.default_rng(0)
    rows = [[*(cell(v) for v in rng.normal(50, 9, 9).round(1).tolist()), "ab"[i % 2]] for i in range(count)]
    lines = [";".join(row) for row in rows]
    path.write_text("\n".join([";".join([*(f"t{i}" for i in range(9)), "label"]), *lines]))
    return lines


def test_a_new_series_may_lack_a_value(tmp_path: Path) -> None:
    lines = wide_table(tmp_path / "t.csv")
    encoder = DataEncoder.from_json(plan(tmp_path / "t.csv", DataSettings(kind="series")).encoder.to_json())
    expected = encode(encoder, tmp_path / "t.csv").inputs[0, :, 0]
    cells = lines[0].split(";")
    (tmp_path / "one.csv").write_text(
        ";".join(f"t{i}" for i in range(9)) + "\n" + ";".join([*cells[:4], "", *cells[5:9]])
    )
    rows = encode(encoder, tmp_path / "one.csv")
    assert ("filled", "1 missing value with the mean") in rows.notes
    torch.testing.assert_close(rows.inputs[0, 5:, 0], expected[5:])
    assert rows.inputs[0, 4, 0] == 0


def test_new_series_are_written_as_those_of_training(tmp_path: Path) -> None:
    def german(value: float) -> str:
        return f"{1000 * value:,.1f}".translate(str.maketrans(",.", ".,"))

    lines = wide_table(tmp_path / "t.csv", german)
    encoder = DataEncoder.from_json(plan(tmp_path / "t.csv", DataSettings(kind="series")).encoder.to_json())
    expected = encode(encoder, tmp_path / "t.csv").inputs[0, :, 0]
    # without decimals, 50.123 alone might be read as fifty
    cells = [cell.partition(",")[0] for cell in lines[0].split(";")[:9]]
    (tmp_path / "one.csv").write_text(";".join(f"t{i}" for i in range(9)) + "\n" + ";".join(cells))
    torch.testing.assert_close(encode(encoder, tmp_path / "one.csv").inputs[0, :, 0], expected, atol=1e-2, rtol=0)


def test_numbers_of_series_count_damaged_lines(tmp_path: Path) -> None:
    lines = wide_table(tmp_path / "t.csv", str)
    encoder = plan(tmp_path / "t.csv", DataSettings(kind="series")).encoder
    header = (tmp_path / "t.csv").read_text().splitlines()[0]
    (tmp_path / "new.csv").write_text("\n".join([header, lines[0], "1.5", *lines[1:3]]))
    assert encode(encoder, tmp_path / "new.csv").row_numbers.tolist() == [0, 2, 3]


def test_texts_are_no_measured_values(tmp_path: Path) -> None:
    rows = [f"s{i},{t},{t}.5,{'uv'[t % 2]},{'pq'[i % 2]}" for i in range(20) for t in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(["s,t,v,town,label", *rows]))
    with pytest.raises(DataError, match="Column 'town' must hold measured values, but holds texts"):
        plan(tmp_path / "t.csv", DataSettings(series="s", time="t", values=("v", "town")))


def test_times_of_new_series_are_read_as_those_of_training(tmp_path: Path) -> None:
    rows = [f"s{i},{day:02}/02/2024,{i % 2 + day}.5,{'pq'[i % 2]}" for i in range(20) for day in (1, 20, 3)]
    (tmp_path / "t.csv").write_text("\n".join(["s,when,v,label", *rows]))
    encoder = plan(tmp_path / "t.csv", DataSettings(series="s", time="when")).encoder
    expected = encode(encoder, tmp_path / "t.csv").inputs[0, [0, 1]]
    (tmp_path / "new.csv").write_text("s,when,v\na,03/02/2024,3.5\na,01/02/2024,1.5\n")
    torch.testing.assert_close(
        encode(DataEncoder.from_json(encoder.to_json()), tmp_path / "new.csv").inputs[0, :2], expected
    )


def test_points_without_a_series_or_a_time_are_said(tmp_path: Path) -> None:
    rows = [f"s{i},{t},{t}.5,{'pq'[i % 2]}" for i in range(20) for t in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(["s,t,v,label", *rows, ",3,1.5,p", "s1,,2.5,q"]))
    text = describe(plan(tmp_path / "t.csv", DataSettings(series="s", time="t")))
    assert "dropped: 1 row without the name of a series" in text
    assert "times: 1 row without a time, taken as the last of their series" in text


def test_a_split_that_divides_a_series_is_refused(tmp_path: Path) -> None:
    rows = [f"s{i},{t},{t}.5,{'train' if t < 3 else 'test'},{'pq'[i % 2]}" for i in range(20) for t in range(5)]
    (tmp_path / "t.csv").write_text("\n".join(["s,t,v,split,label", *rows]))
    with pytest.raises(DataError, match=r"the split changes within the series 's0'\. .* or set --split none"):
        plan(tmp_path / "t.csv", DataSettings(series="s", time="t"))
    assert plan(tmp_path / "t.csv", DataSettings(series="s", time="t", split="none")).encoder.spec.length == 5
