"""The runs under a folder: what each one is, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, UserError
from icecore.core.text import duration, metric_text
from icecore.training.checkpoint import CONFIG, RunFolder, read_config
from icecore.training.run_summary import RunSummary


@dataclass(frozen=True)
class ListedRun:
    """A run folder. `summary` is None while the run is not finished; `fault` says why it cannot be read."""

    path: Path
    config: RunConfig | None = None
    summary: RunSummary | None = None
    step: int = 0
    fault: str = ""

    @property
    def status(self) -> str:
        """How the run ended, or how far it is."""
        if self.fault:
            return self.fault
        return self.summary.status if self.summary is not None else f"unfinished, step {self.step:,}"


def list_runs(folder: Path) -> list[ListedRun]:
    """The runs in a folder and in the folders below it, the oldest first. Raises ConfigError if there is no folder."""
    if not folder.is_dir():
        raise ConfigError(f"There is no folder {folder}. Name the folder that --out named when you trained.")
    paths = sorted(folder.rglob(CONFIG), key=lambda path: (path.stat().st_mtime, path))
    return [_read_run(path.parent) for path in paths]


def _read_run(path: Path) -> ListedRun:
    try:
        folder = RunFolder.at(path, read_config(path))
        return ListedRun(path, folder.config, folder.summary(), max(folder.saved_steps(), default=0))
    except UserError as error:
        return ListedRun(path, fault=f"damaged: {error}")


def run_card(config: RunConfig, summary: RunSummary | None, status: str) -> dict[str, str]:
    """What a run is in a few lines, by topic. Settings that are not in use are left out."""
    options = ", ".join(f"{name} = {value}" for name, value in config.task_options.items())
    depth = f", {config.layers} layers" if config.layers else ""
    seed = f", body seed {config.body_seed}" if config.weights == "random" else ""
    card = {
        "run": config.run_id,
        "task": config.task + (f" ({options})" if options else ""),
        "body": config.backbone + ("" if config.backbone == "none" else f", {config.weights}{depth}{seed}"),
        "trained parts": ", ".join(config.train_roles),
        "training": f"{config.steps:,} steps of {config.batch_size} examples, learning rate {config.lr:g} "
        f"({config.schedule}), seed {config.seed}, protocol {config.protocol}, {config.precision}",
        "status": status,
    }
    if summary is not None:
        card |= _result_lines(summary)
    return card


def _result_lines(summary: RunSummary) -> dict[str, str]:
    name = summary.metric_name
    metrics: Mapping[str, float | None] = {"train": summary.train_metric, "val": summary.val_metric}
    metrics = {**metrics, **summary.test_metrics}
    shown = ", ".join(f"{split} {metric_text(value, name)}" for split, value in metrics.items() if value is not None)
    versions: Mapping[str, Any] = summary.versions
    return {
        f"{name or 'metric'}": f"{shown or 'none'} (best state: step {summary.best_step:,} of {summary.steps_done:,})",
        "parameters": f"{summary.trainable_parameters:,} trained, {summary.frozen_parameters:,} frozen",
        "time": f"{duration(summary.seconds)} on {summary.device}"
        + (f", in a pack of {summary.packed_runs} runs" if summary.packed_runs > 1 else ""),
        "versions": ", ".join(f"{package} {version}" for package, version in versions.items()),
    }
