"""Fit and predict: a program without tuning, controls on equal terms, honest sentences, new rows."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from commandline import Run
from icecore import user_data as own
from icecore.autofit import baseline, fit, predict
from icecore.autofit.fit import FitSettings
from icecore.core.errors import ConfigError, DataError, UserError
from icecore.model.program import Program
from icecore.sharing import model_card as card
from icecore.user_data.records import DataSettings

N = 240


def arrays(task: str = "classification", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of four numbers; the first one decides."""
    x = np.random.default_rng(seed).normal(size=(N, 4)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int) if task == "classification" else 3 * x[:, 0] + 10


@pytest.fixture
def settings(bodies: Mapping[str, str]) -> FitSettings:
    return FitSettings(backbone=bodies["bert"], lrs=(1e-2, 3e-2), steps=150, batch_size=16)


def fitted(tmp_path: Path, settings: FitSettings, task: str = "classification") -> tuple[own.Plan, fit.Fitted, Path]:
    plan = own.from_arrays(*arrays(task), DataSettings(task=task))  # type: ignore[arg-type]
    out = tmp_path / "mine.safetensors"
    return plan, fit.fit(plan.task(), settings, out, {"encoder": plan.encoder.to_json()}, "cpu"), out


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_what_can_be_learned_is_learned(tmp_path: Path, settings: FitSettings, task: str) -> None:
    body = {"backbone": "minilm", "weights": "random", "layers": 1, "lrs": (3e-3, 1e-2)}
    settings = replace(settings, **body)  # type: ignore[arg-type]
    _, found, out = fitted(tmp_path, settings, task)
    assert found.result.metric > 0.8
    assert list(tmp_path.iterdir()) == [out]
    program = Program.load(out)
    assert program.extra["result"]["metric"] == found.result.metric
    assert program.extra["result"]["lr"] in settings.lrs
    assert found.verdict == ""


def test_the_result_is_that_of_the_saved_program_on_the_test_rows(tmp_path: Path, settings: FitSettings) -> None:
    plan, found, out = fitted(tmp_path, settings)
    encoder = predict.encoder_of(Program.load(out), out)
    assert encoder == plan.encoder
    x, y = arrays()
    (said,) = predict.predict([out], x).values()
    labels = said.columns[plan.encoder.target.names[0]]
    test = plan.splits["test"]
    # the plan's test rows, found again among all rows by their inputs
    rows = own.encode(encoder, x).inputs
    places = [int((rows == row).flatten(1).all(1).nonzero()[0, 0]) for row in test.inputs]
    assert np.mean(labels[places] == y[places]) == pytest.approx(found.result.metric)
    assert said.score is None


def test_controls_get_the_same_budget(tmp_path: Path, settings: FitSettings) -> None:
    plan, found, out = fitted(tmp_path, replace(settings, controls=True))
    names = [control.name for control in found.controls]
    assert names[:2] == ["the same body, random", "no body"]
    assert names[2] in ("logistic regression", "gradient boosting")
    assert {len(r.scores) for r in (found.result, *found.controls)} == {len(plan.splits["test"])}
    assert set(Program.load(out).extra["controls"]) == set(names)
    assert found.verdict


def test_several_seeds_are_meaned_at_one_rate_and_the_best_is_written(tmp_path: Path, settings: FitSettings) -> None:
    settings = replace(settings, controls=True, seeds=(0, 1, 2), steps=20)
    plan, found, out = fitted(tmp_path, settings)
    trained = (found.result, *found.controls[:2])
    for each in trained:
        assert each.seeds == (0, 1, 2)
        assert each.each.shape == (3, len(plan.splits["test"]))
        assert each.rate in settings.lrs
        assert each.mean == pytest.approx(each.each.mean(1).mean())
    assert found.controls[2].variance == 0
    program, result = Program.load(out), found.result
    assert (program.config.seed, program.config.lr) == (result.seed, result.lr)
    assert program.metrics["test"] == program.extra["result"]["metric"] == result.metric
    assert result.variance is not None
    kept = {"seeds": [0, 1, 2], "seeds_lr": result.rate, "seeds_mean": result.mean}
    assert kept.items() <= program.extra["result"].items()
    assert program.extra["result"]["seeds_error"] == pytest.approx(result.variance**0.5)
    assert program.extra["verdict"] == found.verdict
    assert "Means over 3 seeds" in found.verdict
    assert "Means over 3 seeds" in card.page(program, "mine")


def test_each_seeds_scores_are_those_of_its_own_run(
    tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit.shutil, "rmtree", lambda *_, **__: None)
    _, found, _ = fitted(tmp_path, replace(settings, seeds=(0, 1), steps=20))
    summaries = [json.loads(path.read_text()) for path in tmp_path.glob(".mine.fit/*/summary.json")]
    assert len(summaries) == 4
    means = {lr: np.mean([s["val_metric"] for s in summaries if s["lr"] == lr]) for lr in settings.lrs}
    assert found.result.rate is not None
    assert means[found.result.rate] == max(means.values())
    for seed, scores in zip(found.result.seeds, found.result.each, strict=True):
        (run,) = [s for s in summaries if (s["lr"], s["seed"]) == (found.result.rate, seed)]
        assert float(scores.mean()) == pytest.approx(run["test_metric"])
    assert found.result.validation == max(s["val_metric"] for s in summaries)
    # without controls too, the card says what other seeds gave
    result = found.program.extra["result"]
    over = f"the mean over seeds 0, 1 is {result['seeds_mean']:.4f} ± {result['seeds_error']:.4f} (standard error)"
    assert over in card.page(found.program, "mine")


def test_a_random_body_is_not_its_own_control(tmp_path: Path, settings: FitSettings) -> None:
    _, found, _ = fitted(tmp_path, replace(settings, controls=True, weights="random"))
    assert next(control.name for control in found.controls) == "no body"


def test_minutes_bound_the_steps(tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    task = own.from_arrays(*arrays()).task()
    config = fit.configure(task, settings, "fp32")
    runtime = fit.select_runtime("cpu", "fp32")
    few, many = (fit.affordable(config, task, replace(settings, minutes=m), runtime) for m in (1e-6, 100))
    val = task.split_size("val")
    assert few == {"steps": fit.FEWEST_STEPS // 10, "eval_examples": val, "test_examples": val}
    epochs = -(-fit.EPOCHS * task.split_size("train") // 16)
    assert many == {"steps": max(fit.FEWEST_STEPS, epochs), "eval_examples": val, "test_examples": None}


def test_few_minutes_score_few_rows_of_a_large_split(settings: FitSettings) -> None:
    x = np.random.default_rng(0).normal(size=(4000, 4))
    task = own.from_arrays(x, (x[:, 0] > 0).astype(int)).task()
    config = fit.configure(task, settings, "fp32")
    found = fit.affordable(config, task, replace(settings, minutes=1e-6), fit.select_runtime("cpu", "fp32"))
    assert found["eval_examples"] == found["test_examples"] == fit.FEWEST_EXAMPLES


def test_the_best_run_is_scored_on_the_whole_test_split(
    tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "FEWEST_EXAMPLES", 5)
    plan = own.from_arrays(*arrays())
    found = fit.fit(plan.task(), replace(settings, steps=None, minutes=1e-4), tmp_path / "a.safetensors", {}, "cpu")
    assert found.program.config.test_examples == 5
    assert len(found.result.scores) == len(plan.splits["test"])
    assert found.program.metrics["test"] == found.result.metric


def test_an_interrupted_fit_goes_on(tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = replace(settings, steps=None, minutes=0.02)
    plan = own.from_arrays(*arrays())
    calls: list[dict[str, Any]] = []
    original = fit.affordable

    def counted(*args: Any) -> dict[str, Any]:
        calls.append(original(*args))
        return dict(calls[-1])

    monkeypatch.setattr(fit, "affordable", counted)
    out = tmp_path / "mine.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(fit, "predict", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit.fit(plan.task(), timed, out, {}, "cpu")
    assert (tmp_path / ".mine.fit").is_dir()
    fit.fit(plan.task(), timed, out, {}, "cpu")
    # what the minutes allowed was decided once: the runs are the same, and finished
    assert len(calls) == 1
    assert not (tmp_path / ".mine.fit").exists()


def test_starting_from_a_program(tmp_path: Path, settings: FitSettings) -> None:
    _, _, out = fitted(tmp_path, settings)
    plan = own.from_arrays(*arrays(seed=1))
    again = fit.fit(
        plan.task(), replace(settings, start=str(out), steps=1, lrs=(1e-9,)), tmp_path / "b.safetensors", {}, "cpu"
    )
    before, after = Program.load(out).tensors, again.program.tensors
    torch.testing.assert_close(after["positions"], before["positions"])
    torch.testing.assert_close(after["input.layers.0.weight"], before["input.layers.0.weight"])


# --- the baseline ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_baseline_learns(task: str) -> None:
    pytest.importorskip("sklearn")
    plan = own.from_arrays(*arrays(task), DataSettings(task=task))  # type: ignore[arg-type]
    found = baseline.fit_baseline(plan.task(), "test")
    assert found.logits.shape == (len(plan.splits["test"]), 1, plan.encoder.spec.outputs)
    assert torch.equal(found.targets, plan.splits["test"].targets)
    assert float(plan.task().metric(found.logits, found.targets).mean()) > 0.8


def test_flattened_texts_are_counts_and_places() -> None:
    texts = ["AB", "BBA", "A", "BA"] * 8
    task = own.from_arrays(texts, [0, 1, 0, 1] * 8).task()
    x, targets = baseline.flattened(task, "train")
    V, T = task.spec.size, task.spec.length
    assert x.shape[1] == V + V * T
    assert (x[:, :V].sum(1) == x[:, V:].sum(1)).all()
    assert x[:, :V].sum(1).max() == T
    assert targets.shape == (len(x), 2, 1)


# --- commands ----------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    x, y = arrays()
    path = tmp_path / "table.csv"
    lines = ["a,b,c,d,kind", *(",".join([*map(str, row), "xy"[label]]) for row, label in zip(x, y, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_fit_predict_info_push_pull(run: Run, table: Path, tmp_path: Path, bodies: Mapping[str, str]) -> None:
    out = tmp_path / "mine.safetensors"
    few = ("--backbone", bodies["bert"], "--steps", 30, "--lr", "1e-2,3e-2", "--device", "cpu", "--batch-size", 8)
    planned = run("fit", table, "--plan", *few)
    assert planned.code == 0
    assert "classes of kind" in planned.out
    made = run("fit", table, "--out", out, "--controls", "--quiet", *few)
    assert made.code == 0
    for word in ("accuracy on", "no body", "the same body, random", "training of each, the pretrained body", "predict"):
        assert word in made.out
    assert "over seeds" not in made.out
    said = run("predict", out, table, "--device", "cpu")
    lines = said.out.splitlines()
    assert lines[0] == "row,kind,kind probability"
    assert len(lines) == N + 1
    assert {line.split(",")[1] for line in lines[1:]} <= {"x", "y"}
    assert "accuracy" in said.err
    other = tmp_path / "other.safetensors"
    other.write_bytes(out.read_bytes())
    both = run("predict", out, other, table, "--out", tmp_path / "said", "--device", "cpu")
    assert both.code == 0
    for name in ("mine", "other"):
        rows = [line.split(",") for line in (tmp_path / "said" / f"{name}.csv").read_text().splitlines()]
        assert [row[:2] for row in rows] == [line.split(",")[:2] for line in lines]
    assert "# mine" in run("info", out).out
    assert run("push", out, tmp_path / "shared").code == 0
    assert run("pull", tmp_path / "shared", "--out", tmp_path / "back.safetensors").code == 0
    assert (tmp_path / "back.safetensors").read_bytes() == out.read_bytes()


def test_the_table_says_which_score_is_which(run: Run, table: Path, tmp_path: Path, bodies: Mapping[str, str]) -> None:
    words = ("--backbone", bodies["bert"], "--steps", 5, "--lr", "1e-2,3e-2", "--seeds", "0,1", "--device", "cpu")
    made = run("fit", table, "--out", tmp_path / "m.safetensors", "--controls", "--quiet", *words)
    assert made.code == 0
    assert "mean over seeds" in made.out
    assert "of the best by validation" in made.out
    trained = r"[\d.]+ ± [\d.]+%\s+[\d.]+% \(seed [01](, learning rate [\d.]+)?\)\s+0.0[13]\s+\d+"
    assert len(re.findall(trained, made.out)) == 3
    assert "Means over 2 seeds" in run("info", tmp_path / "m.safetensors").out


def test_columns_missing_at_prediction_are_named(run: Run, table: Path, tmp_path: Path, settings: FitSettings) -> None:
    plan = own.plan(table)
    fit.fit(plan.task(), settings, tmp_path / "m.safetensors", {"encoder": plan.encoder.to_json()}, "cpu")
    (tmp_path / "new.csv").write_text("a,b,c\n1,2,3\n")
    ended = run("predict", tmp_path / "m.safetensors", tmp_path / "new.csv", "--device", "cpu")
    assert ended.code == 2
    assert "d" in ended.err
    assert "Traceback" not in ended.err


def test_nothing_is_written_over_what_is_read(run: Run, table: Path, tmp_path: Path, settings: FitSettings) -> None:
    held = table.read_bytes()
    for words in (("fit", table, "--out", table), ("predict", tmp_path / "m.safetensors", table, "--out", table)):
        ended = run(*words)
        assert ended.code == 2
        assert "is what is read, and would be lost" in ended.err
    assert table.read_bytes() == held
    ended = run("fit", table, "--out", tmp_path, "--quiet")
    assert ended.code == 2
    assert "is a folder; name the file to write" in ended.err


def test_where_predictions_go(run: Run, table: Path, tmp_path: Path, settings: FitSettings) -> None:
    plan = own.plan(table)
    out = tmp_path / "m.safetensors"
    fit.fit(plan.task(), replace(settings, steps=2), out, {"encoder": plan.encoder.to_json()}, "cpu")
    (tmp_path / "sub").mkdir()
    twin = tmp_path / "sub" / "m.safetensors"
    twin.write_bytes(out.read_bytes())
    ended = run("predict", out, twin, table, "--out", tmp_path / "said", "--device", "cpu")
    assert ended.code == 2
    assert "programs of one name would write one file" in ended.err
    assert run("predict", out, table, "--out", tmp_path / "sub", "--device", "cpu").code == 0
    assert len((tmp_path / "sub" / "m.csv").read_text().splitlines()) == N + 1


def test_predict_refuses_where_asked(run: Run, table: Path, tmp_path: Path, settings: FitSettings) -> None:
    plan = own.plan(table)
    out, new = tmp_path / "m.safetensors", tmp_path / "new.csv"
    fit.fit(plan.task(), replace(settings, steps=2), out, {"encoder": plan.encoder.to_json()}, "cpu")
    new.write_text("a,b,c,d\n1,2,3,4\n1,x,3,4\n1,2\n")
    lenient = run("predict", out, new, "--device", "cpu")
    assert (lenient.code, len(lenient.out.splitlines())) == (0, 3)
    assert "not numbers: 1 cell of 'b'" in lenient.err
    assert "skipped: 1 damaged row: new.csv line 4 (expected 4 cells, found 2)" in lenient.err
    for flag, message in (
        ("--strict", "expected 4 cells, found 2"),
        ("--score", "has no column kind"),
    ):
        ended = run("predict", out, new, flag, "--device", "cpu")
        assert ended.code == 2
        assert message in ended.err


def test_tokens_are_made_as_they_are_needed(
    tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, out = fitted(tmp_path, replace(settings, steps=2))
    (whole,) = predict.predict([out], arrays()[0]).values()
    monkeypatch.setattr(predict, "ROWS", 50)
    made: list[int] = []
    original = own.UserTask.tokens

    def tokens(task: own.UserTask, inputs: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        made.append(len(inputs))
        return original(task, inputs, lengths)

    monkeypatch.setattr(own.UserTask, "tokens", tokens)
    engine = predict.Engine.predict
    waiting: list[int] = []

    def serve(*args: Any) -> Any:
        waiting.append(sum(made))
        return engine(*args)

    monkeypatch.setattr(predict.Engine, "predict", serve)
    (said,) = predict.predict([out], arrays()[0]).values()
    assert waiting == [50, 100, 150, 200, N]
    for name, column in whole.columns.items():
        if column.dtype.kind == "f":
            np.testing.assert_allclose(said.columns[name], column, rtol=1e-4)
        else:
            assert (said.columns[name] == column).all()


def test_a_program_of_a_built_in_task_is_refused(tmp_path: Path, config: Any) -> None:
    from icecore.experiments import sweep

    chosen = config()
    sweep.train_runs([chosen], sweep.Place(tmp_path, device="cpu"))
    path = tmp_path / chosen.run_id / "program.safetensors"
    with pytest.raises(DataError, match="a program for bit-xor, not for one's own data"):
        predict.predict([path], np.zeros((2, 4)))


def test_no_program_named(run: Run, table: Path) -> None:
    ended = run("predict", table)
    assert ended.code == 2
    assert "name a program and the data" in ended.err


def test_another_body_is_no_start(tmp_path: Path, settings: FitSettings, bodies: Mapping[str, str]) -> None:
    _, _, out = fitted(tmp_path, settings)
    task = own.from_arrays(*arrays()).task()
    with pytest.raises(ConfigError, match="is no start on"):
        fit.fit(task, replace(settings, start=str(out), backbone=bodies["gpt2"]), tmp_path / "b.safetensors", {}, "cpu")


def test_a_sweep_that_diverges_says_so(tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit.sweep, "train", lambda *_: [{"val_metric": None}])
    task = own.from_arrays(*arrays()).task()
    with pytest.raises(UserError, match=r"diverged at every learning rate \(0.01, 0.03\); give lower ones with --lr"):
        fit.fit(task, settings, tmp_path / "x.safetensors", {}, "cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lrs": ()}, "at least one learning rate"),
        ({"steps": 0}, "steps"),
        ({"minutes": 0.0}, "minutes: expected more than 0, found 0"),
        ({"minutes": float("nan")}, "minutes: expected more than 0, found nan"),
    ],
)
def test_settings_that_train_nothing(
    tmp_path: Path, settings: FitSettings, changes: dict[str, Any], message: str
) -> None:
    task = own.from_arrays(*arrays()).task()
    with pytest.raises(ConfigError, match=message):
        fit.fit(task, replace(settings, **changes), tmp_path / "x.safetensors", {}, "cpu")
