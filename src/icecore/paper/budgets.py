"""Budgets: how much computation a table of the paper may take, as data.

A budget names the bodies in place of the paper's, the learning rates and seeds of the sweeps, and the steps and
size of each task. The report names everything that is smaller than in the paper.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from icecore.core.protocols import DEFAULT_PROTOCOL
from icecore.tasks import TASKS

#: the budget whose numbers mean nothing, because it only shows that everything runs
SMOKE = "smoke"
#: cover the rebuttal's range; a frozen body needs higher learning rates than a trained one
FROZEN_LRS = (3e-4, 1e-3, 3e-3, 1e-2)
TRAINED_LRS = (1e-4, 3e-4, 1e-3)


@dataclass(frozen=True)
class Budget:
    """How much computation the runs of a table may take.

    bodies       backbone by placeholder of a `StudyRow`, for example {"body": "gpt2"}
    lrs          learning rates of a sweep with a frozen body; `trained_lrs` with a trained one
    seeds        the first one tries all learning rates, the others the one that validation chose
    settings     of every run
    tasks        settings by task, or by column of a study, in place of the common ones
    pretraining  settings of the run that trains all weights of a random body on a procedural task, by task
    race         learning rates that fall behind stop early, unless the user says otherwise
    """

    summary: str
    bodies: Mapping[str, str]
    lrs: tuple[float, ...]
    trained_lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]
    pretraining: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    race: bool = False

    def settings_for(self, column: str) -> dict[str, Any]:
        """Settings of the runs in a column: the common ones, those of its task, and those of the column itself."""
        return {**self.settings, **self.tasks.get(column.split()[0], {}), **self.tasks.get(column, {})}


def budget_label(budget: str, protocol: str) -> str:
    """What results call a budget: its name, and the protocol if it is not the default one."""
    return budget if protocol == DEFAULT_PROTOCOL else f"{budget}, {protocol} protocol"


def budget_of_label(label: str) -> str:
    """The name of the budget in a label of results.

    >>> budget_of_label("cpu, fair protocol"), budget_of_label("cpu")
    ('cpu', 'cpu')
    """
    return label.partition(",")[0]


def races_by_default(name: str) -> bool:
    """Whether learning rates race at the budget of this name unless a request says otherwise."""
    return name in BUDGETS and BUDGETS[name].race


def names_protocol(label: str) -> bool:
    """Whether the label of a budget names a protocol, because it is not the default one."""
    return "," in label


BODIES = {
    "body": "gpt2",
    "medium": "gpt2-medium",
    "large": "gpt2-large",
    "vision": "vit-base",
}

_LONG_XOR_STRINGS = {"batch_size": 8, "eval_every": 100, "eval_examples": 50, "test_examples": 200, "stop_at": 0.9999}
_FEW_VALIDATION_IMAGES = {"val": 300}
_SMALL_MEMORY = {"strings": 5, "bits": 100, "width": 50}
_PRETRAINING = {"batch_size": 16, "lr": 1e-3, "eval_every": 100}
_SMALL_LISTOPS = {"train": 20_000, "val": 300, "test": 1000, "shortest": 30, "longest": 120}

BUDGETS: Mapping[str, Budget] = {
    "smoke": Budget(
        summary="a few steps of everything, to check that it runs; the numbers mean nothing",
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
        pretraining={task: {"steps": 4, "batch_size": 2, "lr": 3e-4} for task in ("bit-memory", "dyck", "nca")},
    ),
    "cpu": Budget(
        summary="MiniLM, about 1,600 examples a run, shorter sequences; shows trends, in hours on two cores",
        # rows with the bodies "large" and "vision" stay empty
        bodies={"body": "minilm", "medium": "smollm2-135m"},
        lrs=FROZEN_LRS,
        trained_lrs=TRAINED_LRS,
        seeds=(0, 1, 2),
        settings={"steps": 200, "batch_size": 8, "eval_every": 50, "eval_examples": 150, "test_examples": 500},
        tasks={
            # with the paper's 1,000 bits the pretrained body reaches only 75 % in 200 steps, too little to compare
            "bit-memory": {
                "task_options": _SMALL_MEMORY,
                "batch_size": 16,
                "steps": 800,
                "eval_every": 100,
                "eval_examples": 50,
                "test_examples": 200,
            },
            # a random body needs some 800 of these steps, a pretrained one 100
            "bit-xor": {"batch_size": 8, "steps": 1000, "eval_every": 25, "eval_examples": 256, "stop_at": 1.0},
            **{
                f"bit-xor n={n}": {**_LONG_XOR_STRINGS, "steps": steps}
                for n, steps in ((20, 600), (64, 2000), (256, 2000))
            },
            "listops": {"task_options": _SMALL_LISTOPS},
            "mnist": {"task_options": _FEW_VALIDATION_IMAGES},
            "cifar10": {"task_options": _FEW_VALIDATION_IMAGES},
            "cifar10-lra": {
                "task_options": {**_FEW_VALIDATION_IMAGES, "side": 16},
                "steps": 120,
                "eval_every": 40,
                "eval_examples": 100,
                "test_examples": 300,
            },
            "remote-homology": {"task_options": {"length": 128}, "eval_examples": 100, "test_examples": 200},
        },
        pretraining={
            # at 1e-3 all of MiniLM learns the small memory in about 600 steps, at 3e-4 in 1,000
            "bit-memory": {**_PRETRAINING, "task_options": _SMALL_MEMORY, "steps": 800, "stop_at": 0.999},
            "dyck": {**_PRETRAINING, "steps": 1500, "stop_at": 0.999},
            "nca": {**_PRETRAINING, "steps": 1500},
        },
    ),
    "overnight": Budget(
        summary="MiniLM, whole test sets, until learning curves flatten: several epochs; a night for each row",
        bodies={"body": "minilm", "medium": "smollm2-135m"},
        lrs=FROZEN_LRS,
        trained_lrs=TRAINED_LRS,
        seeds=(0, 1, 2),
        # sequences of some 100 tokens, so the products are large enough for the machine
        settings={"batch_size": 16, "eval_every": 500},
        tasks={
            # the paper's 1,000 bits, in 80,000 strings
            "bit-memory": {"steps": 5000, "eval_every": 250, "eval_examples": 200, "test_examples": 2000},
            "bit-xor": {"steps": 2000, "eval_every": 50, "stop_at": 1.0},
            **{
                f"bit-xor n={n}": {**_LONG_XOR_STRINGS, "steps": steps}
                for n, steps in ((20, 2000), (64, 6000), (256, 20_000))
            },
            # trees of up to 512 tokens, 64,000 of them
            "listops": {
                "task_options": {"train": 96_000, "val": 1000, "test": 2000, "shortest": 50, "longest": 512},
                "steps": 4000,
                "eval_every": 250,
                "eval_examples": 500,
            },
            # as long as those of Long Range Arena
            "listops long": {"task_options": {}, "steps": 2000, "batch_size": 8, "eval_examples": 200},
            # three epochs of 58,000 images, and six of 45,000
            "mnist": {"steps": 10_900},
            "cifar10": {"steps": 17_000, "eval_every": 1000},
            "cifar10-lra": {"steps": 4000, "eval_every": 400, "eval_examples": 500},
            # three epochs of 9,975 proteins
            "remote-homology": {"task_options": {"length": 512}, "steps": 1900, "eval_every": 190},
        },
        pretraining={
            "bit-memory": {**_PRETRAINING, "steps": 4000, "stop_at": 0.999},
            "dyck": {**_PRETRAINING, "steps": 4000, "stop_at": 0.999},
            "nca": {**_PRETRAINING, "steps": 4000},
        },
        race=True,
    ),
    "full": Budget(
        summary="the paper's bodies, steps and whole test sets; for GPUs",
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
        | {f"bit-xor n={n}": {**_LONG_XOR_STRINGS, "steps": 20_000} for n in (20, 64, 256)},
        pretraining={
            name: {"steps": TASKS["bit-memory"].paper.steps, "batch_size": 16, "lr": 3e-4}
            for name in ("bit-memory", "dyck", "nca")
        },
    ),
}
