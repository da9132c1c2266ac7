"""What an answer without any training reaches on the paper's tasks: numbers that a trained model must beat."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TrivialAnswer:
    """The share of right answers, and how they are given."""

    accuracy: float
    how: str


#: by task. Bit memory shows half of the bits, and half of the others are guessed right. The answer to ListOps is the
#: most frequent one of the outermost operator, on lists of 30 to 120 symbols
TRIVIAL_ANSWERS: Mapping[str, TrivialAnswer] = {
    "bit-xor": TrivialAnswer(0.5, "guessing"),
    "bit-memory": TrivialAnswer(0.75, "copying the visible bits"),
    "listops": TrivialAnswer(0.346, "by the outermost operator alone"),
    "mnist": TrivialAnswer(0.1, "guessing"),
    "cifar10": TrivialAnswer(0.1, "guessing"),
    "cifar10-lra": TrivialAnswer(0.1, "guessing"),
}
