"""Scoring is honest: every example once, and independent of how it is cut into passes."""

from collections.abc import Callable

import pytest
import torch

from icecore.backbones import Backbone
from icecore.model.fpt import FPT
from icecore.model.model_settings import ModelSettings
from icecore.tasks.bits import BitXor
from icecore.tasks.stored_task import StoredTask
from icecore.tasks.task import Batch, Task
from icecore.training import evaluation, micro_batches
from icecore.training.evaluation import evaluate, predict

SEEDS = [0, 1, 2]


@pytest.fixture(params=["bit-xor", "ragged"])
def task(request: pytest.FixtureRequest, ragged: StoredTask) -> Task:
    return ragged if request.param == "ragged" else BitXor(2)


@pytest.fixture
def model(task: Task, body: Callable[..., Backbone]) -> FPT:
    return FPT(task.spec, body(), SEEDS)


def by_hand(model: FPT, task: Task, run: int, split: str, limit: int | None = None) -> float:
    """The mean over examples, one at a time."""
    scores = []
    for batch in task.batches(split, 1, limit):
        logits = model(batch, run_of_row=torch.tensor([run]))
        scores.append(float(task.metric(logits, batch.targets)))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("limit", [None, 5])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_equals_scoring_one_example_at_a_time(model: FPT, task: Task, split: str, limit: int | None) -> None:
    if split == "train":
        limit = 20
    expected = [by_hand(model, task, run, split, limit) for run in range(len(SEEDS))]
    assert evaluate(model, task, split, limit).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("cost", [0, 64])
@pytest.mark.parametrize("tokens", [1, 100, 100_000])
def test_the_size_of_the_passes_changes_nothing(
    model: FPT, task: Task, tokens: int, cost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(model, task, "test").tolist()
    monkeypatch.setattr(evaluation, "TOKENS_PER_PASS", {"cpu": tokens})
    monkeypatch.setattr(micro_batches, "PASS_COST", {"cpu": cost})
    assert evaluate(model, task, "test").tolist() == expected


@pytest.mark.parametrize("limit", [None, 3])
def test_every_example_is_scored_once(
    body: Callable[..., Backbone], ragged: StoredTask, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    model = FPT(ragged.spec, body(), SEEDS)
    seen: list[Batch] = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    monkeypatch.setattr(evaluation, "TOKENS_PER_PASS", {"cpu": 2 * 9 * len(SEEDS)})
    monkeypatch.setattr(evaluation, "PASSES_PER_WINDOW", 3)
    monkeypatch.setattr(micro_batches, "PASS_COST", {"cpu": 0})
    evaluate(model, ragged, "test", limit)
    expected = ragged.splits["test"].inputs[:limit]
    for run in range(len(SEEDS)):  # every program on the same rows
        rows = [row for batch in seen for row in batch.tokens.view(len(SEEDS), -1, batch.tokens.shape[1])[run].tolist()]
        assert sorted(row + [0] * (9 - len(row)) for row in rows) == sorted(expected.tolist())
    assert sum(batch.tokens.numel() for batch in seen) == 3 * int(expected.count_nonzero())  # no padding at all


def test_scoring_leaves_training_as_it_was(body: Callable[..., Backbone], task: Task) -> None:
    model = FPT(task.spec, body(), SEEDS, ModelSettings(dropout=0.1))
    batch = task.train_batch(SEEDS, 0, 2)
    keys = torch.arange(len(batch))
    before = model(batch, row_keys=keys)
    evaluate(model, task, "val")
    after = model(batch, row_keys=keys)
    assert torch.equal(before, after)
    assert not torch.equal(after, model(batch))  # dropout was drawn
    after.sum().backward()


def test_without_mask_is_the_published_fault(body: Callable[..., Backbone], ragged: StoredTask) -> None:
    model = FPT(ragged.spec, body(), [0])
    batch = next(iter(ragged.batches("test", 13)))
    ragged.unmasked = True
    faulty = ragged.prepare_batch(batch)
    assert faulty.lengths is None
    assert faulty.tokens.shape == (13, 9)
    padded = torch.zeros(13, 9, dtype=torch.int64)
    padded[:, : batch.tokens.shape[1]] = batch.tokens
    assert torch.equal(faulty.tokens, padded)
    expected = ragged.metric(model(Batch(padded, batch.targets)), batch.targets).mean()
    assert evaluate(model, ragged, "test").tolist() == pytest.approx([float(expected)])


def test_full_sequences_have_no_mask_to_lose() -> None:
    task = BitXor(2)
    batch = task.train_batch([0], 0, 3)
    task.unmasked = True
    assert task.prepare_batch(batch) is batch


def test_predictions_are_in_order_and_agree_with_the_metric(body: Callable[..., Backbone], ragged: Task) -> None:
    model = FPT(ragged.spec, body(), [0, 1])
    logits, targets = predict(model, ragged, "test")
    assert logits.shape == (2, 13, 1, 7)
    (whole,) = ragged.batches("test", 100)
    torch.testing.assert_close(targets, whole.targets)
    for row in range(13):
        one = whole.rows(slice(row, row + 1))
        alone = Batch(one.tokens[:, : int(one.lengths[0])], one.targets, one.lengths)  # type: ignore[index]
        torch.testing.assert_close(logits[:, row], model(alone.repeat(2)).view(2, 1, 7), rtol=1e-4, atol=1e-5)
    scores = torch.stack([ragged.metric(each, targets) for each in logits]).double().mean(1)
    torch.testing.assert_close(scores, evaluate(model, ragged, "test"))
    assert predict(model, ragged, "test", limit=5)[0].shape[1] == 5
