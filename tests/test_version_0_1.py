"""Files of version 0.1: programs and run folders still load, and give the numbers that version 0.1 computed."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import icecore
from icecore.autofit.predict import Predictions
from icecore.sharing.model_card import page
from icecore.training.evaluation import evaluate

FIXTURES = Path(__file__).parent / "fixtures" / "version_0_1"
RUN_ID = "f89f1a9a49ee"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files as the working directory, because the programs name their bodies by relative paths."""
    copy = tmp_path / "version_0_1"
    shutil.copytree(FIXTURES, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def expected() -> dict[str, Any]:
    return json.loads(Path("expected.json").read_text())


def predict(program: str, rows: Any) -> Predictions:
    predictions = icecore.predict(program, rows, device="cpu")
    assert isinstance(predictions, Predictions)
    return predictions


def test_a_classifier_predicts_the_same_labels_and_probabilities(expected: dict[str, Any]) -> None:
    predictions = predict("table.safetensors", "table.csv")
    columns = expected["table"]["columns"]
    assert list(predictions.columns) == list(columns) == ["kind", "kind probability"]
    assert predictions.columns["kind"].tolist() == columns["kind"]
    np.testing.assert_allclose(predictions.columns["kind probability"], columns["kind probability"], rtol=1e-4)
    assert predictions.score == pytest.approx(expected["table"]["score"])


def test_a_regressor_on_texts_predicts_the_same_numbers(expected: dict[str, Any]) -> None:
    predictions = predict("texts.safetensors", expected["texts"]["rows"])
    (name,) = expected["texts"]["columns"]
    np.testing.assert_allclose(predictions.columns[name], expected["texts"]["columns"][name], rtol=1e-4)


def test_estimators_load_the_programs(expected: dict[str, Any]) -> None:
    pytest.importorskip("sklearn")
    regressor = icecore.FPTRegressor.load("texts.safetensors", device="cpu")
    values = next(iter(expected["texts"]["columns"].values()))
    np.testing.assert_allclose(regressor.predict(expected["texts"]["rows"]), values, rtol=1e-4)


def test_the_model_card_has_the_stored_results() -> None:
    program = icecore.Program.load(Path("table.safetensors"))
    text = page(program, "table")
    assert program.extra["verdict"] in text
    for line in ("- icecore: 0.1.0", "| this program | ", "| no body | ", "the mean over seeds 0, 1 is"):
        assert line in text


def test_a_fit_starts_from_a_program() -> None:
    rows = [line.split(",") for line in Path("table.csv").read_text().splitlines()[1:]]
    x = np.array([[float(width or 0)] for width, _, _ in rows])
    y = [kind for _, _, kind in rows]
    fitted = icecore.fit(x, y, backbone="./bert", start="table.safetensors", lrs=1e-9, steps=1, device="cpu")
    start = icecore.Program.load(Path("table.safetensors")).tensors
    norms = [name for name in start if name.startswith("body.")]
    assert norms
    for name in norms:
        np.testing.assert_allclose(fitted.program.tensors[name], start[name], atol=1e-6)


def test_a_finished_run_is_not_trained_again() -> None:
    run = Path("runs") / RUN_ID
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    options: dict[str, Any] = {"steps": 30, "batch_size": 8, "eval_every": 10, "eval_examples": 64, "test_examples": 64}
    # the default protocol of version 0.1
    options |= {
        "protocol": "fair",
        "backbone": "./bert",
        "precision": "fp32",
        "device": "cpu",
        "task_options": {"n": 3},
    }
    icecore.train("bit-xor", lr=1e-2, out="runs", **options)
    assert {path.name for path in Path("runs").iterdir() if path.is_dir()} == {RUN_ID}
    assert {name: (run / name).read_bytes() for name in before} == before
    group = json.loads(Path("runs/summary.json").read_text())
    assert [summary["run_id"] for summary in group["runs"]] == [RUN_ID]
    assert group["test_mean"] == json.loads(before["summary.json"])["test_metric"]


def test_a_run_scores_the_same() -> None:
    model, task = icecore.load_run(f"runs/{RUN_ID}", device="cpu")
    summary = json.loads(Path(f"runs/{RUN_ID}/summary.json").read_text())
    assert float(evaluate(model, task, "test", 64)[0]) == pytest.approx(summary["test_metric"])
