"""About how long runs will take, before any data is read: arithmetic over a measured rate of this machine.

Good to a factor of two or so: enough to choose between a coffee and a night.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch

from icecore.backbones.weights import sizes_of
from icecore.core.config import SINGLE_ROLES, RunConfig
from icecore.core.device import select_runtime
from icecore.core.errors import UserError
from icecore.tasks.remote_homology import FOLDS

#: seconds that a training takes besides its passes: loading the body, compiling, writing
FIXED_SECONDS = 4.0
#: how much longer than its matrix products a pass takes (norms, activations, attention's softmax, Adam)
OVERHEAD = 1.8
#: the same for recurrent bodies, whose products are small and one after the other
RECURRENT_OVERHEAD = 3.0
#: seconds that Adam takes for a trained number, all that a linear probe without a body spends time on
UPDATE = 2e-8
#: width of "no body", and numbers of an output position
PROBE_WIDTH, CLASSES = 64, 10
#: amino acids of a protein of remote homology, mean
PROTEIN = 170


@dataclass(frozen=True)
class Speed:
    """Floating-point operations a second of large matrix products."""

    operations: float

    @classmethod
    def measure(cls, device: str, precision: str, size: int = 1024) -> "Speed":
        """Time products of `size` x `size` matrices on `device`, for about a tenth of a second."""
        runtime = select_runtime(device, precision)
        dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
        a = torch.randn(size, size, device=runtime.device).to(dtype)
        torch.mm(a, a)
        runtime.synchronize()
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < 0.1:
            torch.mm(a, a)
            runtime.synchronize()
            count += 1
        return cls(2 * size**3 * count / (time.perf_counter() - begun))


def seconds(config: RunConfig, runs: int, speed: Speed) -> float:
    """Expected seconds of `runs` runs of a configuration: training, validations and final scores."""
    if config.backbone == "none":
        return FIXED_SECONDS + runs * config.steps * _probe(config.task, config.task_options) * UPDATE
    recurrent = config.backbone.startswith("lstm")
    try:
        layers, width = (
            (3, 768) if config.backbone == "lstm" else sizes_of(_transformer(config.backbone), config.layers)
        )
    except UserError:
        layers, width = 12, 768  # its configuration is not here: the cell will say so when its turn comes
    tokens = _tokens(config.task, config.task_options)
    forward = tokens * layers * (24 * width**2 + 4 * tokens * width * (not recurrent))
    # backward: the gradient of the input, and of the weights where they are trained
    factor = 3 if SINGLE_ROLES & set(config.train_roles) else 2
    if set(config.train_roles) == {"output"}:
        factor = 0.0
    trained = config.steps * config.batch_size * factor
    scored = (config.steps // config.eval_every + 2) * config.eval_examples + (config.test_examples or 10_000)
    overhead = RECURRENT_OVERHEAD if recurrent else OVERHEAD
    return FIXED_SECONDS + runs * (trained + scored) * forward * overhead / speed.operations


def _transformer(name: str) -> str:
    """The transformer whose sizes a body has."""
    if name.startswith("lstm-matched"):
        return name.partition(":")[2] or "minilm"
    return "gpt2" if name == "lstm-star" else name


def _probe(task: str, options: Any) -> int:
    """Weights of the output layer that reads all positions at once."""
    if task == "remote-homology":
        return options["length"] * PROBE_WIDTH * FOLDS
    return _tokens(task, options) * PROBE_WIDTH * (2 * options["bits"] if task == "bit-memory" else CLASSES)


def _tokens(task: str, options: Any) -> int:
    """Positions of a typical example."""
    lengths = {
        "bit-memory": lambda o: (o["strings"] + 1) * o["bits"] // o["width"],
        "bit-xor": lambda o: 2 * o["n"],
        "listops": lambda o: min(o["length"], (o["shortest"] + o["longest"]) // 2),
        "cifar10-lra": lambda o: o["side"] ** 2,
        "remote-homology": lambda o: min(o["length"], PROTEIN),
    }
    return lengths.get(task, lambda o: 64)(options)
