"""One's own data as a task: plan what a path or arrays hold, fit an encoder on training rows, encode new rows.

`plan` finds everything out and says it; its encoder, plain JSON, is all that prediction needs. Reading is
files.py's, tokens are codes.py's, targets, loss and metric targets.py's.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icecore.core.errors import DataError
from icecore.core.text import pluralize
from icecore.tasks.task import Examples, StoredTask, TaskDefaults, TaskSpec
from icecore.user_data.encoders.codes import ImageEncoder, InputEncoder, SequenceEncoder, tuples
from icecore.user_data.encoders.stringcode import TextEncoder
from icecore.user_data.encoders.tablecode import TableEncoder
from icecore.user_data.readers.arrays import array_records
from icecore.user_data.readers.registry import read
from icecore.user_data.records import SPLITS, ColumnType, DataSettings, RawRows, listed
from icecore.user_data.targets import TargetEncoder, absent_classes, decide, split_rows

FORMAT = 1
CODES: Mapping[str, type[Any]] = {
    "images": ImageEncoder,
    "table": TableEncoder,
    "sequences": SequenceEncoder,
    "strings": TextEncoder,
}


@dataclass(frozen=True)
class DataEncoder:
    """Everything fitted on training rows: raw rows to tokens, and logits back to predictions.

    form      the row of `CODES` that `inputs` belongs to
    settings  those that reading new data needs, with what was found out filled in
    types     of the columns seen in training, so that new files are read alike
    """

    form: str
    settings: DataSettings
    types: Mapping[str, ColumnType]
    inputs: InputEncoder
    target: TargetEncoder

    @property
    def spec(self) -> TaskSpec:
        """The task's sizes."""
        code = self.inputs
        return TaskSpec(code.kind, code.length, code.token_size, self.target.outputs, code.read_out)

    def to_json(self) -> str:
        """Canonical JSON."""
        parts = {name: dataclasses.asdict(getattr(self, name)) for name in ("settings", "inputs", "target")}
        values = {"format": FORMAT, "form": self.form, "types": dict(self.types), **parts}
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "DataEncoder":
        """The inverse of `to_json`. Raises DataError for text that is not an encoder, or a newer one."""
        try:
            values = json.loads(text)
            if values["format"] > FORMAT:
                raise DataError(
                    f"the encoder has format {values['format']}; this icecore reads up to {FORMAT}: update it"
                )
            return cls(
                values["form"],
                DataSettings(**tuples(values["settings"])),
                values["types"],
                CODES[values["form"]](**tuples(values["inputs"])),
                TargetEncoder(**tuples(values["target"])),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"not an encoder of one's own data: {type(error).__name__} {error}") from error


class UserTask(StoredTask):
    """The task of an encoder: classification or regression, one or several targets, classes perhaps imbalanced.

    Targets are (N, 2, k) float32, see targets.py. Without a test split, the validation split is reported.
    """

    name = "own"
    defaults = TaskDefaults(steps=2000, batch_size=16, lr=1e-3, eval_every=100)

    def __init__(
        self, encoder: DataEncoder, splits: Mapping[str, Examples], data: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__({name: part for name, part in splits.items() if len(part)}, data)
        self.encoder, self.spec = encoder, encoder.spec
        self.metric_name = encoder.target.metric_name
        self.test_splits = ("test",) if "test" in self.splits else ("val",)
        self._tokens: Callable[[Tensor], Tensor] = encoder.inputs.tokenizer(self.device)

    def to(self, device: torch.device) -> "UserTask":
        super().to(device)
        self._tokens = self.encoder.inputs.tokenizer(device)
        return self

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        """Stored inputs to tokens: (N, T, P) float or (N, T) int64."""
        return self._tokens(inputs)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `TargetCode.loss`. logits (N, 1, C), targets (N, 2, k); returns (N,)."""
        return self.encoder.target.loss(logits, targets)

    def metric(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `TargetCode.metric`. logits (N, 1, C), targets (N, 2, k); returns (N,)."""
        return self.encoder.target.metric(logits, targets)


@dataclass(frozen=True)
class Plan:
    """What was found, and what will be done: an encoder, encoded splits, and remarks for people."""

    encoder: DataEncoder
    splits: Mapping[str, Examples]
    source: Mapping[str, Any]
    notes: Sequence[tuple[str, str]]

    def task(self) -> UserTask:
        """The task, its data on the CPU."""
        counts = {name: len(part) for name, part in self.splits.items()}
        return UserTask(self.encoder, self.splits, {**self.source, "counts": counts, "sha256": self.sha256()})

    def sha256(self) -> str:
        """Digest of the encoded rows of all splits: the same data and settings give the same."""
        state = hashlib.sha256()
        for name in SPLITS:
            part = self.splits[name]
            for tensor in (part.inputs, part.targets, part.lengths):
                if tensor is not None:
                    state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                    state.update(tensor.contiguous().numpy().data)
        return state.hexdigest()

    def describe(self) -> list[tuple[str, str]]:
        """The plan as short (what, in words) lines, in the order to show them."""
        spec, source = self.encoder.spec, self.source
        numbers = f"{spec.length} x {spec.size}"
        if spec.kind == "discrete":
            numbers = f"{spec.length}, vocabulary {spec.size:,}"
        elif any(part.lengths is not None for part in self.splits.values()):
            numbers = f"up to {numbers}"
        counts = ", ".join(f"{name} {len(part):,}" for name, part in self.splits.items())
        files = f": {listed(source['files'], 3)}" if source.get("files") else ""
        return [
            ("data", f"{source['format']}{files}"),
            ("rows", self.encoder.inputs.describe()),
            ("tokens", numbers),
            *self.encoder.target.describe(),
            ("splits", counts + ("" if len(self.splits["test"]) else " (reported on val)")),
            *self.notes,
        ]


@dataclass(frozen=True)
class Rows:
    """New rows, encoded. inputs (N, ...), lengths (N,) or None, names (N,), targets (N, 2, k) or None."""

    inputs: Tensor
    lengths: Tensor | None
    names: Sequence[str]
    targets: Tensor | None = None
    notes: Sequence[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.inputs)

    def task(self, encoder: DataEncoder) -> UserTask:
        """A task whose split "test" holds these rows; targets are zero where there are none."""
        targets = self.targets
        if targets is None:
            targets = torch.zeros(len(self), 2, len(encoder.target.names))
        return UserTask(encoder, {"test": Examples(self.inputs, targets, self.lengths)})


def plan(data: str | PathLike[str], settings: DataSettings | None = None) -> Plan:
    """Read the data at a path and find everything out. Raises DataError, ConfigError with what to mend."""
    settings = settings or DataSettings()
    path = Path(data).expanduser()
    kind, records = read(path, settings)
    return _fit(records, replace(settings, kind=kind), str(path))


def from_arrays(X: Any, y: Any, settings: DataSettings | None = None) -> Plan:
    """As `plan`, of arrays in memory.

    X  (N, columns), one token a column (with kind "series": one a point in time); (N, T, V), one token a
       point; a list of N arrays (T,) or (T, V) of any lengths; or a list of N texts
    y  (N,) or (N, targets), numbers or texts
    """
    settings = settings or DataSettings()
    records = replace(array_records(X, y, settings), source={"format": "arrays"})
    return _fit(records, settings if settings.kind != "auto" else replace(settings, kind="array"), "the arrays")


def encode(encoder: DataEncoder, data: Any, y: Any = None, score: bool = False, strict: bool = False) -> Rows:
    """New rows at a path, or arrays as `from_arrays` takes them, as an encoder's inputs.

    Targets are encoded where the data have them. With `score` they must be there, and of classes that
    training had; without, it is a note where they are not. With `strict` what would be skipped and counted
    is refused, whatever was said in training. Raises DataError.
    """
    settings = replace(encoder.settings, strict=strict)
    if isinstance(data, str | PathLike):
        path = Path(data).expanduser()
        _, records = read(path, settings, encoder.types, predicting=True)
        place = str(path)
    else:
        records, place = array_records(data, y, settings), "the arrays"
    if records.form != encoder.form:
        raise DataError(f"{place}: expected {encoder.form}, as in training, found {records.form}")
    encoded = encoder.inputs.encode(records, np.arange(len(records)))
    notes = [*records.notes, *encoded.notes]
    targets = None
    try:
        targets = _targets(encoder.target, records, encoded.kept, place) if records.targets or score else None
    except DataError as error:
        if score:
            raise
        notes.append(("not scored", str(error)))
    names = [str(records.names[row]) for row in encoded.kept.tolist()]
    return Rows(encoded.inputs, encoded.lengths, names, targets, notes)


def _targets(target: TargetEncoder, records: RawRows, rows: np.ndarray, place: str) -> Tensor:
    held = [records.targets[name] for name in target.names if name in records.targets]
    if held and (count := int(np.any([column.missing()[rows] for column in held], 0).sum())):
        raise DataError(f"{place}: {count:,} of {pluralize(len(rows), 'row')} without a target")
    return target.encode(records.targets, rows, place)


def _fit(records: RawRows, settings: DataSettings, place: str) -> Plan:
    """Split, fit code and target on the training rows, encode all rows."""
    notes = list(records.notes)
    missing = np.any([column.missing() for column in records.targets.values()], 0)
    if not records.targets or missing.all():
        raise DataError(f"{place}: no row has a target to learn")
    known = np.flatnonzero(~missing)
    if len(known) < len(records):
        notes.append(("dropped", f"{pluralize(len(records) - len(known), 'row')} without a target"))
    columns = {name: column.rows(known) for name, column in records.targets.items()}
    task, why = decide(columns, settings)
    notes.append(("task", f"{task}, {why}"))
    given = None if records.splits is None else records.splits[known]
    parts = {name: known[rows] for name, rows in split_rows(columns, task, given, settings).items()}
    order = np.concatenate([parts[name] for name in SPLITS])
    code, encoded = CODES[records.form].fit(records, order, len(parts["train"]), settings)
    ends = np.searchsorted(encoded.kept, np.cumsum([len(parts[name]) for name in SPLITS]))
    rows = dict(zip(SPLITS, np.split(order[encoded.kept], ends[:-1]), strict=True))
    target = TargetEncoder.fit(records.targets, task, rows["train"])
    splits: dict[str, Examples] = {}
    for name, first, last in zip(SPLITS, [0, *ends], ends, strict=False):
        lengths = None if encoded.lengths is None else encoded.lengths[first:last]
        targets = target.encode(records.targets, rows[name], f"{place} ({name})")
        splits[name] = Examples(encoded.inputs[first:last], targets, lengths)
        if len(targets) and (absent := absent_classes(target, targets)):
            notes.append((name, f"has no row of: {listed(absent)}"))
    source = {key: records.source[key] for key in ("format", "files") if key in records.source}
    return Plan(_encoder(records, settings, task, code, target), splits, source, [*notes, *encoded.notes])


def _encoder(
    records: RawRows, settings: DataSettings, task: Any, code: InputEncoder, target: TargetEncoder
) -> DataEncoder:
    found = {key: records.source[key] for key in ("column", "values") if key in records.source}
    settings = replace(settings, task=task, target=target.names, **found)
    types: dict[str, ColumnType] = {name: column.type for name, column in records.targets.items()}
    if isinstance(code, TableEncoder):
        types |= {column.name: column.type for column in code.columns}
    if settings.column is not None:
        types[settings.column] = "text"
    return DataEncoder(records.form, settings, types, code, target)
