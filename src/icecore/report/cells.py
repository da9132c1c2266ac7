"""Cells: the runs of one place of a table as numbers, beside the published one.

The learning rate is the one that validation chose (`grid.summarize`); a number is the mean over the seeds
there, with its standard error. What a reader must know of a cell is in its notes, in words.
"""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icecore.core.text import pluralize
from icecore.experiments import sweep
from icecore.experiments.results import Curve, RunRecord

#: a run has converged at its first validation within one percentage point of its best one
POINT = 0.01
#: published percentages are rounded to tenths: nearer than half of one is equal
ROUNDING = 0.05
#: what a run's summary must hold to be counted
REQUIRED = frozenset({"lr", "seed", "val_metric", "test_metric", "seconds_share"})

#: a run's value, and whether it is only known to be at least that; None where the run has none
Reading = tuple[float, bool] | None


@dataclass(frozen=True)
class Measure:
    """What the cells of a table show.

    parts  name of each number of a cell to what reads it off a run, in `unit` ("%" or "steps")
    """

    caption: str
    unit: str
    parts: Mapping[str, Callable[[RunRecord], Reading]]


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error, None where it is unknown, over n seeds (0: a published number)."""

    mean: float
    sem: float | None = None
    n: int = 0

    @classmethod
    def over(cls, values: Sequence[float]) -> "Estimate | None":
        """Mean and standard error of the mean; None of no values."""
        if not values:
            return None
        sem = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(statistics.fmean(values), sem, len(values))


@dataclass(frozen=True)
class Value:
    """One number of a cell, ours and the published one.

    bound  ours is only known to be at least that (a run that had not converged)
    """

    name: str
    ours: Estimate | None = None
    published: Estimate | None = None
    bound: bool = False

    @property
    def differs(self) -> bool:
        """Whether both exist, ours over two seeds or more, further apart than two combined standard errors."""
        if self.ours is None or self.published is None or self.ours.sem is None:
            return False
        gap = self.ours.mean - self.published.mean
        if self.bound and gap < 0:  # what is at least less may still be equal
            return False
        return abs(gap) > max(2 * math.hypot(self.ours.sem, self.published.sem or 0.0), ROUNDING)


@dataclass(frozen=True)
class TableCell:
    """A place of a table: its numbers and the runs behind them.

    runs    all runs of the sweep; `chosen` those at the learning rate `lr` that validation chose
    state   "" of a number, else "not run", "missing" (weights or data) or "diverged"
    notes   what a reader must know, in words
    """

    values: tuple[Value, ...]
    runs: tuple[RunRecord, ...] = ()
    chosen: tuple[RunRecord, ...] = ()
    lr: float | None = None
    state: str = ""
    notes: tuple[str, ...] = ()

    @property
    def commands(self) -> list[str]:
        """The commands that made the runs."""
        return list(dict.fromkeys(run.command for run in self.runs if run.command))

    @property
    def rates(self) -> list[float]:
        """The learning rates tried, lowest first."""
        return sorted({run.summary["lr"] for run in self.runs})

    @property
    def train(self) -> Estimate | None:
        """Metric on training examples in %, as far as the runs measured it."""
        return Estimate.over(_known(run.summary.get("train_metric") for run in self.chosen))

    @property
    def splits(self) -> dict[str, Estimate]:
        """Metric of every test split in %, where there are several (remote homology's three hold-outs)."""
        names = dict.fromkeys(name for run in self.chosen for name in run.summary.get("test_metrics", {}))
        found = {n: Estimate.over(_known(r.summary["test_metrics"].get(n) for r in self.chosen)) for n in names}
        return {name: value for name, value in found.items() if value} if len(names) > 1 else {}


def converged(curve: Curve) -> Reading:
    """First step within a point of a curve's best metric, a bound where the best is the last and can still rise."""
    if not curve:
        return None
    best = max(metric for _, metric in curve)
    step = next(step for step, metric in curve if metric >= best - POINT)
    rising = next(step for step, metric in curve if metric == best) == curve[-1][0] and best < 1
    return float(step), rising


def build(records: Sequence[RunRecord], measure: Measure, published: Mapping[str, Estimate]) -> TableCell:
    """The cell of the records of one place; `published` by part."""
    made = [record for record in records if not record.missing]
    whole = [run for run in made if run.summary.keys() >= REQUIRED]
    runs, notes = _one_configuration(whole)
    if len(whole) < len(made):
        notes.append(
            f"{pluralize(len(made) - len(whole), 'run')} left out: no {', '.join(sorted(REQUIRED))} in the record"
        )
    if not runs:
        missing = tuple(dict.fromkeys([*(record.missing for record in records if record.missing), *notes]))
        blank = tuple(Value(name, None, published.get(name)) for name in measure.parts)
        return TableCell(blank, state="missing" if missing else "not run", notes=missing)
    lr = sweep.summarize_runs([run.summary for run in runs])["chosen_lr"]
    chosen = [run for run in runs if run.summary["lr"] == lr and run.summary["val_metric"] is not None]
    values = []
    for name, read in measure.parts.items():
        readings = [reading for reading in map(read, chosen) if reading is not None]
        ours = Estimate.over([value for value, _ in readings])
        values.append(Value(name, ours, published.get(name), any(bound for _, bound in readings)))
    notes += [*_diverged(runs, chosen), *_edge(lr, runs)]
    state = "" if chosen else "diverged"
    return TableCell(tuple(values), tuple(runs), tuple(chosen), lr, state, tuple(notes))


def _one_configuration(runs: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """The runs that differ from the last one in learning rate and seed only, and a note on the others."""

    def rest(run: RunRecord) -> dict[str, Any]:
        return {name: value for name, value in run.config.items() if name not in ("lr", "seed")}

    kept = [run for run in runs if rest(run) == rest(runs[-1])]
    others = [run for run in runs if rest(run) != rest(runs[-1])]
    if not others:
        return kept, []
    last = rest(kept[-1])
    ways = {
        f"{name} {_plain(rest(run).get(name))}, not {_plain(last.get(name))}"
        for run in others
        for name in {**last, **rest(run)}
        if rest(run).get(name) != last.get(name)
    }
    return kept, [f"{pluralize(len(others), 'run')} of another configuration left out ({'; '.join(sorted(ways))})"]


def _diverged(runs: Sequence[RunRecord], chosen: Sequence[RunRecord]) -> list[str]:
    lost = sorted({run.summary["lr"] for run in runs if run.summary.get("status") == "diverged"})
    if not lost:
        return []
    rates = ", ".join(rate_text(lr) for lr in lost)
    if not chosen:
        return [f"diverged at every learning rate tried ({rates})"]
    here = sum(run.summary.get("status") == "diverged" for run in chosen)
    scored = (
        f"; {here} of {pluralize(len(chosen), 'seed')} of this number: the best state before counts" if here else ""
    )
    return [f"diverged at learning rate {rates}{scored}"]


def _edge(lr: float | None, runs: Sequence[RunRecord]) -> list[str]:
    rates = sorted({run.summary["lr"] for run in runs})
    if lr is None or len(rates) < 2 or lr not in (rates[0], rates[-1]):
        return []
    by_rate: dict[float, dict[int, float]] = {rate: {} for rate in rates}
    for run in runs:
        by_rate[run.summary["lr"]][run.summary["seed"]] = -1.0 if (v := run.summary["val_metric"]) is None else v
    for rate in rates[1:-1]:
        shared = by_rate[rate].keys() & by_rate[lr].keys()
        if shared and all(by_rate[rate][seed] >= by_rate[lr][seed] for seed in shared):
            return []  # one between the ends does as well: the sweep was wide enough
    end = "smallest" if lr == rates[0] else "largest"
    return [f"at the edge of the sweep: the {end} learning rate tried was chosen, a better one may lie beyond"]


def _known(values: Any) -> list[float]:
    return [100 * value for value in values if value is not None]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def rate_text(lr: float) -> str:
    """A learning rate as it is given on the command line.

    >>> rate_text(0.0003), rate_text(0.01), rate_text(0.00123)
    ('3e-4', '1e-2', '1.23e-3')
    """
    digits, _, exponent = f"{lr:e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def _metric(key: str) -> Callable[[RunRecord], Reading]:
    def read(record: RunRecord) -> Reading:
        value = record.summary.get(key)
        return None if value is None else (100 * value, False)

    return read


def _attention(key: str) -> Callable[[RunRecord], Reading]:
    def read(record: RunRecord) -> Reading:
        value = record.extra.get("attention", {}).get(key)
        return None if value is None else (100 * value, False)

    return read


MEASURES: Mapping[str, Measure] = {
    "test": Measure("test accuracy in %", "%", {"test": _metric("test_metric")}),
    "steps": Measure("steps to converge", "steps", {"steps": lambda record: converged(record.validation)}),
    "fit": Measure(
        "train / test accuracy in %", "%", {"train": _metric("train_metric"), "test": _metric("test_metric")}
    ),
    "attention": Measure(
        # most bodies look at their own position untrained; what tells is the bit of the first string
        "share of attention on needed bits in %: best head on both / on the first string's alone / uniform on both",
        "%",
        {"both": _attention("best"), "first": _attention("first_bit_best"), "uniform": _attention("uniform")},
    ),
}
