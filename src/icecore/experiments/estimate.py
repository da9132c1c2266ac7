"""How long runs will take, estimated from the sizes of task and body and the measured speed of this machine.

No data are read. Estimates are right to a factor of about two.
"""

import time
from dataclasses import dataclass

import torch

from icecore.backbones import HubAccess
from icecore.backbones.weights import sizes_of
from icecore.core.config import RIDGE_IF_BETTER, SINGLE_ROLES, RunConfig
from icecore.core.device import activation_dtype, select_runtime
from icecore.core.errors import UserError
from icecore.tasks.registry import find_task
from icecore.tasks.stored_task import StoredTask
from icecore.training.closed_form_start import MAX_ROWS

#: seconds that a training takes besides its passes, for loading the body, compiling and writing files
FIXED_SECONDS = 4.0
#: time of a pass relative to its matrix products (norms, activations, the softmax of attention, Adam)
OVERHEAD = 1.8
#: the same for recurrent bodies, which compute small products one after another
RECURRENT_OVERHEAD = 3.0
#: seconds that Adam takes for one trained number, which is nearly all the time of training without a body
SECONDS_PER_UPDATE = 2e-8
#: width of the body "none"
PROBE_WIDTH = 64
#: layers and width of the body "lstm", and of a body whose configuration is not on this machine
LSTM_SIZES, UNKNOWN_SIZES = (3, 768), (12, 768)
#: test examples of a task, if all of them are scored
TEST_EXAMPLES = 10_000
#: training examples of a task whose features are cached
TRAINING_EXAMPLES = 50_000


@dataclass(frozen=True)
class Speed:
    """Floating-point operations per second of large matrix products."""

    operations: float

    @classmethod
    def measure(cls, device: str, precision: str, size: int = 1024) -> "Speed":
        """Measure products of `size` x `size` matrices on `device` for about a tenth of a second."""
        runtime = select_runtime(device, precision)
        dtype = activation_dtype(runtime.precision)
        a = torch.randn(size, size, device=runtime.device).to(dtype)
        torch.mm(a, a)
        runtime.synchronize()
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < 0.1:
            torch.mm(a, a)
            runtime.synchronize()
            count += 1
        return cls(2 * size**3 * count / (time.perf_counter() - begun))


def seconds(config: RunConfig, runs: float, speed: Speed, hub: HubAccess = "off") -> float:
    """Expected seconds of `runs` runs of a configuration: training, validations and final scores.

    hub  whether the hub may be asked for the sizes of a body that is not on this machine

    A race counts as the runs that would train as many steps (`Sweep.cost`). Raises ConfigError for an unknown task.
    """
    task = find_task(config.task)
    if config.backbone == "none":
        spec = task.spec(config.task_options)
        weights = PROBE_WIDTH * spec.length * spec.read_positions * spec.outputs
        return FIXED_SECONDS + runs * config.steps * weights * SECONDS_PER_UPDATE
    recurrent = config.backbone.startswith("lstm")
    layers, width = _body_sizes(config, hub)
    tokens = task.tokens(config.task_options)
    forward = tokens * layers * (24 * width**2 + 4 * tokens * width * (not recurrent))
    # The backward pass computes the gradient of the inputs, and that of the weights if they are trained.
    factor = 3 if SINGLE_ROLES & set(config.train_roles) else 2
    trained = config.steps * config.batch_size * factor
    if set(config.train_roles) == {"output"}:  # no backward pass
        trained = config.steps * config.batch_size
        if issubclass(task.task, StoredTask):  # the features of stored examples are cached, those of drawn ones are not
            trained = min(trained, TRAINING_EXAMPLES)
    validations = config.steps // config.eval_every + 2
    if config.output_refit == RIDGE_IF_BETTER:  # trained states are scored too
        validations *= 2
    scored = validations * config.eval_examples + (config.test_examples or TEST_EXAMPLES) + _solved_examples(config)
    overhead = RECURRENT_OVERHEAD if recurrent else OVERHEAD
    return FIXED_SECONDS + runs * (trained + scored) * forward * overhead / speed.operations


def _solved_examples(config: RunConfig) -> int:
    """Examples that pass through the body for output layers in closed form."""
    start = (config.start_examples or MAX_ROWS) if config.output_start else 0
    if not config.output_refit:
        return start
    # without a number, as many as were trained on until then
    seen = [config.batch_size * step for step in range(config.eval_every, config.steps + 1, config.eval_every)]
    return start + sum(config.start_examples or min(each, MAX_ROWS) for each in seen)


def _body_sizes(config: RunConfig, hub: HubAccess) -> tuple[int, int]:
    """(layers, width) of the body."""
    if config.backbone == "lstm":
        return LSTM_SIZES
    try:
        return sizes_of(_reference_transformer(config.backbone), config.layers, hub)
    except UserError:  # The run itself will report that the body is missing.
        return UNKNOWN_SIZES


def _reference_transformer(name: str) -> str:
    """The transformer that has the sizes of the body `name`."""
    if name.startswith("lstm-matched"):
        return name.partition(":")[2] or "minilm"
    return "gpt2" if name == "lstm-star" else name
