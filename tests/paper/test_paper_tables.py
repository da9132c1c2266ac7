"""The tables of the paper: all are there, and every published number belongs to a row and a column."""

import pytest

from icecore.paper.paper_tables import STUDIES

TABLE_NUMBERS = (1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 21, 16, 17)


def test_every_table_is_there() -> None:
    ours = {"algorithms", "scales", "refit", "starts", "factors", "choices", "lengths"}
    assert set(STUDIES) == {*(f"table{n}" for n in TABLE_NUMBERS), "attention", "rebuttal", *ours}
    assert all(study.name == name and study.question and study.title for name, study in STUDIES.items())


@pytest.mark.parametrize("name", STUDIES)
def test_published_numbers_belong_to_a_row_and_a_column(name: str) -> None:
    study = STUDIES[name]
    columns = {"train", "test"} if study.quantity == "fit" else set(study.columns)
    for row, numbers in study.published.items():
        assert row in study.rows
        assert set(numbers) <= columns
    assert bool(study.published) == bool(study.source)


@pytest.mark.parametrize(
    ("name", "row", "column", "number"),
    [
        ("table2", "random", "cifar10", 61.7),
        ("table2", "vision", "cifar10-lra", 43.0),
        ("table3", "lstm", "cifar10", 34.4),
        ("table6", "random", "bit-xor", 2e4),
        ("table7", "full-3-layers", "train", 70),
        ("table8", "large-pretrained", "cifar10", 72.1),
        ("table9", "statistics", "remote-homology", 11.0),
        ("table12", "layers-2-random", "listops", 16),
        ("table15", "norms", "cifar10", 54),
        ("table21", "output", "mnist", 25),
        ("table17", "longformer-base", "listops", 17.0),
        ("rebuttal", "unfrozen-pretrained", "cifar10-lra", [67.8, 0.3]),
    ],
)
def test_some_published_numbers(name: str, row: str, column: str, number: object) -> None:
    assert STUDIES[name].published[row][column] == number
