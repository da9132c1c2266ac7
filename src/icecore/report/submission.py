"""Results of others: how they are added, and where they are kept.

They lie in `submitted/NAME.jsonl` in the folder of the results, where NAME says who made them. Only the leaderboard
shows them: tables, figures and verdicts come from the project's own runs.
"""

import re
from pathlib import Path

from icecore.core.errors import ConfigError, DataError
from icecore.core.limits import MAX_JSON_BYTES
from icecore.core.storage import storage_errors
from icecore.core.text import pluralize
from icecore.experiments.results import RunRecord, append_records, read_file, read_records
from icecore.paper.paper_tables import STUDIES
from icecore.report.leaderboard import PROJECT, group_sweeps
from icecore.report.submission_checks import AS_WRITTEN, build_reference, find_faults

#: folder of the results of others, in the folder of the results
SUBMITTED = "submitted"
#: who made results: a file name on every system, and short enough for a table
MAKER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,38}")


def read_submitted(results: Path) -> tuple[dict[str, list[RunRecord]], list[str]]:
    """The records of others by who made them, and a message for each line or file that cannot be read."""
    by_maker: dict[str, list[RunRecord]] = {}
    faults: list[str] = []
    for path in sorted((results / SUBMITTED).glob("*.jsonl")):
        try:
            records, messages = read_file(path)
        except DataError as error:
            records, messages = [], [str(error)]
        faults += messages
        by_maker[path.stem] = records
    return by_maker, faults


def add_submission(file: Path, results: Path, maker: str = "") -> str:
    """Check a results file of somebody else and add its runs to the results. Returns a sentence on what was done.

    maker  who made them; "" takes the name of the file
    Raises DataError that lists every fault, ConfigError for a name that cannot be used, StorageError.
    """
    maker = _check_maker(file, results, maker)
    target = results / SUBMITTED / f"{maker}.jsonl"
    records, faults = _read_submission(file)
    own, _ = read_records(results)
    others, _ = read_submitted(results)
    there = [] if _is_same(file, target) else others.get(maker, [])
    reference = build_reference(own, {name: runs for name, runs in others.items() if name != maker})
    runs = [record for record in records if not record.missing]
    faults += find_faults(runs, there, reference)
    if not runs and not faults:
        faults.append("There is no finished run in it. Submit the file that `icecore paper` or `icecore grid` wrote.")
    if faults:
        lines = "".join(f"\n- {fault}" for fault in faults)
        raise DataError(f"{file} was not added to {results}: {pluralize(len(faults), 'fault')}.{lines}")
    cells = pluralize(len(group_sweeps(runs)), "cell")
    if _is_same(file, target):
        return f"{file} is in order: {pluralize(len(runs), 'run')} of {cells} by {maker}."
    ids = {(record.key, record.run_id) for record in there}
    new = [run for run in runs if (run.key, run.run_id) not in ids]
    if not new:
        return f"All of its runs are in {target} already. Nothing was added."
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    append_records(target, new)
    return (
        f"Added {pluralize(len(new), 'run')} of {cells} by {maker} to {target}. "
        f"`icecore report {results}` shows them in the leaderboard."
    )


def _check_maker(file: Path, results: Path, maker: str) -> str:
    """The name of who made a file. Raises ConfigError if there is none, and if `results` is not a folder."""
    if not results.is_dir():
        raise ConfigError(f"{results} is not a folder. Name the folder of the results to which {file} is to be added.")
    if not maker and file.stem in STUDIES:
        raise ConfigError(f"{file} does not say who made it. Add --by NAME, for example your name on GitHub.")
    name = maker or file.stem
    if not MAKER_NAME.fullmatch(name) or name.lower() == PROJECT:
        raise ConfigError(
            f"{name!r} cannot name who made the results. Choose up to 39 letters, digits, dots, dashes and underscores "
            f"that begin with a letter or a digit and are not {PROJECT!r}, with --by NAME."
        )
    return name


def _is_same(file: Path, target: Path) -> bool:
    return file.resolve() == target.resolve()


def _read_submission(file: Path) -> tuple[list[RunRecord], list[str]]:
    """The records of a file and a fault for each line that is none. Raises DataError if it cannot be read."""
    if file.is_file() and file.stat().st_size > MAX_JSON_BYTES:
        raise DataError(f"{file} has more than {MAX_JSON_BYTES // 2**20} MiB. Submit the tables one by one.")
    records, messages = read_file(file)
    return records, [f"{message}. {AS_WRITTEN}" for message in messages]
