"""`--minutes`: the cells that fit into a time, in the order in which they say most."""

from collections.abc import Callable

import pytest

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError
from icecore.experiments.results import CellKey
from icecore.experiments.study import CellPlan
from icecore.experiments.sweep import Sweep
from icecore.experiments.time_limit import TimeLimit, cells_within, shortest_group

ROWS, COLUMNS = ("pretrained", "random", "none"), ("slow", "quick")
SECONDS = {"slow": 100.0, "quick": 10.0}
Config = Callable[..., RunConfig]


def plan(config: Config) -> list[tuple[CellPlan, float]]:
    sweep = Sweep(config(), (1e-3,), (0,))
    return [(CellPlan(CellKey("table", row, column), sweep, ""), SECONDS[column]) for column in COLUMNS for row in ROWS]


def chosen(config: Config, seconds: float) -> list[tuple[str, str]]:
    planned = plan(config)
    cells = cells_within([cell for cell, _ in planned], planned, seconds)
    return [(cell.key.row, cell.key.column) for cell, _ in cells]


def test_pairs_come_first_and_quick_columns_before_slow_ones(config: Config) -> None:
    pairs = [("pretrained", "quick"), ("random", "quick"), ("pretrained", "slow"), ("random", "slow")]
    assert chosen(config, 20) == pairs[:2]
    assert chosen(config, 220) == pairs
    assert chosen(config, 1000) == [*pairs, ("none", "quick"), ("none", "slow")]


def test_what_does_not_fit_is_passed_over_and_half_a_pair_is_not_taken(config: Config) -> None:
    first = [("pretrained", "quick"), ("random", "quick"), ("none", "quick")]
    assert chosen(config, 30) == first
    # a third row says nothing without the pair
    assert chosen(config, 130) == first
    assert chosen(config, 15) == chosen(config, 5) == []


def test_a_finished_pair_makes_further_rows_worth_training(config: Config) -> None:
    planned = plan(config)
    cells = [cell for cell, _ in planned]
    rest = [(cell, seconds) for cell, seconds in planned if cell.key.row == "none"]
    assert cells_within(cells, rest, 100) == rest[1:]
    assert cells_within(cells, [], 1) == []  # nothing to train fits into any time


def test_the_least_that_can_be_trained(config: Config) -> None:
    planned = plan(config)
    cells = [cell for cell, _ in planned]
    least = shortest_group(cells, planned)
    assert ([cell.key.row for cell, _ in least.cells], least.column, least.seconds) == (
        ["pretrained", "random"],
        "quick",
        20,
    )
    without_pair = [entry for entry in planned if entry[0].key != cells[3].key]
    assert shortest_group(cells, without_pair).seconds == 10


def test_a_table_for_which_no_time_is_left_does_not_end_the_others(config: Config) -> None:
    planned = plan(config)
    cells = [cell for cell, _ in planned]
    limit = TimeLimit(35.0)
    assert len(limit.take(cells, planned)) == 3
    assert (limit.take(cells, planned), limit.left) == ([], 5)
    limit.check()
    nothing = TimeLimit(5.0)
    assert nothing.take(cells, planned) == []
    with pytest.raises(ConfigError, match=r"says something, pretrained on quick and random on quick, takes about 20 s"):
        nothing.check()
    TimeLimit(5.0).check()  # there was nothing to train
