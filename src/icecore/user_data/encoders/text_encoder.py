"""Texts over any alphabet as tokens, one per character: DNA, SMILES, logs, words in any script."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from icecore.core.errors import DataError
from icecore.core.text import pluralize
from icecore.tasks.task import ReadOut, TokenKind
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.encoders.input_encoder import EncodedInputs
from icecore.user_data.notes import Note, name_rows
from icecore.user_data.records import TextRecords

#: longest text in tokens, including the one that marks the end, unless `length` is set
MAX_TEXT_TOKENS = 512
#: token ids without a character
PADDING, UNKNOWN, END = range(3)
#: the most frequent characters get an id of their own
MAX_CHARACTERS = 2048
#: texts that are encoded at once, so that memory stays small
TEXTS_PER_BLOCK = 65_536


@dataclass(frozen=True)
class TextEncoder:
    """Texts as their characters and an end token.

    characters  those of the training rows, sorted; any other character becomes "unknown"
    length      T: tokens of the longest text, its end included
    """

    kind: ClassVar[TokenKind] = "discrete"
    # the end token is the same for all texts: reading out there alone would first have to learn to attend to the rest
    read_out: ClassVar[ReadOut] = "mean"
    characters: str
    length: int

    @property
    def token_size(self) -> int:
        """P: the size of the vocabulary."""
        return 3 + len(self.characters)

    @classmethod
    def fit(
        cls, records: TextRecords, order: np.ndarray, train: int, settings: DataSettings
    ) -> tuple["TextEncoder", EncodedInputs]:
        """The characters of the training rows, and their longest row, up to `length` characters (default 511)."""
        counts: dict[int, int] = {}
        longest = 0
        for first in range(0, train, TEXTS_PER_BLOCK):
            texts = [records.texts[int(row)] for row in order[first : min(first + TEXTS_PER_BLOCK, train)]]
            points, point_counts = np.unique(_code_points("".join(texts)), return_counts=True)
            for point, count in zip(points.tolist(), point_counts.tolist(), strict=True):
                counts[point] = counts.get(point, 0) + count
            longest = max(longest, *map(len, texts))
        frequent = sorted(counts, key=lambda point: (-counts[point], point))[:MAX_CHARACTERS]
        length = min(longest, settings.length or MAX_TEXT_TOKENS - 1) + 1
        encoder = cls("".join(map(chr, sorted(frequent))), length)
        return encoder, encoder.encode(records, order)

    def encode(self, records: TextRecords, order: np.ndarray) -> EncodedInputs:
        """Token ids (n, T) uint8 or int16, 0 beyond a row's end."""
        dtype = np.uint8 if self.token_size <= 256 else np.int16
        inputs = np.full((len(order), self.length), PADDING, dtype)
        lengths = np.zeros(len(order), np.int64)
        known = _code_points(self.characters)
        fold = _case_folding(self.characters)
        cut = unknown = folded = total = 0
        for first in range(0, len(order), TEXTS_PER_BLOCK):
            texts = [records.texts[int(row)] for row in order[first : first + TEXTS_PER_BLOCK]]
            cut += sum(len(text) >= self.length for text in texts)
            texts = [text[: self.length - 1] for text in texts]
            if fold is not None:
                spelled, texts = texts, [text if len(fold(text)) != len(text) else fold(text) for text in texts]
                folded += sum(text != other for text, other in zip(texts, spelled, strict=True))
            points = _code_points("".join(texts))
            total += len(points)
            indices = np.searchsorted(known, points).clip(max=max(len(known) - 1, 0))
            is_known = known[indices] == points if len(known) else np.zeros(len(points), bool)
            unknown += int(np.sum(~is_known))
            sizes = np.array([len(text) for text in texts])
            is_character = np.arange(self.length) < sizes[:, None]
            block = inputs[first : first + TEXTS_PER_BLOCK]
            block[is_character] = np.where(is_known, indices + 3, UNKNOWN)
            block[np.arange(len(texts)), sizes] = END
            lengths[first : first + TEXTS_PER_BLOCK] = sizes + 1
        notes: list[Note] = []
        if empty := np.sort(order[lengths == 1]).tolist():
            notes.append(("empty", f"no characters in {name_rows(records.names, empty)}"))
        if cut:
            notes.append(("cut", f"{pluralize(cut, 'text')} after the first {self.length - 1:,} characters (--length)"))
        if folded:
            case = "capitals" if fold is str.upper else "small letters"
            notes.append(("case", f"{pluralize(folded, 'text')} in {case}, as all texts of training are"))
        if unknown == total > 0:
            raise DataError(
                f"None of the {unknown:,} characters of these texts was in training, whose alphabet is "
                f"{self.characters[:40]!r}. Provide texts over the same alphabet."
            )
        if unknown:
            notes.append(("unknown", f"{pluralize(unknown, 'character')} that no training text has"))
        is_ragged = bool((lengths != self.length).any())
        token_lengths = torch.from_numpy(lengths) if is_ragged else None
        return EncodedInputs(torch.from_numpy(inputs), token_lengths, np.arange(len(order)), notes)

    def tokenizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """From token ids (N, T) uint8 or int16 to int64."""
        return lambda inputs: inputs.long()

    def describe(self) -> str:
        """Length and number of characters."""
        return (
            f"texts of up to {self.length - 1:,} characters from an alphabet of {len(self.characters):,}, one per token"
        )


def _case_folding(characters: str) -> Callable[[str], str] | None:
    """What gives texts the case of the training texts, if these were all in one case; None if both occur."""
    letters = [character for character in characters if character.lower() != character.upper()]
    if not letters:
        return None
    for fold in (str.upper, str.lower):
        if all(fold(character) == character for character in letters):
            return fold
    return None


def _code_points(text: str) -> np.ndarray:
    """Unicode code points (characters,) of a text, uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
