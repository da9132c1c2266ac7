"""A body is only used by the models on it: they may share one, train at once, and leave it as it was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from icecore.backbones import Backbone
from icecore.backbones.modules.body_pass import PLAIN_PASS, running_pass
from icecore.core.config import RunConfig
from icecore.model.fpt import FPT
from icecore.model.model_settings import ModelSettings
from icecore.model.program import Program
from icecore.tasks.bits import BitXor
from icecore.tasks.stored_task import StoredTask
from icecore.tasks.task import Task
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.loop import train_pack

Body = Callable[..., Backbone]
B = 4


class Snapshot:
    """The tensors of a body, to the bit, and which objects its norms are."""

    def __init__(self, body: Backbone) -> None:
        self.body = body
        self.tensors = {name: tensor.clone() for name, tensor in body.tensors().items()}
        self.parameters = dict(body.named_parameters())
        self.norms = dict(body.norms())

    def assert_unchanged(self) -> None:
        tensors = self.body.tensors()
        assert tensors.keys() == self.tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, self.tensors[name]), name
        for name, parameter in self.body.named_parameters():
            assert parameter is self.parameters[name], name
            assert parameter.grad is None, name
        assert {n: m for n, m in self.body.named_modules() if n in self.norms} == self.norms
        assert running_pass().value is PLAIN_PASS


class Training:
    """A model in training with dropout, one step a call."""

    def __init__(self, body: Backbone, task: Task, seeds: list[int], lr: float) -> None:
        self.task, self.seeds, self.steps = task, seeds, 0
        self.model = FPT(task.spec, body, seeds, ModelSettings(dropout=0.1))
        self.optimizer = torch.optim.Adam(self.model.trained().values(), lr)

    def step(self) -> Tensor:
        """Losses of the rows before the step."""
        batch = self.task.train_batch(self.seeds, self.steps, B)
        keys = torch.arange(len(batch)) + 1000 * self.steps
        losses = self.task.loss(self.model(batch, row_keys=keys), batch.targets)
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.optimizer.step()
        self.steps += 1
        return losses.detach()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_two_models_on_one_body_train_as_on_bodies_of_their_own(body: Body, ragged: StoredTask, family: str) -> None:
    shared = body(family)
    snapshot = Snapshot(shared)
    together = [Training(shared, BitXor(3), [0, 1], 1e-2), Training(shared, ragged, [5], 3e-2)]
    alone = [Training(body(family), BitXor(3), [0, 1], 1e-2), Training(body(family), ragged, [5], 3e-2)]
    interleaved = [[training.step() for training in together] for _ in range(8)]
    for number, training in enumerate(alone):
        for losses in interleaved:
            assert torch.equal(losses[number], training.step())
        for packed, own in zip(together[number].model.programs(), training.model.programs(), strict=True):
            assert all(torch.equal(packed[name], own[name]) for name in own)
    # training was more than a repetition of the first step
    assert all(not torch.equal(first, last) for first, last in zip(interleaved[0], interleaved[-1], strict=True))
    snapshot.assert_unchanged()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_leaves_the_body_as_it_was(
    body: Body, config: Callable[..., RunConfig], tmp_path: Path, precision: str
) -> None:
    shared = body()
    shared.round_weights(precision)
    snapshot, task = Snapshot(shared), BitXor(2)
    configs = [config(seed=seed, dropout=0.1, precision=precision) for seed in (0, 1)]
    train_pack(task, shared, configs, ExecutionContext(tmp_path / "first", device="cpu"))
    snapshot.assert_unchanged()
    # so that a second training on it repeats the first
    train_pack(task, shared, configs, ExecutionContext(tmp_path / "second", device="cpu"))
    for each in configs:
        paths = [RunFolder(tmp_path / folder, each).program_path for folder in ("first", "second")]
        first, second = (Program.load(path).tensors for path in paths)
        start = FPT(task.spec, shared, [each.seed], ModelSettings(), precision).programs()[0]
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert all(not torch.equal(first[name], start[name]) for name in first if name.startswith("body."))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_pass_that_breaks_off_leaves_the_body_as_it_was(body: Body, family: str, error: type[BaseException]) -> None:
    shared = body(family)
    snapshot = Snapshot(shared)
    training = Training(shared, BitXor(3), [0, 1], 1e-2)
    unbroken = Training(body(family), BitXor(3), [0, 1], 1e-2)

    def break_off(module: nn.Module, inputs: object) -> None:
        raise error

    for norm in list(shared.norms().values()):
        handle = norm.register_forward_pre_hook(break_off)
        with pytest.raises(error):
            training.step()
        handle.remove()
        snapshot.assert_unchanged()
        assert torch.equal(training.step(), unbroken.step())
