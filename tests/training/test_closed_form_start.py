"""The closed-form start: no worse than any training of the same features, kept by a run, and the same after a kill."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from icecore import user_data
from icecore.backbones import BodyRequest, build_backbone
from icecore.core.config import LOSS, RIDGE, RIDGE_IF_BETTER, RunConfig
from icecore.core.errors import ConfigError, DataError
from icecore.model.fpt import FPT
from icecore.model.loading import load_programs
from icecore.model.model_settings import ModelSettings
from icecore.model.program import Program
from icecore.tasks.bits import BitXor
from icecore.tasks.task import Task
from icecore.training import closed_form_start
from icecore.training.closed_form_start import (
    LOGIT_SCALES,
    _leave_one_out_losses,
    read_features_of,
    refit_output_layers,
    solve_output_layer,
    start_output_layers,
)
from icecore.training.context import ExecutionContext
from icecore.training.evaluation import evaluate_with_loss
from icecore.training.loop import Pack
from icecore.training.ridge import RidgeSolution
from icecore.user_data import DataSettings, TaskKind, UserTask


def build_task(kind: TaskKind = "classification", rows: int = 120, imbalance: float = 0.0) -> UserTask:
    x = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    y = x[:, 0] + 0.5 * x[:, 1] ** 2
    labels = (y > np.quantile(y, 0.5 + imbalance)).astype(int)
    return user_data.from_arrays(x, labels if kind == "classification" else y, DataSettings(task=kind)).task()


def build_model(task: UserTask, bodies: Mapping[str, str], seeds: tuple[int, ...] = (0,), scale: float = 0.3) -> FPT:
    body = build_backbone(BodyRequest(bodies["bert"]))
    return FPT(task.spec, body, seeds, ModelSettings(input_scale=scale))


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_start_predicts_what_was_left_out(kind: TaskKind, bodies: Mapping[str, str]) -> None:
    task = build_task(kind)
    model = build_model(task, bodies)
    start = solve_output_layer(model, task)
    start_output_layers(model, task, [0], None)
    metrics, losses = evaluate_with_loss(model, task, "train")
    random = evaluate_with_loss(build_model(task, bodies), task, "train")
    assert float(metrics) > 0.8 > float(random[0])
    assert float(losses) < start.loss < float(random[1])


def test_logits_grow_with_the_number_of_rows_that_are_right() -> None:
    task = build_task(rows=120)
    targets = next(task.batches("train", 64)).targets
    right = 2 * task.linear_targets(targets)[0] - 1

    def best_scale(rows: int) -> float:
        losses = [float(_leave_one_out_losses(task, s * right[:rows], targets[:rows]).mean()) for s in LOGIT_SCALES]
        return float(LOGIT_SCALES[int(np.argmin(losses))])

    # one row more, wrong: two logits that differ by 2 s have their lowest loss at 2 s = log(rows + 1)
    assert best_scale(8) == pytest.approx(np.log(9) / 2, rel=0.1)
    assert best_scale(64) == pytest.approx(np.log(65) / 2, rel=0.1)


def test_rare_classes_are_predicted(bodies: Mapping[str, str]) -> None:
    task = build_task(rows=400, imbalance=0.4)
    assert task.metric_name == "balanced accuracy"
    model = build_model(task, bodies)
    start_output_layers(model, task, [0], None)
    assert float(evaluate_with_loss(model, task, "val")[0]) > 0.75


def test_runs_of_a_seed_start_alike_and_others_apart(bodies: Mapping[str, str]) -> None:
    task = build_task()
    model = build_model(task, bodies, (0, 0, 1))
    start_output_layers(model, task, [0, 0, 1], None)
    first, again, other = model.output.weights()[0].weight
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, other)
    alone = build_model(task, bodies, (1,))
    start_output_layers(alone, task, [1], None)
    torch.testing.assert_close(alone.output.weights()[0].weight[0], other, rtol=1e-3, atol=1e-4)


def test_features_are_in_the_order_of_the_rows(bodies: Mapping[str, str]) -> None:
    texts = ["a" * (1 + n % 7) + "b" for n in range(40)]
    task = user_data.from_arrays(texts, [n % 2 for n in range(40)]).task()
    model = build_model(task, bodies)
    features, targets = read_features_of(model, task, "train", 10)
    (batch,) = task.batches("train", 10, 10)
    torch.testing.assert_close(targets, batch.targets)
    torch.testing.assert_close(features, model.features(batch).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "most_eigenvalues", "shape"),
    [
        ("bert", 16, (30, 16)),  # 10 examples with 3 rows each
        ("bert", 15, (15, 16)),  # the layer reads 16 numbers, so there are no more rows than eigenvalues
        ("none", 384, (30, 384)),  # one row for each example: 6 positions of width 64 side by side
        ("none", 15, (15, 384)),
    ],
)
def test_the_limits_are_those_of_the_matrix_that_is_solved(
    name: str,
    most_eigenvalues: int,
    shape: tuple[int, int],
    bodies: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    solved: list[tuple[int, ...]] = []
    solve = closed_form_start.solve_ridge

    def record(features: Tensor, *rest: Tensor) -> RidgeSolution:
        solved.append(tuple(features.shape))
        return solve(features, *rest)

    monkeypatch.setattr(closed_form_start, "solve_ridge", record)
    monkeypatch.setattr(closed_form_start, "MAX_ROWS", 30)
    monkeypatch.setattr(closed_form_start, "MAX_EIGENVALUES", most_eigenvalues)
    task = BitXor(3)
    model = FPT(task.spec, build_backbone(BodyRequest(bodies.get(name, name))), [0])
    solve_output_layer(model, task)
    solve_output_layer(model, task, limit=1000)  # a larger number of examples does not change that
    assert solved == [shape, shape]


def test_the_limits_are_documented() -> None:
    limits = [f"{limit:,}" for limit in (closed_form_start.MAX_ROWS, closed_form_start.MAX_EIGENVALUES)]
    refits = f"{closed_form_start.MAX_EIGENVALUES_OF_MANY:,}"
    (setting,) = (each for each in fields(RunConfig) if each.name == "start_examples")
    guide = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
    section = guide.split("## A start in closed form", 1)[1].split("\n## ", 1)[0]
    for text in (setting.metadata["help"], section):
        assert all(limit in text for limit in (*limits, refits))


def test_an_mlp_has_no_closed_form(bodies: Mapping[str, str]) -> None:
    task = build_task()
    model = FPT(task.spec, build_backbone(BodyRequest(bodies["bert"])), [0], ModelSettings(output_hidden=(8,)))
    with pytest.raises(ConfigError, match="Only a linear output layer has a closed form"):
        solve_output_layer(model, task)


def test_a_run_keeps_its_start_unless_training_improves_it(tmp_path: Path, bodies: Mapping[str, str]) -> None:
    task = build_task()
    config = RunConfig(
        task=task.name, steps=6, batch_size=4, lr=30.0, eval_every=2, backbone=bodies["bert"], protocol="fair",
        input_scale=0.3, output_start=RIDGE, tie_break=LOSS,
    )  # fmt: skip
    context = ExecutionContext(tmp_path, device="cpu")
    pack = Pack(task, context.backbone(config), [config], context)
    pack.resume()
    pack.run()
    (summary,) = pack.finish()
    assert summary.best_step == 0  # a learning rate of 30 destroys it
    model = build_model(task, bodies)
    start_output_layers(model, task, [0], None)
    assert summary.val_metric == pytest.approx(float(evaluate_with_loss(model, task, "val")[0]))
    good = replace(config, lr=1e-3, steps=40)
    pack = Pack(task, context.backbone(good), [good], context)
    pack.resume()
    pack.run()
    assert pack.finish()[0].val_metric >= summary.val_metric  # type: ignore[operator]


# --- refits ------------------------------------------------------------------------------------------


def trained_pack(task: Task, config: RunConfig, out: Path, **others: Any) -> Pack:
    """A pack of `config` and of the same with `others`, trained but not finished."""
    context = ExecutionContext(out, device="cpu")
    configs = [config, replace(config, **others)] if others else [config]
    pack = Pack(task, context.backbone(config), configs, context)
    pack.resume()
    pack.run()
    return pack


@pytest.fixture
def refitted(bodies: Mapping[str, str]) -> RunConfig:
    """A short run whose validated states have output layers in closed form."""
    return RunConfig(
        task=build_task().name, steps=6, batch_size=4, lr=1e-2, eval_every=3, backbone=bodies["bert"], protocol="fair",
        averaging=0.5, output_refit=RIDGE,
    )  # fmt: skip


def test_a_refit_is_the_solution_for_the_state_that_is_validated_and_leaves_training_alone(
    tmp_path: Path, refitted: RunConfig
) -> None:
    task = build_task()
    plain = trained_pack(task, replace(refitted, output_refit=None), tmp_path / "plain")
    pack = trained_pack(task, refitted, tmp_path / "refitted")
    assert torch.equal(pack.adam.values, plain.adam.values)
    assert torch.equal(pack.model.output.weights()[0].weight, plain.model.output.weights()[0].weight)
    with plain.adam.averaged(), pack.adam.averaged():
        solution = solve_output_layer(plain.model, task, 6 * 4)  # as many examples as were trained on
        states = pack._refitted_states()
    (weight,) = (
        each for name, each in pack.adam.tensors(states[0]).items() if name.startswith("output") and each.dim() == 2
    )
    assert torch.allclose(weight, solution.weight.float(), atol=1e-5)
    (summary,) = pack.finish()
    program = Program.load(pack.members[0].folder.program_path)
    model = load_programs([program], build_backbone(BodyRequest(refitted.backbone)))
    assert summary.val_metric == pytest.approx(float(evaluate_with_loss(model, task, "val")[0]))


@pytest.mark.parametrize(
    ("trained", "solved", "tie_break", "is_solved"),
    [
        ((0.5, 2.0), (0.6, 3.0), None, True),
        ((0.6, 2.0), (0.5, 1.0), LOSS, False),
        ((0.5, 2.0), (0.5, 1.0), None, False),
        ((0.5, 2.0), (0.5, 1.0), LOSS, True),
        ((0.5, math.nan), (0.5, 1.0), LOSS, True),
        ((0.5, 2.0), (0.5, math.nan), LOSS, False),
        ((math.nan, math.nan), (0.5, 1.0), None, True),
        ((0.5, 2.0), (math.nan, math.nan), None, False),
    ],
)
def test_each_run_keeps_the_better_one_of_the_trained_and_the_solved_layer(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refitted: RunConfig,
    trained: tuple[float, float],
    solved: tuple[float, float],
    tie_break: str | None,
    is_solved: bool,
) -> None:
    # the second run always keeps the trained layer
    rows = [zip(trained, (0.9, 1.0), strict=True), zip(solved, (0.1, 1.0), strict=True)]
    scores = iter([tuple(list(each) for each in row) for row in rows])
    monkeypatch.setattr(Pack, "_score", lambda *_: next(scores))
    config = replace(refitted, output_refit=RIDGE_IF_BETTER, tie_break=tie_break, steps=3)
    pack = trained_pack(build_task(), config, tmp_path, lr=0.3)
    kept = [member.best for member in pack.members]
    with pack.adam.averaged():
        states = (pack.adam.evaluated_values.clone(), pack._refitted_states())
    assert torch.equal(known(kept[0]), states[is_solved][0])
    assert torch.equal(known(kept[1]), states[False][1])
    better = solved if is_solved else trained
    assert (pack.members[0].progress.best_metric, pack.members[0].progress.best_loss) == pytest.approx(better)


def known(state: torch.Tensor | None) -> torch.Tensor:
    assert state is not None
    return state


def test_runs_of_one_seed_are_refitted_each_for_its_own_program(tmp_path: Path, refitted: RunConfig) -> None:
    task = build_task()
    config = replace(refitted, start_examples=60)
    packed = trained_pack(task, config, tmp_path / "packed", lr=0.3)
    losses = [member.progress.best_loss for member in packed.members]
    assert losses[0] != pytest.approx(losses[1], rel=0.01)
    for loss, lr in zip(losses, (1e-2, 0.3), strict=True):
        alone = trained_pack(task, replace(config, lr=lr), tmp_path / f"{lr}").members[0]
        assert alone.progress.best_loss == pytest.approx(loss, rel=1e-3)


def test_a_start_on_features_that_are_not_finite_is_refused(bodies: Mapping[str, str]) -> None:
    task, model = build_task(), build_model(build_task(), bodies)
    with torch.no_grad():
        model.input.weights()[0].weight[0] = math.inf
    with pytest.raises(DataError, match=r"not finite for these examples.*Use --precision fp32"):
        start_output_layers(model, task, [0], 8)


def test_a_run_that_diverged_does_not_stop_the_refits_of_others(tmp_path: Path, bodies: Mapping[str, str]) -> None:
    task, model = build_task(), build_model(build_task(), bodies, seeds=(0, 1))
    layer = model.output.weights()[0].weight
    before = layer.detach().clone()
    with torch.no_grad():
        model.input.weights()[0].weight[0] = math.nan
    refit_output_layers(model, task, 8)
    assert torch.equal(layer[0], before[0])
    assert not torch.equal(layer[1], before[1])


@pytest.mark.parametrize("setting", ["output_start", "output_refit"])
def test_an_output_layer_that_is_not_trained_is_not_replaced(tmp_path: Path, refitted: RunConfig, setting: str) -> None:
    config = replace(refitted, **{"output_refit": None, "train_roles": ("input", "norm"), setting: RIDGE})
    with pytest.raises(ConfigError, match=r"layer, which is not trained\. Add output to train_roles"):
        trained_pack(build_task(), config, tmp_path)
