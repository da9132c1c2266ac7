"""The two sides of a comparison with the same start: body, input and output layers, data and learning rate.

The side of icecore is `icecore.training.loop.Pack`, as training uses it; the other side is the plain loop.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icecore.backbones import Backbone, BodyRequest, build_backbone
from icecore.backbones.huggingface import HuggingFaceBackbone
from icecore.core.config import RunConfig
from icecore.core.device import Runtime
from icecore.tasks.stored_task import Examples, StoredTask
from icecore.tasks.task import Task, TaskSpec
from icecore.training.context import ExecutionContext
from icecore.training.loop import Pack
from plain import PlainFPT, PlainLoop


def body_folder(body: Backbone) -> str:
    """The folder from which the library reads the same body."""
    assert isinstance(body, HuggingFaceBackbone)
    return body.config._name_or_path


@dataclass(frozen=True)
class Geometry:
    """Sizes of a GPT-2."""

    width: int
    layers: int
    heads: int


GPT2_SMALL, TINY = Geometry(768, 12, 12), Geometry(32, 2, 2)


class Patches(StoredTask):
    """Random uint8 numbers as `length` tokens of `size`, and ten classes: the shapes of CIFAR-10 without its data.

    Every split holds the same `examples`.
    """

    name = "patches"

    def __init__(self, examples: int, length: int = 64, size: int = 48) -> None:
        self.spec = TaskSpec("continuous", length, size, outputs=10)
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randint(256, (examples, length, size), dtype=torch.uint8, generator=generator)
        targets = torch.randint(10, (examples,), generator=generator)
        super().__init__(dict.fromkeys(("train", "val", "test"), Examples(inputs, targets)))

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        return inputs.float() / 127.5 - 1.0


def save_gpt2(folder: Path, geometry: Geometry, positions: int = 1024) -> str:
    """Write a randomly initialised GPT-2 as `save_pretrained` does and return its folder.

    It has no dropout, no key cache, and a vocabulary of one, because neither side reads tokens.
    """
    from transformers import GPT2Config, GPT2Model
    from transformers.utils import logging

    logging.disable_progress_bar()
    settings: dict[str, Any] = {"n_embd": geometry.width, "n_layer": geometry.layers, "n_head": geometry.heads}
    settings |= {"n_positions": positions, "vocab_size": 1, "bos_token_id": 0, "eos_token_id": 0, "use_cache": False}
    settings |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2Model(GPT2Config(**settings)).save_pretrained(folder / "gpt2")
    return str(folder / "gpt2")


def build_pack(
    task: Task,
    body: str,
    runtime: Runtime,
    batch_size: int,
    out: Path,
    runs: int = 1,
    context: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Pack:
    """Runs with seeds 0, 1, ... on the body in folder `body`, trained with one constant learning rate.

    context  settings of the ExecutionContext
    """
    fixed: dict[str, Any] = {"steps": 10_000, "lr": 1e-3, "schedule": "constant", "warmup": 0.0}
    fixed |= {"backbone": body, "batch_size": batch_size, "precision": runtime.precision}
    configs = [RunConfig(task=task.name, seed=seed, **fixed | settings) for seed in range(runs)]
    execution = ExecutionContext(out, device=str(runtime.device), **(context or {}))
    return Pack(task.to(runtime.device), build_backbone(BodyRequest(body)), configs, execution)


def plain_model(body: str, task: Task, runtime: Runtime, body_trained: bool = True) -> PlainFPT:
    """The plain side of `task` on the GPT-2 in folder `body`, in fp32."""
    from transformers import GPT2Model

    model = GPT2Model.from_pretrained(body, dtype=torch.float32)
    return PlainFPT(model, task.spec, body_trained).to(runtime.device)


def plain_models(pack: Pack) -> list[PlainFPT]:
    """The runs of the pack as plain models, in their present state."""
    body_trained = pack.config.train_roles != ("output",)
    model = plain_model(pack.config.backbone, pack.task, pack.runtime, body_trained)
    return [model.clone().start_from(program) for program in pack.model.programs()]


def plain_loops(pack: Pack) -> list[PlainLoop]:
    """The runs of the pack as plain loops, starting from their present state."""
    return [PlainLoop(model, pack.config.lr) for model in plain_models(pack)]


def ours_step(pack: Pack) -> Callable[[], Tensor]:
    """A function that trains every run of the pack for one step and returns the losses (R,)."""

    def step() -> Tensor:
        losses = pack.train_step()
        pack.step += 1
        return losses

    return step


def plain_step(loops: Sequence[PlainLoop], task: Task, batch_size: int) -> Callable[[], Tensor]:
    """A function that trains the loops in turn for one step, on data of seeds 0, 1, ..., and returns losses (R,)."""
    steps = itertools.count()

    def step() -> Tensor:
        number, losses = next(steps), []
        for seed, loop in enumerate(loops):
            batch = task.train_batch([seed], number, batch_size)
            losses.append(loop.train_step(batch.tokens, batch.targets))
        return torch.stack(losses)

    return step
