"""Budgets: how much computing a table of the paper may cost, as data.

A budget says which bodies stand for the paper's, which learning rates and seeds are swept, and how long and
on which size of each task a run trains. Whatever is smaller than the paper's is named in a table's header.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from icecore.tasks import TASKS

#: spread over the rebuttal's range; a frozen body wants higher rates than one that is trained
FROZEN_LRS = (3e-4, 1e-3, 3e-3, 1e-2)
TRAINED_LRS = (1e-4, 3e-4, 1e-3)


@dataclass(frozen=True)
class Budget:
    """What runs may cost.

    bodies       the body that a placeholder of paper.py stands for, say {"body": "gpt2"}
    lrs          learning rates swept where the body is frozen, `trained_lrs` where it is trained
    seeds        the first one sweeps, the others train at the rate that validation chose
    settings     of every run, under those of `tasks`: by task, or by column of a study
    pretraining  of the run that teaches a random body bit-memory, all of its weights trained
    """

    summary: str
    bodies: Mapping[str, str]
    lrs: tuple[float, ...]
    trained_lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]
    pretraining: Mapping[str, Any] = field(default_factory=dict)

    def of_column(self, column: str) -> dict[str, Any]:
        """Settings of runs in a column: those of all, of its task, and of the column itself."""
        return {**self.settings, **self.tasks.get(column.split()[0], {}), **self.tasks.get(column, {})}


BODIES = {
    "body": "gpt2",
    "medium": "gpt2-medium",
    "large": "gpt2-large",
    "vision": "vit-base",
}

_LONG_STRINGS = {"batch_size": 8, "eval_every": 100, "eval_examples": 50, "test_examples": 200, "stop_at": 0.9999}
_IMAGES = {"val": 300}
_SMALL_MEMORY = {"strings": 5, "bits": 100, "width": 50}
_TREES = {"train": 20_000, "val": 300, "test": 1000, "shortest": 30, "longest": 120}

BUDGETS: Mapping[str, Budget] = {
    "smoke": Budget(
        summary="a few steps of everything: shows that it runs, its numbers mean nothing",
        bodies={**BODIES, "body": "minilm", "medium": "smollm2-135m"},
        lrs=(1e-3, 3e-3),
        trained_lrs=(3e-4,),
        seeds=(0, 1),
        settings={"steps": 4, "batch_size": 2, "eval_every": 2, "eval_examples": 4, "test_examples": 8},
        tasks={
            "bit-memory": {"task_options": {"strings": 2, "bits": 100, "width": 50}},
            "listops": {"task_options": {"train": 200, "val": 8, "test": 8, "shortest": 20, "longest": 100}},
            "mnist": {"task_options": {"val": 8}},
            "cifar10": {"task_options": {"val": 8}},
            "cifar10-lra": {"task_options": {"val": 8, "side": 8}},
            "remote-homology": {"task_options": {"length": 64}},
        },
        pretraining={"steps": 4, "batch_size": 2, "lr": 3e-4},
    ),
    "cpu": Budget(
        summary="MiniLM, some 1,600 examples a run, shorter strings, ListOps and LRA: trends, in hours on two cores",
        # no body for "large" and "vision": rows of theirs stay empty
        bodies={"body": "minilm", "medium": "smollm2-135m"},
        lrs=FROZEN_LRS,
        trained_lrs=TRAINED_LRS,
        seeds=(0, 1, 2),
        settings={"steps": 200, "batch_size": 8, "eval_every": 50, "eval_examples": 150, "test_examples": 500},
        tasks={
            # at the paper's 1,000 bits the pretrained body is at 75 % after 200 steps of 8: no difference would show
            "bit-memory": {
                "task_options": _SMALL_MEMORY,
                "batch_size": 16,
                "steps": 800,
                "eval_every": 100,
                "eval_examples": 50,
                "test_examples": 200,
            },
            "bit-xor": {"batch_size": 16, "steps": 300, "eval_every": 30, "eval_examples": 256, "stop_at": 1.0},
            **{
                f"bit-xor n={n}": {**_LONG_STRINGS, "steps": steps} for n, steps in ((20, 600), (64, 2000), (256, 2000))
            },
            "listops": {"task_options": _TREES},
            "mnist": {"task_options": _IMAGES},
            "cifar10": {"task_options": _IMAGES},
            "cifar10-lra": {
                "task_options": {**_IMAGES, "side": 16},
                "steps": 120,
                "eval_every": 40,
                "eval_examples": 100,
                "test_examples": 300,
            },
            "remote-homology": {"task_options": {"length": 128}, "eval_examples": 100, "test_examples": 200},
        },
        # at 1e-3 all of MiniLM learns the small memory in some 600 steps, at 3e-4 in a thousand
        pretraining={
            "task_options": _SMALL_MEMORY,
            "steps": 800,
            "batch_size": 16,
            "lr": 1e-3,
            "eval_every": 100,
            "stop_at": 0.999,
        },
    ),
    "full": Budget(
        summary="the paper's bodies, steps and whole test sets: for GPUs",
        bodies=BODIES,
        lrs=(1e-4, *FROZEN_LRS),
        trained_lrs=(1e-5, 3e-5, *TRAINED_LRS),
        seeds=(0, 1, 2),
        settings={},
        tasks={
            name: {
                "steps": entry.paper.steps,
                "batch_size": entry.paper.batch_size,
                "eval_every": entry.paper.eval_every,
            }
            for name, entry in TASKS.items()
        }
        | {f"bit-xor n={n}": {**_LONG_STRINGS, "steps": 20_000} for n in (20, 64, 256)},
        pretraining={"steps": TASKS["bit-memory"].paper.steps, "batch_size": 16, "lr": 3e-4},
    ),
}
