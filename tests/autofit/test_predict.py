"""Predictions: tables with enough digits to tell rows apart, and passes over a few rows at a time."""

import csv
import io
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import icecore
from commandline import Run
from icecore import user_data
from icecore.autofit import fit, predict
from icecore.autofit.fit_settings import FitSettings
from icecore.autofit.predict import Predictions
from icecore.autofit.row_digests import sample_digests, share_seen
from icecore.core.config import RunConfig
from icecore.core.errors import DataError, WeightsError
from icecore.experiments import sweep
from icecore.training.context import ExecutionContext
from icecore.user_data import DataSettings
from icecore.user_data.records import NumberNames, select_names


@pytest.fixture
def settings(bodies: Mapping[str, str]) -> FitSettings:
    return FitSettings(backbone=bodies["bert"], lrs=(1e-2,), steps=5, batch_size=8)


def read_column(predictions: Predictions, name: str = "y") -> list[str]:
    return [row[name] for row in csv.DictReader(io.StringIO(predictions.to_csv()))]


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
    predictions = Predictions(["0"], {"y": np.array([value])}, "r2", spreads={"y": spread})
    assert read_column(predictions) == [text]


def test_labels_that_are_numbers_are_written_in_full_but_probabilities_are_not() -> None:
    columns = {"y": np.array([0.12345678, 1.5]), "y probability": np.array([1 / 3, 1], np.float32)}
    predictions = Predictions(["0", "1"], columns, "accuracy", spreads={"y": 0.0})
    assert read_column(predictions) == ["0.12345678", "1.5"]
    assert read_column(predictions, "y probability") == ["0.333333", "1"]
    assert read_column(Predictions(["0"], {"y": np.array([7])}, "accuracy", spreads={"y": 0.0})) == ["7"]


@pytest.mark.parametrize(("mean", "spread"), [(2e6, 3.0), (0.0, 1.0), (1e9, 1.0)])
def test_numbers_far_from_zero_are_written_as_they_are_computed(
    tmp_path: Path, settings: FitSettings, mean: float, spread: float
) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    y = mean + spread * x[:, 0]
    plan = user_data.from_arrays(x, y, DataSettings(task="regression"))
    path = tmp_path / "m.safetensors"
    fit.fit(plan.task(), settings, path, {"encoder": plan.encoder.to_json()}, "cpu")
    (predictions,) = predict.predict([path], x, "cpu").values()
    texts = read_column(predictions)
    assert len(set(texts)) == len(texts)
    values = [float(text) for text in texts]
    np.testing.assert_allclose(values, predictions.columns["y"], rtol=0, atol=2e-6 * spread)
    estimator = pytest.importorskip("icecore.autofit.estimators").FPTRegressor.load(path, "cpu")
    np.testing.assert_allclose(values, estimator.predict(x), rtol=1e-6, atol=1e-4 * spread)


def test_programs_of_several_precisions_answer_as_alone(tmp_path: Path, settings: FitSettings) -> None:
    x = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    plan = user_data.from_arrays(x, (x[:, 0] > 0).astype(int))
    paths = [tmp_path / f"{precision}.safetensors" for precision in ("fp32", "bf16")]
    for path in paths:
        own = replace(settings, steps=2, precision=path.stem)
        fit.fit(plan.task(), own, path, {"encoder": plan.encoder.to_json()}, "cpu")
    for order in (paths, paths[::-1]):
        together = predict.predict(order, x, "cpu")
        for path in paths:
            alone = predict.predict([path], x, "cpu")[path]
            for name, column in alone.columns.items():
                np.testing.assert_array_equal(together[path].columns[name], column)


def test_tokens_are_built_for_one_pass_at_a_time(
    tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).normal(size=(240, 4)).astype(np.float32)
    plan = user_data.from_arrays(x, (x[:, 0] > 0).astype(int))
    path = tmp_path / "mine.safetensors"
    fit.fit(plan.task(), replace(settings, steps=2), path, {"encoder": plan.encoder.to_json()}, "cpu")
    (whole,) = predict.predict([path], x).values()
    monkeypatch.setattr(predict, "ROWS_PER_PASS", 50)
    rows_built: list[int] = []
    rows_at_pass: list[int] = []
    build_tokens, run_pass = user_data.UserTask.tokens, predict.Engine.predict

    def tokens(task: user_data.UserTask, inputs: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        rows_built.append(len(inputs))
        return build_tokens(task, inputs, lengths)

    def serve(*args: Any) -> Any:
        rows_at_pass.append(sum(rows_built))
        return run_pass(*args)

    monkeypatch.setattr(user_data.UserTask, "tokens", tokens)
    monkeypatch.setattr(predict.Engine, "predict", serve)
    (predictions,) = predict.predict([path], x).values()
    assert rows_at_pass == [50, 100, 150, 200, 240]
    for name, column in whole.columns.items():
        if column.dtype.kind == "f":
            np.testing.assert_allclose(predictions.columns[name], column, rtol=1e-4)
        else:
            assert (predictions.columns[name] == column).all()


def test_a_program_of_a_built_in_task_cannot_read_your_own_data(
    tmp_path: Path, config: Callable[..., RunConfig]
) -> None:
    run = config()
    sweep.train_runs([run], ExecutionContext(tmp_path, device="cpu"))
    path = tmp_path / run.run_id / "program.safetensors"
    with pytest.raises(DataError, match="is a program for the built-in task bit-xor, which cannot read your own data"):
        predict.predict([path], np.zeros((2, 4)))


@pytest.fixture
def foreign(settings: FitSettings, tmp_path: Path) -> Path:
    """A program whose header names a model on the hub."""
    X = np.random.default_rng(0).normal(size=(30, 3))
    plan = user_data.from_arrays(X, X[:, 0] > 0)
    extra = {"encoder": plan.encoder.to_json()}
    path = tmp_path / "theirs.safetensors"
    program = fit.fit(plan.task(), settings, path, extra, "cpu").program
    replace(program, config=replace(program.config, backbone="someone/theirs", weights="random")).save(path)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The token of each question to the hub, which cannot be reached."""
    tokens: list[Any] = []

    class Hub:
        def __init__(self, token: Any = None) -> None:
            tokens.append(token)

        def model_info(self, *_: Any, **__: Any) -> None:
            raise OSError("no such host")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    return tokens


def test_a_program_cannot_make_icecore_ask_the_network(foreign: Path, asked: list[Any], run: Run) -> None:
    data = foreign.parent / "rows.csv"
    data.write_text("x0,x1,x2\n1,2,3\n")
    ended = run("predict", foreign, data)
    assert ended.code == 2
    assert "does not fetch what a file names by itself" in ended.err
    assert "--download" in ended.err
    with pytest.raises(WeightsError, match="download=True"):
        icecore.predict(foreign, np.ones((1, 3)))
    assert not asked


def test_the_hub_is_asked_with_permission_and_without_the_token(foreign: Path, asked: list[Any], run: Run) -> None:
    data = foreign.parent / "rows.csv"
    data.write_text("x0,x1,x2\n1,2,3\n")
    assert "neither cached nor reachable" in run("predict", foreign, data, "--download").err
    assert asked == [False]
    assert run("predict", foreign, data, "--download", "--token").code == 2
    assert asked == [False, None]
    assert "Add --download" in run("predict", foreign, data, "--token").err


def test_a_run_folder_cannot_make_icecore_ask_the_network(
    config: Callable[..., RunConfig], tmp_path: Path, asked: list[Any]
) -> None:
    own = config()
    sweep.train_runs([own], ExecutionContext(tmp_path, device="cpu"))
    folder = tmp_path / own.run_id
    (folder / "config.json").write_text(replace(own, backbone="someone/theirs").to_json())
    with pytest.raises(WeightsError, match="--download"):
        icecore.load_run(folder)
    assert not asked


def test_no_cell_is_a_formula_to_a_spreadsheet() -> None:
    columns = {"=y": np.array(["=1+1", "-2.5", "-x", "@a", "+b", "\t=c", "plain"])}
    text = Predictions(["=cmd()", *"bcdefg"], columns, "accuracy").to_csv()
    rows = list(csv.reader(io.StringIO(text)))
    assert [row[0] for row in rows][:2] == ["row", "'=cmd()"]
    assert [row[1] for row in rows] == ["'=y", "'=1+1", "-2.5", "'-x", "'@a", "'+b", "'\t=c", "plain"]


# ------------------------------------------------------------------------------- memory


def peak_bytes(work: Callable[[], object]) -> int:
    """Bytes that Python and NumPy hold at most while `work` runs, beyond what they hold before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_writing_predictions_takes_as_much_memory_for_any_number_of_rows(tmp_path: Path) -> None:
    def save(rows: int) -> Callable[[], object]:
        columns = {"x": np.linspace(0, 1, rows)}
        table = Predictions(NumberNames(np.arange(rows)), columns, "r2")
        return lambda: table.save(tmp_path / f"{rows}.csv")

    few, many = peak_bytes(save(1_000)), peak_bytes(save(30_000))
    assert many < few + 100_000
    assert len((tmp_path / "30000.csv").read_text().splitlines()) == 30_001


def test_the_note_on_training_rows_takes_as_much_memory_for_any_number_of_rows() -> None:
    rows = torch.arange(60_000.0).reshape(-1, 2)
    sample = sample_digests(rows[-200:], None)
    peak = peak_bytes(lambda: share_seen(sample, rows, None))
    assert share_seen(sample, rows, None) == 1
    assert share_seen(sample, rows[:-100], None) == 0.5
    assert peak < 100_000


def test_names_that_are_numbers_stay_numbers() -> None:
    names = select_names(NumberNames(np.arange(5) * 10), np.array([3, 1]))
    assert isinstance(names, NumberNames)
    assert names == ["30", "10"]
    assert names != ["30"]
    assert select_names(["a", "b", "c"], np.array([2, 0])) == ["c", "a"]
