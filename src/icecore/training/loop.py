"""The one training loop: a pack of runs that share a body, from first step to summaries.

Resuming is exact: data order and dropout are pure functions of (seed, step), so a state consists of parameters,
Adam's moments and a few counters only.
"""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icecore.backbones import Backbone
from icecore.core.config import RIDGE, RunConfig
from icecore.core.device import to_device
from icecore.core.errors import StorageError
from icecore.core.random_streams import DROPOUT, random_stream
from icecore.core.storage import write_json
from icecore.model.fpt import FPT
from icecore.model.loading import start_from_program
from icecore.model.model_settings import model_settings
from icecore.model.program import Program
from icecore.tasks.task import Task
from icecore.training.checkpoint import RunFolder, common_step
from icecore.training.closed_form_start import refit_output_layers, start_output_layers
from icecore.training.compilation import MIN_COMPILE_MINUTES, pays_to_compile
from icecore.training.context import ExecutionContext
from icecore.training.evaluation import evaluate_with_loss
from icecore.training.feature_cache import FeatureCache, plan_feature_cache
from icecore.training.micro_batches import split_by_length, tokens_per_pass
from icecore.training.optimizer import PackedAdam
from icecore.training.racing import decide_rung, rung_at
from icecore.training.run_outputs import PackOutcome, program_of, summarize_run
from icecore.training.run_progress import PackedRun, RunProgress, is_better
from icecore.training.run_summary import BEHIND, DIVERGED, NO_IMPROVEMENT, STOP_AT_REACHED, RunSummary
from icecore.training.schedule import Schedule


def train_pack(
    task: Task, backbone: Backbone, configs: Sequence[RunConfig], context: ExecutionContext
) -> list[RunSummary]:
    """Train runs that differ in learning rate and seed only, together. Returns their summaries, in order.

    The task must be on the runtime's device. An interrupted pack continues from its last common state. Raises UserError
    for what the user can correct (disk, memory); states on disk stay intact.
    """
    with context.runtime(configs[0]).memory_advice(context.micro_batch or configs[0].batch_size):
        pack = Pack(task, backbone, configs, context)
        pack.resume()
        pack.run()
        return pack.finish()


class Pack:
    """A pack of runs in training: `resume`, `run`, `finish`, in this order."""

    def __init__(self, task: Task, backbone: Backbone, configs: Sequence[RunConfig], context: ExecutionContext) -> None:
        self.task, self.context = task, context
        self.config = configs[0]
        if self.config.read_out not in (None, task.spec.read_out):
            raise ValueError(f"the task is read out at {task.spec.read_out}, and the runs at {self.config.read_out}")
        self.runtime = context.runtime(self.config)
        seeds = [config.seed for config in configs]
        model = FPT(task.spec, backbone, seeds, model_settings(self.config), self.runtime.precision)
        self.model = context.place(model, self.runtime)
        self.world = context.world
        folders = [self.world.folder(context.out, config) for config in configs]
        for folder in folders:
            folder.open()
            folder.clean_up()
        if self.config.start is not None:
            start_from_program(self.model, Program.load(Path(self.config.start)), self.config)
        starts = self.model.programs()
        self.members = [PackedRun(c, f, s) for c, f, s in zip(configs, folders, starts, strict=True)]
        self.active = list(self.members)
        #: the run that each of the model's R programs belongs to, in order
        self.rows = list(self.members)
        config = self.config
        passes = len(configs) * config.batch_size * config.steps
        # in a short time box, compilation would take most of the time
        is_long = config.minutes is None or config.minutes >= MIN_COMPILE_MINUTES
        model.compiled = (is_long and pays_to_compile(model, passes)) if context.compile is None else context.compile
        self.features = plan_feature_cache(model, task, configs, starts, self._choice_split())
        factors = {name: config.lr_factors.get(model.role_of(name), 1.0) for name in model.trained()}
        # measured with all runs at the start, because a resumed pack must be split as before
        measured = self.features is None and not context.micro_batch
        self.tokens_per_pass = tokens_per_pass(model, task) if measured else None
        self.adam = PackedAdam(
            model.trained(),
            len(configs),
            config.clip,
            model.has_run_axis,
            factors,
            scales=model.scales() if config.lr_scale == "relative" else None,
            averaging=config.averaging,
        )
        self.step = 0
        self.schedule = Schedule(config)
        self.counted = context.clock()
        self.saved = time.perf_counter()

    def resume(self) -> None:
        """Load the last state that the runs have in common, if there is one, and call the callbacks."""
        folders = [m.folder for m in self.members]
        step = common_step(folders, [_end(folder) for folder in folders])
        if step is None:
            for folder in folders:
                folder.drop_states()
        origin = {"body": self.model.body_fingerprint, "data": self.task.fingerprint}
        for folder in folders if step is not None else ():
            folder.check_origin(origin)
        state = self.world.broadcast(None if step is None else (step, [folder.go_back(step) for folder in folders]))
        info: dict[str, Any] = {}
        if state is not None:
            self._restore(*state)
        elif self.config.output_start == RIDGE:
            info |= self._start_output_layers()
        trained, frozen = self.model.counts()
        info |= {"trained": trained, "frozen": frozen, "device": self.runtime.describe()}
        info |= {"compiled": self.model.compiled, "metric_name": self.task.metric_name}
        pack = [m.config.run_id for m in self.members]
        self._log("start", pack=pack, origin=origin, **info)
        for callback in self.context.callbacks:
            callback.begin([m.config for m in self.members], self.step, info)

    def _start_output_layers(self) -> dict[str, Any]:
        """Solve the runs' output layers in closed form. Returns numbers for the log."""
        begun, seeds = time.perf_counter(), [m.config.seed for m in self.members]
        examples = start_output_layers(self.model, self.task, seeds, self.config.start_examples)
        self.adam.read()
        return {"start_examples": examples, "start_seconds": round(time.perf_counter() - begun, 3)}

    def run(self) -> None:
        """Train until every run has stopped or has made all of its steps."""
        schedule = self.schedule
        if self.step == 0 and self.config.output_start is not None and not all(m.was_validated for m in self.active):
            self.validate()  # such a start may be better than what training makes of it, or good enough
            if self._has_stopped_runs:
                self.save()
                self._drop_stopped_runs()
        loss_sum, since = torch.zeros(self.adam.runs, device=self.adam.values.device), 0
        begun, compiling = time.perf_counter(), self.model.compiled
        while self.active and not schedule.is_over:
            loss_sum += self.train_step()
            if compiling:
                self._log("compiled", first_step_seconds=round(time.perf_counter() - begun, 3))
                compiling = False
            since += 1
            self.step += 1
            schedule.advance(self._elapsed())
            evaluating = schedule.is_validating
            if schedule.is_logging:
                self._log_losses((loss_sum / since).tolist())
                loss_sum.zero_()
                since = 0
            if evaluating:
                self.validate()
            stopping = self._has_stopped_runs
            if evaluating or stopping or time.perf_counter() - self.saved > self.context.checkpoint_seconds:
                self.save()
            if stopping:
                self._drop_stopped_runs()
                loss_sum, since = torch.zeros(self.adam.runs, device=loss_sum.device), 0

    def train_step(self) -> Tensor:
        """One update of every active run. Returns the mean losses (R,) before it."""
        if self.features is not None:
            return self._update(self._kept_losses(self.features), self.adam.gradients())
        config, model, R = self.config, self.model, self.adam.runs
        batch = self.task.train_batch([m.config.seed for m in self.active], self.step, config.batch_size)
        B = config.batch_size
        batch, mine = self.world.share(self.task.prepare_batch(batch), R)
        keys = self._dropout_keys()[mine] if config.dropout else None
        self.adam.zero_grad()
        losses = torch.zeros(R, device=self.adam.values.device)
        passes = split_by_length(batch, R, self.context.micro_batch, self.tokens_per_pass)
        for (part, rows), counts in self.world.in_step(passes):
            logits = model(part, row_keys=None if keys is None else to_device(keys[rows], losses.device))
            loss = self.task.loss(logits, part.targets).view(R, -1).sum(1) * (counts / B)
            # programs are disjoint, so the gradient of the sum is each run's own gradient
            loss.sum().backward()
            losses += loss.detach()
        grads = self.adam.gradients()
        self.world.sum(grads, losses)
        return self._update(losses, grads)

    def _kept_losses(self, features: FeatureCache) -> Tensor:
        """Mean losses (R,) on the cached features, with gradients of the output layers. The body does not run."""
        seeds = [m.config.seed for m in self.active]
        if features.kept is None:
            self._log("features", **features.keep(seeds, self.context.out, self.context.feature_memory))
        self.adam.zero_grad()
        losses = features.losses(seeds, self.step, self.config.batch_size)
        losses.sum().backward()
        return losses.detach()

    def _update(self, losses: Tensor, grads: Tensor) -> Tensor:
        """One step of Adam along `grads` (R, K) for the runs whose `losses` (R,) are finite. Returns the losses."""
        rates = [m.config.lr_at(self.schedule.position) for m in self.active]
        lr = to_device(torch.tensor(rates), losses.device)
        self.adam.alive &= losses.isfinite()
        self.adam.step(self.step, lr, grads)
        return losses

    def validate(self) -> None:
        """Score the active runs, keep the best state of each, and decide which ones stop."""
        config = self.config
        with self.adam.averaged():
            states, metrics, losses = self._validated_states()
        for row, (member, metric, loss) in enumerate(zip(self.active, metrics, losses, strict=True)):
            progress = member.progress
            if progress.stopped:
                continue
            if progress.improves(metric, loss, config.tie_break):
                progress.best_metric, progress.best_step, progress.stale = metric, self.step, 0
                progress.best_loss = loss
                member.best = states[row].clone()
            else:
                progress.stale += 1
            event = {"event": "validation", "step": self.step, "metric": _finite(metric), "loss": _finite(loss)}
            member.folder.log([event])
            if config.stop_at is not None and metric >= config.stop_at:
                progress.stopped = STOP_AT_REACHED
            elif config.patience is not None and progress.stale >= config.patience:
                progress.stopped = NO_IMPROVEMENT
        for callback in self.context.callbacks:
            callback.validated(self.step, {m.config.run_id: x for m, x in zip(self.active, metrics, strict=True)})
        if self.context.race:
            self._race()

    def _validated_states(self) -> tuple[Tensor, list[float], list[float]]:
        """The states (R, K) to choose from at this step, their metrics and their losses. May change the model."""
        config, split = self.config, self._choice_split()
        # before the first step, only a start in closed form is validated, and that is solved already
        refit = config.output_refit if self.step else None
        if refit == RIDGE:
            return self._refitted_states(), *self._score(split, config.eval_examples)
        states, scores = self.adam.evaluated_values, self._score(split, config.eval_examples)
        if refit is None:
            return states, *scores
        refitted, refitted_scores = self._refitted_states(), self._score(split, config.eval_examples)
        kept = states.clone()
        for row, new in enumerate(zip(*refitted_scores, strict=True)):
            if is_better(new, (scores[0][row], scores[1][row]), config.tie_break):
                kept[row], scores[0][row], scores[1][row] = refitted[row], *new
        return kept, *scores

    def _refitted_states(self) -> Tensor:
        """The states (R, K) in the model, with output layers in closed form, which the model has afterwards."""
        refit_output_layers(self.model, self.task, self.config.start_examples or self.step * self.config.batch_size)
        return self.adam.current(self.adam.runs)

    def _race(self) -> None:
        """Stop the runs of the learning rates that are behind, if a rung of the race is decided at this step."""
        rung = rung_at(self.config, self.schedule.position, self.schedule.previous)
        if rung is None:
            return
        runs = [(m.config.lr, m.progress) for m in self.members]
        decision = self.world.broadcast(decide_rung(self.step, rung, runs))
        if decision is None:
            return
        metrics = {rate.lr: rate.metric for rate in decision.behind}
        ahead = {f"{rate.lr:g}": rate.metric for rate in decision.ahead}
        for member in self.active:
            if member.config.lr in metrics and not member.progress.stopped:
                member.progress.stopped = BEHIND
                member.progress.race = tuple(m.config.run_id for m in self.members)
                event = {"event": "behind", "step": self.step, "rung": str(rung.share), "keep": rung.keep}
                member.folder.log([{**event, "metric": metrics[member.config.lr], "ahead": ahead}])
        for callback in self.context.callbacks:
            callback.note(decision.describe())

    def save(self) -> None:
        """Write a state of every active run; older states are deleted once all runs have the new one."""
        self._count_seconds(self.active)
        for row, member in enumerate(self.active):
            member.progress.position = self.schedule.position
            tensors = {name: getattr(self.adam, name)[row] for name in self.adam.state_names}
            if member.best is not None:
                tensors["best"] = member.best
            member.folder.save_state(self.step, tensors, dataclasses.asdict(member.progress))
        for member in self.active:
            member.folder.drop_states(keep=self.step)
        self.saved = time.perf_counter()

    def finish(self) -> list[RunSummary]:
        """Score every run's best state once on the whole splits, and write programs and summaries. Returns these."""
        if any(m.progress.final is None for m in self.members):
            self._score_final()
        summaries = self.world.broadcast(self._write() if self.world.is_main else [])
        for callback in self.context.callbacks:
            callback.finished(summaries)
        return summaries

    def _write(self) -> list[RunSummary]:
        """Write the programs and, after all of them, the summaries. Returns these."""
        summaries, pack = [], self._outcome()
        for member in self.members:
            if member.has_program:
                tensors = member.initial | self.adam.tensors(_known(member.best))
                program_of(member, tensors, pack).save(member.folder.program_path)
            summaries.append(summarize_run(member, pack))
        for member, summary in zip(self.members, summaries, strict=True):
            member.folder.log([{"event": "end", "step": summary.steps_done}])
            write_json(member.folder.summary_path, summary.to_json())
            member.folder.drop_states()
        return summaries

    def _outcome(self) -> PackOutcome:
        trained, frozen = self.model.counts()
        device, body = self.runtime.describe(), self.model.body_fingerprint
        return PackOutcome(self.task, body, self.model.input_rms, self.step, len(self.members), trained, frozen, device)

    def _choice_split(self) -> str:
        return self.task.test_splits[0] if "choose-on-test" in self.config.faults else "val"

    def _score(self, split: str, limit: int | None = None) -> tuple[list[float], list[float]]:
        """Mean metric and mean loss of each program in the model."""
        if self.features is not None:
            metrics, losses = self.features.evaluate(split, limit, [m.config.seed for m in self.rows])
        else:
            metrics, losses = evaluate_with_loss(self.model, self.task, split, limit, world=self.world)
        return metrics.tolist(), losses.tolist()

    def _score_final(self) -> None:
        """Score the best states. The metrics are stored in the states first, so that a kill cannot change them."""
        scored = [m for m in self.members if m.has_program]
        for member in self.members:
            member.progress.final = {}
            # scoring whole splits would cost what the race saves; the split of other choices is not "val"
            if member.progress.stopped == BEHIND and self._choice_split() == "val":
                member.progress.final["val"] = member.progress.best_metric
        if scored:
            self.model.set_programs([m.initial | self.adam.tensors(_known(m.best)) for m in scored])
            self.rows = scored
            config = self.config
            for split in dict.fromkeys(("train", "val", *self.task.test_splits)):
                limit = config.eval_examples if split == "train" else config.test_examples
                for member, metric in zip(scored, self._score(split, limit)[0], strict=True):
                    assert member.progress.final is not None
                    member.progress.final[split] = _finite(metric)
        self._count_seconds(self.members)
        for member in self.members:
            for step in member.folder.saved_steps()[-1:]:
                tensors, _ = member.folder.load_state(step)
                member.folder.save_state(step, tensors, dataclasses.asdict(member.progress))

    def _elapsed(self) -> float:
        """Seconds since the pack began, in all of its sessions. The same for all processes."""
        if self.config.minutes is None:
            return 0.0
        self.runtime.synchronize()
        return self.world.broadcast(self.active[0].progress.seconds + self.context.clock() - self.counted)

    def _count_seconds(self, members: Sequence[PackedRun]) -> None:
        self.runtime.synchronize()
        now = self.context.clock()
        for member in members:
            member.progress.seconds += now - self.counted
            member.progress.share += (now - self.counted) / len(members)
        self.counted = now

    @property
    def _has_stopped_runs(self) -> bool:
        return any(m.progress.stopped for m in self.active)

    def _drop_stopped_runs(self) -> None:
        """Train on with those runs only that have not stopped."""
        self.active = [m for m in self.active if not m.progress.stopped]
        self._narrow()

    def _narrow(self) -> None:
        """Shrink model and optimizer to the active runs."""
        rows = [row for row, member in enumerate(self.rows) if member in self.active]
        if not rows:
            return
        programs = self.model.programs()
        self.model.set_programs([programs[row] for row in rows])
        self.adam.keep(rows)
        self.rows = [self.rows[row] for row in rows]

    def _restore(self, step: int, run_states: Sequence[tuple[dict[str, Tensor], dict[str, Any]]]) -> None:
        """Restore the pack as it was after `step` steps, from the states of its runs."""
        self.step, device, states = step, self.adam.values.device, []
        for member, (tensors, values) in zip(self.members, run_states, strict=True):
            self._check_state(member, tensors, values)
            member.progress = RunProgress(**values)
            member.best = tensors["best"].to(device) if "best" in tensors else None
            if not member.progress.stopped:
                states.append(tensors)
        self.schedule.position = max(m.progress.position for m in self.members)
        # states of earlier versions have no position, and a schedule without a time box goes step by step
        if self.config.minutes is None or not self.schedule.position:
            self.schedule.position = step
        self.active = [m for m in self.members if not m.progress.stopped]
        if not self.active:
            return
        self._narrow()
        for name in self.adam.state_names:
            getattr(self.adam, name).copy_(torch.stack([tensors[name] for tensors in states]))
        self.adam.write()

    def _check_state(self, member: PackedRun, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Raise StorageError for a state whose tensors or counters are not those of this run."""
        shapes = {name: getattr(self.adam, name).shape[1:] for name in self.adam.state_names}
        if "best" in tensors:
            shapes["best"] = shapes["values"]
        known = {each.name for each in dataclasses.fields(RunProgress)}
        fits = all(name in tensors and tensors[name].shape == shape for name, shape in shapes.items())
        if not fits or not values.keys() <= known:
            raise StorageError(
                f"A state in {member.folder.states} is not one of this run. Delete that folder to start the run again."
            )

    def _dropout_keys(self) -> Tensor:
        """Keys (N,) of this step's dropout draws, on the CPU; a function of seed, step and row."""
        B = self.config.batch_size
        draws = [
            torch.randint(2**62, (B,), generator=random_stream(m.config.seed, DROPOUT, self.step)) for m in self.active
        ]
        return torch.cat(draws)

    def _log(self, event: str, **fields: Any) -> None:
        for member in self.active:
            member.folder.log([{"event": event, "step": self.step, **fields}])

    def _log_losses(self, losses: Sequence[float]) -> None:
        alive = self.adam.alive.tolist()
        shown: dict[str, float] = {}
        for member, loss, ok in zip(self.active, losses, alive, strict=True):
            shown[member.config.run_id] = loss
            lr = member.config.lr_at(self.schedule.previous)
            member.folder.log([{"event": "train", "step": self.step, "loss": _finite(loss), "lr": lr}])
            if not ok:
                member.progress.stopped = DIVERGED
                member.folder.log([{"event": "diverged", "step": self.step}])
        for callback in self.context.callbacks:
            callback.progress(self.step, shown)


def _end(folder: RunFolder) -> int | None:
    """The step of a run's last state if the run stopped there, otherwise None."""
    last = max(folder.saved_steps(), default=None)
    return last if last is not None and folder.load_values(last)["stopped"] else None


def _finite(value: float) -> float | None:
    """A number for files, which have none that is not finite: JSON knows no NaN, and summaries with one are refused."""
    return value if math.isfinite(value) else None


def _known(values: Tensor | None) -> Tensor:
    assert values is not None
    return values
