"""Rows of JSON as a person has them, for programs of your own data: one function for each form of records.

Every row is checked by itself, so that an answer can say which rows and columns are wrong.
"""

import base64
import binascii
import difflib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from icecore.core.limits import UnpackedSizeError
from icecore.core.text import join_names, shortened
from icecore.serving.json_cells import CELLS, float_array
from icecore.serving.request_rows import RequestRows, RowProblem
from icecore.user_data.columns import Column
from icecore.user_data.data_encoder import DataEncoder
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.encoders.image_encoder import ImageEncoder
from icecore.user_data.encoders.input_encoder import EncodedInputs
from icecore.user_data.encoders.sequence_encoder import SequenceEncoder
from icecore.user_data.encoders.table_encoder import TableEncoder
from icecore.user_data.image_decoding import to_pixels
from icecore.user_data.records import SequenceRecords, TableRecords, TextRecords
from icecore.user_data.sequences import Sequences

#: an image as a text: Base64, perhaps as a data URL
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
#: names of the columns of arrays
_ARRAY_COLUMN = re.compile(r"x(\d+)")


class _Reading:
    """Collects the rows that could be read, and the problems of the others."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.places: list[int] = []
        self.problems: list[RowProblem] = []

    def add(self, place: int, read: Callable[[], Any]) -> None:
        """Keep what `read` returns, or the reason of its ValueError."""
        try:
            value = read()
        except ValueError as error:
            self.problems.append(RowProblem(place, str(error)))
        else:
            self.values.append(value)
            self.places.append(place)

    def finish(self, encode: Callable[[list[Any]], EncodedInputs], total: int) -> RequestRows:
        """Encode the rows that could be read, all of which `encode` must keep."""
        names = [str(place) for place in self.places]
        places = np.array(self.places, np.int64)
        if not self.values:
            return RequestRows(torch.empty(0), None, places, names, total, self.problems)
        encoded = encode(self.values)
        return RequestRows(encoded.inputs, encoded.lengths, places, names, total, self.problems, encoded.notes)


def read_json_rows(encoder: DataEncoder, rows: Sequence[Any]) -> RequestRows:
    """Read and encode the rows of a request. Raises DataError if they cannot be encoded as a whole."""
    return _READERS[encoder.form](encoder, rows)


def _table(encoder: DataEncoder, rows: Sequence[Any]) -> RequestRows:
    inputs = encoder.inputs
    assert isinstance(inputs, TableEncoder)
    reading = _Reading()
    formats = encoder.formats
    readers = [(c.name, _cell_reader(c.type, formats.get(c.name, ""))) for c in inputs.columns]
    for place, row in enumerate(rows):
        problems: list[RowProblem] = []
        cells: list[Any] = []
        named = _named_cells(row, readers)
        if isinstance(named, str):
            problems.append(RowProblem(place, named))
            named, read_now = {}, []
        else:
            read_now = readers
        for name, read in read_now:
            try:
                cells.append(read(named[name]))
            except KeyError:
                problems.append(RowProblem(place, _missing_column(name, named, readers), name))
            except ValueError as error:
                problems.append(RowProblem(place, str(error), name))
        if problems:
            reading.problems += problems
        else:
            reading.values.append(cells)
            reading.places.append(place)

    def encode(values: list[Any]) -> EncodedInputs:
        columns = {
            column.name: _column(column.name, column.type, [cells[index] for cells in values])
            for index, column in enumerate(inputs.columns)
        }
        names = [str(place) for place in reading.places]
        return inputs.encode(TableRecords(columns=columns, targets={}, names=names), np.arange(len(values)))

    return reading.finish(encode, len(rows))


def _cell_reader(kind: str, form: str) -> Callable[[Any], Any]:
    read = CELLS[kind]
    return lambda value: read(value, form)


def _named_cells(row: Any, readers: Sequence[tuple[str, Any]]) -> Mapping[str, Any] | str:
    """The cells of a row by column, or what is wrong. A list is read as the rows of an array are: x0, x1, ..."""
    if isinstance(row, dict):
        return row
    numbers = [_ARRAY_COLUMN.fullmatch(name) for name, _ in readers]
    if not isinstance(row, list):
        return f"it must be an object with the cells by column, but is {shortened(row)}."
    if not all(numbers):
        return "it is a list, but the program's columns have names. Give an object with the cells by column."
    width = 1 + max(int(number[1]) for number in numbers if number)
    if len(row) < width:
        return f"it has {len(row)} numbers, but the program reads {width}."
    return {f"x{index}": cell for index, cell in enumerate(row)}


def _missing_column(name: str, row: Mapping[str, Any], readers: Sequence[tuple[str, Any]]) -> str:
    unused = [key for key in row if key not in {column for column, _ in readers}]
    nearest = difflib.get_close_matches(name[:100], [key[:100] for key in unused[:1000]], n=1, cutoff=0.5)
    hint = f" The row has {nearest[0]!r} instead." if nearest else ""
    return f"it is missing.{hint} Use null for an unknown value."


def _column(name: str, kind: Any, cells: list[Any]) -> Column:
    if kind != "text":
        return Column(name, kind, np.array(cells, np.float64))
    levels = {text: code for code, text in enumerate(dict.fromkeys(cell for cell in cells if cell is not None))}
    codes = np.array([-1 if cell is None else levels[cell] for cell in cells], np.int32)
    return Column(name, "text", codes, list(levels), "str")


def _sequences(encoder: DataEncoder, rows: Sequence[Any]) -> RequestRows:
    inputs = encoder.inputs
    assert isinstance(inputs, SequenceEncoder)
    V = len(inputs.mean)
    reading = _Reading()
    for place, row in enumerate(rows):
        reading.add(place, lambda row=row: _points(row, V, encoder.settings))

    def encode(values: list[Any]) -> EncodedInputs:
        records = SequenceRecords(sequences=Sequences.from_rows(values), targets={}, names=[""] * len(values))
        return inputs.encode(records, np.arange(len(values)))

    return reading.finish(encode, len(rows))


def _points(row: Any, V: int, settings: DataSettings) -> np.ndarray:
    """Points (T, V) of a sequence, from the order of axes that the training arrays had. Raises ValueError.

    Where a row of the training table was a sequence, an object holds its points by column.
    """
    names, wide = settings.values, settings.series is None
    if isinstance(row, dict):
        if absent := [name for name in names if name not in row]:
            raise ValueError(f"it lacks {join_names(absent)}.")
        if not names:
            raise ValueError("it is an object, but the program learned from arrays. Give a list of numbers.")
        columns = [row[name] for name in names]
        if wide and V == 1:
            while len(columns) > 1 and columns[-1] is None:  # as empty cells at the end of a row
                columns.pop()
            row = columns
        else:
            if len({len(column) if isinstance(column, list) else -1 for column in columns}) > 1:
                raise ValueError(f"{join_names(names)} must be lists of one length.")
            row = [list(point) for point in zip(*columns, strict=True)] if isinstance(columns[0], list) else columns
    points = float_array(row)
    is_turned = settings.axes == "time-last" and not names
    points = points[:, None] if points.ndim == 1 and V == 1 else points.T if is_turned else points
    if points.ndim != 2 or points.shape[1] != V or not len(points):
        axes = f"({V}, T)" if is_turned else f"(T, {V})"
        each = f"(T,) or {axes}" if V == 1 else axes
        raise ValueError(f"it must be a sequence of the shape {each}, but has the shape {np.shape(row)}.")
    return points


def _strings(encoder: DataEncoder, rows: Sequence[Any]) -> RequestRows:
    column, reading = encoder.settings.column, _Reading()

    def text(row: Any) -> str:
        if isinstance(row, dict):
            if column is None or column not in row:
                needed = "a text" if column is None else f"a text, or an object with the column {column!r}"
                raise ValueError(f"it must be {needed}, but has {join_names(list(map(str, row))) or 'nothing'}.")
            row = row[column]
        if not isinstance(row, str):
            raise ValueError(f"it must be a text, but is {shortened(row)}.")
        return row

    for place, row in enumerate(rows):
        reading.add(place, lambda row=row: text(row))

    def encode(values: list[Any]) -> EncodedInputs:
        records = TextRecords(texts=values, targets={}, names=[""] * len(values))
        return encoder.inputs.encode(records, np.arange(len(values)))

    return reading.finish(encode, len(rows))


def _images(encoder: DataEncoder, rows: Sequence[Any]) -> RequestRows:
    inputs, reading = encoder.inputs, _Reading()
    assert isinstance(inputs, ImageEncoder)
    for place, row in enumerate(rows):
        reading.add(place, lambda row=row: decode_image(_image_file(row), inputs))

    def encode(values: list[Any]) -> EncodedInputs:
        return EncodedInputs(torch.from_numpy(np.stack(values)), None, np.arange(len(values)), [])

    return reading.finish(encode, len(rows))


def decode_image(raw: bytes, encoder: ImageEncoder) -> np.ndarray:
    """Pixels (S, S, C) uint8 of an image file, as in training.

    Raises ValueError with the reason, and UnpackedSizeError if the images of the request have too many pixels.
    """
    try:
        return to_pixels(raw, encoder.side, encoder.channels, encoder.white)
    except UnpackedSizeError:
        raise
    except Exception as error:  # decoders raise exceptions of nearly any type
        reason = "it is empty, or not in a known image format" if "identify" in str(error) else str(error)
        raise ValueError(f"it is not a readable image ({reason}).") from error


def _image_file(row: Any) -> bytes:
    """An image file from Base64 or from pixels (H, W), (H, W, 1) or (H, W, 3) of 0 to 255. Raises ValueError."""
    from PIL import Image

    if isinstance(row, str):
        try:
            return base64.b64decode(_DATA_URL.sub("", row, count=1), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("it must be an image file in Base64, but is another text.") from None
    pixels = float_array(row)
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise ValueError(f"it must be pixels of the shape (H, W) or (H, W, 3), but has the shape {pixels.shape}.")
    if not ((pixels >= 0) & (pixels <= 255)).all():
        raise ValueError("its pixels must be from 0 to 255, without missing ones.")
    if pixels.max() <= 1 and (pixels % 1).any():
        raise ValueError("its pixels must be from 0 to 255, but are from 0 to 1. Multiply them by 255.")
    file = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(file, "png")
    return file.getvalue()


_READERS: Mapping[str, Callable[[DataEncoder, Sequence[Any]], RequestRows]] = {
    "table": _table,
    "sequences": _sequences,
    "strings": _strings,
    "images": _images,
}
