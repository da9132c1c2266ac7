"""The plain loop of the benchmarks computes the same as icecore on every kind of task, and starts as in the paper."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import BertModel

from icecore.backbones import Backbone
from icecore.model.fpt import FPT
from icecore.tasks.bits import BitMemory, BitXor
from icecore.tasks.task import Task, TaskSpec

Script = Callable[[str], ModuleType]
TASKS = ("one bit a token", "several bits a token", "words", "mean of words", "longer than the position table")


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest, ragged: Task) -> Task:
    if request.param == "mean of words":
        ragged.spec = replace(ragged.spec, read_out="mean")
    few = {"strings": 2, "bits": 8, "width": 4}
    tasks = (BitXor(2), BitMemory(**few), ragged, ragged, BitXor(20))
    return dict(zip(TASKS, tasks, strict=True))[request.param]


@pytest.fixture
def bert(bodies: Mapping[str, str], script: Script) -> Callable[[TaskSpec], Any]:
    """The library's model of the tiny body, with enough positions for a task."""

    def build(spec: TaskSpec) -> Any:
        model = BertModel.from_pretrained(bodies["bert"], add_pooling_layer=False)
        script("plain_training").lengthen_positions(model, spec.length)
        return model

    return build


def test_logits_loss_and_accuracy_are_those_of_icecore(
    task: Task, script: Script, body: Callable[..., Backbone], bert: Callable[[TaskSpec], Any]
):
    model = FPT(task.spec, body())
    plain = script("plain").PlainFPT(bert(task.spec), task.spec).start_from(model.programs()[0])
    training = script("plain_training")
    validation = training.validation_batches(task, 7)
    batch = next(task.batches("val", 7))
    logits = model(batch)
    assert_close(plain(batch.tokens, batch.lengths), logits, rtol=1e-4, atol=1e-5)
    assert training.accuracy(plain, validation) == pytest.approx(float(task.metric(logits, batch.targets).mean()))
    loss = script("plain").PlainLoop(plain, 1e-3).train_step(batch.tokens, batch.targets, batch.lengths)
    assert_close(loss, task.loss(logits, batch.targets).mean().detach(), rtol=1e-4, atol=1e-5)


def test_validation_examples_are_the_first_of_the_split(ragged: Task, script: Script, monkeypatch: pytest.MonkeyPatch):
    training = script("plain_training")
    monkeypatch.setattr(training, "TOKENS_PER_PASS", 27)  # three examples a pass
    batches = training.validation_batches(ragged, 7)
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([b.targets for b in batches]), next(ragged.batches("val", 7)).targets)


def test_the_start_and_what_is_trained(
    task: Task, script: Script, body: Callable[..., Backbone], bert: Callable[[TaskSpec], Any]
):
    plain = script("plain").PlainFPT(bert(task.spec), task.spec)
    weight = plain.input.weight.detach()  # (D, P) of a linear layer, (V, D) of an embedding
    P, D = task.spec.size, 16
    products = weight @ weight.t() if task.spec.kind == "discrete" else weight.t() @ weight
    assert weight.numel() == P * D
    assert_close(products, 1.41**2 * torch.eye(P), rtol=1e-5, atol=1e-5)
    if task.spec.kind == "continuous":
        assert not plain.input.bias.any()
    frozen = {name for name, parameter in plain.named_parameters() if not parameter.requires_grad}
    assert frozen
    assert not [name for name in frozen if "LayerNorm" in name or "position" in name or not name.startswith("body.")]
    # the library's model has all positions, icecore's only those of the task; it has the same roles otherwise
    trained, _ = FPT(task.spec, body()).counts()
    spare = (max(32, task.spec.length) - task.spec.length) * D
    assert sum(p.numel() for p in plain.parameters() if p.requires_grad) == trained + spare
