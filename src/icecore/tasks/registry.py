"""The registry of tasks. A new task is one module and one row of `_BUILT_IN` (docs/adding_a_task.md)."""

from collections.abc import Mapping
from types import MappingProxyType

from icecore.core.errors import ConfigError, unknown_name
from icecore.tasks import algorithms, bits, image_tasks, listops, procedural, remote_homology
from icecore.tasks.entry import TaskEntry, TaskRequest
from icecore.tasks.task import Task

_BUILT_IN = (
    bits.BIT_MEMORY,
    bits.BIT_XOR,
    listops.LISTOPS,
    image_tasks.MNIST,
    image_tasks.CIFAR10,
    image_tasks.CIFAR10_LRA,
    remote_homology.REMOTE_HOMOLOGY,
    algorithms.MODULAR_ADDITION,
    algorithms.NEEDLE,
    algorithms.DECIMAL_ADDITION,
    algorithms.PARENTHESIS_BALANCING,
    procedural.COPY,
    procedural.DYCK,
    procedural.NCA,
)
_ENTRIES = {entry.name: entry for entry in _BUILT_IN}

#: all tasks by name
TASKS: Mapping[str, TaskEntry] = MappingProxyType(_ENTRIES)


def register_task(entry: TaskEntry) -> None:
    """Add a task to `TASKS`, so that it can be trained, listed and estimated by name in this process.

    Raises ConfigError if a task of that name exists.
    """
    if entry.name in _ENTRIES:
        raise ConfigError(f"A task named {entry.name!r} exists already. Give the new task another name.")
    _ENTRIES[entry.name] = entry


def find_task(name: str) -> TaskEntry:
    """The entry of the task `name`. Raises ConfigError that suggests similar names if there is none."""
    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name]


def build_task(name: str, request: TaskRequest) -> Task:
    """The task `name`, with its data on the CPU. Raises ConfigError for an unknown name, DataError for bad data."""
    task = find_task(name).build(request)
    task.unmasked = "no-mask" in request.faults
    return task
