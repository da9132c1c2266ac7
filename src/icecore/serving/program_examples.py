"""A row that a program can predict, made of what its encoder knows: means, categories, characters."""

import base64
import io
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from icecore.user_data.data_encoder import DataEncoder
from icecore.user_data.encoders.column_encoder import ColumnEncoder
from icecore.user_data.encoders.image_encoder import ImageEncoder
from icecore.user_data.encoders.sequence_encoder import SequenceEncoder
from icecore.user_data.encoders.table_encoder import TableEncoder
from icecore.user_data.encoders.text_encoder import TextEncoder

#: points, characters and pixels per side of an example
MAX_EXAMPLE = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def example_row(encoder: DataEncoder) -> Any:
    """A row of JSON with values that are usual in training."""
    inputs = encoder.inputs
    if isinstance(inputs, TableEncoder):
        return {column.name: example_cell(column) for column in inputs.columns}
    if isinstance(inputs, ImageEncoder):
        return _example_image(inputs)
    if isinstance(inputs, SequenceEncoder):
        point = [rounded(mean, std) for mean, std in zip(inputs.mean, inputs.std, strict=True)]
        count = min(inputs.points, MAX_EXAMPLE)
        names = encoder.settings.values
        if names and encoder.settings.series is None:
            return dict.fromkeys(names, point[0]) if len(point) == 1 else [point] * count
        if names:
            return {name: [value] * count for name, value in zip(names, point, strict=True)}
        if len(point) > 1 and encoder.settings.axes == "time-last":
            return [[value] * count for value in point]
        return [point[0] if len(point) == 1 else point] * count
    assert isinstance(inputs, TextEncoder)
    letters = "".join(c for c in inputs.characters if c.isalnum()) or inputs.characters or "a"
    text = (letters * MAX_EXAMPLE)[: min(inputs.length - 1, MAX_EXAMPLE)]
    return text if encoder.settings.column is None else {encoder.settings.column: text}


def example_cell(column: ColumnEncoder) -> Any:
    """The mean of a column, or one of its categories."""
    if column.type == "text":
        return column.levels[0] if column.levels else None
    if column.type == "number":
        return rounded(column.mean[0], column.std[0])
    try:
        return (_EPOCH + timedelta(days=int(column.mean[0]))).date().isoformat()
    except OverflowError:
        return None


def rounded(mean: float, std: float) -> float:
    """The mean with as many digits as tell a tenth of the spread."""
    digits = max(0, 1 - int(np.floor(np.log10(std))))
    value = round(mean, digits) if digits < 300 else mean
    return int(value) if digits == 0 and abs(value) < 2**53 else value


def _example_image(inputs: ImageEncoder) -> str:
    """A grey image file of 8 x 8 pixels in Base64."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("L", (MAX_EXAMPLE, MAX_EXAMPLE), 128).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


#: words for what a row is, by form
ROW_WORDS: Mapping[str, str] = {
    "images": "an image file in Base64, or its pixels",
    "table": "an object with the cells by column",
    "sequences": "a sequence of numbers",
    "strings": "a text",
    "forecast": "a series: an object with the values of each column in order of time",
    "tokens": "the tokens as numbers",
}
