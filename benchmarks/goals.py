"""The goals of time_to_accuracy.py: which accuracy on which task, and how both sides are validated on the way."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from icecore.core.config import RIDGE, RunConfig
from icecore.experiments import sweep

#: the frozen body of both sides, a BERT
BACKBONE = "minilm"
#: the plain loop's batch size and its constant rates. The paper's rate comes first, because a good first rate stops
#: the others early.
PLAIN_BATCH, PLAIN_RATES = 16, (1e-3, 3e-4, 3e-3)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """An accuracy to reach on a task.

    target         the validation accuracy
    options        options of the task
    eval_every     training examples between two validations, on both sides
    eval_examples  validation examples, the first of the split
    examples       training examples after which the plain loop gives up
    recipe         settings of icecore's run (RunConfig) for this goal; the others are the defaults of `icecore train`
    """

    name: str
    task: str
    target: float
    options: Mapping[str, Any] = field(default_factory=dict)
    eval_every: int
    eval_examples: int
    examples: int
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def config(self, seed: int = 0, **settings: Any) -> RunConfig:
        """The configuration of icecore's run. Raises ConfigError for settings that do not exist.

        settings  more of them, for example `precision` and `device`
        """
        given = {"backbone": BACKBONE, "task_options": self.options, "stop_at": self.target, "seed": seed}
        given |= {"eval_examples": self.eval_examples, **self.recipe, **settings}
        batch_size = sweep.make_config(self.task, **given).batch_size
        return sweep.make_config(self.task, eval_every=self.steps_between(batch_size), **given)

    def steps_between(self, batch_size: int) -> int:
        """Steps of `batch_size` examples between two validations. Raises SystemExit if they are not a whole number."""
        if self.eval_every % batch_size:
            raise SystemExit(
                f"{self.name}: there are {self.eval_every} examples between two validations, which batches of "
                f"{batch_size} do not divide. Change eval_every or the batch size in goals.py."
            )
        return self.eval_every // batch_size

    def plain_settings(self, rate: float, seed: int = 0) -> dict[str, Any]:
        """The settings of the plain loop at one rate, without those of the machine."""
        return {
            "task": self.task,
            "task_options": dict(self.config().task_options),
            "body": BACKBONE,
            "lr": rate,
            "seed": seed,
            "batch_size": PLAIN_BATCH,
            "steps": self.examples // PLAIN_BATCH,
            "eval_every": self.steps_between(PLAIN_BATCH),
            "eval_examples": self.eval_examples,
            "stop_at": self.target,
        }


# Examples between validations are multiples of 256, so that batches of every usual size divide them.
_MNIST: dict[str, Any] = {"task": "mnist", "eval_every": 1536, "eval_examples": 1000, "examples": 600_000}
# A start in closed form is enough on images. The body is nearly linear for small inputs.
_CLOSED_FORM = {"output_start": RIDGE, "read_out": "last+first+pool-4", "start_examples": 8000, "input_scale": 0.15}

GOALS: Mapping[str, Goal] = {
    goal.name: goal
    for goal in (
        Goal(
            name="bit-xor",
            task="bit-xor",
            target=1.0,
            options={"n": 5},
            eval_every=256,
            eval_examples=256,
            examples=100_000,
        ),
        Goal(
            name="bit-memory",
            task="bit-memory",
            target=0.97,
            options={"strings": 5, "bits": 100, "width": 50},
            eval_every=1536,
            eval_examples=500,
            examples=1_000_000,
        ),
        Goal(name="mnist-95", target=0.95, **_MNIST, recipe=_CLOSED_FORM),
        Goal(
            name="mnist-97",
            target=0.97,
            **_MNIST,
            recipe=_CLOSED_FORM | {"read_out": "pool-16", "start_examples": 30_000},
        ),
        Goal(
            name="cifar10",
            task="cifar10",
            target=0.40,
            eval_every=3072,
            eval_examples=1000,
            examples=1_000_000,
            recipe=_CLOSED_FORM,
        ),
        # Trees of 30 to 119 tokens. The outermost operator alone gives 34 %.
        Goal(
            name="listops",
            task="listops",
            target=0.40,
            options={"shortest": 29, "longest": 120},
            eval_every=3072,
            eval_examples=1000,
            examples=1_000_000,
        ),
    )
}
