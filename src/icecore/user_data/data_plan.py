"""Infers everything about a user's data and encodes it: a plan that can be shown, and turned into a task.

`plan` reads a path and `from_arrays` takes arrays. The plan's encoder is all that prediction needs later.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from icecore.core.errors import ConfigError, DataError
from icecore.core.text import join_names, pluralize
from icecore.tasks.stored_task import Examples
from icecore.user_data.columns import ColumnType
from icecore.user_data.data_encoder import INPUT_ENCODERS, DataEncoder
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.encoders.input_encoder import InputEncoder
from icecore.user_data.encoders.table_encoder import TableEncoder
from icecore.user_data.forecast_records import forecast_records
from icecore.user_data.groups import Groups, find_groups, shared_groups
from icecore.user_data.notes import Note
from icecore.user_data.readers.arrays import array_records
from icecore.user_data.readers.source_kinds import read_path
from icecore.user_data.records import Records
from icecore.user_data.split_names import SPLITS
from icecore.user_data.splits import split_rows
from icecore.user_data.targets import TargetEncoder, weighted_targets
from icecore.user_data.task_type import TaskType, decide_task
from icecore.user_data.user_task import UserTask


@dataclass(frozen=True)
class Plan:
    """What was inferred from the data: an encoder, the encoded splits, and notes for the user.

    source  what was read: format, and files if there are any
    """

    encoder: DataEncoder
    splits: Mapping[str, Examples]
    source: Mapping[str, Any]
    notes: Sequence[Note]

    def task(self) -> UserTask:
        """The task, with its data on the CPU."""
        counts = {name: len(part) for name, part in self.splits.items()}
        return UserTask(self.encoder, self.splits, {**self.source, "counts": counts, "sha256": self.sha256()})

    def sha256(self) -> str:
        """Digest of the encoded rows of all splits, equal for equal data and settings."""
        state = hashlib.sha256()
        for name in SPLITS:
            part = self.splits[name]
            for tensor in (part.inputs, part.targets, part.lengths):
                if tensor is not None:
                    state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                    state.update(tensor.contiguous().numpy().data)
        return state.hexdigest()

    def describe(self) -> list[Note]:
        """The plan as short (topic, message) lines, in the order to show them."""
        spec, source = self.encoder.spec, self.source
        tokens = f"{spec.length} x {spec.size}"
        if spec.kind == "discrete":
            tokens = f"{spec.length}, vocabulary {spec.size:,}"
        elif any(part.lengths is not None for part in self.splits.values()):
            tokens = f"up to {tokens}"
        counts = ", ".join(f"{name} {len(part):,}" for name, part in self.splits.items())
        files = f": {join_names(source['files'], 3)}" if source.get("files") else ""
        return [
            ("data", f"{source['format']}{files}"),
            ("rows", self.encoder.inputs.describe()),
            ("tokens", tokens),
            *self.encoder.target.describe(),
            ("splits", counts + ("" if len(self.splits["test"]) else " (the score is that of val)")),
            *self.notes,
        ]


def plan(data: str | PathLike[str], settings: DataSettings | None = None, *, balance: bool = True) -> Plan:
    """Read the data at a path and infer everything about it that the settings leave open.

    balance  imbalanced classes count the same in the metric and the loss

    Raises DataError or ConfigError with what to correct.
    """
    settings = settings or DataSettings()
    path = Path(data).expanduser()
    if settings.task == "forecast":
        records, forecast = forecast_records(path, settings)
        settings = replace(settings, task="regression", target=(), values=forecast.values, horizon=forecast.horizon)
        forecast_plan = _make_plan(records, replace(settings, kind="series"), str(path))
        return replace(forecast_plan, encoder=replace(forecast_plan.encoder, forecast=forecast))
    kind, records = read_path(path, settings)
    return _make_plan(records, replace(settings, kind=kind), str(path), balance=balance)


def from_arrays(
    X: Any, y: Any, settings: DataSettings | None = None, *, weights: np.ndarray | None = None, balance: bool = True
) -> Plan:
    """As `plan`, for arrays in memory.

    X  (N, columns), one token per column, or one per point in time if the kind is "series"; (N, T, V), one token per
       point; images (N, H, W, C); a list of N arrays (T,) or (T, V) of any lengths; a list of N texts; a data frame of
       pandas, polars or Arrow, or a mapping of names to columns
    y  (N,) or (N, targets), numbers or texts; None if the settings name a column of a data frame as the target
    weights  (N,) weight of each row in the loss and the metric
    balance  imbalanced classes count the same in the metric and the loss

    Raises DataError or ConfigError with what to correct.
    """
    settings = settings or DataSettings()
    records = array_records(X, y, settings)
    records = replace(records, source={**records.source, "format": "arrays"})
    settings = settings if settings.kind != "auto" else replace(settings, kind="array")
    return _make_plan(records, settings, "The arrays", weights, balance)


def _make_plan(
    records: Records,
    settings: DataSettings,
    source_name: str,
    weights: np.ndarray | None = None,
    balance: bool = True,
) -> Plan:
    """Split the rows, fit encoder and targets on the training rows, and encode all rows."""
    notes = list(records.notes)
    rows_with_target = _rows_with_target(records, source_name)
    columns = {name: column.select(rows_with_target) for name, column in records.targets.items()}
    task, reason = decide_task(columns, settings)
    if task == "classification":
        records, label_notes = _with_written_labels(records)
        notes += label_notes
        rows_with_target = _rows_with_target(records, source_name)
        columns = {name: column.select(rows_with_target) for name, column in records.targets.items()}
    notes += _notes_on_missing(records, rows_with_target)
    notes.append(("task", f"{task}, {reason}"))
    given = None if records.splits is None else records.splits[rows_with_target]
    if settings.group is not None and records.groups is None:
        raise ConfigError(
            f"group: {source_name} is no table, so it has no column {settings.group!r}. Leave out --group."
        )
    groups = find_groups(records) if settings.horizon is None else Groups(None, records, [])
    notes += groups.notes
    records = groups.records
    codes = None if groups.codes is None else groups.codes[rows_with_target]
    parts = split_rows(columns, task, given, settings, codes)
    notes += shared_groups(parts, codes)
    parts = {name: rows_with_target[rows] for name, rows in parts.items()}
    order = np.concatenate([parts[name] for name in SPLITS])
    inputs, encoded = INPUT_ENCODERS[records.form].fit(records, order, len(parts["train"]), settings)
    # unreadable rows are gone, so the splits end earlier
    ends = np.searchsorted(encoded.rows, np.cumsum([len(parts[name]) for name in SPLITS]))
    rows = dict(zip(SPLITS, np.split(order[encoded.rows], ends[:-1]), strict=True))
    target = TargetEncoder.fit(records.targets, task, rows["train"], balance)
    splits: dict[str, Examples] = {}
    for name, first, last in zip(SPLITS, [0, *ends], ends, strict=False):
        lengths = None if encoded.lengths is None else encoded.lengths[first:last]
        targets = target.encode(records.targets, rows[name], f"{source_name} ({name})")
        if weights is not None:
            targets = weighted_targets(targets, weights[rows[name]])
        splits[name] = Examples(encoded.inputs[first:last], targets, lengths)
        if len(targets) and (absent := target.absent_classes(targets)):
            notes.append((name, f"no rows of: {join_names(absent)}"))
    source = {key: records.source[key] for key in ("format", "files") if key in records.source}
    return Plan(_make_encoder(records, settings, task, inputs, target), splits, source, [*notes, *encoded.notes])


def _with_written_labels(records: Records) -> tuple[Records, list[Note]]:
    """The records with classes as they were written, where numbers would change or merge them; also a note of these."""
    written = {name: column.as_written for name, column in records.targets.items() if column.as_written is not None}
    if not written:
        return records, []
    examples: list[str] = []
    for name, labels in written.items():
        # a number that is written in two ways explains more than one that is written in an unusual way
        numbers = records.targets[name].values
        by_number: dict[float, str] = {}
        pair = ""
        for row in np.unique(labels.values, return_index=True)[1]:
            text = labels.distinct_texts[labels.values[row]] if labels.values[row] >= 0 else ""
            first = by_number.setdefault(float(numbers[row]), text)
            if text and first and first != text and not pair:
                pair = f"{first!r} and {text!r}"
        examples.append(f"{name}, such as {pair or repr(labels.distinct_texts[0])}")
    return replace(records, targets={**records.targets, **written}), [
        ("labels", f"the classes are texts, as they are written: {join_names(examples)} (--task regression: numbers)")
    ]


def _rows_with_target(records: Records, source_name: str) -> np.ndarray:
    """Indices (n,) of the rows whose targets are all present. Raises DataError if there are none."""
    is_missing = np.any([column.is_missing() for column in records.targets.values()], 0)
    if not records.targets or is_missing.all():
        raise DataError(f"{source_name}: no row has a target, so there is nothing to learn. Provide targets.")
    return np.flatnonzero(~is_missing)


def _notes_on_missing(records: Records, rows_with_target: np.ndarray) -> list[Note]:
    """Notes of rows that have no target, or one that is infinite."""
    notes: list[Note] = []
    for name, column in records.targets.items():
        if column.type == "number" and (count := int(np.isinf(column.values).sum())):
            notes.append(("infinite", f"{pluralize(count, 'row')} where {name} is infinite, so they have no target"))
    if missing := len(records) - len(rows_with_target):
        notes.append(("dropped", f"{pluralize(missing, 'row')} without a target"))
    return notes


def _make_encoder(
    records: Records, settings: DataSettings, task: TaskType, inputs: InputEncoder[Any], target: TargetEncoder
) -> DataEncoder:
    """The encoder, its settings completed by what was inferred."""
    inferred = {key: records.source[key] for key in ("column", "values", "axes") if key in records.source}
    settings = replace(settings, task=task, target=target.names, **inferred)
    types: dict[str, ColumnType] = {name: column.type for name, column in records.targets.items()}
    if isinstance(inputs, TableEncoder):
        types |= {column.name: column.type for column in inputs.columns}
    if settings.column is not None:
        types[settings.column] = "text"
    types |= records.source.get("types", {})
    formats = {name: form for name, form in records.source.get("formats", {}).items() if name in types}
    return DataEncoder(records.form, settings, types, inputs, target, formats)
