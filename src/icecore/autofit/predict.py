"""Predict new rows of your own data with program files; several programs of one body share its passes."""

import csv
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from icecore import user_data
from icecore.autofit.forecasts import Measures, SeriesForecast, decode_forecast, measure_notes, time_texts
from icecore.autofit.row_digests import notes_on_training_rows
from icecore.backbones import HubAccess, build_body_of
from icecore.core.device import select_runtime
from icecore.core.errors import DataError
from icecore.core.storage import write_atomic
from icecore.core.text import shortened
from icecore.inference.engine import Engine
from icecore.model.program import Program
from icecore.user_data.forecast_windows import ForecastPlan

#: rows that are given to the engine at once, because their tokens are many times larger than the rows
ROWS_PER_PASS = 1024
#: columns of the range of a forecast
LOW, HIGH = "low (10%)", "high (90%)"


@dataclass(frozen=True)
class Predictions:
    """The predictions of one program for N rows.

    names      (N,) names of the rows
    columns    by name: labels or numbers (N,) of each target, and, for classes, their probabilities (N,)
    score      mean metric over the rows, if the data have targets
    notes      remarks for the user, each a subject and a text
    spreads    standard deviation of each numeric target in training, which decides how many digits are written; 0 if
               the target is a label that happens to be a number, which is written in full
    forecasts  the forecast of each series, for a plot
    measures   how good the forecasts of the program and its controls are on the latest origins
    """

    names: Sequence[str]
    columns: Mapping[str, np.ndarray]
    metric_name: str
    score: float | None = None
    notes: Sequence[tuple[str, str]] = ()
    spreads: Mapping[str, float] = field(default_factory=dict)
    forecasts: Sequence[SeriesForecast] = ()
    measures: Mapping[str, Measures] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def to_csv(self) -> str:
        """A table with a header and one line for each row. Texts that begin like a formula get an apostrophe."""
        text = io.StringIO()
        self._write_csv(text)
        return text.getvalue()

    def save(self, path: str | PathLike[str]) -> None:
        """Write the table as a CSV file, row by row. Raises StorageError."""

        def write(temporary: Path) -> None:
            with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
                self._write_csv(file)

        write_atomic(Path(path).expanduser(), write)

    def _write_csv(self, file: IO[str]) -> None:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["row", *map(_not_a_formula, self.columns)])
        spreads = [self.spreads.get(name) for name in self.columns]
        for name, *values in zip(self.names, *self.columns.values(), strict=True):
            cells = [_format_cell(value, spread) for value, spread in zip(values, spreads, strict=True)]
            writer.writerow([_not_a_formula(name), *map(_not_a_formula, cells)])


def _not_a_formula(cell: Any) -> Any:
    """The cell, with an apostrophe before a text that a spreadsheet would take for a formula and run."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def _format_cell(value: Any, spread: float | None) -> Any:
    """Format a number with six digits, or with more if rows that differ by `spread` would look alike otherwise."""
    if not isinstance(value, float | np.floating):
        return value
    digits = 6 if spread != 0 else math.inf
    if spread and value and math.isfinite(value):
        digits = max(digits, 7 + math.floor(math.log10(abs(value))) - math.floor(math.log10(spread)))
    return f"{value:.{digits}g}" if digits <= 15 else repr(float(value))


def read_encoder(program: Program, path: Path) -> user_data.DataEncoder:
    """The encoder with which a program reads your own data. Raises DataError for a program of a built-in task."""
    text = program.extra.get("encoder")
    if text is None:
        raise DataError(
            f"{path} is a program for the built-in task {program.config.task}, which cannot read your own data. "
            "Score its run folder with `icecore eval`."
        )
    if not isinstance(text, str):
        raise DataError(f"{path} has no data encoder where it should be, but {shortened(text)}. Fit the program again.")
    try:
        encoder = user_data.DataEncoder.from_json(text)
    except DataError as error:
        raise DataError(f"{path} cannot be used on your own data. {error}") from error
    if encoder.spec != program.spec:
        raise DataError(f"{path} makes tokens of other sizes than its tensors read, so it is damaged. Copy it again.")
    return encoder


def predict(
    paths: Sequence[Path],
    data: Any,
    device: str = "auto",
    score: bool = False,
    strict: bool = False,
    hub: HubAccess = "off",
) -> dict[Path, Predictions]:
    """Predict the rows of `data` with each program file. Programs of one body share its passes.

    score   raise DataError if the data have no targets, or classes that were not in training
    strict  raise DataError for damaged rows, which are skipped and counted otherwise
    hub     whether a body that is not on this machine may be fetched, because program files may be somebody else's

    Raises DataError if a program cannot read the data, and WeightsError if the body of a program is missing.
    """
    programs = {path: Program.load(path) for path in paths}
    encoders = {path: read_encoder(program, path) for path, program in programs.items()}
    rows = {path: user_data.encode(encoder, data, score=score, strict=strict) for path, encoder in encoders.items()}
    logits: dict[Path, list[Tensor]] = {path: [] for path in paths}
    paths_by_body: dict[tuple[Any, ...], list[Path]] = {}
    for path, program in programs.items():
        # a program answers as alone, so those of other precisions have passes of their own
        paths_by_body.setdefault((*program.config.body, program.config.precision), []).append(path)
    for body_paths in paths_by_body.values():
        engine = _build_engine({str(path): programs[path] for path in body_paths}, device, hub)
        # the tokens of one pass after the other
        tokens = ((path, row) for path in body_paths for row in _iterate_tokens(encoders[path], rows[path]))
        while part := list(itertools.islice(tokens, ROWS_PER_PASS)):
            outputs = engine.predict([row for _, row in part], [str(path) for path, _ in part])
            for path, group in itertools.groupby(zip(part, outputs, strict=True), lambda pair: pair[0][0]):
                logits[path].append(torch.stack([row_logits for _, row_logits in group]).cpu())
    for path, program in programs.items():
        notes = [*rows[path].notes, *notes_on_training_rows(program, rows[path])]
        rows[path] = replace(rows[path], notes=notes)
    return {path: _decode(encoders[path], rows[path], torch.cat(logits[path])) for path in paths}


def _build_engine(programs: Mapping[str, Program], device: str, hub: HubAccess) -> Engine:
    """An engine that holds programs of one body by name."""
    config = next(iter(programs.values())).config
    runtime = select_runtime(device, config.precision)
    engine = Engine(build_body_of(config, hub).to(runtime.device), runtime.precision)
    for name, program in programs.items():
        engine.add(program, name)
    return engine


def _iterate_tokens(encoder: user_data.DataEncoder, rows: user_data.EncodedRows) -> Iterator[Tensor]:
    """The tokens of each row, without padding."""
    for batch in rows.task(encoder).batches("test", ROWS_PER_PASS):
        lengths = batch.row_lengths()
        yield from (tokens[:length] for tokens, length in zip(batch.tokens, lengths, strict=True))


def _decode(encoder: user_data.DataEncoder, rows: user_data.EncodedRows, logits: Tensor) -> Predictions:
    """Turn logits (N, 1, C) into labels or numbers."""
    target = encoder.target
    if encoder.forecast is not None:
        return decode_series(encoder, encoder.forecast, rows, logits)
    columns: dict[str, np.ndarray] = dict(zip(target.names, target.predict(logits), strict=True))
    if target.task == "classification":
        probabilities = zip(target.names, target.probabilities(logits), target.class_indices(logits), strict=True)
        for name, by_class, chosen in probabilities:  # (N, C) and (N,)
            columns[f"{name} probability"] = by_class.gather(1, chosen[:, None])[:, 0].numpy()
    for name, values in columns.items():
        is_label = target.task == "classification" and name in target.names
        if not is_label and not np.isfinite(values).all():
            raise DataError(f"The program gives values of {name!r} that are not finite numbers. Train it again.")
    spreads = dict(zip(target.names, target.std or [0.0] * len(target.names), strict=True))
    score = None if rows.targets is None else float(target.metric(logits, rows.targets).double().mean())
    notes = [*rows.notes, *target.describe_choice()]
    return Predictions(rows.names, columns, target.metric_name, score, notes, spreads)


def decode_series(
    encoder: user_data.DataEncoder, plan: ForecastPlan, rows: user_data.EncodedRows, logits: Tensor
) -> Predictions:
    """The forecasts as a table: series, time, value, and the range of four cases out of five.

    logits  (N, 1, H) of the windows of `rows`

    Raises DataError for values that are not finite.
    """
    forecasts, measures = decode_forecast(encoder, rows, logits)
    if not np.isfinite([each.forecast for each in forecasts]).all():
        raise DataError(f"The program gives values of {plan.target!r} that are not finite numbers. Train it again.")
    texts = [time_texts(each.next_times, plan.has_dates) for each in forecasts]
    nothing = np.empty(0)  # if no series has all that must be known in advance
    columns = {
        "time": np.array([text for part in texts for text in part]),
        plan.target: np.concatenate([nothing, *(each.forecast for each in forecasts)]),
        LOW: np.concatenate([nothing, *(each.low for each in forecasts)]),
        HIGH: np.concatenate([nothing, *(each.high for each in forecasts)]),
    }
    names = [each.name for each in forecasts for _ in range(plan.horizon)]
    notes = [*rows.notes, *measure_notes(measures, plan.horizon)]
    return Predictions(names, columns, "mase", None, notes, {}, forecasts, measures)
