"""Programs that forecast series: a row is a whole series, and the answer has the values that come next.

A row of JSON is written as a table and read as `icecore predict` reads one, so both cut the same windows and give the
same forecasts, with the same range and measures from the latest origins.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icecore.autofit.predict import HIGH, LOW, decode_series
from icecore.core.errors import DataError
from icecore.core.text import join_names, pluralize, shortened
from icecore.model.program import Program
from icecore.serving.json_cells import CELLS
from icecore.serving.own_data_codec import OwnDataCodec
from icecore.serving.program_codec import PredictedRows
from icecore.serving.request_rows import RequestRows, RowProblem
from icecore.serving.uploads import accepted_types, read_upload
from icecore.user_data.columns import ColumnType
from icecore.user_data.data_encoder import DataEncoder
from icecore.user_data.forecast_windows import ForecastPlan

#: what a program that forecasts is, among the forms of encoders
FORECAST = "forecast"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: the cells of one series by column, all of one length
_Cells = Mapping[str, Sequence[Any]]


class ForecastCodec(OwnDataCodec):
    """Reads series, and answers with the forecast of each: H entries for a row, one for each time."""

    is_slow = True  # the forecasts are compared with those of other methods
    can_explain = False

    def __init__(self, encoder: DataEncoder, program: Program) -> None:
        super().__init__(encoder, program)
        assert encoder.forecast is not None
        self.plan: ForecastPlan = encoder.forecast

    @property
    def media_types(self) -> list[str]:
        return accepted_types(FORECAST)

    def read_json(self, rows: Sequence[Any], check_count: Callable[[int], object]) -> RequestRows:
        columns = _columns(self.encoder, self.plan)
        label = self.plan.series or _unused_name("series", columns)
        series: dict[str, tuple[int, _Cells]] = {}
        problems: list[RowProblem] = []
        for place, row in enumerate(rows):
            try:
                name, cells = _read_series(row, place, label, self.plan, columns)
                if name in series:
                    raise ValueError(f"a row before it is of the series {name!r} too. Join them, or rename one.")
                series[name] = (place, cells)
            except _CellError as error:
                problems.append(RowProblem(place, str(error), error.column))
            except ValueError as error:
                problems.append(RowProblem(place, str(error)))
        if not series:
            return RequestRows(torch.empty(0), None, np.arange(0), [], len(rows), problems)
        # without a column of series, the only one has the name of the target, as in a table
        is_labelled = self.plan.series is not None or len(rows) > 1
        table = _write_table(
            {name: cells for name, (_, cells) in series.items()}, label if is_labelled else None, columns
        )
        plan = replace(self.plan, series=label if is_labelled else None)
        reading = replace(self.encoder, forecast=plan, formats={}, types={**columns, label: "text"})
        read = read_upload(reading, table, "text/csv", strict=True, check_count=check_count, form=FORECAST)
        places = [series[name][0] if is_labelled else 0 for name in read.names]
        return replace(read, places=np.array(places, np.int64), total=len(rows), problems=problems)

    def read_file(self, raw: bytes, media_type: str, strict: bool, check_count: Callable[[int], object]) -> RequestRows:
        read = read_upload(self.encoder, raw, media_type, strict, check_count, form=FORECAST)
        assert read.encoded is not None
        order = {series.name: place for place, series in enumerate(read.encoded.series)}
        places = np.array([order[name] for name in read.names], np.int64)
        return replace(read, places=places, total=len(order))

    def predictions(self, rows: RequestRows, answered: Sequence[int], logits: Tensor, top: int) -> PredictedRows:
        """An entry for each time of each series: its value, and the range of four cases out of five."""
        if len(answered) < len(rows):
            raise DataError("The program gives no finite numbers for some of the windows. Train it again.")
        assert rows.encoded is not None
        decoded = decode_series(self.encoder, self.plan, rows.encoded, logits)
        place_of = dict(zip(rows.names, rows.places.tolist(), strict=True))
        columns = [decoded.columns[name].tolist() for name in ("time", self.plan.target, LOW, HIGH)]
        entries = [
            {
                "row": place_of[name],
                "name": name,
                "time": time,
                "targets": {self.plan.target: {"value": value, "low": low, "high": high}},
            }
            for name, time, value, low, high in zip(decoded.names, *columns, strict=True)
        ]
        return PredictedRows(entries, decoded.notes)

    def targets(self) -> list[dict[str, Any]]:
        return [{"name": self.plan.target, "spread": None}]

    def describe(self) -> dict[str, Any]:
        plan = self.plan
        columns = _columns(self.encoder, plan)
        return {
            "form": FORECAST,
            "task": "regression",
            "targets": [{"name": plan.target, "horizon": plan.horizon}],
            "inputs": {
                "columns": [{"name": name, "type": kind} for name, kind in columns.items()],
                "series": plan.series,
                "points": plan.context,
                "season": plan.season,
            },
            "summary": f"its last {pluralize(plan.context, 'point')}"
            + (f" and {join_names(plan.values)}" if plan.values else "")
            + (f", with {join_names(plan.known)} in advance" if plan.known else ""),
            "metric": self.encoder.target.metric_name,
            "example": _example_series(plan, columns),
        }


class _CellError(ValueError):
    """What is wrong with a column of a series."""

    def __init__(self, column: str, message: str) -> None:
        super().__init__(message)
        self.column = column


def _columns(encoder: DataEncoder, plan: ForecastPlan) -> dict[str, ColumnType]:
    """The types of the columns that a series needs, by name."""
    names = (*([plan.time] if plan.time else []), plan.target, *plan.values, *plan.known)
    return {name: encoder.types.get(name, "number") for name in names}


def _unused_name(name: str, taken: Mapping[str, Any]) -> str:
    while name in taken:
        name += "_"
    return name


def _read_series(
    row: Any, place: int, label: str, plan: ForecastPlan, columns: Mapping[str, ColumnType]
) -> tuple[str, _Cells]:
    """The name of a series and its cells as a plain table has them. Raises ValueError with the reason."""
    if isinstance(row, list) and set(columns) == {plan.target}:
        row = {plan.target: row}
    if not isinstance(row, dict):
        raise ValueError(
            f"it must be an object with the values of {join_names(list(columns))} in order of time, each as a list, "
            f"but is {shortened(row)}. A table is sent as a file."
        )
    name = row.get(label, f"series {place}")
    if not isinstance(name, str | int) or str(name).strip() != str(name) or not str(name):
        raise _CellError(label, f"it must be the name of the series, but is {shortened(name)}.")
    cells: dict[str, Sequence[Any]] = {}
    for column, kind in columns.items():
        if column not in row:
            raise _CellError(column, "it is missing. Give its values in order of time.")
        if not isinstance(row[column], list):
            found = shortened(row[column])
            raise _CellError(column, f"it must be a list of its values in order of time, but is {found}.")
        try:
            cells[column] = [_plain_cell(CELLS[kind](cell, ""), kind) for cell in row[column]]
        except ValueError as error:
            raise _CellError(column, str(error)) from None
    if len({len(values) for values in cells.values()}) > 1:
        raise ValueError(f"{join_names(list(cells))} must be lists of one length, with null for what is not known.")
    return str(name), cells


def _plain_cell(value: float, kind: ColumnType) -> str:
    """A number or a date as every reader of tables takes it; nothing if it is missing."""
    if np.isnan(value):
        return ""
    return (_EPOCH + timedelta(seconds=value)).replace(tzinfo=None).isoformat() if kind == "date" else repr(value)


def _write_table(series: Mapping[str, _Cells], label: str | None, columns: Mapping[str, Any]) -> bytes:
    """All series below each other as CSV, with their names in the column `label` if there is one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*([label] if label else []), *columns])
    for name, cells in series.items():
        for line in zip(*cells.values(), strict=True):
            writer.writerow([*([name] if label else []), *line])
    return text.getvalue().encode()


def _example_series(plan: ForecastPlan, columns: Mapping[str, ColumnType]) -> dict[str, Any]:
    """The shortest series that can be forecast."""
    L, known = plan.context, plan.horizon if plan.known else 0
    values: dict[str, list[Any]] = {
        name: [float(t % max(plan.season, 2)) for t in range(L + known)] for name in columns if name != plan.time
    }
    for name in (plan.target, *plan.values):  # what comes next is not known of these
        values[name][L:] = [None] * known
    if plan.time is not None:
        days = [(_EPOCH + timedelta(days=t)).date().isoformat() for t in range(L + known)]
        values[plan.time] = days if columns[plan.time] == "date" else list(range(L + known))
    ordered: dict[str, Any] = {name: values[name] for name in columns}
    return {plan.series: "example", **ordered} if plan.series else ordered
