"""Records of invented runs whose configurations are real ones, as a results file would have them."""

import json
from collections.abc import Sequence
from typing import Any

from icecore.core.config import RunConfig
from icecore.core.version import __version__
from icecore.experiments.results import CellKey, RunRecord
from icecore.training.run_summary import RunSummary

VERSIONS = {"icecore": __version__, "python": "3.12.3", "torch": "2.13.0", "transformers": "5.23.0"}
MNIST_DATA = {"format": "idx", "counts": {"train": 59700, "val": 300, "test": 10000}, "sha256": "29abe478d272"}
SEEDS = (0, 1, 2)


def record(
    row: str = "pretrained",
    column: str = "mnist",
    test: float = 0.9,
    settings: dict[str, Any] | None = None,
    study: str = "table2",
    **summary: Any,
) -> RunRecord:
    """A run of a cell of a table at the budget "cpu"."""
    given = {"weights": "pretrained", "lr": 1e-3, "protocol": "fast", "test_examples": 500, **(settings or {})}
    config = RunConfig(task=column.split()[0], steps=200, batch_size=8, **given)
    values = {
        "task": config.task,
        "backbone": config.backbone,
        "weights": config.weights,
        "train_roles": list(config.train_roles),
        "protocol": config.protocol,
        "lr": config.lr,
        "seed": config.seed,
        "steps": 200,
        "steps_done": 200,
        "best_step": 200,
        "batch_size": 8,
        "status": "completed",
        "precision": "fp32",
        "train_metric": 0.9,
        "val_metric": test,
        "test_metric": test,
        "test_metrics": {"test": test},
        "test_examples": config.test_examples or 10000,
        "metric_name": "accuracy",
        "trainable_parameters": 44938,
        "frozen_parameters": 10638336,
        "device": "CPU, 2 threads",
        "versions": VERSIONS,
        "data": MNIST_DATA,
        "run_id": config.run_id,
        **summary,
    }
    key = CellKey(study, row, column, "cpu", "minilm")
    curve = ((100, 0.5), (200, min(1.0, test)))
    command = f"icecore paper {study} --budget cpu --only {config.task} --rows {row}"
    stored = json.loads(config.to_json())
    return RunRecord(key, command, "2026-11-22", RunSummary.from_json(values), stored, curve)


def cell(
    row: str = "pretrained",
    column: str = "mnist",
    tests: Sequence[float] = (0.89, 0.90, 0.91),
    settings: dict[str, Any] | None = None,
    study: str = "table2",
    **summary: Any,
) -> list[RunRecord]:
    """The runs of a cell, one for each number, with seeds from 0."""
    return [
        record(row, column, test, {**(settings or {}), "seed": seed}, study, **summary)
        for seed, test in enumerate(tests)
    ]
