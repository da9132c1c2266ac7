"""Programs of built-in tasks: bits, ListOps, images of the paper. A row is its tokens, as the task makes them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icecore.core.text import pluralize, shortened
from icecore.model.program import Program
from icecore.serving.json_cells import float_array
from icecore.serving.program_codec import ProgramCodec, class_answer, trimmed
from icecore.serving.request_errors import unsupported_type
from icecore.serving.request_rows import RequestRows, RowProblem
from icecore.tasks.task import TaskSpec

#: scores of one answer, for tasks whose outputs at a position are several answers
SCORES_PER_ANSWER: Mapping[str, int] = {"bit-memory": 2}


class TokenCodec(ProgramCodec):
    """Reads tokens (T, P) of numbers or (T,) of whole numbers, and answers classes at each position that is read."""

    def __init__(self, program: Program, classes: Sequence[str]) -> None:
        self.spec, self.task = program.spec, program.config.task
        self.scores = SCORES_PER_ANSWER.get(self.task, self.spec.outputs)
        self.labels: Sequence[Any] = classes if len(classes) == self.scores else range(self.scores)

    @property
    def media_types(self) -> list[str]:
        return []

    def read_json(self, rows: Sequence[Any], check_count: Callable[[int], object]) -> RequestRows:
        tokens: list[Tensor] = []
        places: list[int] = []
        problems: list[RowProblem] = []
        for place, row in enumerate(rows):
            try:
                tokens.append(torch.from_numpy(_read_tokens(row, self.spec)))
                places.append(place)
            except ValueError as error:
                problems.append(RowProblem(place, str(error)))
        inputs = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True) if tokens else torch.empty(0)
        lengths = torch.tensor([len(row) for row in tokens], dtype=torch.int64)
        return RequestRows(inputs, lengths, np.array(places, np.int64), list(map(str, places)), len(rows), problems)

    def read_file(self, raw: bytes, media_type: str, strict: bool, check_count: Callable[[int], object]) -> RequestRows:
        raise unsupported_type(media_type, ["application/json"])

    def tokens(self, rows: RequestRows, first: int, last: int) -> list[Tensor]:
        return trimmed(rows.inputs[first:last], None if rows.lengths is None else rows.lengths[first:last])

    def answers(self, logits: Tensor, top: int) -> list[dict[str, Any]]:
        """`positions`, each with its class and probabilities, or a list of them if it has several answers."""
        N, n, C = logits.shape
        probabilities = logits.float().view(N, n, C // self.scores, self.scores).softmax(-1)
        return [{"positions": [self._position(position, top) for position in row]} for row in probabilities]

    def _position(self, answers: Tensor, top: int) -> Any:
        """The answers (k, classes) of one position."""
        parts = [class_answer(self.labels, each, top) for each in answers]
        return parts[0] if len(parts) == 1 else parts

    def targets(self) -> list[dict[str, Any]]:
        return [{"name": self.task, "spread": 0.0}]

    def token_labels(self, count: int) -> Mapping[str, Any]:
        return {"unit": "positions", "labels": [str(position + 1) for position in range(count)]}

    def describe(self) -> dict[str, Any]:
        spec = self.spec
        token: Any = 0 if spec.kind == "discrete" else [0.0] * spec.size
        numbers = pluralize(spec.size, "number")
        each = f"whole numbers below {spec.size}" if spec.kind == "discrete" else f"tokens of {numbers}"
        return {
            "form": "tokens",
            "task": "classification",
            "targets": [{"name": self.task, "classes": list(self.labels)}],
            "inputs": {"kind": spec.kind, "length": spec.length, "size": spec.size, "least": spec.read_positions},
            "summary": f"the built-in task {self.task}: {spec.read_positions} to {spec.length} {each}",
            "metric": "",
            "example": [token] * spec.length,
        }


def _read_tokens(row: Any, spec: TaskSpec) -> np.ndarray:
    """Tokens (T, P) float32 or (T,) int64. Raises ValueError with the reason."""
    array = float_array(row)
    if np.isnan(array).any():
        raise ValueError("it has missing numbers, which this program cannot read.")
    inner = () if spec.kind == "discrete" else (spec.size,)
    if array.shape[1:] != inner or array.ndim == 0 or not spec.read_positions <= len(array) <= spec.length:
        shape = f"(T,{'' if spec.kind == 'discrete' else f' {spec.size}'})"
        lengths = f"T from {spec.read_positions} to {spec.length}"
        raise ValueError(f"it must have the shape {shape} with {lengths}, but has the shape {array.shape}.")
    if spec.kind == "continuous":
        return array
    if (array % 1).any() or array.min() < 0 or array.max() >= spec.size:
        wrong = array[(array % 1 != 0) | (array < 0) | (array >= spec.size)][0]
        raise ValueError(f"its tokens must be whole numbers from 0 to {spec.size - 1}, but one is {shortened(wrong)}.")
    return array.astype(np.int64)
