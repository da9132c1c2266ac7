"""What the server must know of a program's kind: how rows are read, and how logits become answers."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from icecore.serving.request_rows import RequestRows
from icecore.user_data.notes import Note


@dataclass(frozen=True)
class PredictedRows:
    """The entries of an answer, each with the number and the name of its row, and notes."""

    entries: list[dict[str, Any]]
    notes: Sequence[Note]


class ProgramCodec(ABC):
    """Reads the rows of requests for one program, and writes its answers.

    is_slow      a small request may take long: images unpack to a thousand times their bytes
    can_explain  the attention on a row of a request is that of one row of tokens
    """

    is_slow = False
    can_explain = True

    @abstractmethod
    def read_json(self, rows: Sequence[Any], check_count: Callable[[int], object]) -> RequestRows:
        """The rows of a JSON request. Raises UserError if none of them can be read for a reason of their own.

        check_count  has been called with the number of `rows`; a row that becomes several calls it with theirs
        """

    @abstractmethod
    def read_file(self, raw: bytes, media_type: str, strict: bool, check_count: Callable[[int], object]) -> RequestRows:
        """The rows of a file.

        check_count  is called with the number of rows before they are encoded, and raises RequestError for too many

        Raises RequestError for its media type, UserError for a damaged file.
        """

    @abstractmethod
    def tokens(self, rows: RequestRows, first: int, last: int) -> list[Tensor]:
        """The tokens (T, P) or (T,) of the rows from `first` up to `last`, without padding."""

    def predictions(self, rows: RequestRows, answered: Sequence[int], logits: Tensor, top: int) -> PredictedRows:
        """The entries of an answer for those of the rows whose indices are `answered` (N,), of logits (N, n, C).

        Raises DataError if they cannot be answered without the others.
        """
        answers = zip(answered, self.answers(logits, top), strict=True)
        return PredictedRows(
            [{"row": int(rows.places[index]), "name": rows.names[index], **answer} for index, answer in answers],
            rows.notes,
        )

    @abstractmethod
    def answers(self, logits: Tensor, top: int) -> list[dict[str, Any]]:
        """What logits (N, n, C) mean for each row. At most `top` classes are listed, the most probable first."""

    @abstractmethod
    def targets(self) -> list[dict[str, Any]]:
        """What is predicted: `name`, and `spread`, the deviation in training of numbers; 0 of labels, or None."""

    def score(self, logits: Tensor, targets: Tensor) -> tuple[str, float] | None:
        """The metric and its mean over rows with logits (N, n, C) and targets (N, 2, k); None if it has none."""
        return None

    @abstractmethod
    def token_labels(self, count: int) -> Mapping[str, Any]:
        """What the `count` tokens of a row stand for: `labels`, and `grid` (rows, columns) of patches."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a card says about inputs and outputs; `example` is a row that can be predicted."""

    @property
    @abstractmethod
    def media_types(self) -> list[str]:
        """The media types of files that can be read, besides JSON."""


def trimmed(tokens: Tensor, lengths: Tensor | None) -> list[Tensor]:
    """The rows of tokens (N, T, ...) without their padding."""
    if lengths is None:
        return list(tokens.unbind())
    return [row[:length] for row, length in zip(tokens.unbind(), lengths.tolist(), strict=True)]


def class_answer(labels: Sequence[Any], probabilities: Tensor, top: int, chosen: int | None = None) -> dict[str, Any]:
    """The class of one row, and the probabilities (C,) of the first ones by label.

    chosen  index of the class, if it may be another than the most probable one: a rare class
    """
    best = probabilities.topk(min(top, len(probabilities)))
    pairs = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    chosen = int(probabilities.argmax()) if chosen is None else chosen
    return {
        "class": labels[chosen],
        "probability": float(probabilities[chosen]),
        "probabilities": {str(labels[index]): value for index, value in pairs},
    }
