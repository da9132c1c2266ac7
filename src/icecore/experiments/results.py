"""Results files: one JSON line for each run, with its cell in a table, its curves and the command that trained it.

Lines are only appended, and a later line of the same run replaces an earlier one, so a killed process loses at
most the line that it was writing. A line that cannot be read is reported, and the others are used.
"""

import datetime
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from icecore.core.errors import ConfigError, DataError, UserError
from icecore.core.limits import small_lines
from icecore.core.settings import check_types
from icecore.core.storage import file_lock, storage_errors
from icecore.core.text import printable, printable_values, reason, shortened
from icecore.training.checkpoint import CONFIG, RunFolder, read_config, validation_curve
from icecore.training.run_summary import BEHIND, LARGEST_NUMBER, RunSummary

Curve = Sequence[tuple[int, float]]
#: characters of the name of a study, a row or a column
MAX_RECORD_NAME = 400
#: more steps than any training has
MAX_STEP = 2**53


@dataclass(frozen=True)
class CellKey:
    """Which cell of which table a run belongs to, and the budget and body that the table was trained with."""

    study: str = ""
    row: str = ""
    column: str = ""
    budget: str = ""
    body: str = ""


@dataclass(frozen=True)
class RunRecord:
    """A finished run of a cell, or the reason why a cell has no runs (`missing`).

    summary     what the run's summary.json says; empty if `missing`
    config      the whole configuration of the run
    validation  (step, metric) of every validation
    training    (step, mean loss since the previous point)
    extra       what the study measured on the trained model, for example attention on the needed bits
    """

    key: CellKey
    command: str
    date: str
    summary: RunSummary = field(default_factory=RunSummary)
    config: Mapping[str, Any] = field(default_factory=dict)
    validation: Curve = ()
    training: Curve = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""

    @property
    def run_id(self) -> str:
        """The run's id; empty if `missing`."""
        return self.summary.run_id

    def is_as(self, other: "RunRecord | None") -> bool:
        """Whether another record says the same, whatever command and day it names."""
        if other is None:
            return False
        ours, theirs = (replace(each, command="", date="").to_json() for each in (self, other))
        return ours == theirs

    def replaces(self, earlier: "RunRecord | None") -> bool:
        """Whether this record counts in place of an earlier one of the same run.

        It does, unless the run was trained to its end there and fell behind in a race here: what a run learns in all of
        its steps says more than where a race stopped it, which may be too soon for a task that is learned late.
        """
        return earlier is None or not (self.summary.status == BEHIND != earlier.summary.status)

    def to_json(self) -> str:
        """The record as one line of flat JSON: the keys of the cell, those of the summary, then the rest."""
        summary = self.summary.to_json() if self.run_id else {}
        rest = {"command": self.command, "date": self.date, "config": self.config, "extra": self.extra}
        curves = {"validation": self.validation, "training": self.training}
        not_empty = {name: value for name, value in {**rest, **curves, "missing": self.missing}.items() if value}
        return json.dumps({**vars(self.key), **summary, **not_empty})

    @classmethod
    def from_json(cls, text: str) -> "RunRecord":
        """The inverse of `to_json`. Raises DataError if `text` is not a record."""
        try:
            values = printable_values(json.loads(text))
            if not isinstance(values, dict):
                raise TypeError("it is not a table of names and values")
            key = CellKey(**{name: values.pop(name) for name in CellKey.__dataclass_fields__ if name in values})
            names = ("command", "date", "config", "validation", "training", "extra", "missing")
            fields: dict[str, Any] = {"command": "", "date": ""} | {
                name: values.pop(name) for name in names if name in values
            }
            for name in ("validation", "training"):
                fields[name] = tuple((int(step), float(value)) for step, value in fields.get(name, ()))
                if not all(0 <= step <= MAX_STEP and abs(value) <= LARGEST_NUMBER for step, value in fields[name]):
                    raise DataError(f"{name} has steps or values that no training has")
            check_types(CellKey, vars(key))
            if any(len(name) > MAX_RECORD_NAME for name in vars(key).values()):
                raise DataError(f"a name in it has more than {MAX_RECORD_NAME} characters")
            curves = ("validation", "training")
            check_types(cls, {name: value for name, value in fields.items() if name not in curves})
            _check_attention(fields.get("extra", {}))
            if not values.get("run_id") and not fields.get("missing"):
                raise DataError("the record has no run_id")
            record = cls(key, summary=RunSummary.from_json(values), **fields)
            _check_accuracies(record)
            return record
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, ConfigError) as error:
            raise DataError(f"not the record of a run ({reason(error)})") from error

    @classmethod
    def from_folder(
        cls, folder: RunFolder, key: CellKey, command: str, extra: Mapping[str, Any] | None = None
    ) -> "RunRecord":
        """The record of a finished run. Raises ConfigError if the run is not finished."""
        summary = folder.summary()
        if summary is None:
            raise ConfigError(f"The run in {folder.path} is not finished. Give its command again to continue it.")
        events = folder.events()
        validation = tuple(validation_curve(events))
        training = tuple((e["step"], e["loss"]) for e in events if e["event"] == "train" and e.get("loss") is not None)
        changed = datetime.datetime.fromtimestamp(folder.summary_path.stat().st_mtime, datetime.UTC)
        config = printable_values(json.loads(folder.config.to_json()))
        return cls(key, command, f"{changed:%Y-%m-%d}", summary, config, validation, training, extra or {})


def _check_accuracies(record: RunRecord) -> None:
    """Raise DataError if an accuracy of a run is not a share. Other metrics may have any value."""
    summary = record.summary
    if not summary.metric_name.endswith("accuracy"):
        return
    metrics = (summary.train_metric, summary.val_metric, summary.test_metric, *summary.test_metrics.values())
    for value in (*metrics, *(value for _, value in record.validation)):
        if value is not None and not 0 <= value <= 1:
            raise DataError(f"it has an accuracy of {value:g}, but accuracies are shares from 0 to 1")


def _check_attention(extra: Mapping[str, Any]) -> None:
    """Raise DataError if the attention that a study measured is not numbers by name."""
    shares = extra.get("attention", {})
    if not isinstance(shares, Mapping) or not all(
        isinstance(share, int | float) and abs(share) <= LARGEST_NUMBER for share in shares.values()
    ):
        raise DataError(f"attention: expected numbers by name, found {shortened(shares)}")


def append_records(path: Path, records: Iterable[RunRecord]) -> None:
    """Append records to a results file under a lock, so that several processes may write it. Raises StorageError.

    A record that is there already, perhaps because another process was quicker, is not written again. A killed process
    or a full disk leaves at most one incomplete line, which the next call terminates.
    """
    lock = path.with_name(f".{path.name}.lock")
    with file_lock(lock), storage_errors(path), path.open("a+b", buffering=0) as file:
        with path.open("rb") as lines:
            last = {(record.key, record.run_id): record for record in _read_lines(lines, path.name, [])}
        new = [record for record in records if not record.is_as(last.get((record.key, record.run_id)))]
        text = "".join(record.to_json() + "\n" for record in new).encode()
        # an incomplete last line must not swallow the next one
        if text and file.seek(0, 2) and (file.seek(-1, 2), file.read(1))[1] != b"\n":
            text = b"\n" + text
        while text:  # the system may write only a part at a time
            text = text[file.write(text) :]


def read_file(path: Path) -> tuple[list[RunRecord], list[str]]:
    """Every record of one results file, also one that a later line replaces, and a message for each line that is none.

    Raises DataError if the file cannot be read.
    """
    faults: list[str] = []
    try:
        with path.open("rb") as lines:
            return list(_read_lines(lines, path.name, faults)), faults
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check its name and its permissions.") from error


def read_records(path: Path) -> tuple[list[RunRecord], list[str]]:
    """The record of each run of each cell that counts (`RunRecord.replaces`), and a message for each unreadable line.

    path  a results file, or a folder of them; the run folders in a folder count as a study of its name
    Raises DataError if there is no record at all.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist. Name a results file, or a folder with results files.")
    records: dict[tuple[CellKey, str], RunRecord] = {}
    faults: list[str] = []
    for file in sorted(path.glob("*.jsonl")) if path.is_dir() else [path]:
        try:
            with file.open("rb") as lines:
                for record in _read_lines(lines, file.name, faults):
                    # a finished run replaces the note that its cell is missing; the order is that of the last versions
                    records.pop((record.key, ""), None)
                    if record.replaces(records.get((record.key, record.run_id))):
                        records.pop((record.key, record.run_id), None)
                        records[record.key, record.run_id] = record
        except OSError as error:
            faults.append(f"{file.name} cannot be read: {error.strerror}. Check its permissions.")
    if path.is_dir():
        _add_run_folders(path, records, faults)
    if not records:
        detail = f" ({faults[0]})" if faults else ""
        raise DataError(f"{path} has no results{detail}. The commands `icecore paper` and `icecore grid` write them.")
    return list(records.values()), faults


def _read_lines(lines: BinaryIO, name: str, faults: list[str]) -> Iterator[RunRecord]:
    """The records of an open results file. A message for each line that is none is added to `faults`."""
    for number, line in enumerate(small_lines(lines), start=1):
        try:
            if line is None:
                raise DataError("it is longer than the record of any run")
            if line.strip():
                yield RunRecord.from_json(line.decode())
        except (DataError, UnicodeDecodeError) as error:
            faults.append(f"{name}, line {number} was skipped: {error}")


def _add_run_folders(path: Path, records: dict[tuple[CellKey, str], RunRecord], faults: list[str]) -> None:
    """Add the finished runs whose folders lie in `path`."""
    for config_path in sorted(path.glob(f"*/{CONFIG}")):
        try:
            config = read_config(config_path.parent)
            folder = RunFolder.at(config_path.parent, config)
            if folder.summary() is not None:
                row = f"{config.backbone}, {config.weights}"
                names = map(printable, (path.resolve().name, row, config.task, "", config.backbone))
                key = CellKey(*names)
                records.setdefault((key, config.run_id), RunRecord.from_folder(folder, key, ""))
        except UserError as error:
            faults.append(str(error))
