"""Files in requests, by media type, for programs of your own data.

An image is decoded in memory. Any other file is read by the same readers as `icecore predict` uses, from a private
folder of the server and under a name of the server's, so no name or path that a caller gives is ever opened. A table
that names image files is not read, because its cells are paths.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from icecore import user_data
from icecore.core.errors import UserError
from icecore.serving.json_rows import decode_image
from icecore.serving.media_types import ENDINGS
from icecore.serving.request_errors import RequestError, unsupported_type
from icecore.serving.request_rows import RequestRows, RowProblem
from icecore.user_data.data_encoder import DataEncoder
from icecore.user_data.encoders.image_encoder import ImageEncoder

TABLES = ("table", "sequences", "strings")
#: forms of the programs that can read each media type
MEDIA_TYPES: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("text/csv", "text/tab-separated-values", "application/vnd.apache.parquet"), (*TABLES, "forecast")),
    "application/x-npz": TABLES,
    "application/x-npy": TABLES,
    "text/x-fasta": ("strings",),
    "text/plain": ("strings",),
    **dict.fromkeys((name for name in ENDINGS if name.startswith("image/") or name == "application/zip"), ("images",)),
}
#: other names of these types
ALIASES: Mapping[str, str] = {
    "application/csv": "text/csv",
    "application/x-fasta": "text/x-fasta",
    "chemical/seq-aa-fasta": "text/x-fasta",
    "chemical/seq-na-fasta": "text/x-fasta",
    "application/x-numpy": "application/x-npz",
    "application/x-zip-compressed": "application/zip",
    "image/jpg": "image/jpeg",
    "image/x-ms-bmp": "image/bmp",
    "image/x-portable-graymap": "image/x-portable-anymap",
    "image/x-portable-pixmap": "image/x-portable-anymap",
}
#: what a file of unknown type is, by its first bytes and by whether it is for a program that reads images
_STARTS: Sequence[tuple[bytes, bool | None, str]] = (
    (b"PK", True, "application/zip"),
    (b"PK", False, "application/x-npz"),
    (b"\x93NUMPY", None, "application/x-npy"),
    (b"PAR1", None, "application/vnd.apache.parquet"),
    (b">", None, "text/x-fasta"),
    (b"", True, "image/png"),
)
#: media type of a file whose sender did not know it
UNKNOWN_TYPE = "application/octet-stream"


def accepted_types(form: str) -> list[str]:
    """The media types of files that a program of this form reads."""
    return [name for name, forms in MEDIA_TYPES.items() if form in forms]


def read_upload(
    encoder: DataEncoder,
    raw: bytes,
    media_type: str,
    strict: bool,
    check_count: Callable[[int], object],
    form: str | None = None,
) -> RequestRows:
    """Read and encode a file.

    strict       refuse damaged rows and cells, which are skipped or count as missing otherwise, as in `icecore predict`
    check_count  is called with the number of rows before they are encoded, and raises RequestError for too many
    form         decides which media types can be read; None: that of the encoder

    Raises RequestError for a media type that the program cannot read or for too many rows, and DataError or
    ConfigError for a file that cannot be read.
    """
    form = form or encoder.form
    kind = ALIASES.get(media_type, media_type)
    if kind == UNKNOWN_TYPE:
        is_image = form == "images"
        kind = next((t for start, only, t in _STARTS if raw.startswith(start) and only in (None, is_image)), kind)
    if form not in MEDIA_TYPES.get(kind, ()):
        raise unsupported_type(media_type, ["application/json", *accepted_types(form)])
    if kind.startswith("image/"):
        return _read_image(encoder, raw)
    with tempfile.TemporaryDirectory(prefix="icecore-") as folder:
        path = Path(folder) / f"upload{ENDINGS[kind][0]}"
        path.write_bytes(raw)
        try:
            # any other kind than "images" and "auto" keeps the reader of tables from looking up images
            kept = "series" if encoder.settings.kind == "series" else "table"
            reading = replace(encoder, settings=replace(encoder.settings, kind=kept))
            rows = user_data.encode(reading, path, strict=strict, check_count=check_count)
        except RequestError:
            raise
        except UserError as error:
            raise type(error)(str(error).replace(str(path), "The file").replace(f"{folder}/", "")) from error
    return RequestRows(
        rows.inputs, rows.lengths, rows.row_numbers, rows.names, len(rows), (), rows.notes, rows.targets, rows
    )


def _read_image(encoder: DataEncoder, raw: bytes) -> RequestRows:
    assert isinstance(encoder.inputs, ImageEncoder)
    try:
        pixels = torch.from_numpy(decode_image(raw, encoder.inputs)[None].copy())
    except ValueError as error:
        return RequestRows(torch.empty(0), None, np.arange(0), [], 1, [RowProblem(0, str(error))])
    return RequestRows(pixels, None, np.arange(1), ["image"], 1)
