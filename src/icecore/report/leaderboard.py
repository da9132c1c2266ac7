"""The leaderboard: for each task, the bodies that were tried on it, ranked by their test metric.

An entry is a sweep with at least three seeds, whoever trained it. Sweeps are ranked together only if they have the same
task with the same options on the same data.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icecore.core.config import FPT_ROLES, ROLES
from icecore.core.text import list_in_words
from icecore.experiments.pretraining import PROCEDURAL
from icecore.experiments.results import RunRecord
from icecore.paper.budgets import budget_of_label
from icecore.paper.paper_tables import ALL_TASKS
from icecore.report.cells import MeanWithError, TableCell, build_cell
from icecore.report.consistency import options_text, tested_text
from icecore.report.effects import Sample, is_clear_difference
from icecore.report.quantities import QUANTITIES
from icecore.report.run_settings import SWEPT, settings_with_effect
from icecore.training.run_summary import RunSummary

#: seeds that an entry needs, so that its error is known
ENTRY_SEEDS = 3
#: who made the runs of the project itself
PROJECT = "icecore"
NAMED_WEIGHTS = ("pretrained", "random", "statistics")


@dataclass(frozen=True)
class Entry:
    """A line of a leaderboard.

    rank        entries that are not clearly worse than the first of their rank share it
    body        name and weights of the body
    trained     what was trained, if it is not what the paper trains
    metric      test metric in %
    sample      the same with the errors of seeds and of test examples
    examples    training examples that a run saw, with repetitions, on average over the seeds
    tested      how many test examples were scored
    parameters  how many were trained
    maker       who made the runs
    """

    rank: int
    body: str
    trained: str
    metric: MeanWithError
    sample: Sample
    examples: int
    tested: str
    budget: str
    protocol: str
    parameters: int
    maker: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Board:
    """The leaderboard of one task. `variant` says how the task or its data differ from the usual ones."""

    task: str
    variant: str
    metric_name: str
    entries: tuple[Entry, ...]


def build_leaderboard(runs_by_maker: Mapping[str, Sequence[RunRecord]]) -> list[Board]:
    """A board for each task of the records: the paper's tasks first, then others in the order of their records."""
    entries: dict[tuple[str, str, str], list[tuple[Entry, RunSummary]]] = {}
    for maker, records in runs_by_maker.items():
        for runs in group_sweeps(records):
            cell = build_cell(runs, QUANTITIES["test"], {})
            entry = _build_entry(cell, maker)
            if entry is not None:
                summary = cell.chosen[0].summary
                identity = json.dumps(data_identity(summary), sort_keys=True)
                key = summary.task, options_text(summary), identity
                entries.setdefault(key, []).append((entry, summary))
    order = {task: position for position, task in enumerate(ALL_TASKS)}
    keys = sorted(entries, key=lambda key: (order.get(key[0], len(order)), key[1]))
    boards = []
    for task, options, identity in keys:
        found = entries[task, options, identity]
        is_ambiguous = sum(key[:2] == (task, options) for key in keys) > 1
        data = _identity_text(json.loads(identity)) if is_ambiguous else ""
        variant = ", ".join(filter(None, (options, data)))
        boards.append(Board(task, variant, found[0][1].metric_name, tuple(_ranked([entry for entry, _ in found]))))
    return boards


def group_sweeps(records: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """The runs with a configuration, each one once, in groups that differ only in learning rate and seeds."""
    groups: dict[str, dict[str, RunRecord]] = {}
    for record in records:
        if record.missing or not record.config:
            continue
        summary = record.summary
        body = summary.task, summary.backbone, summary.weights, summary.train_roles, summary.protocol
        settings = {name: value for name, value in settings_with_effect(record.config).items() if name not in SWEPT}
        group = groups.setdefault(json.dumps([body, settings], sort_keys=True), {})
        if record.replaces(group.get(record.run_id)):
            group[record.run_id] = record
    return [list(runs.values()) for runs in groups.values()]


def data_identity(summary: RunSummary) -> dict[str, Any]:
    """What must be equal for two runs to have the same data: the digests, or the source if there are none.

    The sizes of the test splits are part of it in any case.
    """
    data = summary.data
    digests = {name: value for name, value in data.items() if name.endswith("sha256")}
    source = digests or {"source": data.get("source") or data.get("format") or ""}
    counts = {**data, **data.get("counts", {})}
    sizes = {split: counts.get(split, counts.get(f"{split}_examples")) for split in summary.test_metrics}
    return {**source, **{f"examples of {split}": size for split, size in sizes.items()}}


def _identity_text(identity: Mapping[str, Any]) -> str:
    """The data in a few characters, to tell two boards apart: the digests, or what there is in place of them."""
    texts = {name: f"{name} {str(value)[:12]}" for name, value in identity.items() if value not in (None, "")}
    digests = [text for name, text in texts.items() if name.endswith("sha256")]
    return "; ".join(digests or texts.values())


def _build_entry(cell: TableCell, maker: str) -> Entry | None:
    """The entry of a sweep, without a rank; None if it has no number or too few seeds."""
    number, sample = cell.numbers[0].ours, cell.sample
    if number is None or sample is None or len({run.summary.seed for run in cell.chosen}) < ENTRY_SEEDS:
        return None
    first = cell.chosen[0]
    summary = first.summary
    return Entry(
        rank=0,
        body=body_text(first),
        trained=_trained_text(summary.train_roles),
        metric=number,
        sample=sample,
        examples=round(statistics.fmean(_examples(run.summary) for run in cell.chosen)),
        tested=tested_text(summary),
        budget=budget_of_label(first.key.budget) or "own settings",
        protocol=summary.protocol,
        parameters=summary.trainable_parameters,
        maker=maker,
        commands=tuple(cell.commands),
    )


def _examples(summary: RunSummary) -> int:
    return (summary.steps_done or summary.steps) * summary.batch_size


def body_text(record: RunRecord) -> str:
    """Name and weights of a run's body: "minilm, pretrained", or "no body"."""
    summary = record.summary
    if summary.backbone == "none":
        return "no body"
    weights = summary.weights
    if weights not in NAMED_WEIGHTS:  # the path of a file, which the row explains if it is of the paper
        weights = f"pretrained on {record.key.row}" if record.key.row in PROCEDURAL else Path(weights).name
    layers = record.config.get("layers")
    return ", ".join(filter(None, (summary.backbone, weights, f"{layers} layers" if layers else "")))


def _trained_text(roles: Sequence[str]) -> str:
    """What was trained, if it is not what the paper trains; "" if it is or is unknown."""
    if not roles or set(roles) == set(FPT_ROLES):
        return ""
    if set(roles) >= set(ROLES):
        return "all parameters trained"
    more = [role for role in ROLES if role in roles and role not in FPT_ROLES]
    if more and set(roles) >= set(FPT_ROLES):
        return f"{list_in_words(more)} trained as well"
    return f"only {list_in_words([role for role in ROLES if role in roles])} trained"


def _ranked(entries: Sequence[Entry]) -> list[Entry]:
    """The entries, best first, with ranks. One that is not clearly worse than a rank's first one shares it."""
    ranked: list[Entry] = []
    leader: Entry | None = None
    for position, entry in enumerate(sorted(entries, key=lambda each: -each.metric.mean), start=1):
        if leader is None or is_clear_difference(leader.sample, entry.sample):
            leader = entry = replace(entry, rank=position)
        ranked.append(replace(entry, rank=leader.rank))
    return ranked
