"""Targets: the task type, loss and metric by independent references, predictions as people wrote them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from icecore.core.errors import ConfigError, DataError
from icecore.user_data import DataSettings, encode, from_arrays
from icecore.user_data.columns import column_from_values
from icecore.user_data.targets import TargetEncoder
from icecore.user_data.task_type import decide_task
from user_data_samples import random_rows

metrics = pytest.importorskip("sklearn.metrics")


def imbalanced(count: int = 400, rare: float = 0.1) -> np.ndarray:
    return np.where(np.random.default_rng(1).random(count) < rare, "rare", "common")


@pytest.mark.parametrize(
    ("y", "task"),
    [
        (["a", "b"] * 20, "classification"),
        ([True, False] * 20, "classification"),
        ([1, 2, 3, 4] * 10, "classification"),
        (list(range(40)), "regression"),
        (list(range(40)) * 10, "classification"),  # labels that count from 0, ten rows of each
        ([0.5, 1.5] * 20, "regression"),
        ([25, 346, 101, 60, *range(200, 236)], "regression"),
    ],
)
def test_the_task_type_is_inferred(y: list[Any], task: str):
    assert decide_task({"y": column_from_values("y", y)}, DataSettings())[0] == task


def test_errors_of_targets_that_fit_no_task_type():
    with pytest.raises(DataError, match="Target 'y' has 40 different texts in 40 rows, too many for classes"):
        decide_task({"y": column_from_values("y", [f"id{i}" for i in range(40)])}, DataSettings())
    mixed = {"a": column_from_values("a", ["x", "y"] * 9), "b": column_from_values("b", np.linspace(0, 1, 18))}
    with pytest.raises(ConfigError, match=r"The targets need different tasks \(a: classification; b: regression\)"):
        decide_task(mixed, DataSettings())
    with pytest.raises(
        ConfigError, match=r"Regression needs numeric targets, but a is text\. Set --task classification"
    ):
        decide_task({"a": mixed["a"]}, DataSettings(task="regression"))
    with pytest.raises(DataError, match="Target 'y' is 3 in every training row"):
        from_arrays(random_rows(), np.full(100, 3.0), DataSettings(task="regression"))


@pytest.mark.parametrize("y", [[3, 1], [2.5, 1.0], ["b", "a"], [True, False]])
def test_predictions_have_the_type_of_the_labels(y: list[Any]):
    settings = DataSettings(task="classification")
    target = from_arrays(random_rows(40), y * 20, settings).encoder.target
    logits = torch.eye(2)[:, None]
    assert target.labels().tolist() == sorted(y)
    assert target.predict(logits)[0].tolist() == sorted(y)
    assert type(target.predict(logits)[0].tolist()[0]) is type(y[0])


def test_cross_entropy_and_accuracy_of_several_targets():
    y = np.stack([np.arange(60) % 2, np.arange(60) % 3], 1)
    task = from_arrays(random_rows(60), y).task()
    batch = next(task.batches("test", 99))
    logits = torch.randn(len(batch), 1, 5)
    a, b = batch.targets[:, 0].long().unbind(1)
    first, second = logits[:, 0, :2], logits[:, 0, 2:]
    expected = (F.cross_entropy(first, a, reduction="none") + F.cross_entropy(second, b, reduction="none")) / 2
    torch.testing.assert_close(task.loss(logits, batch.targets), expected)
    hits = ((first.argmax(1) == a).float() + (second.argmax(1) == b).float()) / 2
    torch.testing.assert_close(task.metric(logits, batch.targets), hits)
    assert [len(p) for p in task.encoder.target.predict(logits)] == [len(batch)] * 2


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_mean_metric_is_balanced_accuracy(split: str):
    task = from_arrays(random_rows(400), imbalanced()).task()
    assert task.metric_name == "balanced accuracy"
    batch = next(task.batches(split, 999))
    logits = torch.randn(len(batch), 1, 2)
    value = task.metric(logits, batch.targets).double().mean().item()
    expected = metrics.balanced_accuracy_score(batch.targets[:, 0, 0], logits[:, 0].argmax(1))
    assert value == pytest.approx(expected, abs=1e-6)


def test_balanced_accuracy_of_data_with_other_shares():
    encoder = from_arrays(random_rows(400), imbalanced()).encoder
    scored = encode(encoder, random_rows(60), np.array(["rare", "common"] * 30), score=True)
    batch = next(scored.task(encoder).batches("test", 99))
    perfect = torch.eye(2)[batch.targets[:, 0, 0].long()][:, None]
    assert encoder.target.metric(perfect, batch.targets).mean() == pytest.approx(1)


def test_the_loss_of_imbalanced_classes_is_logit_adjusted():
    target = from_arrays(random_rows(400), imbalanced()).encoder.target
    share = torch.tensor(target.counts[0]) / sum(target.counts[0])
    # no information: the adjusted loss is smallest where the logits are equal, so that neither class is preferred
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    codes = torch.tensor([[[0.0], [1.0]], [[1.0], [1.0]]])
    (target.loss(logits.expand(2, 1, 2), codes) * share).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6
    torch.testing.assert_close(target.probabilities(torch.zeros(1, 1, 2))[0][0], share)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_mean_metric_is_r2(split: str):
    y = np.random.default_rng(3).normal(50, 9, (100, 2))
    data_plan = from_arrays(random_rows(), y)
    batch = next(data_plan.task().batches(split, 999))
    logits = torch.randn(len(batch), 1, 2)
    truth = np.stack(data_plan.encoder.target.predict(batch.targets[:, :1]), 1)
    guess = np.stack(data_plan.encoder.target.predict(logits), 1)
    mean = data_plan.task().metric(logits, batch.targets).mean().item()
    assert mean == pytest.approx(metrics.r2_score(truth, guess), abs=1e-5)
    squared = ((batch.targets[:, 0] - logits[:, 0]) ** 2).mean(1)
    torch.testing.assert_close(data_plan.task().loss(logits, batch.targets), squared)


def test_rows_without_a_target_are_dropped_and_counted():
    y = np.random.default_rng(0).normal(size=100)
    y[:7] = np.nan
    data_plan = from_arrays(random_rows(), y)
    assert sum(len(part) for part in data_plan.splits.values()) == 93
    assert ("dropped", "7 rows without a target") in data_plan.notes


def test_the_metric_and_outputs_of_two_classes():
    target = TargetEncoder(("y",), "classification", ("int",), (("0", "1"),), ((3, 4),))
    assert target.metric_name == "accuracy"
    assert target.outputs == 2
