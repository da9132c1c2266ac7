"""Files of the time series archives, which aeon reads: .ts, .arff and .tsf, and MiniRocket as a control."""

import importlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from icecore.autofit.baseline import fit_baseline
from icecore.core.errors import DataError
from icecore.user_data import DataSettings, encode, plan
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
        assert [label.lower() for label in other.encoder.target.classes[0]] == [*first.encoder.target.classes[0]]
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
