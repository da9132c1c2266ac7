"""The summaries of a run and of a sweep: the typed content of their `summary.json` files.

Other tools read these files, so no JSON key may be renamed; the keys are the names of the fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from icecore.core.errors import ConfigError
from icecore.core.settings import check_types
from icecore.core.text import shortened

#: larger numbers than any summary has, but small enough to be squared and summed
LARGEST_NUMBER = 1e100

#: the status of a run that was trained to the end of its schedule
COMPLETED = "completed"
#: the status of a run that stopped before
DIVERGED, STOP_AT_REACHED, NO_IMPROVEMENT = "diverged", "reached stop_at", "no improvement"
#: the status of a run whose learning rate fell behind in a race (`training/racing.py`)
BEHIND = "behind in the race"


@dataclass(frozen=True)
class RunSummary:
    """What is known of a finished run. Fields that a file does not have are None, zero or empty.

    steps_done        updates made, fewer than `steps` if the run stopped early
    status            "completed", or why the run stopped: one of the words above
    best_step         step of the best validation, whose state the program holds
    *_metric          of that state; None if the run diverged before its first validation. A run that is behind in a
                      race has only `val_metric`, which it had on the examples of a validation during training
    test_metrics      metric of each test split; `test_metric` is that of the first one
    seconds           wall time of the whole packs that the run was trained in
    seconds_share     the run's part of that time
    packed_runs       how many runs were trained in the pack
    data              where the examples come from, how many there are, and their digest
    race              ids of the runs in the race in which the run fell behind; otherwise empty and not in the file
    other             keys of the file that this version does not know
    """

    task: str = ""
    task_options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = ""
    weights: str = ""
    train_roles: tuple[str, ...] = ()
    protocol: str = ""
    lr: float = 0.0
    seed: int = 0
    steps: int = 0
    steps_done: int = 0
    status: str = ""
    best_step: int = 0
    batch_size: int = 0
    precision: str = ""
    train_metric: float | None = None
    val_metric: float | None = None
    test_metric: float | None = None
    test_metrics: Mapping[str, float | None] = field(default_factory=dict)
    test_examples: int = 0
    metric_name: str = ""
    trainable_parameters: int = 0
    frozen_parameters: int = 0
    seconds: float = 0.0
    steps_per_second: float | None = None
    seconds_share: float = 0.0
    packed_runs: int = 0
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    run_id: str = ""
    race: tuple[str, ...] = ()
    other: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The summary in a parsed `summary.json` of any version. Raises ConfigError for values of the wrong type."""
        known = {name: values[name] for name in _RUN_KEYS if name in values}
        check_types(cls, known)
        for name, value in known.items():
            if isinstance(value, int | float) and not abs(value) <= LARGEST_NUMBER:
                raise ConfigError(f"{name}: expected a finite number, found {shortened(value)}")
        _check_numbers("test_metrics", known.get("test_metrics", {}))
        _check_numbers("counts of data", known.get("data", {}).get("counts", {}))
        known |= {name: tuple(known[name]) for name in ("train_roles", "race") if name in known}
        return cls(**known, other={name: value for name, value in values.items() if name not in _RUN_KEYS})

    def to_json(self) -> dict[str, Any]:
        """The content of `summary.json`, ready for `json.dump`."""
        known = {name: getattr(self, name) for name in _RUN_KEYS}
        mappings = {name: dict(value) for name, value in known.items() if isinstance(value, Mapping)}
        race = known.pop("race")
        return {
            **known,
            **mappings,
            "train_roles": list(self.train_roles),
            **({"race": list(race)} if race else {}),
            **self.other,
        }


def _check_numbers(name: str, values: Any) -> None:
    """Raise ConfigError unless `values` is a table of names and finite numbers, or None for some names."""
    if not isinstance(values, Mapping) or not all(
        value is None or (isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER) for value in values.values()
    ):
        raise ConfigError(f"{name}: expected a table of names and finite numbers, found {shortened(values)}")


_RUN_KEYS = tuple(each.name for each in fields(RunSummary) if each.name != "other")


@dataclass(frozen=True)
class SweepSummary:
    """The runs of a sweep, the learning rate that validation chose, and the metrics there.

    chosen_lr   None if no run has a validation metric
    val_mean    mean validation metric over the seeds at `chosen_lr`; `test_mean` likewise
    test_sem    standard error of `test_mean`, None for a single seed
    seconds     wall time of all runs; that of a pack counts once
    """

    runs: Sequence[RunSummary] = ()
    chosen_lr: float | None = None
    val_mean: float | None = None
    test_mean: float | None = None
    test_sem: float | None = None
    n_seeds: int = 0
    seconds: float = 0.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The summary in a parsed `summary.json` of a sweep; unknown keys are ignored."""
        known = {each.name: values[each.name] for each in fields(cls) if each.name in values}
        return cls(**{**known, "runs": tuple(RunSummary.from_json(run) for run in values.get("runs", ()))})

    def to_json(self) -> dict[str, Any]:
        """The content of `summary.json`, ready for `json.dump`."""
        known = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**known, "runs": [run.to_json() for run in self.runs]}
