"""The laws of training: packed equals alone, resumed equals unbroken to the bit, and runs end independently."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from icecore.backbones import Backbone
from icecore.backbones.modules.kernels import can_compile
from icecore.core import storage
from icecore.core.config import LOSS, RIDGE, RIDGE_IF_BETTER, ROLES, RunConfig
from icecore.core.errors import BusyError, ConfigError, StorageError, UserError
from icecore.experiments.sweep import load_task, run_sweep
from icecore.model.fpt import FPT
from icecore.model.loading import load_programs
from icecore.model.model_settings import model_settings
from icecore.model.program import Program
from icecore.tasks.bits import BitXor
from icecore.tasks.stored_task import StoredTask
from icecore.tasks.task import Batch, Task
from icecore.training import loop
from icecore.training.checkpoint import RunFolder, common_step
from icecore.training.context import ExecutionContext
from icecore.training.evaluation import evaluate, evaluate_with_loss
from icecore.training.loop import Pack, train_pack
from icecore.training.run_summary import RunSummary
from interruption import Killed, interrupt

Configure = Callable[..., RunConfig]
Body = Callable[..., Backbone]
#: keys of a summary that depend on the machine and on the pack, not on the result
CIRCUMSTANCES = ("seconds", "seconds_share", "steps_per_second", "packed_runs", "run_id")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync: no power fails in these tests, and the system keeps the writes of a killed process."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Recorder:
    """A callback that records its calls."""

    def __init__(self) -> None:
        self.losses: dict[str, list[float]] = {}
        self.metrics: dict[str, list[float]] = {}
        self.calls: list[str] = []

    def waiting(self, run_id: str) -> None:
        self.calls.append(f"waiting {run_id}")

    def begin(self, configs: Sequence[RunConfig], step: int, info: Mapping[str, Any]) -> None:
        self.calls.append(f"begin {step}")

    def progress(self, step: int, losses: Mapping[str, float]) -> None:
        for name, loss in losses.items():
            self.losses.setdefault(name, []).append(loss)

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, metric in metrics.items():
            self.metrics.setdefault(name, []).append(metric)

    def note(self, text: str) -> None:
        self.calls.append(text)

    def finished(self, summaries: Sequence[RunSummary]) -> None:
        self.calls.append(f"finished {len(summaries)}")


def trained(
    configs: list[RunConfig], out: Path, body: Backbone, task: Task | None = None, **settings: Any
) -> list[RunSummary]:
    return train_pack(task or BitXor(2), body, configs, ExecutionContext(out, device="cpu", **settings))


def load_program(out: Path, config: RunConfig) -> Program:
    return Program.load(RunFolder(out, config).program_path)


def essence(summary: RunSummary | None) -> dict[str, Any]:
    """The summary without its circumstances."""
    assert summary is not None
    return {key: value for key, value in summary.to_json().items() if key not in CIRCUMSTANCES}


def assert_same_results(one: Path, other: Path, configs: Sequence[RunConfig]) -> None:
    """Bit-identical programs and metrics."""
    for config in configs:
        a, b = load_program(one, config), load_program(other, config)
        assert a.metrics == b.metrics
        assert a.tensors.keys() == b.tensors.keys()
        assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
        summaries = [RunFolder(out, config).summary() for out in (one, other)]
        assert essence(summaries[0]) == essence(summaries[1])


def sweep(config: Configure, **changes: Any) -> list[RunConfig]:
    return [config(lr=lr, seed=seed, **changes) for lr, seed in ((1e-2, 0), (1e-3, 1), (3e-2, 2))]


# --- packed equals alone -----------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.1}, {"lr_scale": "relative", "averaging": 0.2}])
@pytest.mark.parametrize("name", ["bit-xor", "ragged"])
def test_packed_equals_alone(
    config: Configure, body: Body, tmp_path: Path, ragged: StoredTask, name: str, changes: dict[str, Any]
) -> None:
    task = ragged if name == "ragged" else BitXor(2)
    configs = sweep(config, task=name, task_options={}, **changes)
    together = Recorder()
    trained(configs, tmp_path / "pack", body(), task, callbacks=[together])
    for each in configs:
        alone = Recorder()
        trained([each], tmp_path / "alone", body(), task, callbacks=[alone])
        assert together.losses[each.run_id] == pytest.approx(alone.losses[each.run_id], rel=1e-4)
        a, b = load_program(tmp_path / "pack", each).tensors, load_program(tmp_path / "alone", each).tensors
        for tensor in a:
            torch.testing.assert_close(a[tensor], b[tensor], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_micro_batches_change_nothing(config: Configure, body: Body, tmp_path: Path, dropout: float) -> None:
    configs = sweep(config, dropout=dropout, batch_size=5)
    trained(configs, tmp_path / "whole", body())
    trained(configs, tmp_path / "micro", body(), micro_batch=2)
    for each in configs:
        a, b = load_program(tmp_path / "whole", each).tensors, load_program(tmp_path / "micro", each).tensors
        for tensor in a:
            torch.testing.assert_close(a[tensor], b[tensor], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler here")
def test_compiled_kernels_change_nothing(config: Configure, body: Body, tmp_path: Path) -> None:
    configs = sweep(config)
    trained(configs, tmp_path / "eager", body(), compile=False)
    trained(configs, tmp_path / "compiled", body(), compile=True)
    for each in configs:
        a, b = load_program(tmp_path / "eager", each).tensors, load_program(tmp_path / "compiled", each).tensors
        for tensor in a:
            torch.testing.assert_close(a[tensor], b[tensor], rtol=1e-3, atol=1e-4)
        events = [json.loads(line) for line in (tmp_path / "compiled" / each.run_id / "events.jsonl").open()]
        assert [event["first_step_seconds"] > 0 for event in events if event["event"] == "compiled"] == [True]


def test_equals_a_plain_torch_loop(config: Configure, body: Body, tmp_path: Path) -> None:
    """An independent oracle: torch's Adam, clipping and schedule around the model."""
    each = config(warmup=0.25, clip=0.5, seed=3)
    trained([each], tmp_path, body())
    model = FPT(BitXor(2).spec, body(), [3], model_settings(each))
    adam = torch.optim.Adam(model.trained().values(), lr=each.lr)
    states, scores = [], []
    for step in range(each.steps):
        batch = BitXor(2).train_batch([3], step, each.batch_size)
        adam.param_groups[0]["lr"] = each.lr_at(step)
        adam.zero_grad()
        logits = model(batch)
        torch.nn.functional.cross_entropy(logits.reshape(-1, 2), batch.targets.reshape(-1)).backward()
        torch.nn.utils.clip_grad_norm_(model.trained().values(), 0.5)
        adam.step()
        if (step + 1) % each.eval_every == 0:
            states.append(model.programs()[0])
            scores.append(float(evaluate(model, BitXor(2), "val")[0]))
    best = states[scores.index(max(scores))]
    for name, tensor in load_program(tmp_path, each).tensors.items():
        torch.testing.assert_close(tensor, best[name], rtol=1e-3, atol=1e-5)


# --- what is trained ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("roles", [("output",), ("input", "norm", "output", "position"), ROLES])
def test_frozen_does_not_change_by_a_bit(
    config: Configure, body: Body, tmp_path: Path, roles: tuple[str, ...], precision: str
) -> None:
    each = config(train_roles=roles, precision=precision, steps=3)
    pack = Pack(BitXor(2), body(), [each], ExecutionContext(tmp_path, device="cpu"))
    model = pack.model
    tensors = {**{f"body.{n}": p for n, p in model.backbone.named_parameters()}, **model.program()}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    pack.run()
    trained_names = model.trained().keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, before[name]) == (name not in trained_names or not tensor.grad.count_nonzero()), name  # type: ignore[union-attr]
        assert (tensor.grad is None) == (name not in trained_names), name
    if roles == ROLES:
        assert trained_names == tensors.keys()


def test_full_training_leaves_a_program_that_holds_the_body(config: Configure, body: Body, tmp_path: Path) -> None:
    each = config(train_roles=ROLES)
    summary = trained([each], tmp_path, body())[0]
    assert summary.frozen_parameters == 0
    model = load_programs([load_program(tmp_path, each)], body(weights="random", seed=9))
    assert float(evaluate(model, BitXor(2), "test")[0]) == summary.test_metric


# --- choosing and stopping ---------------------------------------------------------------------------


def scripted(
    monkeypatch: pytest.MonkeyPatch, curves: Sequence[Sequence[float]], every: int = 4
) -> list[dict[str, Tensor]]:
    """Make validation report `curves`, one a run, at steps every, 2 every, ... Returns the states seen, by call.

    Runs with a start in closed form are validated at step 0 too.
    """
    score, seen = Pack._score, []

    def scores(pack: Pack, split: str, limit: int | None = None) -> tuple[list[float], list[float]]:
        if split != "val" or any(m.progress.final is not None for m in pack.members):
            return score(pack, split, limit)
        seen.append({m.config.run_id: p for m, p in zip(pack.active, pack.model.programs(), strict=True)})
        call = pack.step // every - (pack.config.output_start is None)
        return [curves[pack.members.index(m)][call] for m in pack.active], [1.0] * len(pack.active)

    monkeypatch.setattr(Pack, "_score", scores)
    return seen  # type: ignore[return-value]


def test_the_best_validated_state_is_kept_not_the_last(
    config: Configure, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = sweep(config)[:2]
    seen: Any = scripted(monkeypatch, [(0.2, 0.9, 0.9), (0.8, 0.7, 0.6)])
    summaries = trained(configs, tmp_path, body())
    assert [s.best_step for s in summaries] == [8, 4]  # the first of equals
    for each, state in zip(configs, (seen[1], seen[0]), strict=True):
        tensors = load_program(tmp_path, each).tensors
        assert all(torch.equal(tensors[name], state[each.run_id][name]) for name in tensors)


def test_each_run_stops_by_its_own_validation(
    config: Configure, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = sweep(config, steps=24, patience=2, stop_at=0.95)
    scripted(monkeypatch, [(0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (0.5, 0.6, 0.6, 0.6), (0.2, 0.99)])
    summaries = trained(configs, tmp_path, body())
    assert [s.status for s in summaries] == ["completed", "no improvement", "reached stop_at"]
    assert [s.steps_done for s in summaries] == [24, 16, 8]
    assert [s.best_step for s in summaries] == [24, 8, 8]


def test_a_start_that_is_good_enough_is_not_trained(
    config: Configure, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = sweep(config, steps=8, stop_at=0.9, output_start=RIDGE)[:2]
    scripted(monkeypatch, [(0.1, 0.2, 0.3), (0.95,)])
    summaries = trained(configs, tmp_path, body())
    assert [s.status for s in summaries] == ["completed", "reached stop_at"]
    assert [(s.steps_done, s.best_step) for s in summaries] == [(8, 8), (0, 0)]
    started = next(event for event in RunFolder(tmp_path, configs[1]).events() if event["event"] == "start")
    assert started["start_examples"] == BitXor(2).split_size("train")
    scripted(monkeypatch, [(0.95,)])
    (alone,) = trained(configs[1:], tmp_path / "alone", body())
    assert (alone.status, alone.steps_done) == ("reached stop_at", 0)
    a, b = (load_program(folder, configs[1]).tensors for folder in (tmp_path, tmp_path / "alone"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_does_not_change_when_another_one_stops(
    config: Configure, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = sweep(config, stop_at=0.95)[:2]
    scripted(monkeypatch, [(0.1, 0.2, 0.3), (0.99,)])
    trained(configs, tmp_path / "pack", body())
    scripted(monkeypatch, [(0.1, 0.2, 0.3)])
    trained(configs[:1], tmp_path / "alone", body())
    a, b = load_program(tmp_path / "pack", configs[0]).tensors, load_program(tmp_path / "alone", configs[0]).tensors
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


def test_validation_and_final_scores(config: Configure, body: Body, tmp_path: Path) -> None:
    each = config(eval_examples=3)
    summary = trained([each], tmp_path, body())[0]
    model = load_programs([load_program(tmp_path, each)], body())
    for key, split, limit in (("train", "train", 3), ("val", "val", None), ("test", "test", None)):
        assert getattr(summary, f"{key}_metric") == pytest.approx(float(evaluate(model, BitXor(2), split, limit)[0]))
    logged = [e for e in RunFolder(tmp_path, each).events() if e["event"] == "validation"]
    assert [e["step"] for e in logged] == [4, 8, 12]


def test_the_paper_protocol_chooses_on_test(
    config: Configure, body: Body, tmp_path: Path, ragged: StoredTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []

    def recorded(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        scored.append(args[2])
        return evaluate_with_loss(*args, **options)

    monkeypatch.setattr(loop, "evaluate_with_loss", recorded)
    trained([config(task="ragged", protocol="paper", task_options={})], tmp_path, body(), ragged)
    assert scored == ["test"] * 3 + ["train", "val", "test"]


# --- divergence --------------------------------------------------------------------------------------


def test_a_diverged_run_stops_and_the_others_equal_the_same_runs_alone(
    config: Configure, body: Body, tmp_path: Path
) -> None:
    configs = [config(lr=1e-2), config(lr=1e30), config(lr=1e39), config(lr=1e-2, seed=1)]
    summaries = trained(configs, tmp_path / "pack", body())
    assert [s.status for s in summaries] == ["completed", "diverged", "diverged", "completed"]
    for summary in summaries[1:3]:
        assert summary.test_metric is None
        assert summary.steps_done < 12
    for each in (configs[0], configs[3]):
        trained([each], tmp_path / "alone", body())
        a, b = load_program(tmp_path / "pack", each).tensors, load_program(tmp_path / "alone", each).tensors
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)
    events = [e["event"] for e in RunFolder(tmp_path / "pack", configs[1]).events()]
    assert events[-2:] == ["diverged", "end"]


@pytest.mark.parametrize("step", [2, 6])
def test_a_non_finite_loss_leaves_a_finite_state(
    config: Configure, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    configs = sweep(config, eval_every=4)
    loss, pack_of = BitXor.loss, Pack(BitXor(2), body(), configs, ExecutionContext(tmp_path, device="cpu"))

    def poisoned(task: BitXor, logits: Tensor, targets: Tensor) -> Tensor:
        values = loss(task, logits, targets)
        if pack_of.step == step and len(pack_of.active) == 3:
            values = values * torch.where(torch.arange(len(values)) // 4 == 1, math.nan, 1.0)
        return values

    monkeypatch.setattr(BitXor, "loss", poisoned)
    drop, states = RunFolder.drop_states, {}

    def kept(folder: RunFolder, keep: int | None = None) -> None:
        states.update({(folder.config.seed, s): folder.load_state(s) for s in folder.saved_steps()})
        drop(folder, keep)

    monkeypatch.setattr(RunFolder, "drop_states", kept)
    pack_of.resume()
    pack_of.run()
    summaries = pack_of.finish()
    assert [s.status for s in summaries] == ["completed", "diverged", "completed"]
    assert all(t.isfinite().all() for tensors, _ in states.values() for t in tensors.values())
    # what it had learned and validated before is not lost
    assert summaries[1].best_step == (0 if step == 2 else 4)
    assert RunFolder(tmp_path, configs[1]).program_path.exists() == (step == 6)


def test_scores_that_are_not_finite_do_not_reach_files(
    config: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first validation gives NaN, the others do not, and the test split gives it again."""
    score = Pack._score

    def scores(pack: Pack, split: str, limit: int | None = None) -> tuple[list[float], list[float]]:
        metrics, losses = score(pack, split, limit)
        wrong = split == "test" or (split == "val" and pack.step == 4)
        return [math.nan if wrong else metric for metric in metrics], losses

    monkeypatch.setattr(Pack, "_score", scores)
    chosen = config(steps=8, eval_every=4)
    (summary,) = run_sweep([chosen], ExecutionContext(tmp_path, device="cpu")).runs
    assert summary.best_step == 8
    assert summary.val_metric is not None
    assert (summary.test_metric, summary.test_metrics) == (None, {"test": None})
    folder = RunFolder(tmp_path, chosen)
    assert folder.summary() == summary  # it can be read again
    assert [e["metric"] is None for e in folder.events() if e["event"] == "validation"] == [True, False]
    assert Program.load(folder.program_path).metrics["test"] is None


def test_divergence_is_remembered_over_a_kill(
    config: Configure, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the bad step and the next look at the losses a state may be written."""
    draw = BitXor.train_batch

    def poisoned(task: BitXor, seeds: Sequence[int], step: int, batch_size: int) -> Batch:
        batch = draw(task, seeds, step, batch_size)
        for run_number, seed in enumerate(seeds):
            if (step, seed) == (2, 1):
                batch.tokens[run_number * batch_size] = math.nan
        return batch

    monkeypatch.setattr(BitXor, "train_batch", poisoned)
    configs = [config(eval_every=40, steps=40), config(eval_every=40, steps=40, seed=1)]
    trained(configs, tmp_path / "unbroken", body())
    with monkeypatch.context() as patch:
        interrupt(patch, Pack, "train_step", 3)
        with pytest.raises(Killed):
            trained(configs, tmp_path / "resumed", body(), checkpoint_seconds=0.0)
    trained(configs, tmp_path / "resumed", body())
    assert_same_results(tmp_path / "unbroken", tmp_path / "resumed", configs[:1])
    summaries = [RunFolder(tmp_path / out, configs[1]).summary() for out in ("unbroken", "resumed")]
    assert essence(summaries[0]) == essence(summaries[1])


# --- resuming ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the uninterrupted packs lie, by case; filled by the first test that needs one."""
    return {}


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "stopping": {"patience": 1, "stop_at": 0.9, "dropout": 0.1, "steps": 20, "lr_scale": "relative", "averaging": 0.2},
    "closed form": {"patience": 1, "stop_at": 0.9, "steps": 20, "output_start": RIDGE},
    "refit": {"output_refit": RIDGE, "averaging": 0.2},
    "refit if better": {"output_refit": RIDGE_IF_BETTER, "averaging": 0.2, "tie_break": LOSS},
}
#: validation metrics by case; the others are really validated
CURVES = {
    "stopping": [(0.3, 0.4, 0.5, 0.6, 0.7), (0.5, 0.4), (0.6, 0.95)],  # runs 1 and 2 stop together, at step 8
    "closed form": [(0.2, 0.3, 0.4, 0.5, 0.6, 0.7), (0.5, 0.4), (0.95,)],  # run 2 has a start that is good enough
}


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Pack, "train_step", 7),  # between two evaluations
        (Pack, "validate", 1),
        (RunFolder, "save_state", 0),  # the very first state
        (RunFolder, "save_state", 1),  # between the states of a pack's members
        (RunFolder, "save_state", 5),
        (RunFolder, "drop_states", 4),
        (Pack, "_score_final", 0),
        (Pack, "_score", 5),  # in the middle of final scoring
        (Program, "save", 1),
        (loop, "write_json", 0),  # after final scoring, before the first summary
        (loop, "write_json", 1),
    ],
)
@pytest.mark.parametrize("case", CASES)
def test_resumed_equals_unbroken(
    config: Configure,
    body: Body,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unbroken: dict[str, Path],
    case: str,
    owner: Any,
    name: str,
    call: int,
) -> None:
    configs = sweep(config, **CASES[case])
    if case not in unbroken:
        if case in CURVES:
            scripted(monkeypatch, CURVES[case])
        unbroken[case] = tmp_path / "unbroken"
        run_sweep(configs, ExecutionContext(unbroken[case]))
        monkeypatch.undo()
    if case in CURVES:
        scripted(monkeypatch, CURVES[case])
    with monkeypatch.context() as patch:
        interrupt(patch, owner, name, call)
        with pytest.raises(Killed):
            run_sweep(configs, ExecutionContext(tmp_path / "broken"))
    run_sweep(configs, ExecutionContext(tmp_path / "broken"))
    assert_same_results(unbroken[case], tmp_path / "broken", configs)
    assert not [p for p in (tmp_path / "broken").rglob("*") if p.suffix == ".tmp" or p.parent.name == "checkpoint"]


@pytest.mark.parametrize(("what", "named"), [("body", "another body"), ("data", "another data")])
def test_a_run_does_not_go_on_with_another_body_or_other_data(
    config: Configure, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, named: str
) -> None:
    each, task = config(), BitXor(2)
    with monkeypatch.context() as patch:
        interrupt(patch, Pack, "validate", 1)
        with pytest.raises(Killed):
            trained([each], tmp_path, body(), task)
    other = BitXor(2)
    other.data = {**task.data, "sha256": "another"} if what == "data" else task.data
    with pytest.raises(ConfigError, match=f"was started with {named}. Choose another --out"):
        trained([each], tmp_path, body(seed=1, weights="random") if what == "body" else body(), other)
    assert trained([each], tmp_path, body(), task)[0].status == "completed"


def test_runs_killed_while_stopping_go_on_in_the_same_pack(
    config: Configure, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = sweep(config, stop_at=0.9)
    scripted(monkeypatch, [(0.1, 0.2, 0.3), (0.1, 0.95), (0.2, 0.95)])
    with monkeypatch.context() as patch:
        interrupt(patch, RunFolder, "save_state", 5)
        with pytest.raises(Killed):
            trained(configs, tmp_path, body())
    pack = Pack(BitXor(2), body(), configs, ExecutionContext(tmp_path, device="cpu"))
    pack.resume()
    assert (pack.step, pack.adam.runs, len(pack.active)) == (4, 3, 3)
    assert common_step([m.folder for m in pack.members], [None] * 3) == 4
    assert [m.folder.saved_steps() for m in pack.members] == [[4]] * 3


SCRIPT = """
import json, sys, torch
from pathlib import Path
from icecore.backbones import build_body_of
from icecore.core.config import RunConfig
from icecore.experiments.sweep import load_task
from icecore.training.context import ExecutionContext
from icecore.training.loop import train_pack
torch.set_num_threads(1)
configs = [RunConfig.from_json(text) for text in json.loads(sys.argv[1])]
context = ExecutionContext(Path(sys.argv[2]), device="cpu", checkpoint_seconds=0.0)
train_pack(load_task(configs[0], None), build_body_of(configs[0]), configs, context)
"""


def test_a_real_kill_changes_nothing(config: Configure, body: Body, tmp_path: Path) -> None:
    configs = sweep(config, steps=3000, eval_every=1000, dropout=0.1, batch_size=1)
    arguments = [json.dumps([c.to_json() for c in configs]), str(tmp_path / "broken")]
    folders = [RunFolder(tmp_path / "broken", c) for c in configs]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    try:
        deadline = time.monotonic() + 60
        while not all(f.saved_steps() and f.saved_steps()[-1] > 5 for f in folders):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    # where it was killed is chance; from there on to a near step, in both ways
    step = common_step(folders, [None] * 3)
    assert step is not None
    assert step < 3000
    until = step + 5
    ends = []
    for out in ("broken", "unbroken"):
        pack = Pack(BitXor(2), body(), configs, ExecutionContext(tmp_path / out, device="cpu"))
        pack.resume()
        assert pack.step == (step if out == "broken" else 0)
        while pack.step < until:
            pack.train_step()
            pack.step += 1
            pack.schedule.advance(0.0)
        ends.append(pack.adam)
    for name in ("values", "first", "second", "alive"):
        assert torch.equal(getattr(ends[0], name), getattr(ends[1], name)), name


def test_runs_of_another_process_are_waited_for(config: Configure, tmp_path: Path) -> None:
    configs = sweep(config)
    folder, recorder, summaries = RunFolder(tmp_path, configs[1]), Recorder(), []
    folder.open()
    context = ExecutionContext(tmp_path, callbacks=[recorder])
    waiting = threading.Thread(target=lambda: summaries.append(run_sweep(configs, context)))
    with folder.lock() as locked:
        assert locked
        with pytest.raises(BusyError, match=rf"Another process is training the run {folder.path}\."):
            run_sweep(configs, ExecutionContext(tmp_path, wait=False))
        waiting.start()
        while not recorder.calls:
            assert waiting.is_alive()
            time.sleep(0.01)
        assert recorder.calls == [f"waiting {configs[1].run_id}"]
    waiting.join()
    assert recorder.calls[1:] == ["begin 0", "finished 3"]
    assert summaries[0] == run_sweep(configs, ExecutionContext(tmp_path, wait=False))


def test_finished_runs_are_not_run_again(config: Configure, tmp_path: Path) -> None:
    configs = sweep(config)
    first = run_sweep(configs, ExecutionContext(tmp_path))
    files = {
        p: (p.stat().st_mtime_ns, p.read_bytes())
        for c in configs
        for p in RunFolder(tmp_path, c).path.rglob("*")
        if p.is_file()
    }
    again = Recorder()
    assert run_sweep(configs, ExecutionContext(tmp_path, callbacks=[again])) == first
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files} == files
    assert again.calls == []


def test_callbacks_are_told_of_a_resumed_pack(
    config: Configure, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = sweep(config)
    with monkeypatch.context() as patch:
        interrupt(patch, Pack, "train_step", 6)
        with pytest.raises(Killed):
            trained(configs, tmp_path, body())
    recorder = Recorder()
    trained(configs, tmp_path, body(), callbacks=[recorder])
    assert recorder.calls == ["begin 4", "finished 3"]
    events = RunFolder(tmp_path, configs[0]).events()
    assert [e["step"] for e in events if e["event"] == "train"] == list(range(1, 13))
    assert [e["step"] for e in events if e["event"] == "start"] == [0, 4]


# --- full disk and exhausted memory ------------------------------------------------------------------------


def test_a_full_disk_ends_with_one_message_and_what_was_there(
    config: Configure, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = sweep(config)
    run_sweep(configs, ExecutionContext(tmp_path / "unbroken"))
    save, calls = storage.save_file, []

    def full(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", full)
        with pytest.raises(StorageError, match=r"No space left on device.*The file that was there before is unchanged"):
            run_sweep(configs, ExecutionContext(tmp_path / "full"))
    assert all(RunFolder(tmp_path / "full", c).saved_steps()[0] == 4 for c in configs)
    run_sweep(configs, ExecutionContext(tmp_path / "full"))
    assert_same_results(tmp_path / "unbroken", tmp_path / "full", configs)


def test_exhausted_memory_says_what_to_lower(
    config: Configure, body: Body, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*args: Any, **kwargs: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FPT, "forward", exhausted)
    with pytest.raises(UserError, match=r"with 2 rows of each run in one pass\. Lower --micro-batch \(now 2;"):
        trained([config()], tmp_path, body(), micro_batch=2)


def test_summary_has_the_keys_of_the_contract(config: Configure, body: Body, tmp_path: Path) -> None:
    """The contract of the design; more keys are allowed."""
    keys = """task backbone weights train_roles protocol lr seed steps batch_size precision train_metric val_metric
        test_metric metric_name trainable_parameters frozen_parameters seconds steps_per_second device versions
        run_id"""
    each = config()
    summary = trained([each], tmp_path, body())[0]
    assert set(keys.split()) <= summary.to_json().keys()
    assert json.loads(RunFolder(tmp_path, each).summary_path.read_text()) == summary.to_json()
    assert summary == RunFolder(tmp_path, each).summary()
    assert summary.run_id == each.run_id
    assert summary.metric_name == "bit accuracy"
    assert load_task(replace(each), None).split_size("test") == 16
