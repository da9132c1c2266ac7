"""Predict: programs for one's own data on new rows, several programs of one body in one pass."""

import csv
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icecore import user_data as own
from icecore.core.device import select_runtime
from icecore.core.errors import DataError
from icecore.core.storage import write_atomic
from icecore.experiments import sweep
from icecore.inference.engine import Engine
from icecore.model.program import Program

#: rows that go to the body at once
ROWS = 1024


@dataclass(frozen=True)
class Predictions:
    """What one program says of N rows.

    names    of the rows
    columns  one a target: labels or numbers (N,), and for classes the probability (N,) of the one predicted
    score    metric over the rows, where the data have targets
    notes    what a reader should know, (what, in words)
    spreads  of columns of numbers: the training rows' deviation; 0 for labels that are numbers, written in full
    """

    names: Sequence[str]
    columns: Mapping[str, np.ndarray]
    metric_name: str
    score: float | None = None
    notes: Sequence[tuple[str, str]] = ()
    spreads: Mapping[str, float] = field(default_factory=dict)

    def to_csv(self) -> str:
        """A table with a header, one line a row."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["row", *self.columns])
        spreads = [self.spreads.get(name) for name in self.columns]
        for name, *values in zip(self.names, *self.columns.values(), strict=True):
            writer.writerow([name, *(_written(v, spread) for v, spread in zip(values, spreads, strict=True))])
        return text.getvalue()

    def save(self, path: Path) -> None:
        """Write the table. Raises StorageError."""
        write_atomic(path, lambda temporary: temporary.write_text(self.to_csv(), encoding="utf-8"))


def _written(value: Any, spread: float | None) -> Any:
    """A cell: six digits of a number, and so many more as tell it from others that are `spread` about it."""
    if not isinstance(value, float | np.floating):
        return value
    digits = 6 if spread != 0 else math.inf
    if spread and value and math.isfinite(value):
        digits = max(digits, 7 + math.floor(math.log10(abs(value))) - math.floor(math.log10(spread)))
    return f"{value:.{digits}g}" if digits <= 15 else repr(float(value))


def encoder_of(program: Program, path: Path) -> own.DataEncoder:
    """How a program reads one's own data. Raises DataError for programs of built-in tasks."""
    text = program.extra.get("encoder")
    if text is None:
        raise DataError(
            f"{path}: a program for {program.config.task}, not for one's own data; score it with icecore eval"
        )
    return own.DataEncoder.from_json(text)


def predict(
    paths: Sequence[Path], data: Any, device: str = "auto", score: bool = False, strict: bool = False
) -> dict[Path, Predictions]:
    """What each program file says of the rows of `data`, by file. Programs of one body share its passes.

    score   refuse data without targets, or of classes that training had not
    strict  refuse what would be skipped and counted

    Raises DataError for data that a program cannot read, WeightsError for a program of a body that is not here.
    """
    programs = {path: Program.load(path) for path in paths}
    encoders = {path: encoder_of(program, path) for path, program in programs.items()}
    rows = {path: own.encode(encoder, data, score=score, strict=strict) for path, encoder in encoders.items()}
    found: dict[Path, list[Tensor]] = {path: [] for path in paths}
    bodies: dict[tuple[Any, ...], list[Path]] = {}
    for path, program in programs.items():
        bodies.setdefault(program.config.body, []).append(path)
    for shared in bodies.values():
        config = programs[shared[0]].config
        runtime = select_runtime(device, config.precision)
        engine = Engine(sweep.load_body(config).to(runtime.device), runtime.precision)
        for path in shared:
            engine.add(programs[path], str(path))
        # a few at a time: tokens are many times larger than the rows
        asked = ((path, row) for path in shared for row in _tokens(encoders[path], rows[path]))
        while part := list(itertools.islice(asked, ROWS)):
            logits = engine.predict([row for _, row in part], [str(path) for path, _ in part])
            for path, group in itertools.groupby(zip(part, logits, strict=True), lambda each: each[0][0]):
                found[path].append(torch.stack([row for _, row in group]).cpu())
    return {path: _predictions(encoders[path], rows[path], torch.cat(found[path])) for path in paths}


def _tokens(encoder: own.DataEncoder, rows: own.Rows) -> Iterator[Tensor]:
    """The tokens of each row, without padding."""
    for batch in rows.task(encoder).batches("test", ROWS):
        ends = [batch.tokens.shape[1]] * len(batch) if batch.lengths is None else batch.lengths.tolist()
        yield from (tokens[:end] for tokens, end in zip(batch.tokens, ends, strict=True))


def _predictions(encoder: own.DataEncoder, rows: own.Rows, logits: Tensor) -> Predictions:
    """Logits (N, 1, C) as labels or numbers."""
    target = encoder.target
    columns: dict[str, np.ndarray] = dict(zip(target.names, target.predict(logits), strict=True))
    if target.task == "classification":
        for name, chance, index in zip(target.names, target.probabilities(logits), target.chosen(logits), strict=True):
            columns[f"{name} probability"] = chance.gather(1, index[:, None])[:, 0].numpy()
    spreads = dict(zip(target.names, target.std or [0.0] * len(target.names), strict=True))
    metric = None if rows.targets is None else float(target.metric(logits, rows.targets).double().mean())
    return Predictions(rows.names, columns, target.metric_name, metric, rows.notes, spreads)
