"""Programs of your own data: their encoder reads rows and writes answers, as in `icecore predict`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icecore.autofit.row_digests import notes_on_training_rows
from icecore.model.program import Program
from icecore.serving.json_rows import read_json_rows
from icecore.serving.program_codec import ProgramCodec, class_answer, trimmed
from icecore.serving.program_examples import example_row
from icecore.serving.request_rows import RequestRows
from icecore.serving.uploads import accepted_types, read_upload
from icecore.user_data.data_encoder import DataEncoder
from icecore.user_data.encoders.image_encoder import ImageEncoder
from icecore.user_data.encoders.sequence_encoder import SequenceEncoder
from icecore.user_data.encoders.table_encoder import TableEncoder
from icecore.user_data.encoders.text_encoder import TextEncoder

CPU = torch.device("cpu")


class OwnDataCodec(ProgramCodec):
    """Reads and answers with the encoder that was fitted with the program."""

    def __init__(self, encoder: DataEncoder, program: Program) -> None:
        self.encoder, self.program = encoder, program
        self.is_slow = self.is_slow or encoder.form == "images"
        self._to_tokens: Callable[[Tensor], Tensor] = encoder.inputs.tokenizer(CPU)
        target = encoder.target
        is_class = target.task == "classification"
        self._labels = [_plain_labels(target.labels(k)) for k in range(len(target.names))] if is_class else []

    @property
    def media_types(self) -> list[str]:
        return accepted_types(self.encoder.form)

    def read_json(self, rows: Sequence[Any], check_count: Callable[[int], object]) -> RequestRows:
        read = read_json_rows(self.encoder, rows)
        return replace(read, notes=[*read.notes, *self.encoder.target.describe_choice()])

    def read_file(self, raw: bytes, media_type: str, strict: bool, check_count: Callable[[int], object]) -> RequestRows:
        rows = read_upload(self.encoder, raw, media_type, strict, check_count)
        notes = [*notes_on_training_rows(self.program, rows), *self.encoder.target.describe_choice()]
        return replace(rows, notes=[*rows.notes, *notes])

    def tokens(self, rows: RequestRows, first: int, last: int) -> list[Tensor]:
        lengths = None if rows.lengths is None else rows.lengths[first:last]
        return trimmed(self._to_tokens(rows.inputs[first:last]), lengths)

    def answers(self, logits: Tensor, top: int) -> list[dict[str, Any]]:
        """`targets` by name: class and probabilities, or value; null for a value that is no finite number."""
        target = self.encoder.target
        columns: list[list[Any]]
        if target.task == "classification":
            groups = zip(self._labels, target.probabilities(logits), target.class_indices(logits), strict=True)
            columns = [
                [class_answer(labels, row, top, code) for row, code in zip(probabilities, chosen.tolist(), strict=True)]
                for labels, probabilities, chosen in groups
            ]
        else:
            columns = [[{"value": _finite(value)} for value in values.tolist()] for values in target.predict(logits)]
        return [{"targets": dict(zip(target.names, row, strict=True))} for row in zip(*columns, strict=True)]

    def targets(self) -> list[dict[str, Any]]:
        target = self.encoder.target
        spreads = target.std or [0.0] * len(target.names)
        return [{"name": name, "spread": spread} for name, spread in zip(target.names, spreads, strict=True)]

    def score(self, logits: Tensor, targets: Tensor) -> tuple[str, float] | None:
        target = self.encoder.target
        return target.metric_name, float(target.metric(logits, targets).double().mean())

    def token_labels(self, count: int) -> Mapping[str, Any]:
        inputs = self.encoder.inputs
        if isinstance(inputs, TableEncoder):
            names = [column.name for column in inputs.columns]
            starts = range(0, len(names), inputs.patch)
            return {"unit": "columns", "labels": [", ".join(names[i : i + inputs.patch]) for i in starts]}
        if isinstance(inputs, ImageEncoder):
            side = inputs.side // inputs.patch
            labels = [f"row {i // side + 1}, column {i % side + 1}" for i in range(side * side)]
            return {"unit": "patches", "labels": labels, "grid": [side, side]}
        patch = getattr(inputs, "patch", 1)
        labels = [str(i * patch + 1) if patch == 1 else f"{i * patch + 1} to {(i + 1) * patch}" for i in range(count)]
        if self.encoder.form == "strings":
            labels[-1:] = ["end"]
        return {"unit": "positions", "labels": labels}

    def describe(self) -> dict[str, Any]:
        encoder = self.encoder
        target = encoder.target
        targets = [
            {"name": name, "classes": self._labels[k]}
            if self._labels
            else {"name": name, "mean": target.mean[k], "std": target.std[k]}
            for k, name in enumerate(target.names)
        ]
        return {
            "form": encoder.form,
            "task": target.task,
            "targets": targets,
            "inputs": describe_inputs(encoder),
            "summary": encoder.inputs.describe(),
            "metric": target.metric_name,
            "example": example_row(encoder),
        }


def describe_inputs(encoder: DataEncoder) -> dict[str, Any]:
    """What a form asks for: columns with their types, or the sizes of an image, sequence or text."""
    inputs = encoder.inputs
    if isinstance(inputs, TableEncoder):
        columns: list[dict[str, Any]] = []
        for column in inputs.columns:
            described: dict[str, Any] = {"name": column.name, "type": column.type, "optional": column.flag}
            if column.type == "text":
                described["categories"] = list(column.levels)
            elif column.type == "number":
                described |= {"mean": _finite(column.mean[0]), "std": _finite(column.std[0])}
            columns.append(described)
        return {"columns": columns}
    if isinstance(inputs, ImageEncoder):
        return {"side": inputs.side, "channels": inputs.channels, "patch": inputs.patch}
    if isinstance(inputs, SequenceEncoder):
        return {"values": len(inputs.mean), "points": inputs.points, "names": list(encoder.settings.values)}
    assert isinstance(inputs, TextEncoder)
    return {"column": encoder.settings.column, "length": inputs.length - 1, "characters": inputs.characters}


def _plain_labels(labels: np.ndarray) -> list[Any]:
    """Labels as JSON has them; texts in place of numbers that are not finite."""
    return [str(v) if isinstance(v, float) and not math.isfinite(v) else v for v in labels.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
