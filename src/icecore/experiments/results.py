"""Results: one JSON line a run, with its place in a table, its curves and the command that made it.

Lines are only ever appended, by one process at a time, and a later line of the same run replaces an
earlier one, so a kill costs nothing but the line being written. What cannot be read is reported, the rest used.
"""

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icecore.core.errors import ConfigError, DataError, UserError
from icecore.core.storage import file_lock, storage_errors
from icecore.training.checkpoint import CONFIG, RunFolder, read_config

Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class CellKey:
    """Where in the results a run belongs: table, row, column, and the budget and body it was made with."""

    study: str = ""
    row: str = ""
    column: str = ""
    budget: str = ""
    body: str = ""


@dataclass(frozen=True)
class RunRecord:
    """A finished run in its place, or a place where none can be made and why (`missing`).

    summary     the run's summary.json (keys: shared/design.md); empty where `missing`
    config      the run's whole configuration
    validation  (step, metric) of every validation
    training    (step, mean loss since the last one)
    extra       what a study measured besides, say the attention on needed bits
    """

    spot: CellKey
    command: str
    date: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    validation: Curve = ()
    training: Curve = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""

    @property
    def run_id(self) -> str:
        """The run's id; empty where `missing`."""
        return self.summary.get("run_id", "")

    def to_json(self) -> str:
        """One line of JSON, flat: the spot's keys, the summary's, and the rest."""
        rest = {"command": self.command, "date": self.date, "config": self.config, "extra": self.extra}
        curves = {"validation": self.validation, "training": self.training}
        known = {name: value for name, value in {**rest, **curves, "missing": self.missing}.items() if value}
        return json.dumps({**vars(self.spot), **self.summary, **known})

    @classmethod
    def from_json(cls, text: str) -> "RunRecord":
        """The inverse of `to_json`. Raises DataError for text that is no record."""
        try:
            values = json.loads(text)
            spot = CellKey(**{name: values.pop(name) for name in CellKey.__dataclass_fields__ if name in values})
            own = {name: values.pop(name) for name in cls.__dataclass_fields__ if name in values}
            for name in ("validation", "training"):
                own[name] = tuple((int(step), float(value)) for step, value in own.get(name, ()))
            if not values.get("run_id") and not own.get("missing"):
                raise DataError("no run_id")
            return cls(spot, own.pop("command", ""), own.pop("date", ""), values, **own)
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"not a record of a run: {error}") from error


def record_of(folder: RunFolder, spot: CellKey, command: str, extra: Mapping[str, Any] | None = None) -> RunRecord:
    """The record of a finished run. Raises ConfigError where it is not finished."""
    summary = folder.summary()
    if summary is None:
        raise ConfigError(f"{folder.path}: the run is not finished; give its command again")
    events = folder.events()
    validation = tuple((e["step"], e["metric"]) for e in events if e["event"] == "validation")
    training = tuple((e["step"], e["loss"]) for e in events if e["event"] == "train" and e["loss"] is not None)
    changed = datetime.datetime.fromtimestamp(folder.summary_path.stat().st_mtime, datetime.UTC)
    config = json.loads(folder.config.to_json())
    return RunRecord(spot, command, f"{changed:%Y-%m-%d}", summary, config, validation, training, extra or {})


def append(path: Path, records: Iterable[RunRecord]) -> None:
    """Add records to a results file, whole, whoever else writes there meanwhile. Raises StorageError.

    A kill or a full disk leaves at most one line cut short, which the next `append` ends.
    """
    text = "".join(record.to_json() + "\n" for record in records).encode()
    lock = path.with_name(f".{path.name}.lock")
    with file_lock(lock), storage_errors(path), path.open("a+b", buffering=0) as file:
        # a line that was cut short must not swallow the next one
        if text and file.seek(0, 2) and (file.seek(-1, 2), file.read(1))[1] != b"\n":
            text = b"\n" + text
        while text:  # the system may take a part at a time
            text = text[file.write(text) :]


def read(place: Path) -> tuple[list[RunRecord], list[str]]:
    """Records below `place`, the last one of each run and spot, and what could not be read, in words.

    place  a results file, or a folder of them; a folder of run folders counts as a study of its name
    Raises DataError where there is nothing to read.
    """
    if not place.exists():
        raise DataError(f"{place}: no such file or folder; name a results file, or a folder that holds some")
    files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    found: dict[tuple[CellKey, str], RunRecord] = {}
    faults: list[str] = []
    for file in files:
        for number, line in enumerate(file.read_bytes().splitlines(), start=1):
            try:
                record = RunRecord.from_json(line.decode())
            except (DataError, UnicodeDecodeError) as error:
                faults.append(f"{file.name}, line {number}: left out ({error})")
                continue
            # where a run has been made since, nothing is missing; the place of a line is that of its last version
            found.pop((record.spot, ""), None)
            found.pop((record.spot, record.run_id), None)
            found[record.spot, record.run_id] = record
    if place.is_dir():
        for path in sorted(place.glob(f"*/{CONFIG}")):
            try:
                config = read_config(path.parent)
                folder = RunFolder(place, config)
                if folder.summary() is not None:
                    row = f"{config.backbone}, {config.weights}"
                    spot = CellKey(place.resolve().name, row, config.task, body=config.backbone)
                    found.setdefault((spot, config.run_id), record_of(folder, spot, ""))
            except UserError as error:
                faults.append(str(error))
    if not found:
        detail = f" ({faults[0]})" if faults else ""
        raise DataError(f"{place}: no results here{detail}; `icecore paper` and `icecore grid` write some")
    return list(found.values()), faults
