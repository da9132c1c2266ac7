"""Cells: the runs of one cell of a table as numbers, beside the published ones.

Validation chooses the learning rate (`sweep.summarize_runs`). A number is the mean over the seeds at this rate,
with its standard error. Notes say in words what a reader must know about a cell.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icecore.core.text import list_in_words, pluralize
from icecore.experiments import sweep
from icecore.experiments.results import RunRecord
from icecore.report.effects import Sample
from icecore.report.quantities import Quantity
from icecore.report.run_settings import SWEPT, settings_with_effect, value_text
from icecore.training.run_summary import BEHIND, DIVERGED, RunSummary

#: published percentages are rounded to tenths; a difference of less than half a tenth does not count
ROUNDING = 0.05


@dataclass(frozen=True)
class MeanWithError:
    """A mean over n seeds with its standard error, None if unknown. n is 0 for a published number."""

    mean: float
    sem: float | None = None
    n: int = 0

    @classmethod
    def of(cls, values: Sequence[float]) -> "MeanWithError | None":
        """Mean and standard error of the mean of values; None if there are no values."""
        if not values:
            return None
        sem = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        return cls(statistics.fmean(values), sem, len(values))


@dataclass(frozen=True)
class CellNumber:
    """One number of a cell, ours and the published one.

    bound          ours is only a lower bound, because a run had not converged
    is_comparable  ours was made with the budget and the body of the published one
    """

    name: str
    ours: MeanWithError | None = None
    published: MeanWithError | None = None
    bound: bool = False
    is_comparable: bool = True

    @property
    def differs(self) -> bool:
        """Whether ours, over at least two seeds, differs from a comparable number by over two combined errors."""
        if not self.is_comparable or self.ours is None or self.published is None or self.ours.sem is None:
            return False
        gap = self.ours.mean - self.published.mean
        if self.bound and gap < 0:  # a lower bound below the published number does not contradict it
            return False
        return abs(gap) > max(2 * math.hypot(self.ours.sem, self.published.sem or 0.0), ROUNDING)


@dataclass(frozen=True)
class TableCell:
    """A cell of a table: its numbers and the runs behind them.

    runs    all runs of the sweep; `chosen` are those at the learning rate `lr` that validation chose
    state   empty if the cell has a number, else "not run", "missing" (weights or data), "diverged", or "not finished"
            if there are only runs that fell behind in a race
    notes   what a reader must know
    race    which learning rates stopped in a race, and at which steps; empty if none did
    """

    numbers: tuple[CellNumber, ...]
    runs: tuple[RunRecord, ...] = ()
    chosen: tuple[RunRecord, ...] = ()
    lr: float | None = None
    state: str = ""
    notes: tuple[str, ...] = ()
    race: str = ""

    @property
    def footnotes(self) -> tuple[str, ...]:
        """All that is said of the cell below its table."""
        return (*self.notes, self.race) if self.race else self.notes

    @property
    def sample(self) -> Sample | None:
        """The test metric in % with its errors, those of seeds and of test examples; None without a number."""
        values = _percentages(run.summary.test_metric for run in self.chosen)
        if self.state or not values:
            return None
        is_share = 0 <= sum(values) <= 100 * len(values)  # as an accuracy is, but not every metric
        return Sample.of(values, self.chosen[0].summary.test_examples if is_share else None)

    @property
    def commands(self) -> list[str]:
        """The commands that trained the runs."""
        return list(dict.fromkeys(run.command for run in self.runs if run.command))

    @property
    def rates(self) -> list[float]:
        """All learning rates of the sweep, lowest first."""
        return sorted({run.summary.lr for run in self.runs})

    @property
    def train(self) -> MeanWithError | None:
        """Metric on training examples in %, over the runs that have it."""
        return MeanWithError.of(_percentages(run.summary.train_metric for run in self.chosen))

    @property
    def splits(self) -> dict[str, MeanWithError]:
        """Metric of every test split in %, if there are several, such as the three of remote homology."""
        names = dict.fromkeys(name for run in self.chosen for name in run.summary.test_metrics)
        metrics = {n: MeanWithError.of(_percentages(r.summary.test_metrics.get(n) for r in self.chosen)) for n in names}
        return {name: metric for name, metric in metrics.items() if metric} if len(names) > 1 else {}


def build_cell(
    records: Sequence[RunRecord],
    quantity: Quantity,
    published: Mapping[str, MeanWithError],
    is_comparable: bool = True,
) -> TableCell:
    """The cell of the records with one key.

    published      the published numbers by part of the quantity
    is_comparable  they were made with the budget and the body of the records
    """
    finished = [record for record in records if not record.missing]
    complete = [run for run in finished if _is_complete(run.summary)]
    runs, notes = _same_configuration(complete)
    if len(complete) < len(finished):
        count = pluralize(len(finished) - len(complete), "run")
        notes.append(f"Left out: {count} without a learning rate or metrics in the record.")
    if not runs:
        reasons = tuple(dict.fromkeys([*(record.missing for record in records if record.missing), *notes]))
        blank = tuple(CellNumber(name, None, published.get(name)) for name in quantity.parts)
        return TableCell(blank, state="missing" if reasons else "not run", notes=reasons)
    lr = sweep.summarize_runs([run.summary for run in runs]).chosen_lr
    chosen = [run for run in runs if run.summary.lr == lr and run.summary.val_metric is not None]
    numbers = []
    for name, read in quantity.parts.items():
        readings = [reading for reading in map(read, chosen) if reading is not None]
        ours = MeanWithError.of([value for value, _ in readings])
        is_bound = any(bound for _, bound in readings)
        numbers.append(CellNumber(name, ours, published.get(name), is_bound, is_comparable))
    notes += [*_divergence_notes(runs, chosen), *_edge_notes(lr, runs)]
    state = "" if chosen else "not finished" if any(is_behind(run) for run in runs) else DIVERGED
    return TableCell(tuple(numbers), tuple(runs), tuple(chosen), lr, state, tuple(notes), _race_text(runs))


def _is_complete(summary: RunSummary) -> bool:
    """Whether a summary has a learning rate, and metrics unless the run diverged or fell behind in a race."""
    has_metrics = summary.val_metric is not None and summary.test_metric is not None
    return summary.lr > 0 and (has_metrics or summary.status in (DIVERGED, BEHIND))


def _same_configuration(runs: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """The runs that differ from the last one only in learning rate and seeds, each once, and a note on the others."""

    def settings(run: RunRecord) -> dict[str, Any]:
        return {name: value for name, value in settings_with_effect(run.config).items() if name not in SWEPT}

    last = settings(runs[-1]) if runs else {}
    same: dict[tuple[Any, ...], RunRecord] = {}
    others: list[RunRecord] = []
    for run in runs:
        if settings(run) != last:
            others.append(run)
            continue
        # two runs may differ in a setting without effect
        place = (run.summary.lr, run.summary.seed, run.config.get("body_seed"))
        if run.replaces(same.get(place)):
            same[place] = run
    if not others:
        return list(same.values()), []
    differences = {
        f"{name} {value_text(settings(run).get(name))}, not {value_text(last.get(name))}"
        for run in others
        for name in {**last, **settings(run)}
        if settings(run).get(name) != last.get(name)
    }
    count = pluralize(len(others), "run")
    note = f"Left out: {count} of another configuration ({'; '.join(sorted(differences))})."
    return list(same.values()), [note]


def _divergence_notes(runs: Sequence[RunRecord], chosen: Sequence[RunRecord]) -> list[str]:
    """A note on the learning rates at which runs diverged, if there are any."""
    diverged = sorted({run.summary.lr for run in runs if run.summary.status == DIVERGED})
    if not diverged:
        return []
    rates = ", ".join(rate_text(lr) for lr in diverged)
    if not chosen:
        return [f"Runs diverged at every learning rate ({rates})."]
    count = sum(run.summary.status == DIVERGED for run in chosen)
    note = f"Runs diverged at learning rate {rates}."
    if count:
        note += f" {count} of {pluralize(len(chosen), 'seed')} of this number diverged and counts with its best state."
    return [note]


def is_behind(run: RunRecord) -> bool:
    """Whether the run stopped because its learning rate fell behind in a race."""
    return run.summary.status == BEHIND


def _race_text(runs: Sequence[RunRecord]) -> str:
    """The learning rates that fell behind in a race and the steps at which they stopped; empty if there are none."""
    steps = {run.summary.lr: run.summary.steps_done for run in runs if is_behind(run)}
    rates = [f"{rate_text(lr)} at step {steps[lr]:,}" for lr in sorted(steps)]
    return f"Learning rates that stopped in a race, before their last step: {list_in_words(rates)}." if rates else ""


def _edge_notes(lr: float | None, runs: Sequence[RunRecord]) -> list[str]:
    """A note if the chosen learning rate is the smallest or largest one and none between them is as good.

    What a rate would have reached that fell behind in a race is not known, so it does not count as good.
    """
    rates = sorted({run.summary.lr for run in runs})
    if lr is None or len(rates) < 2 or lr not in (rates[0], rates[-1]):
        return []
    metrics: dict[float, dict[int, float]] = {rate: {} for rate in rates}
    for run in runs:
        metric = None if is_behind(run) else run.summary.val_metric
        metrics[run.summary.lr][run.summary.seed] = -1.0 if metric is None else metric
    for rate in rates[1:-1]:
        shared_seeds = metrics[rate].keys() & metrics[lr].keys()
        if shared_seeds and all(metrics[rate][seed] >= metrics[lr][seed] for seed in shared_seeds):
            return []  # a rate between the ends is as good, so the sweep was wide enough
    end, beyond = ("smallest", "smaller") if lr == rates[0] else ("largest", "larger")
    return [f"The chosen learning rate is the {end} of the sweep, so a {beyond} one may be better."]


def _percentages(values: Iterable[float | None]) -> list[float]:
    return [100 * value for value in values if value is not None]


def rate_text(lr: float) -> str:
    """A learning rate as users type it.

    >>> rate_text(0.0003), rate_text(0.01), rate_text(0.00123)
    ('3e-4', '1e-2', '1.23e-3')
    """
    digits, _, exponent = f"{lr:e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
