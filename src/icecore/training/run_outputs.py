"""What a finished run leaves behind: its program and its summary."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from icecore.core.device import package_versions
from icecore.model.program import INPUT_RMS, Program
from icecore.tasks.task import Task
from icecore.training.run_progress import PackedRun
from icecore.training.run_summary import BEHIND, COMPLETED, RunSummary


@dataclass(frozen=True)
class PackOutcome:
    """What the runs of a finished pack have in common.

    body     fingerprint of the frozen body
    input_rms  what the norm after the input layer scales tokens to, None without one
    step     the last step
    runs     number of runs
    trained  number of parameters that were trained; `frozen` likewise
    device   where it was trained, in words
    """

    task: Task
    body: str
    input_rms: float | None
    step: int
    runs: int
    trained: int
    frozen: int
    device: str


def program_of(run: PackedRun, tensors: Mapping[str, Tensor], pack: PackOutcome) -> Program:
    """The program of a run whose best state is `tensors`."""
    extra = {"data": dict(pack.task.data), "metric_name": pack.task.metric_name}
    if pack.input_rms is not None:
        extra[INPUT_RMS] = pack.input_rms
    return Program(
        config=run.config,
        spec=pack.task.spec,
        fingerprint=pack.body,
        tensors=dict(tensors),
        metrics=run.progress.final or {},
        versions=package_versions(),
        extra=extra,
    )


def summarize_run(run: PackedRun, pack: PackOutcome) -> RunSummary:
    """The content of the run's summary.json."""
    config, progress, task = run.config, run.progress, pack.task
    final = progress.final or {}
    steps = pack.step if not progress.stopped else max(run.folder.saved_steps(), default=0)
    limit = 0 if progress.stopped == BEHIND else config.test_examples or sys.maxsize
    return RunSummary(
        task=config.task,
        task_options=dict(config.task_options),
        backbone=config.backbone,
        weights=config.weights,
        train_roles=config.train_roles,
        protocol=config.protocol,
        lr=config.lr,
        seed=config.seed,
        steps=config.steps,
        steps_done=steps,
        status=progress.stopped or COMPLETED,
        best_step=progress.best_step,
        batch_size=config.batch_size,
        precision=config.precision,
        train_metric=final.get("train"),
        val_metric=final.get("val"),
        test_metric=final.get(task.test_splits[0]),
        test_metrics={split: final.get(split) for split in task.test_splits},
        test_examples=min(task.split_size(task.test_splits[0]), limit),
        metric_name=task.metric_name,
        trainable_parameters=pack.trained,
        frozen_parameters=pack.frozen,
        seconds=round(progress.seconds, 3),
        steps_per_second=round(steps / progress.seconds, 3) if progress.seconds else None,
        seconds_share=round(progress.share, 3),
        packed_runs=max(pack.runs, run.folder.largest_pack()),
        device=pack.device,
        versions=package_versions(),
        data=dict(task.data),
        run_id=config.run_id,
        race=tuple(progress.race),
    )
