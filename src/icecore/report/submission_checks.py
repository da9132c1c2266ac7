"""What must be true of results that somebody else submits: one check for each requirement, with the way to fix it.

A forged number cannot be seen in a file. But an honest mistake can, and anybody can repeat a run by its command.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError
from icecore.core.protocols import PROTOCOLS
from icecore.core.text import list_in_words, pluralize, reason, shortened
from icecore.core.version import __version__
from icecore.experiments.results import RunRecord
from icecore.paper.budgets import BUDGETS, budget_of_label
from icecore.report.cells import build_cell, is_behind, rate_text
from icecore.report.consistency import options_text, split_size
from icecore.report.leaderboard import ENTRY_SEEDS, PROJECT, body_text, data_identity, group_sweeps
from icecore.report.quantities import QUANTITIES
from icecore.tasks import TASKS
from icecore.training.run_summary import DIVERGED

#: packages whose version every record names
NAMED_PACKAGES = ("icecore", "python", "torch", "transformers")
VERSION_NUMBER = re.compile(r"\d+(\.\d+)+[\w.+-]*")
#: run ids that a message names, and characters of a digest
SHOWN_IDS, SHOWN_DIGEST = 3, 12
#: the name of the fault by which a protocol chooses on the test set
CHOOSES_ON_TEST = "choose-on-test"
AS_WRITTEN = "Submit the file as icecore wrote it, or run its command again."


@dataclass(frozen=True)
class Reference:
    """What a submission is compared with.

    versions  of icecore that results may be of
    data      identities of the data, by task and its options
    owned     the runs of everybody else, as (maker, record) by run id
    """

    versions: frozenset[str]
    data: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]
    owned: Mapping[str, tuple[str, RunRecord]]


def build_reference(own: Iterable[RunRecord], others: Mapping[str, Iterable[RunRecord]]) -> Reference:
    """What submissions are compared with: our own records, and those that others submitted before."""
    own = [record for record in own if not record.missing]
    data: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in (record for record in own if record.summary.test_examples):
        identities = data.setdefault((record.summary.task, options_text(record.summary)), [])
        identity = data_identity(record.summary)
        if identity not in identities:
            identities.append(identity)
    owned = {run.run_id: (maker, run) for maker, runs in {**others, PROJECT: own}.items() for run in runs}
    versions = {record.summary.versions.get("icecore", "") for record in own} | {__version__}
    return Reference(frozenset(versions - {""}), data, owned)


def find_faults(runs: Sequence[RunRecord], there: Sequence[RunRecord], reference: Reference) -> list[str]:
    """Every fault of submitted runs in a sentence that says what is wrong and how to fix it.

    there  runs that the same person submitted before
    """
    ids_by_fault: dict[str, list[str]] = {}
    for run in runs:
        for check in RUN_CHECKS:
            if fault := check(run, reference):
                ids_by_fault.setdefault(fault, []).append(run.run_id)
    faults = [f"{_runs_text(ids)}: {fault}" for fault, ids in ids_by_fault.items()]
    return [*faults, *_duplicate_faults(runs, there, reference), *_seed_faults([*there, *runs])]


def _runs_text(ids: Sequence[str]) -> str:
    ids = [shortened(each, 40).strip("'") for each in dict.fromkeys(ids)]
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return f"{'Run' if len(ids) == 1 else 'Runs'} {', '.join(ids[:SHOWN_IDS])}{more}"


def _is_scored(run: RunRecord) -> bool:
    """Whether a run must have metrics: it neither diverged nor fell behind in a race."""
    return run.summary.status != DIVERGED and not is_behind(run)


def _version_fault(run: RunRecord, reference: Reference) -> str:
    versions = run.summary.versions
    unnamed = [name for name in NAMED_PACKAGES if not versions.get(name)]
    if unnamed:
        return f"the versions of {list_in_words(unnamed)} are not in the record. {AS_WRITTEN}"
    odd = [name for name in NAMED_PACKAGES if not VERSION_NUMBER.fullmatch(str(versions[name]))]
    if odd:
        return f"{shortened(versions[odd[0]])} is not a version of {odd[0]}. {AS_WRITTEN}"
    if versions["icecore"] not in reference.versions:
        known = list_in_words(sorted(reference.versions))
        return (
            f"made with icecore {versions['icecore']}, which is not known here. Make the runs again with icecore "
            f"{known}, or update this checkout if it is older than yours."
        )
    return ""


def _task_fault(run: RunRecord, _: Reference) -> str:
    if run.summary.task in TASKS:
        return ""
    return (
        f"the task {shortened(run.summary.task)} is not one that `icecore tasks` lists. The leaderboard has only tasks "
        "whose data everybody can get. Leave these runs out."
    )


def _config_fault(run: RunRecord, _: Reference) -> str:
    if not run.config:
        return f"there is no configuration in the record. {AS_WRITTEN}"
    config = dict(run.config)
    try:
        text = json.dumps(config, sort_keys=True, separators=(",", ":"))
        RunConfig.from_json(text)
    except (ConfigError, TypeError, ValueError, RecursionError) as error:
        return f"the configuration is not one of icecore ({reason(error)}). {AS_WRITTEN}"
    run_id = hashlib.sha256(text.encode()).hexdigest()[:12]
    if run_id != run.run_id:
        return f"the configuration belongs to the run_id {run_id}, so one of them was changed. {AS_WRITTEN}"
    summary = run.summary.to_json()
    # the test set may have fewer examples than were asked for, and a time limit may change the steps
    free = {"test_examples", *(["steps"] if config.get("minutes") else [])}
    different = sorted(name for name in config.keys() & summary.keys() - free if config[name] != summary[name])
    if different:
        return f"summary and configuration do not agree on {list_in_words(different)}. {AS_WRITTEN}"
    return ""


def _data_fault(run: RunRecord, reference: Reference) -> str:
    summary = run.summary
    if not _is_scored(run) or summary.task not in TASKS:
        return ""
    options = options_text(summary)
    known = reference.data.get((summary.task, options))
    if not known:
        ours = [repr(text or "the defaults") for task, text in reference.data if task == summary.task]
        hint = f"Use the options of one of ours: {list_in_words(ours)}." if ours else "Leave these runs out."
        return (
            f"there are no results of {summary.task}{options and f' with {options}'} here whose data these could be "
            f"compared with. {hint} If the leaderboard should have this task, open an issue first."
        )
    identity = data_identity(summary)
    if identity in known:
        return ""
    nearest = max(known, key=lambda each: sum(identity.get(name) == value for name, value in each.items()))
    differences = [
        f"{name} is {_value_text(identity.get(name))} instead of {_value_text(nearest.get(name))}"
        for name in {**nearest, **identity}
        if identity.get(name) != nearest.get(name)
    ]
    return (
        f"the data are not those of our results of {summary.task}: {list_in_words(differences)}. Train on the same "
        "files with the same task options; the report says below each table where the data come from."
    )


def _value_text(value: Any) -> str:
    return "missing" if value in (None, "") else str(value)[:SHOWN_DIGEST] if isinstance(value, str) else f"{value}"


def _test_fault(run: RunRecord, _: Reference) -> str:
    summary = run.summary
    if not _is_scored(run):
        return ""
    size = split_size(summary)
    budget = BUDGETS.get(budget_of_label(run.key.budget))
    allowed: set[int | None] = {size}
    if budget is not None and summary.task in TASKS:
        allowed |= {budget.settings_for(name).get("test_examples") for name in _columns(run)}
    if summary.test_examples and summary.test_examples in allowed:
        return ""
    whole = f"all {size:,}" if size else "the whole test set, whose size the record must name,"
    numbers = [f"{count:,}" for count in sorted(count for count in allowed - {size} if count is not None)]
    fewer = f" or the {list_in_words(numbers)} of the budget {run.key.budget}" if numbers else ""
    return f"scored on {summary.test_examples:,} test examples. Score {whole}{fewer}: leave test_examples out."


def _columns(run: RunRecord) -> list[str]:
    """The names under which a budget may have settings for a run: its task, and the column if it is one of the task."""
    task, column = run.summary.task, run.key.column
    return [task, column] if column.split()[:1] == [task] else [task]


def _metric_fault(run: RunRecord, _: Reference) -> str:
    summary = run.summary
    metrics: dict[str, float | None] = {
        "train_metric": summary.train_metric,
        "val_metric": summary.val_metric,
        "test_metric": summary.test_metric,
        **{f"test_metrics of {name}": value for name, value in summary.test_metrics.items()},
        **{f"the validation at step {step}": value for step, value in run.validation},
    }
    wrong = [f"{name} is {value:g}" for name, value in metrics.items() if value is not None and not 0 <= value <= 1]
    if wrong:
        return f"{wrong[0]}, but metrics are shares from 0 to 1. {AS_WRITTEN}"
    lacking = [name for name in ("val_metric", "test_metric") if metrics[name] is None]
    if _is_scored(run) and lacking:
        return f"there is no {list_in_words(lacking)}. {AS_WRITTEN}"
    first = next(iter(summary.test_metrics.values()), None)
    if _is_scored(run) and first != summary.test_metric:
        return f"the test_metric is not the first of the test_metrics. {AS_WRITTEN}"
    return ""


def _validation_fault(run: RunRecord, _: Reference) -> str:
    protocol = PROTOCOLS.get(run.summary.protocol)
    if protocol is None:
        return f"the protocol {shortened(run.summary.protocol)} is not one of {list_in_words(list(PROTOCOLS))}."
    if CHOOSES_ON_TEST in protocol.faults:
        honest = [name for name, each in PROTOCOLS.items() if CHOOSES_ON_TEST not in each.faults]
        return (
            f"the protocol {run.summary.protocol} chooses the best state on the test set. Train with --protocol "
            f"{' or '.join(honest)}, which choose it on validation."
        )
    if _is_scored(run) and run.summary.best_step not in {step for step, _ in run.validation}:
        return (
            f"the best step {run.summary.best_step:,} is not among the validations, so nothing shows that validation "
            f"chose it. {AS_WRITTEN}"
        )
    return ""


RUN_CHECKS: tuple[Callable[[RunRecord, Reference], str], ...] = (
    _version_fault,
    _task_fault,
    _config_fault,
    _data_fault,
    _test_fault,
    _metric_fault,
    _validation_fault,
)


def _duplicate_faults(runs: Sequence[RunRecord], there: Sequence[RunRecord], reference: Reference) -> list[str]:
    """Faults of runs that are in the file twice, or that the results have already."""
    faults = []
    counts = Counter((run.key, run.run_id) for run in runs)
    twice = [run_id for (_, run_id), count in counts.items() if count > 1]
    if twice:
        faults.append(f"{_runs_text(twice)}: more than one line has this run of this cell. Keep the last one.")
    summaries = {run.run_id: run.summary for run in runs}
    torn = [run.run_id for run in runs if run.summary != summaries[run.run_id] and run.run_id not in twice]
    if torn:
        faults.append(f"{_runs_text(torn)}: cells disagree on what the same run reached. {AS_WRITTEN}")
    before = {(run.key, run.run_id): run for run in there}
    known = [run for run in runs if (run.key, run.run_id) in before]
    changed = [run.run_id for run in known if not run.is_as(before[run.key, run.run_id])]
    if changed:
        faults.append(
            f"{_runs_text(changed)}: submitted before with other numbers. To replace them, remove their lines from the "
            "file that was submitted."
        )
    ids_by_owner: dict[str, list[str]] = {}
    for run in runs:
        if run.run_id in reference.owned:
            ids_by_owner.setdefault(reference.owned[run.run_id][0], []).append(run.run_id)
    for owner, ids in ids_by_owner.items():
        faults.append(
            f"{_runs_text(ids)}: the results have this already, by {owner}. The leaderboard lists a configuration "
            "once. Leave these runs out."
        )
    return faults


def _seed_faults(runs: Sequence[RunRecord]) -> list[str]:
    """A fault for each cell with too few seeds at the learning rate that validation chose."""
    faults = []
    for group in group_sweeps(runs):
        cell = build_cell(group, QUANTITIES["test"], {})
        seeds = sorted({run.summary.seed for run in cell.chosen})
        name = f"{shortened(group[0].summary.task)[1:-1]}, {body_text(group[0])}"
        if cell.state or cell.lr is None:
            faults.append(f"{name}: no run of this cell has a number. Leave the cell out.")
        elif len(seeds) < ENTRY_SEEDS:
            faults.append(
                f"{name}: {pluralize(len(seeds), 'seed')} ({', '.join(map(str, seeds))}) at learning rate "
                f"{rate_text(cell.lr)}, which validation chose. At least {ENTRY_SEEDS} are needed. Train more seeds at "
                "this rate."
            )
    return faults
