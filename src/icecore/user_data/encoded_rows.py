"""Encodes new rows with the encoder of a program, in the way its training rows were encoded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icecore.core.errors import DataError
from icecore.core.text import join_names, pluralize
from icecore.tasks.stored_task import Examples
from icecore.user_data.data_encoder import DataEncoder
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.encoders.sequence_encoder import SequenceEncoder
from icecore.user_data.forecast_records import read_new_series, window_records
from icecore.user_data.forecast_windows import Series, Windows
from icecore.user_data.notes import Note
from icecore.user_data.readers.arrays import array_records
from icecore.user_data.readers.series_archives import read_archive
from icecore.user_data.readers.source_files import ReadRequest
from icecore.user_data.readers.source_kinds import read_path
from icecore.user_data.records import FORM_DESCRIPTIONS, Records, SequenceRecords, select_names
from icecore.user_data.user_task import UserTask


@dataclass(frozen=True)
class EncodedRows:
    """N new rows.

    inputs       (N, ...) in the encoder's compact form
    lengths      (N,) tokens of each row; None if all rows have the same number
    names        (N,) file name, id or number of each row
    row_numbers  (N,) number of each row in its source, from 0, where rows that were skipped count too; of a forecast,
                 the number of each window
    targets      (N, 2, k); None if the data have none
    notes        what was filled, cut or skipped
    series       the series of a forecast
    windows      all of their windows; the rows are those that are not for training
    """

    inputs: Tensor
    lengths: Tensor | None
    names: Sequence[str]
    row_numbers: np.ndarray
    targets: Tensor | None = None
    notes: Sequence[Note] = field(default_factory=list)
    series: Sequence[Series] = ()
    windows: Windows | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def task(self, encoder: DataEncoder) -> UserTask:
        """A task whose test split holds these rows; targets are zero if the data have none."""
        targets = self.targets
        if targets is None:
            targets = torch.zeros(len(self), 2, len(encoder.target.names))
        return UserTask(encoder, {"test": Examples(self.inputs, targets, self.lengths)})


def encode(
    encoder: DataEncoder,
    data: Any,
    y: Any = None,
    score: bool = False,
    strict: bool = False,
    check_count: Callable[[int], object] = lambda rows: None,
) -> EncodedRows:
    """Encode new rows.

    data         a path, or arrays as `from_arrays` takes them
    y            targets of arrays, if known
    score        require targets with classes that training rows have; otherwise a note says why rows are not scored
    strict       raise an error for rows and cells that would be skipped and counted, whatever was set for training
    check_count  is called with the number of rows before they are encoded, and may raise an error

    Raises DataError for data that the encoder cannot read.
    """
    settings = replace(encoder.settings, strict=strict)
    if encoder.forecast is not None:
        return _encode_series(encoder, data, settings, check_count)
    if isinstance(data, str | PathLike):
        path = Path(data).expanduser()
        _, records = read_path(path, settings, encoder.types, predicting=True, formats=encoder.formats)
        if _has_labels_first(encoder, records):
            records = read_archive(ReadRequest(path, settings, encoder.types, True, encoder.formats))
        source = str(path)
    else:
        records = array_records(data, y, settings, encoder.types, encoder.formats, predicting=True)
        source = "The arrays"
    if records.form != encoder.form:
        expected, actual = FORM_DESCRIPTIONS[encoder.form], FORM_DESCRIPTIONS[records.form]
        raise DataError(f"{source}: the program expects {expected}, as in training, but the data are {actual}.")
    check_count(len(records))
    encoded = encoder.inputs.encode(records, np.arange(len(records)))
    notes = [*records.notes, *encoded.notes]
    targets = None
    try:
        if records.targets or score:
            targets = _encode_targets(encoder, records, encoded.rows, source)
    except DataError as error:
        if score:
            raise
        notes.append(("not scored", str(error)))
    names = select_names(records.names, encoded.rows)
    row_numbers = encoded.rows if records.row_numbers is None else records.row_numbers[encoded.rows]
    return EncodedRows(encoded.inputs, encoded.lengths, names, row_numbers, targets, notes)


def _has_labels_first(encoder: DataEncoder, records: Records) -> bool:
    """Whether a table without a header has one cell more than the program's series have points: a label before them.

    The files of archives that name their split have one, and so may new ones with other names.
    """
    inputs = encoder.inputs
    if not isinstance(inputs, SequenceEncoder) or not isinstance(records, SequenceRecords) or encoder.settings.values:
        return False
    names = records.source.get("values", ())
    is_long_by_one = int(records.sequences.lengths.max(initial=0)) == inputs.points + 1
    return len(inputs.mean) == 1 and is_long_by_one and tuple(names[:2]) == ("column1", "column2")


def _encode_series(
    encoder: DataEncoder, data: Any, settings: DataSettings, check_count: Callable[[int], object]
) -> EncodedRows:
    """The windows of series after the training ones, and the one before what comes next. Raises DataError."""
    assert encoder.forecast is not None
    if not isinstance(data, str | PathLike):
        raise DataError("A program that forecasts reads series from a file. Save them as a table first.")
    path = Path(data).expanduser()
    series, windows = read_new_series(path, settings, encoder.forecast, encoder.types, encoder.formats)
    shown = windows.select(windows.splits != "train")
    if not len(shown.origin):
        raise DataError(
            f"{data} has nothing to forecast from: no window of {encoder.forecast.context} points is whole."
        )
    check_count(len(shown.origin))
    records = window_records(shown, encoder.forecast, None, [], [])
    encoded = encoder.inputs.encode(records, np.arange(len(records)))
    names = [series[index].name for index in shown.series.tolist()]
    notes = list(encoded.notes)
    H, known = encoder.forecast.horizon, encoder.forecast.known
    if short := [each.name for each in series if each.known is not None and len(each.known) < len(each.times) + H]:
        rows = pluralize(H, "row")
        notes.append(
            ("next", f"{join_names(short, 3)}: not forecast, which takes {rows} with {join_names(known)} more")
        )
    return EncodedRows(encoded.inputs, encoded.lengths, names, encoded.rows, None, notes, series, windows)


def _encode_targets(encoder: DataEncoder, records: Records, rows: np.ndarray, source: str) -> Tensor:
    """Targets (n, 2, k) of the rows (n,). Raises DataError if one has no target."""
    target, named = encoder.target, dict(records.targets)
    for name, column in named.items():
        if encoder.types.get(name) == "number":  # then labels are numbers, however they are written
            named[name] = replace(column, as_written=None)
    columns = [named[name] for name in target.names if name in named]
    if columns and (count := int(np.any([column.is_missing()[rows] for column in columns], 0).sum())):
        raise DataError(
            f"{source}: {count:,} of {pluralize(len(rows), 'row')} have no target, so they cannot be scored."
        )
    return target.encode(named, rows, source)
