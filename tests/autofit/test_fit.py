"""Fit and predict: a program without tuning, controls on equal terms, and the commands."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from commandline import Run
from icecore import user_data
from icecore.autofit import fit, predict, time_budget
from icecore.autofit.fit_result import FitResult
from icecore.autofit.fit_settings import FitSettings
from icecore.backbones import backbone, build_body_of
from icecore.core.config import RunConfig
from icecore.core.errors import BusyError, ConfigError, UserError
from icecore.experiments.sweep import summarize_runs
from icecore.model.program import Program
from icecore.sharing import model_card
from icecore.training import context
from icecore.training.callbacks import Callback
from icecore.training.run_summary import BEHIND, COMPLETED, DIVERGED, RunSummary
from icecore.user_data import DataSettings, TaskKind
from interruption import Killed, interrupt

N = 240


def arrays(task: TaskKind = "classification", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of four numbers, of which the first one decides."""
    x = np.random.default_rng(seed).normal(size=(N, 4)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(int) if task == "classification" else 3 * x[:, 0] + 10


@pytest.fixture
def settings(bodies: Mapping[str, str]) -> FitSettings:
    return FitSettings(backbone=bodies["bert"], lrs=(1e-2, 3e-2), steps=150, batch_size=16)


def fit_arrays(
    tmp_path: Path, settings: FitSettings, task: TaskKind = "classification"
) -> tuple[user_data.Plan, FitResult, Path]:
    plan = user_data.from_arrays(*arrays(task), DataSettings(task=task))
    out = tmp_path / "mine.safetensors"
    return plan, fit.fit(plan.task(), settings, out, {"encoder": plan.encoder.to_json()}, "cpu"), out


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_fit_learns_what_can_be_learned(tmp_path: Path, settings: FitSettings, task: TaskKind) -> None:
    body = {"backbone": "minilm", "weights": "random", "layers": 1, "lrs": (3e-3, 1e-2)}
    settings = replace(settings, **body)  # type: ignore[arg-type]
    _, fitted, out = fit_arrays(tmp_path, settings, task)
    assert fitted.result.metric > 0.8
    assert list(tmp_path.iterdir()) == [out]
    program = Program.load(out)
    assert program.extra["result"]["metric"] == fitted.result.metric
    assert program.extra["result"]["lr"] in settings.lrs
    assert fitted.verdict == ""


def test_the_result_is_that_of_the_saved_program_on_the_test_rows(tmp_path: Path, settings: FitSettings) -> None:
    plan, fitted, out = fit_arrays(tmp_path, settings)
    encoder = predict.read_encoder(Program.load(out), out)
    assert encoder == plan.encoder
    x, y = arrays()
    (predictions,) = predict.predict([out], x).values()
    labels = predictions.columns[plan.encoder.target.names[0]]
    test = plan.splits["test"]
    # find the test rows of the plan among all rows by their inputs
    rows = user_data.encode(encoder, x).inputs
    index = [int((rows == row).flatten(1).all(1).nonzero()[0, 0]) for row in test.inputs]
    assert np.mean(labels[index] == y[index]) == pytest.approx(fitted.result.metric)
    assert predictions.score is None


def test_controls_get_the_same_budget(tmp_path: Path, settings: FitSettings) -> None:
    plan, fitted, out = fit_arrays(tmp_path, replace(settings, controls=True))
    names = [control.name for control in fitted.controls]
    assert names[:2] == ["the same body, random", "no body"]
    assert names[2] in ("logistic regression", "random forest", "gradient boosting")
    assert {len(r.scores) for r in (fitted.result, *fitted.controls)} == {len(plan.splits["test"])}
    assert set(Program.load(out).extra["controls"]) == set(names)
    assert fitted.verdict


def test_controls_without_scikit_learn_are_refused_before_training(
    tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    expected = r"The baseline needs scikit-learn\. Install it with: pip install 'icecore\[sklearn\]'"
    with pytest.raises(UserError, match=expected):
        fit_arrays(tmp_path, replace(settings, controls=True))
    assert not list(tmp_path.iterdir())


def test_seeds_are_averaged_at_one_learning_rate_and_the_best_program_is_written(
    tmp_path: Path, settings: FitSettings
) -> None:
    settings = replace(settings, controls=True, seeds=(0, 1, 2), steps=20)
    plan, fitted, out = fit_arrays(tmp_path, settings)
    for trained in (fitted.result, *fitted.controls[:2]):
        assert trained.seeds == (0, 1, 2)
        assert trained.scores_by_seed.shape == (3, len(plan.splits["test"]))
        assert trained.seeds_lr in settings.lrs
        assert trained.mean_metric == pytest.approx(float(np.mean([run.mean() for run in trained.scores_by_seed])))
    assert fitted.controls[2].variance_of_mean == 0
    program, result = Program.load(out), fitted.result
    assert (program.config.seed, program.config.lr) == (result.seed, result.lr)
    assert program.metrics["test"] == program.extra["result"]["metric"] == result.metric
    assert result.variance_of_mean is not None
    header = {"seeds": [0, 1, 2], "seeds_lr": result.seeds_lr, "seeds_mean": result.mean_metric}
    assert header.items() <= program.extra["result"].items()
    assert program.extra["result"]["seeds_error"] == pytest.approx(result.variance_of_mean**0.5)
    assert program.extra["verdict"] == fitted.verdict
    assert "means over 3 seeds" in fitted.verdict
    assert "means over 3 seeds" in model_card.page(program, "mine")


def test_each_seeds_scores_are_those_of_its_own_run(
    tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit.shutil, "rmtree", lambda *_, **__: None)
    _, fitted, _ = fit_arrays(tmp_path, replace(settings, seeds=(0, 1), steps=20, closed_form=False))
    summaries = [json.loads(path.read_text()) for path in tmp_path.glob(".mine.safetensors.fit*/*/summary.json")]
    assert len(summaries) == 4
    means = {lr: np.mean([s["val_metric"] for s in summaries if s["lr"] == lr]) for lr in settings.lrs}
    assert fitted.result.seeds_lr is not None
    assert means[fitted.result.seeds_lr] == max(means.values())
    for seed, scores in zip(fitted.result.seeds, fitted.result.scores_by_seed, strict=True):
        (run,) = [s for s in summaries if (s["lr"], s["seed"]) == (fitted.result.seeds_lr, seed)]
        assert float(scores.mean()) == pytest.approx(run["test_metric"])
    assert fitted.result.val_metric == max(s["val_metric"] for s in summaries)
    # the card gives the mean over seeds even without controls
    result = fitted.program.extra["result"]
    over = f"the mean over seeds 0, 1 is {result['seeds_mean']:.4f} ± {result['seeds_error']:.4f} (standard error)"
    assert over in model_card.page(fitted.program, "mine")


def test_a_fit_races_unless_told_otherwise(
    tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit.shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(fit, "EARLY_STOPPING_PATIENCE", None)
    settings = replace(settings, lrs=(1e-4, 3e-2), seeds=(0, 1), steps=40, closed_form=False)
    for race, statuses in ((True, [BEHIND] * 2 + ["completed"] * 2), (False, ["completed"] * 4)):
        (tmp_path / str(race)).mkdir()
        _, fitted, _ = fit_arrays(tmp_path / str(race), replace(settings, race=race))
        summaries = [json.loads(path.read_text()) for path in tmp_path.glob(f"{race}/.mine*/*/summary.json")]
        assert [s["status"] for s in sorted(summaries, key=lambda s: s["lr"])] == statuses
        if race:  # the written program is of a run that was trained to its end
            assert (fitted.result.lr, fitted.result.seeds_lr) == (3e-2, 3e-2)
        assert len(fitted.result.scores_by_seed) == 2


def test_a_random_body_is_not_its_own_control(tmp_path: Path, settings: FitSettings) -> None:
    _, fitted, _ = fit_arrays(tmp_path, replace(settings, controls=True, weights="random"))
    assert next(control.name for control in fitted.controls) == "no body"


def test_the_best_run_is_scored_on_the_whole_test_split(
    tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_budget, "MIN_VALIDATION_ROWS", 5)
    plan = user_data.from_arrays(*arrays())
    fitted = fit.fit(plan.task(), replace(settings, steps=None, minutes=1e-4), tmp_path / "a.safetensors", {}, "cpu")
    assert fitted.program.config.test_examples == 5
    assert len(fitted.result.scores) == len(plan.splits["test"])
    assert fitted.program.metrics["test"] == fitted.result.metric


def test_an_interrupted_fit_continues(tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = replace(settings, steps=None, minutes=0.02)
    plan = user_data.from_arrays(*arrays())
    calls: list[dict[str, Any]] = []
    measure = time_budget.measure_affordable

    def count(*args: Any, **options: Any) -> dict[str, Any]:
        calls.append(measure(*args, **options))
        return dict(calls[-1])

    monkeypatch.setattr(time_budget, "measure_affordable", count)
    out = tmp_path / "mine.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(fit, "predict", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit.fit(plan.task(), timed, out, {}, "cpu")
    assert (tmp_path / ".mine.safetensors.fit").is_dir()
    fit.fit(plan.task(), timed, out, {}, "cpu")
    # the steps were measured once, so the runs are the same and were not trained again
    assert len(calls) == 1
    assert not (tmp_path / ".mine.safetensors.fit").exists()


def test_two_fits_of_one_file_do_not_disturb_each_other(tmp_path: Path, settings: FitSettings) -> None:
    settings = replace(settings, steps=10)
    plan, out = user_data.from_arrays(*arrays()), tmp_path / "mine.safetensors"
    refused: list[str] = []

    class Second(Callback):
        """Starts another fit of the same file, and one of the same stem, in the middle of training."""

        def begin(self, configs: Any, step: int, info: Any) -> None:
            if not refused:
                with pytest.raises(BusyError, match=r"Another process is fitting .*mine\.safetensors\. Wait") as caught:
                    fit.fit(plan.task(), settings, out, {}, "cpu")
                refused.append(str(caught.value))
                fit.fit(plan.task(), settings, tmp_path / "mine.program", {}, "cpu")

        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    second: Any = Second()
    fit.fit(plan.task(), settings, out, {}, "cpu", [second])
    assert refused
    assert Program.load(out).config == Program.load(tmp_path / "mine.program").config


def test_only_ones_own_runs_are_removed(tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an interrupted fit with other settings stay, so that the same command continues it."""
    settings = replace(settings, steps=10)
    plan, out = user_data.from_arrays(*arrays()), tmp_path / "mine.safetensors"
    with monkeypatch.context() as patch:
        interrupt(patch, fit, "predict", 0)
        with pytest.raises(Killed):
            fit.fit(plan.task(), replace(settings, batch_size=4), out, {}, "cpu")
    theirs = {path.name for path in (tmp_path / ".mine.safetensors.fit").iterdir()}
    fit.fit(plan.task(), settings, out, {}, "cpu")
    assert {path.name for path in (tmp_path / ".mine.safetensors.fit").iterdir()} == theirs
    fit.fit(plan.task(), replace(settings, batch_size=4), out, {}, "cpu")
    assert not (tmp_path / ".mine.safetensors.fit").exists()


def test_a_fit_killed_in_its_clean_up_can_be_repeated(
    tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which file goes first depends on the file system: after any of them is gone, the same call must succeed."""
    settings = replace(settings, steps=10)
    plan, out = user_data.from_arrays(*arrays()), tmp_path / "mine.safetensors"
    for kept in ("summary.json", "program.safetensors", ".lock"):

        def remove_some(folder: Path, ignore_errors: bool, kept: str = kept) -> None:
            for file in folder.rglob("*"):
                if file.is_file() and file.name != kept:
                    file.unlink()
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr("shutil.rmtree", remove_some)
            with pytest.raises(Killed):
                fit.fit(plan.task(), settings, out, {}, "cpu")
        first = out.read_bytes()
        fit.fit(plan.task(), settings, out, {}, "cpu")
        assert {path.name for path in tmp_path.iterdir()} == {"mine.safetensors"}
        assert Program.load(out).tensors.keys() == safetensors.torch.load(first).keys()


def test_starting_from_a_program(tmp_path: Path, settings: FitSettings) -> None:
    _, _, out = fit_arrays(tmp_path, settings)
    plan = user_data.from_arrays(*arrays(seed=1))
    again = fit.fit(
        plan.task(), replace(settings, start=str(out), steps=1, lrs=(1e-9,)), tmp_path / "b.safetensors", {}, "cpu"
    )
    before, after = Program.load(out).tensors, again.program.tensors
    torch.testing.assert_close(after["positions"], before["positions"])
    torch.testing.assert_close(after["input.layers.0.weight"], before["input.layers.0.weight"])


# --- commands ----------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path: Path) -> Path:
    x, y = arrays()
    path = tmp_path / "table.csv"
    lines = ["a,b,c,d,kind", *(",".join([*map(str, row), "xy"[label]]) for row, label in zip(x, y, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_split_seed_chooses_other_rows(run: Run, table: Path, tmp_path: Path, bodies: Mapping[str, str]) -> None:
    few = ("--backbone", bodies["bert"], "--steps", 1, "--lr", "1e-2", "--device", "cpu", "--quiet")
    rows: list[list[str]] = []
    for number, words in enumerate(((), ("--split-seed", 0), ("--split-seed", 1))):
        out = tmp_path / f"{number}.safetensors"
        assert run("fit", table, "--out", out, *few, *words).code == 0
        rows.append(sorted(Program.load(out).extra["training_rows"]))
    assert rows[0] == rows[1] != rows[2]


def test_fit_predict_info_push_pull(run: Run, table: Path, tmp_path: Path, bodies: Mapping[str, str]) -> None:
    out = tmp_path / "mine.safetensors"
    few = ("--backbone", bodies["bert"], "--steps", 30, "--lr", "1e-2,3e-2", "--device", "cpu", "--batch-size", 8)
    planned = run("fit", table, "--plan", *few)
    assert planned.code == 0
    assert "2 (training rows of each): x (" in planned.out
    trained = run("fit", table, "--out", out, "--controls", "--quiet", *few)
    assert trained.code == 0
    for word in ("accuracy", "on 36 test rows", "no body", "the same body, random", "of each, the pretrained body"):
        assert word in trained.out
    assert "over seeds" not in trained.out
    predicted = run("predict", out, table, "--device", "cpu")
    lines = predicted.out.splitlines()
    assert lines[0] == "row,kind,kind probability"
    assert len(lines) == N + 1
    assert {line.split(",")[1] for line in lines[1:]} <= {"x", "y"}
    assert "accuracy" in predicted.err
    # 168 of the 240 rows are those that it was trained on
    assert "trained on: about 100 % of the training rows are among these, so the score flatters" in predicted.err
    other = tmp_path / "other.safetensors"
    other.write_bytes(out.read_bytes())
    both = run("predict", out, other, table, "--out", tmp_path / "tables", "--device", "cpu")
    assert both.code == 0
    for name in ("mine", "other"):
        rows = [line.split(",") for line in (tmp_path / "tables" / f"{name}.csv").read_text().splitlines()]
        assert [row[:2] for row in rows] == [line.split(",")[:2] for line in lines]
    assert "# mine" in run("info", out).out
    assert run("push", out, tmp_path / "shared").code == 0
    assert run("pull", tmp_path / "shared", "--out", tmp_path / "back.safetensors").code == 0
    assert (tmp_path / "back.safetensors").read_bytes() == out.read_bytes()


def test_the_table_names_its_scores(run: Run, table: Path, tmp_path: Path, bodies: Mapping[str, str]) -> None:
    words = ("--backbone", bodies["bert"], "--steps", 5, "--lr", "1e-2,3e-2", "--seeds", "0,1", "--device", "cpu")
    shown = run("fit", table, "--out", tmp_path / "m.safetensors", "--controls", "--quiet", *words)
    assert shown.code == 0
    assert "mean accuracy" in shown.out
    assert "best by validation" in shown.out
    trained = r"[\d.]+ ± [\d.]+ %\s+[\d.]+ % \(seed [01](, learning rate [\d.]+)?\)\s+\d of \d\s+0.0[13]"
    assert len(re.findall(trained, shown.out)) == 3, shown.out
    assert "means over 2 seeds" in run("info", tmp_path / "m.safetensors").out


def test_columns_missing_at_prediction_are_named(run: Run, table: Path, tmp_path: Path, settings: FitSettings) -> None:
    plan = user_data.plan(table)
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
        assert "is also an input file and would be overwritten" in ended.err
    assert table.read_bytes() == held
    ended = run("fit", table, "--out", tmp_path, "--quiet")
    assert ended.code == 2
    assert "is a folder. Name the file to write" in ended.err


def test_nothing_is_written_over_programs_and_other_outputs(
    run: Run, table: Path, tmp_path: Path, settings: FitSettings
) -> None:
    plan, out = user_data.plan(table), tmp_path / "m.safetensors"
    fit.fit(plan.task(), replace(settings, steps=2), out, {"encoder": plan.encoder.to_json()}, "cpu")
    held = out.read_bytes()
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "part.csv").write_bytes(table.read_bytes())
    for words in (
        ("predict", out, table, "--out", out),
        ("predict", out, tmp_path / "tables", "--out", tmp_path / "tables"),
        ("fit", table, "--start-from", out, "--out", out),
        ("fit", table, "--report", out, "--start-from", out, "--out", tmp_path / "n.safetensors"),
    ):
        ended = run(*words)
        assert ended.code == 2
        assert "is also an input file and would be overwritten" in ended.err
    ended = run("fit", table, "--out", tmp_path / "x", "--report", tmp_path / "x")
    assert "--out and --report would write to one file" in ended.err
    assert out.read_bytes() == held
    assert {path.name for path in (tmp_path / "tables").iterdir()} == {"part.csv"}


def test_the_home_folder_is_found_in_python(
    tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _, _, out = fit_arrays(tmp_path, replace(settings, steps=2))
    program = Program.load("~/mine.safetensors")
    program.save("~/copy.safetensors")
    assert (tmp_path / "copy.safetensors").exists()
    (predictions,) = predict.predict([out], arrays()[0], "cpu").values()
    predictions.save("~/rows.csv")
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == N + 1


def test_where_predictions_go(run: Run, table: Path, tmp_path: Path, settings: FitSettings) -> None:
    plan = user_data.plan(table)
    out = tmp_path / "m.safetensors"
    fit.fit(plan.task(), replace(settings, steps=2), out, {"encoder": plan.encoder.to_json()}, "cpu")
    (tmp_path / "sub").mkdir()
    twin = tmp_path / "sub" / "m.safetensors"
    twin.write_bytes(out.read_bytes())
    ended = run("predict", out, twin, table, "--out", tmp_path / "tables", "--device", "cpu")
    assert ended.code == 2
    assert "their predictions would be written to the same file" in ended.err
    assert run("predict", out, table, "--out", tmp_path / "sub", "--device", "cpu").code == 0
    assert len((tmp_path / "sub" / "m.csv").read_text().splitlines()) == N + 1


def test_predict_refuses_where_asked(run: Run, table: Path, tmp_path: Path, settings: FitSettings) -> None:
    plan = user_data.plan(table)
    out, new = tmp_path / "m.safetensors", tmp_path / "new.csv"
    fit.fit(plan.task(), replace(settings, steps=2), out, {"encoder": plan.encoder.to_json()}, "cpu")
    new.write_text("a,b,c,d\n1,2,3,4\n1,x,3,4\n1,2\n")
    lenient = run("predict", out, new, "--device", "cpu")
    assert (lenient.code, len(lenient.out.splitlines())) == (0, 3)
    assert "not numbers: 1 cell of column 'b'" in lenient.err
    assert "skipped: 1 damaged row: new.csv line 4 (2 cells instead of 4)" in lenient.err
    for flag, message in (
        ("--strict", "the row has 2 cells instead of 4"),
        ("--score", "there is no target column kind"),
    ):
        ended = run("predict", out, new, flag, "--device", "cpu")
        assert ended.code == 2
        assert message in ended.err


def test_no_program_named(run: Run, table: Path) -> None:
    ended = run("predict", table)
    assert ended.code == 2
    assert "Name a program and the data" in ended.err


def test_a_program_of_another_body_cannot_be_the_start(
    tmp_path: Path, settings: FitSettings, bodies: Mapping[str, str]
) -> None:
    _, _, out = fit_arrays(tmp_path, settings)
    task = user_data.from_arrays(*arrays()).task()
    with pytest.raises(ConfigError, match=r"is a program of .* but the run has"):
        fit.fit(task, replace(settings, start=str(out), backbone=bodies["gpt2"]), tmp_path / "b.safetensors", {}, "cpu")


def test_a_sweep_that_diverges_is_an_error(
    tmp_path: Path, settings: FitSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit.sweep, "train_runs", lambda *_: [RunSummary(val_metric=None)])
    task = user_data.from_arrays(*arrays()).task()
    with pytest.raises(UserError, match=r"diverged at every learning rate \(0.01, 0.03\). Give lower ones with --lr"):
        fit.fit(task, settings, tmp_path / "x.safetensors", {}, "cpu")


def test_a_fit_builds_and_fingerprints_each_body_once(
    tmp_path: Path, bodies: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A default sweep measures time, tries a pack, trains and scores, all with one body; each control has its own."""
    built: list[tuple[str, str]] = []
    hashed: list[frozenset[str]] = []
    compute = backbone.fingerprint

    def build(config: RunConfig) -> backbone.Backbone:
        built.append((config.backbone, config.weights))
        return build_body_of(config)

    def fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
        hashed.append(frozenset(tensors))
        return compute(tensors)

    monkeypatch.setattr(context, "build_body_of", build)
    monkeypatch.setattr(backbone, "fingerprint", fingerprint)
    monkeypatch.setattr(time_budget, "MIN_STEP_LIMIT", 20)
    monkeypatch.setattr(time_budget, "MAX_EPOCHS", 1)
    settings = FitSettings(backbone=bodies["bert"], minutes=0.05, precision="fp32")
    fit_arrays(tmp_path / "alone", settings)
    assert built == [(bodies["bert"], "pretrained")]
    assert len(hashed) == 1
    pytest.importorskip("sklearn")
    built.clear()
    hashed.clear()
    fit_arrays(tmp_path / "controls", replace(settings, controls=True))
    assert built == [(bodies["bert"], "pretrained"), (bodies["bert"], "random"), ("none", "random")]
    assert len(hashed) == 3


def test_a_run_that_diverged_after_it_had_learned_is_the_best_only_if_there_is_no_other() -> None:
    late = RunSummary(lr=0.1, val_metric=0.9, test_metric=0.9, status=DIVERGED)
    sound = RunSummary(lr=0.01, val_metric=0.5, test_metric=0.5, status=COMPLETED)
    assert fit._best_run([late, sound]) == sound
    assert summarize_runs([late, sound]).chosen_lr == sound.lr
    assert fit._best_run([late]) == late
