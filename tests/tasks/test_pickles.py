"""Pickles that are plain but hostile: they cost no more time and memory than their bytes, and end in a message."""

import pickle
from typing import Any

import numpy as np
import pytest

from icecore.core.errors import DataError
from icecore.tasks.cifar10_files import _python_batch
from icecore.tasks.pickles import unpickle
from icecore.tasks.protein_files import _tape_record


def nested(depth: int = 12) -> list[Any]:
    """A list of ten lists that are one list, and so on: some hundred bytes in a pickle, and 10**12 when written out."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value] * 10
    return value


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"primary": "A", "fold_label": nested()}, "an integer of at least 0 as fold_label"),
        ({"primary": "A", "fold_label": 1, "id": nested()}, "a text or a number as id"),
        ({"primary": nested(), "fold_label": 1}, "a string as primary"),
        ({"primary": "A", "fold_label": 10**6000}, "more than 64 bits"),
        ({"primary": "A", "fold_label": 2**63}, "an integer of at least 0 as fold_label"),
        ({"primary": "A", "fold_label": 1, "id": 2**63}, "a text or a number as id"),
    ],
)
def test_a_hostile_record_is_a_message(record: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _tape_record("here", 0, unpickle(pickle.dumps(record), "here"))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"data": nested(), b"labels": [1, 2]}, r"expected data of uint8 \(N, 3072\)"),
        ({b"data": PIXELS, b"labels": nested()}, "expected a list of labels"),
        ({b"data": PIXELS, b"labels": [[1], [1, 2]]}, "expected a list of labels"),
        ({b"data": PIXELS, b"labels": np.zeros((2, 2))}, "expected 2 integer labels"),
        ({b"\xff": 1}, "expected data of uint8"),
    ],
)
def test_a_hostile_batch_is_a_message(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        _python_batch(pickle.dumps(batch), "here")


def test_a_file_cannot_choose_keys_of_one_hash() -> None:
    modulus = 2**61 - 1  # the hashes of its multiples are all zero
    with pytest.raises(DataError, match="has a int as a key"):
        unpickle(pickle.dumps({modulus: 0}), "here")
    assert unpickle(pickle.dumps({1: 0, "a": 1, b"b": 2}), "here") == {1: 0, "a": 1, b"b": 2}


def test_texts_of_numbers_that_are_no_characters_are_refused() -> None:
    raw = pickle.dumps({"fold_label": np.array(["\U0010ffff"])}, 4)
    assert b"\xff\xff\x10\x00" in raw
    with pytest.raises(DataError, match="not a pickle of plain data"):
        unpickle(raw.replace(b"\xff\xff\x10\x00", b"\xff\xff\x7f\x7f"), "here")
