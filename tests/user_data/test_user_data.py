"""One's own data as a task: splits, targets, loss and metric by independent references, plans, a short run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from icecore.backbones import Backbone
from icecore.core.errors import ConfigError, DataError
from icecore.model.fpt import FPT
from icecore.training.evaluation import evaluate
from icecore.user_data import DataEncoder, DataSettings, encode, from_arrays, plan
from icecore.user_data import targets as own_targets
from icecore.user_data.records import column_of
from icecore.user_data.targets import TargetEncoder, decide, split_rows

datasets = pytest.importorskip("sklearn.datasets")
metrics = pytest.importorskip("sklearn.metrics")


def rows(count: int = 100, width: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, width))


def imbalanced(count: int = 400, rare: float = 0.1) -> np.ndarray:
    return np.where(np.random.default_rng(1).random(count) < rare, "rare", "common")


# ------------------------------------------------------------------------------------------ splits


@pytest.mark.parametrize("counts", [(50, 50), (300, 30, 7), (90, 5, 5), (2, 2)])
def test_splits_are_whole_disjoint_and_stratified(counts: tuple[int, ...]):
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    columns = {"y": column_of("y", y)}
    parts = split_rows(columns, "classification", None, DataSettings())
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(y)))
    for share, name in ((0.15, "val"), (0.15, "test")):
        assert abs(len(parts[name]) - share * len(y)) <= 1
        held = np.bincount(y[parts[name]], minlength=len(counts))
        assert np.abs(held - share * np.array(counts)).max() <= 3
    assert set(y[parts["train"]]) == set(y)
    again = split_rows(columns, "classification", None, DataSettings())
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    other = split_rows(columns, "classification", None, DataSettings(seed=1))
    assert len(y) < 10 or set(other["test"]) != set(parts["test"])


def test_numbers_are_split_along_their_values():
    y = np.random.default_rng(0).normal(size=1000)
    parts = split_rows({"y": column_of("y", y)}, "regression", None, DataSettings())
    quantiles = np.quantile(y, [0.1, 0.5, 0.9])
    for index in parts.values():
        np.testing.assert_allclose(np.quantile(y[index], [0.1, 0.5, 0.9]), quantiles, atol=0.08)


def test_the_only_row_of_a_class_is_for_training():
    y = np.array(["a"] * 30 + ["b"] * 30 + ["once"])
    found = from_arrays(rows(61), y)
    assert found.encoder.target.counts[0][-1] == 1


def test_shares_that_cannot_be():
    with pytest.raises(ConfigError, match="val: 0 leaves nothing to choose by"):
        from_arrays(rows(), np.arange(100) % 2, DataSettings(val=0))
    with pytest.raises(ConfigError, match=r"that leave rows to train on, found 0\.5 and 0\.5"):
        DataSettings(val=0.5, test=0.5)
    with pytest.raises(DataError, match="1 row: too few for a val split"):
        from_arrays(rows(1), ["a"])
    with pytest.raises(DataError, match=r"3 rows: too few for a val split; .* classes of several rows"):
        from_arrays(rows(3), ["a", "b", "c"], DataSettings(task="classification"))
    with pytest.raises(DataError, match=r"target 'y' has 61 classes of one row each; expected several rows$"):
        from_arrays(rows(61), [f"name{i}" for i in range(61)], DataSettings(task="classification"))
    with pytest.raises(DataError, match=r"has 61 classes of one row each; .*, or --task regression$"):
        from_arrays(rows(61), np.linspace(0, 1, 61), DataSettings(task="classification"))


def test_no_more_rows_are_held_out_than_say_something(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(own_targets, "MOST_HELD", 7)
    found = from_arrays(rows(), np.arange(100) % 2)
    assert {name: len(part) for name, part in found.splits.items()} == {"train": 86, "val": 7, "test": 7}


def test_without_a_test_split_the_validation_split_is_reported():
    found = from_arrays(rows(), np.arange(100) % 2, DataSettings(test=0))
    assert found.task().test_splits == ("val",)
    assert ("splits", "train 85, val 15, test 0 (reported on val)") in found.describe()


# ------------------------------------------------------------------------------------------ targets


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
def test_the_task_is_found(y: list[Any], task: str):
    assert decide({"y": column_of("y", y)}, DataSettings())[0] == task


def test_targets_that_fit_no_task():
    with pytest.raises(DataError, match="target 'y' has 40 different texts in 40 rows"):
        decide({"y": column_of("y", [f"id{i}" for i in range(40)])}, DataSettings())
    mixed = {"a": column_of("a", ["x", "y"] * 9), "b": column_of("b", np.linspace(0, 1, 18))}
    with pytest.raises(ConfigError, match=r"targets of both kinds \(a: classification; b: regression\)"):
        decide(mixed, DataSettings())
    with pytest.raises(ConfigError, match="target a is text; regression needs numbers"):
        decide({"a": mixed["a"]}, DataSettings(task="regression"))
    with pytest.raises(DataError, match="target 'y' is 3 in every training row"):
        from_arrays(rows(), np.full(100, 3.0), DataSettings(task="regression"))


@pytest.mark.parametrize("y", [[3, 1], [2.5, 1.0], ["b", "a"], [True, False]])
def test_predictions_are_labels_as_they_were_given(y: list[Any]):
    settings = DataSettings(task="classification")
    target = from_arrays(rows(40), y * 20, settings).encoder.target
    logits = torch.eye(2)[:, None]
    assert target.labels().tolist() == sorted(y)
    assert target.predict(logits)[0].tolist() == sorted(y)
    assert type(target.predict(logits)[0].tolist()[0]) is type(y[0])


def test_cross_entropy_and_accuracy_of_several_targets():
    y = np.stack([np.arange(60) % 2, np.arange(60) % 3], 1)
    task = from_arrays(rows(60), y).task()
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
    task = from_arrays(rows(400), imbalanced()).task()
    assert task.metric_name == "balanced accuracy"
    batch = next(task.batches(split, 999))
    logits = torch.randn(len(batch), 1, 2)
    found = task.metric(logits, batch.targets).double().mean().item()
    expected = metrics.balanced_accuracy_score(batch.targets[:, 0, 0], logits[:, 0].argmax(1))
    assert found == pytest.approx(expected, abs=1e-6)


def test_balanced_accuracy_of_data_with_other_shares():
    encoder = from_arrays(rows(400), imbalanced()).encoder
    scored = encode(encoder, rows(60), np.array(["rare", "common"] * 30), score=True)
    batch = next(scored.task(encoder).batches("test", 99))
    perfect = torch.eye(2)[batch.targets[:, 0, 0].long()][:, None]
    assert encoder.target.metric(perfect, batch.targets).mean() == pytest.approx(1)


def test_the_loss_of_imbalanced_classes_is_logit_adjusted():
    target = from_arrays(rows(400), imbalanced()).encoder.target
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
    found = from_arrays(rows(), y)
    batch = next(found.task().batches(split, 999))
    logits = torch.randn(len(batch), 1, 2)
    truth = np.stack(found.encoder.target.predict(batch.targets[:, :1]), 1)
    guess = np.stack(found.encoder.target.predict(logits), 1)
    mean = found.task().metric(logits, batch.targets).mean().item()
    assert mean == pytest.approx(metrics.r2_score(truth, guess), abs=1e-5)
    squared = ((batch.targets[:, 0] - logits[:, 0]) ** 2).mean(1)
    torch.testing.assert_close(found.task().loss(logits, batch.targets), squared)


def test_rows_without_a_target_are_dropped_and_counted():
    y = np.random.default_rng(0).normal(size=100)
    y[:7] = np.nan
    found = from_arrays(rows(), y)
    assert sum(len(part) for part in found.splits.values()) == 93
    assert ("dropped", "7 rows without a target") in found.notes


def test_a_class_that_only_the_test_split_has(tmp_path: Path):
    x, y = rows(40), np.array(["a", "b"] * 20)
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:4], y_test=np.array(["a", "b", "c", "d"]))
    with pytest.raises(DataError, match=r"\(test\): 2 rows of classes of 'y' that training rows lack: c, d"):
        plan(tmp_path / "d.npz")


# ------------------------------------------------------------------------------------------ plans


@pytest.mark.parametrize("name", ["wine", "breast_cancer", "diabetes", "digits"])
def test_real_tables(name: str):
    data = getattr(datasets, f"load_{name}")()
    found = from_arrays(data.data, data.target)
    told = dict(found.describe())
    assert told["metric"] == ("r2" if name == "diabetes" else "accuracy")
    assert sum(len(part) for part in found.splits.values()) == len(data.target)
    encoder = DataEncoder.from_json(found.encoder.to_json())
    assert encoder == found.encoder
    scored = encode(encoder, data.data, data.target, score=True)
    assert scored.targets is not None
    restored = encoder.target.predict(
        F.one_hot(scored.targets[:, 0, 0].long()) if name != "diabetes" else scored.targets[:, :1]
    )
    np.testing.assert_allclose(restored[0], data.target, rtol=1e-5)


def test_a_plan_depends_on_data_and_settings_alone():
    y = np.arange(100) % 2
    digest = from_arrays(rows(), y).sha256()
    assert from_arrays(rows().copy(), y.tolist()).sha256() == digest
    assert from_arrays(rows(), y, DataSettings(seed=1)).sha256() != digest
    changed = rows()
    changed[3, 1] += 1e-3
    assert from_arrays(changed, y).sha256() != digest
    assert from_arrays(rows(), y).task().data["sha256"] == digest


def test_scaling_is_fitted_on_training_rows_alone():
    X, y = rows(), np.arange(100) % 2
    found = from_arrays(X, y)
    held = encode(found.encoder, X).inputs
    test = [int((held == row).all(1).nonzero()[0]) for row in found.splits["test"].inputs]
    X[test] += 100
    assert from_arrays(X, y).encoder.inputs == found.encoder.inputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "the encoder has format 99; this icecore reads up to 1"),
        ({"form": "smells"}, "not an encoder of one's own data: KeyError 'smells'"),
        ({"inputs": {}}, "not an encoder of one's own data: TypeError"),
    ],
)
def test_encoders_that_cannot_be_read(change: dict[str, Any], message: str):
    values = json.loads(from_arrays(rows(), np.arange(100) % 2).encoder.to_json())
    with pytest.raises(DataError, match=message):
        DataEncoder.from_json(json.dumps(values | change))
    with pytest.raises(DataError, match="not an encoder"):
        DataEncoder.from_json("{")


def test_new_rows_of_another_form():
    encoder = from_arrays(rows(), np.arange(100) % 2).encoder
    with pytest.raises(DataError, match="expected table, as in training, found strings"):
        encode(encoder, ["text"])


def test_unknown_settings():
    with pytest.raises(ConfigError, match="kind: expected one of auto, images"):
        DataSettings(kind="smell")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="patch: expected at least 1, found 0"):
        DataSettings(patch=0)


# ------------------------------------------------------------------------------------------ with a body


@pytest.mark.parametrize("form", ["table", "sequences", "strings"])
def test_a_body_learns_it(body: Callable[..., Backbone], form: str):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    inputs: dict[str, Any] = {
        "table": rng.normal(size=(120, 4)) + 3 * y[:, None],
        "sequences": [rng.normal(size=(n, 2)) + 3 * c for n, c in zip(rng.integers(3, 9, 120), y, strict=True)],
        "strings": ["".join(rng.choice(list("ab" if c else "cd"), rng.integers(1, 9))) for c in y],
    }
    task = from_arrays(inputs[form], y).task()
    model = FPT(task.spec, body("bert"), [0])
    adam = torch.optim.Adam(list(model.trained().values()), 1e-2)
    for step in range(30):
        batch = task.train_batch([0], step, 16)
        adam.zero_grad()
        task.loss(model(batch), batch.targets).mean().backward()
        adam.step()
    assert evaluate(model, task, "test").item() > 0.9


def test_the_target_code_is_json():
    target = TargetEncoder(("y",), "classification", ("int",), (("0", "1"),), ((3, 4),))
    assert target.metric_name == "accuracy"
    assert target.outputs == 2
