"""The simple baseline: it learns, and texts become counts and one-hot codes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from icecore import user_data
from icecore.autofit.baseline import fit_baseline, flatten_rows
from icecore.user_data import DataSettings, TaskKind


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_the_baseline_learns(kind: TaskKind) -> None:
    pytest.importorskip("sklearn")
    x = np.random.default_rng(0).normal(size=(240, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(int) if kind == "classification" else 3 * x[:, 0] + 10
    plan = user_data.from_arrays(x, y, DataSettings(task=kind))
    baseline = fit_baseline(plan.task(), "test")
    assert baseline.logits.shape == (len(plan.splits["test"]), 1, plan.encoder.spec.outputs)
    assert torch.equal(baseline.targets, plan.splits["test"].targets)
    assert float(plan.task().metric(baseline.logits, baseline.targets).mean()) > 0.8
    assert baseline.val_metric > 0.8


def test_flattened_texts_are_counts_and_one_hot_codes() -> None:
    texts = ["AB", "BBA", "A", "BA"] * 8
    task = user_data.from_arrays(texts, [0, 1, 0, 1] * 8).task()
    x, targets = flatten_rows(task, "train")
    V, T = task.spec.size, task.spec.length
    assert x.shape[1] == V + V * T
    assert (x[:, :V].sum(1) == x[:, V:].sum(1)).all()
    assert x[:, :V].sum(1).max() == T
    assert targets.shape == (len(x), 2, 1)


def test_a_half_installed_aeon_leaves_minirocket_out(stand_in_aeon: Path) -> None:
    pytest.importorskip("sklearn")
    (stand_in_aeon / "__init__.py").write_text("raise ImportError('No module named numba')\n")
    x = np.random.default_rng(0).normal(size=(60, 24, 1)).astype(np.float32)
    x[:30] += np.sin(np.arange(24))[:, None]
    task = user_data.from_arrays(x, [0] * 30 + [1] * 30, DataSettings(kind="series")).task()
    with pytest.warns(UserWarning, match=r"aeon cannot be imported \(No module named numba\)"):
        baseline = fit_baseline(task, "test")
    assert baseline.logits.isfinite().all()
