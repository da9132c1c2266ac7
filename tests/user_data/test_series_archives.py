"""Files of the time series archives, which aeon reads: .ts, .arff and .tsf, and MiniRocket as a control."""

import gzip
import importlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from icecore.autofit.baseline import fit_baseline
from icecore.core.errors import DataError
from icecore.user_data import DataSettings, encode, plan
from icecore.user_data.readers.source_kinds import read_path
from icecore.user_data.records import SequenceRecords
from user_data_samples import describe

aeon_missing = pytest.mark.skipif("not __import__('importlib.util').util.find_spec('aeon')", reason="needs aeon")


def write_ts(path: Path, count: int, regression: bool = False, unequal: bool = False) -> Path:
    """Two-dimensional series whose frequency is the label."""
    rng = np.random.default_rng(count)
    label = "@targetlabel true" if regression else "@classLabel true slow fast"
    lines = ["@problemName x", "@timeStamps false", "@missing true", "@univariate false", "@dimension 2"]
    lines += [f"@equalLength {str(not unequal).lower()}", *([] if unequal else ["@seriesLength 20"]), label, "@data"]
    for i in range(count):
        T = 20 - (i % 4 if unequal else 0)
        wave = np.sin((1 + i % 2) * 0.5 * np.arange(T)) + rng.normal(0, 0.1, (2, T))
        first, second = (",".join(f"{v:.4f}" for v in row) for row in wave)
        if i == 3:
            first = "?" + first[first.index(",") :]
        lines.append(f"{first}:{second}:{i / 7 if regression else ('slow', 'fast')[i % 2]}")
    path.write_text("\n".join(lines) + "\n")
    return path


@aeon_missing
@pytest.mark.parametrize("unequal", [False, True])
def test_ts_files_with_their_published_split(tmp_path: Path, unequal: bool) -> None:
    path = write_ts(tmp_path / "Waves_TRAIN.ts", 30, unequal=unequal)
    write_ts(tmp_path / "Waves_TEST.ts", 40, unequal=unequal)
    data_plan = plan(path)
    assert data_plan.encoder.target.classes == (("fast", "slow"),)
    assert (data_plan.encoder.spec.length, len(data_plan.splits["test"])) == (20, 40)
    assert "filled: 2 missing values" in describe(data_plan)
    assert len(encode(data_plan.encoder, tmp_path / "Waves_TEST.ts", score=True)) == 40
    if not unequal:
        pytest.importorskip("sklearn")
        assert fit_baseline(data_plan.task(), "test").val_metric == 1


@aeon_missing
def test_ts_files_of_regression(tmp_path: Path) -> None:
    data_plan = plan(write_ts(tmp_path / "Waves.ts", 40, regression=True))
    assert data_plan.encoder.target.task == "regression"


@aeon_missing
def test_tsf_files_are_forecast(tmp_path: Path) -> None:
    lines = ["@relation x", "@attribute series_name string", "@frequency monthly", "@horizon 6", "@missing false"]
    lines += ["@equallength true", "@data"]
    lines += [f"T{i}:" + ",".join(f"{np.sin(t / 2) + i:.3f}" for t in range(80)) for i in range(3)]
    (tmp_path / "x.tsf").write_text("\n".join(lines) + "\n")
    data_plan = plan(tmp_path / "x.tsf", DataSettings(task="forecast", horizon=6))
    assert data_plan.encoder.forecast is not None
    assert "series: 3" in describe(data_plan)


@aeon_missing
@pytest.mark.parametrize("name", ["GunPoint", "ArrowHead", "BasicMotions"])
def test_every_format_of_a_published_data_set_gives_the_same_series(tmp_path: Path, name: str) -> None:
    folder = Path(str(importlib.import_module("aeon").__file__)).parent / "datasets" / "data" / name
    plans = []
    for ending in (".ts", ".arff", ".tsv"):
        if (folder / f"{name}_TRAIN{ending}").exists():  # a copy, because beside it lies the test split in one format
            plans.append(plan(shutil.copy(folder / f"{name}_TRAIN{ending}", tmp_path)))
    first, *others = plans
    assert others
    for other in others:
        assert other.encoder.target.classes == first.encoder.target.classes
        for split in ("train", "val", "test"):
            np.testing.assert_allclose(other.splits[split].inputs, first.splits[split].inputs, atol=1e-4)


def test_without_aeon_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aeon.datasets", None)
    with pytest.raises(DataError, match=r"Reading .*x\.ts needs aeon: pip install 'icecore\[timeseries\]'"):
        plan(write_ts(tmp_path / "x.ts", 4))


def test_an_aeon_that_cannot_be_imported_says_why(tmp_path: Path, stand_in_aeon: Path) -> None:
    (stand_in_aeon / "datasets").mkdir()
    (stand_in_aeon / "__init__.py").write_text("")
    (stand_in_aeon / "datasets" / "__init__.py").write_text("import a_package_that_is_missing")
    with pytest.raises(DataError, match=r"needs aeon, which is there but cannot be imported \(.*a_package_that_is"):
        plan(write_ts(tmp_path / "x.ts", 4))


# ------------------------------------------------------------------------------- what is written is what is read


def ts_lines(labels: list[str], count: int = 30, points: int = 12) -> list[str]:
    rng = np.random.default_rng(0)
    header = ["@problemName x", "@timeStamps false", "@univariate true", "@equalLength true"]
    header += [f"@classLabel true {' '.join(dict.fromkeys(labels))}", "@data"]
    rows = [",".join(f"{v:.4f}" for v in rng.normal(size=points)) for _ in range(count)]
    return [*header, *(f"{row}:{labels[i % len(labels)]}" for i, row in enumerate(rows))]


@aeon_missing
@pytest.mark.parametrize("labels", [["Cat", "cat"], ["banana", "date"], ["UP", "up?"], ["1", "2"]])
def test_labels_of_ts_files_are_as_they_are_written(tmp_path: Path, labels: list[str]) -> None:
    (tmp_path / "x.ts").write_text("\n".join(ts_lines(labels)) + "\n")
    assert plan(tmp_path / "x.ts").encoder.target.classes == (tuple(labels),)


@aeon_missing
def test_labels_of_arff_files_are_as_they_are_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [",".join([*(f"{v:.4f}" for v in rng.normal(size=12)), ("Up?", "UP")[i % 2]]) for i in range(30)]
    header = ["@relation x", *(f"@attribute t{i} real" for i in range(12)), "@attribute label {Up?,UP}", "@data"]
    (tmp_path / "x.arff").write_text("\n".join([*header, *rows]) + "\n")
    assert plan(tmp_path / "x.arff").encoder.target.classes == (("UP", "Up?"),)


@pytest.mark.parametrize("time", ["{}", "2024-05-06 07:{:02}:00"])
def test_points_with_time_stamps_keep_their_signs_and_whole_numbers(tmp_path: Path, time: str) -> None:
    values = np.random.default_rng(0).integers(-20, 20, (30, 2, 12)) / 2
    lines = ["@timestamps true", "@univariate false", "@classLabel true a B", "@data"]
    for i, row in enumerate(values.tolist()):
        channels = [",".join(f"({time.format(t)},{v:g})" for t, v in enumerate(channel)) for channel in row]
        lines.append(":".join([*channels, "aB"[i % 2]]))
    lines[4] = lines[4].replace(f"{values[0, 0, 0]:g})", "?)", 1)
    (tmp_path / "x.ts").write_text("\n".join(lines) + "\n")
    records = read_path(tmp_path / "x.ts", DataSettings())[1]
    assert isinstance(records, SequenceRecords)
    values[0, 0, 0] = np.nan
    np.testing.assert_array_equal(records.sequences.points.reshape(30, 12, 2).swapaxes(1, 2), values)
    assert plan(tmp_path / "x.ts").encoder.target.classes == (("B", "a"),)


def test_time_stamps_that_differ_are_refused(tmp_path: Path) -> None:
    lines = ["@timestamps true", "@data", "(0,1.5),(1,2.5):(0,1.5),(2,2.5):a"]
    (tmp_path / "x.ts").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"x\.ts line 3: the values of a series must have the same times"):
        plan(tmp_path / "x.ts")
    (tmp_path / "x.ts").write_text("\n".join([*lines[:2], "(0,1.5),(1,x):a"]))
    with pytest.raises(DataError, match=r"x\.ts line 3: 'x' is not a number"):
        plan(tmp_path / "x.ts")


def write_ucr(path: Path, delimiter: str, decimal: str, count: int = 40) -> Path:
    rng = np.random.default_rng(count)
    rows = [[str(1 + i % 2), *(f"{v:.4f}".replace(".", decimal) for v in rng.normal(size=20))] for i in range(count)]
    raw = "\n".join(delimiter.join(row) for row in rows).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize(
    ("delimiter", "decimal"), [("\t", ","), (";", ","), ("  ", ","), (",", "."), (", ", "."), (" ", ".")]
)
def test_decimal_commas_of_an_archive_divide_no_number(tmp_path: Path, delimiter: str, decimal: str) -> None:
    expected = plan(write_ucr(tmp_path / "a_TRAIN.tsv", "\t", "."))
    other = plan(write_ucr(tmp_path / "b_TRAIN.tsv", delimiter, decimal))
    assert other.encoder.spec.length == 20
    assert other.sha256() == expected.sha256()


def test_commas_of_an_archive_that_may_separate_thousands_are_refused(tmp_path: Path) -> None:
    rows = ["\t".join([str(1 + i % 2), *(f"{1 + i},{200 + j}" for j in range(9)), "900"]) for i in range(20)]
    (tmp_path / "x_TRAIN.tsv").write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"'1,200' may be 1.2 or 1200. Say .* --decimal point or comma"):
        plan(tmp_path / "x_TRAIN.tsv")
    assert plan(tmp_path / "x_TRAIN.tsv", DataSettings(decimal="comma")).encoder.spec.length == 10


def test_a_published_split_may_be_compressed(tmp_path: Path) -> None:
    write_ucr(tmp_path / "Set_TRAIN.tsv.gz", "\t", ".")
    write_ucr(tmp_path / "Set_TEST.tsv.gz", "\t", ".", count=50)
    data_plan = plan(tmp_path / "Set_TRAIN.tsv.gz")
    assert (data_plan.encoder.spec.length, len(data_plan.splits["test"])) == (20, 50)


def test_a_first_cell_that_is_empty_is_a_missing_label(tmp_path: Path) -> None:
    path = write_ucr(tmp_path / "Set_TRAIN.tsv", "\t", ".")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line[1:] if i % 10 == 5 else line for i, line in enumerate(lines)))
    data_plan = plan(path)
    assert data_plan.encoder.target.classes == (("1", "2"),)
    assert "dropped: 4 rows without a target" in describe(data_plan)


def test_new_series_of_an_archive_may_have_any_name(tmp_path: Path) -> None:
    encoder = plan(write_ucr(tmp_path / "Set_TRAIN.tsv", "\t", ".")).encoder
    expected = encode(encoder, tmp_path / "Set_TRAIN.tsv", score=True)
    lines = (tmp_path / "Set_TRAIN.tsv").read_text().splitlines()
    (tmp_path / "new.tsv").write_text("\n".join(lines))
    (tmp_path / "unlabelled.tsv").write_text("\n".join(line.partition("\t")[2] for line in lines))
    (tmp_path / "one.tsv").write_text(lines[0])
    labelled = encode(encoder, tmp_path / "new.tsv", score=True)
    assert labelled.inputs.equal(expected.inputs)
    assert encode(encoder, tmp_path / "unlabelled.tsv").inputs.equal(expected.inputs)
    assert encode(encoder, tmp_path / "one.tsv").inputs.equal(expected.inputs[:1])
