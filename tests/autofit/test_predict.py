"""Predictions as a table: digits enough to tell rows apart, whatever the numbers' size."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from icecore import user_data as own
from icecore.autofit import fit, predict
from icecore.autofit.fit import FitSettings
from icecore.autofit.predict import Predictions
from icecore.user_data.records import DataSettings


def written(found: Predictions, name: str = "y") -> list[str]:
    return [row[name] for row in csv.DictReader(io.StringIO(found.to_csv()))]


@pytest.mark.parametrize(
    ("spread", "value", "text"),
    [
        (3.0, 2_000_003.25, "2000003.25"),
        (3.0, 2_000_003.123456789, "2000003.123457"),
        (1e-3, 5e9 + 0.001, "5000000000.001"),
        (1e6, 0.123456789, "0.123457"),
        (1e-9, 1.23456789e-9, "1.234568e-09"),
        (1.0, 0.0, "0"),
        (1.0, float("nan"), "nan"),
        (1.0, float("inf"), "inf"),
        (1e-300, 1e300, "1e+300"),
    ],
)
def test_numbers_are_written_to_a_millionth_of_their_spread(spread: float, value: float, text: str) -> None:
    found = Predictions(["0"], {"y": np.array([value])}, "r2", spreads={"y": spread})
    assert written(found) == [text]


def test_labels_that_are_numbers_are_written_in_full_and_chances_are_not() -> None:
    columns = {"y": np.array([0.12345678, 1.5]), "y probability": np.array([1 / 3, 1], np.float32)}
    found = Predictions(["0", "1"], columns, "accuracy", spreads={"y": 0.0})
    assert written(found) == ["0.12345678", "1.5"]
    assert written(found, "y probability") == ["0.333333", "1"]
    assert written(Predictions(["0"], {"y": np.array([7])}, "accuracy", spreads={"y": 0.0})) == ["7"]


@pytest.mark.parametrize(("middle", "spread"), [(2e6, 3.0), (0.0, 1.0), (1e9, 1.0)])
def test_a_program_of_numbers_far_from_zero(
    tmp_path: Path, bodies: Mapping[str, str], middle: float, spread: float
) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    y = middle + spread * x[:, 0]
    plan = own.from_arrays(x, y, DataSettings(task="regression"))
    settings = FitSettings(backbone=bodies["bert"], lrs=(1e-2,), steps=5, batch_size=8)
    out = tmp_path / "m.safetensors"
    fit.fit(plan.task(), settings, out, {"encoder": plan.encoder.to_json()}, "cpu")
    (found,) = predict.predict([out], x, "cpu").values()
    texts = written(found)
    assert len(set(texts)) == len(texts)
    # what is written is what was computed, and what the estimator says
    np.testing.assert_allclose([float(text) for text in texts], found.columns["y"], rtol=0, atol=2e-6 * spread)
    said = pytest.importorskip("icecore.autofit.estimators").FPTRegressor.load(out, "cpu").predict(x)
    np.testing.assert_allclose([float(text) for text in texts], said, rtol=1e-6, atol=1e-4 * spread)
