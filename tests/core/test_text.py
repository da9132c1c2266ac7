"""Texts for messages: short whatever they show, and harmless to a terminal and a file."""

import time

import pytest

from icecore.core.text import printable, printable_values, shortened


def test_a_value_that_is_endless_when_written_out_is_shortened_at_once() -> None:
    value: object = []
    for _ in range(30):
        value = [value] * 10
    begun = time.perf_counter()
    assert len(shortened(value)) < 70
    assert len(shortened({"a": value, "b": (value, {1: value})})) < 70
    assert shortened(10**6000) == "a int"
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize(("text", "shown"), [("a\x1b[2J", "a\\x1b[2J"), ("\ud800", "\\ud800"), ("é\t\n", "é\t\n")])
def test_texts_of_files_are_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()
    assert printable_values({text: [text, 1, {"a": None}]}) == {shown: [shown, 1, {"a": None}]}
