"""Texts over any alphabet as tokens, one a character: DNA, SMILES, logs, words in any script."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from icecore.core.text import pluralize
from icecore.tasks.task import ReadOut, TokenKind
from icecore.user_data.encoders.codes import STEP, Encoded, Notes
from icecore.user_data.records import DataSettings, RawRows

#: characters kept of a text, its end included
CHARACTERS = 512
PAD, UNKNOWN, END = range(3)
#: characters that get an id of their own, the most frequent first
VOCABULARY = 2048


@dataclass(frozen=True)
class TextEncoder:
    """Texts as their characters, and an end; a character that training rows did not have is "unknown"."""

    kind: ClassVar[TokenKind] = "discrete"
    # the last token is the same for all: to be read there, the rest must first be learned to be attended to
    read_out: ClassVar[ReadOut] = "mean"
    characters: str
    length: int

    @property
    def token_size(self) -> int:
        return 3 + len(self.characters)

    @classmethod
    def fit(
        cls, records: RawRows, order: np.ndarray, train: int, settings: DataSettings
    ) -> tuple["TextEncoder", Encoded]:
        """The vocabulary of the training rows, and their longest row up to `length` characters (default 511)."""
        counts: dict[int, int] = {}
        longest = 0
        for first in range(0, train, STEP):
            texts = [records.inputs[row] for row in order[first : min(first + STEP, train)]]
            found, times = np.unique(_points("".join(texts)), return_counts=True)
            for point, count in zip(found.tolist(), times.tolist(), strict=True):
                counts[point] = counts.get(point, 0) + count
            longest = max(longest, *map(len, texts))
        kept = sorted(sorted(counts, key=lambda point: (-counts[point], point))[:VOCABULARY])
        code = cls("".join(map(chr, kept)), min(longest, settings.length or CHARACTERS - 1) + 1)
        return code, code.encode(records, order)

    def encode(self, records: RawRows, order: np.ndarray) -> Encoded:
        """Token ids (n, T), uint8 or int16, 0 beyond a row's end."""
        dtype = np.uint8 if self.token_size <= 256 else np.int16
        inputs = np.full((len(order), self.length), PAD, dtype)
        lengths = np.zeros(len(order), np.int64)
        known = _points(self.characters)
        cut = strange = 0
        for first in range(0, len(order), STEP):
            texts = [records.inputs[row] for row in order[first : first + STEP]]
            cut += sum(len(text) >= self.length for text in texts)
            texts = [text[: self.length - 1] for text in texts]
            points = _points("".join(texts))
            places = np.searchsorted(known, points).clip(max=max(len(known) - 1, 0))
            same = known[places] == points if len(known) else np.zeros(len(points), bool)
            strange += int(np.sum(~same))
            sizes = np.array([len(text) for text in texts])
            inside = np.arange(self.length) < sizes[:, None]
            block = inputs[first : first + STEP]
            block[inside] = np.where(same, places + 3, UNKNOWN)
            block[np.arange(len(texts)), sizes] = END
            lengths[first : first + STEP] = sizes + 1
        notes: Notes = []
        if cut:
            notes.append(("cut", f"{pluralize(cut, 'text')} to the first {self.length - 1:,} characters (--length)"))
        if strange:
            notes.append(("unknown", f"{pluralize(strange, 'character')} that training texts do not have"))
        ragged = bool((lengths != self.length).any())
        return Encoded(
            torch.from_numpy(inputs), torch.from_numpy(lengths) if ragged else None, np.arange(len(order)), notes
        )

    def tokenizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Token ids (N, T), uint8 or int16, to int64."""
        return lambda inputs: inputs.long()

    def describe(self) -> str:
        return f"texts of up to {self.length - 1:,} characters out of {len(self.characters):,}, one a token"


def _points(text: str) -> np.ndarray:
    """Code points of a text, uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
