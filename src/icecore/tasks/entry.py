"""TaskEntry: all facts about a task that can be known without reading its data, and how to build it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from icecore.core.errors import ConfigError, unknown_name
from icecore.core.text import shortened
from icecore.tasks.task import Task, TaskDefaults, TaskSpec

#: the largest whole number of an option: more examples, tokens or bits than any task has
MAX_OPTION = 10_000_000


@dataclass(frozen=True)
class TaskRequest:
    """What the builder of a task gets.

    options   values of the task's options; those that are missing have their defaults
    data_dir  folder that is searched for data first; None: only the usual folders
    faults    names of faults of the published code to reproduce (docs/method.md); the fair protocol has none
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    data_dir: str | None = None
    faults: frozenset[str] = frozenset()


def read_options(request: TaskRequest, name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the task `name`: the request's values, converted to the types of `defaults`, over the defaults.

    Raises ConfigError for an unknown option and for a value that cannot be converted.
    """
    options = dict(defaults)
    for key, value in request.options.items():
        if not defaults:
            raise ConfigError(f"{name} has no options, found {key!r}")
        if key not in defaults:
            raise unknown_name(f"option of {name}", key, defaults)
        kind = type(defaults[key])
        try:
            if kind is bool and isinstance(value, str):
                options[key] = {"true": True, "false": False}[value.lower()]
            else:
                options[key] = kind(value)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ConfigError(f"option {key} of {name}: expected {kind.__name__}, found {shortened(value)}") from None
        if kind is int and abs(options[key]) > MAX_OPTION:
            raise ConfigError(f"option {key} of {name}: expected at most {MAX_OPTION:,}, found {shortened(value)}")
    return options


def paper_settings(steps: int, batch_size: int, lr: float = 1e-3) -> TaskDefaults:
    """Training settings of the paper (Lu et al. 2021, Section 2.2): steps to converge are those of Table 6.

    Batch sizes are within the published range of 2 to 16. There are twenty validations.
    """
    return TaskDefaults(steps=steps, batch_size=batch_size, lr=lr, eval_every=max(1, steps // 20))


@dataclass(frozen=True)
class TaskEntry:
    """A task as the registry knows it.

    task            the class; its `name` and `defaults` (settings of the fair protocol) are the entry's
    build           reads or generates the data and returns the task
    spec            sizes of the task for values of its options
    summary         the task in one line, for `icecore tasks` and the model card
    paper           training settings of the paper protocol
    options         name and default of each option; the type of the default is that of the option
    typical_length  tokens of a typical example for values of the options; None: all examples have `spec.length`
    kind            the hub's name for the kind of data, for example "images"; "" if it has none
    """

    task: type[Task]
    build: Callable[[TaskRequest], Task]
    spec: Callable[[Mapping[str, Any]], TaskSpec]
    summary: str
    paper: TaskDefaults
    options: Mapping[str, Any] = field(default_factory=dict)
    typical_length: Callable[[Mapping[str, Any]], int] | None = None
    kind: str = ""

    @property
    def name(self) -> str:
        """The name that users give."""
        return self.task.name

    @property
    def defaults(self) -> TaskDefaults:
        """Training settings of the fair protocol."""
        return self.task.defaults

    @property
    def shape(self) -> str:
        """The tokens of the task with default options, in words: "64 x 16" or "up to 2000, vocabulary 16"."""
        spec = self.spec(self.options)
        length = f"up to {spec.length}" if self.typical_length is not None else f"{spec.length}"
        return f"{length} x {spec.size}" if spec.kind == "continuous" else f"{length}, vocabulary {spec.size}"

    def tokens(self, options: Mapping[str, Any]) -> int:
        """The number of tokens of a typical example, for values of all options."""
        return self.spec(options).length if self.typical_length is None else self.typical_length(options)
