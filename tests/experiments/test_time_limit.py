"""`--minutes`: the cells that fit into a time, in the order in which they say most."""

from collections.abc import Callable

import pytest

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError
from icecore.experiments.results import CellKey
from icecore.experiments.study import CellPlan
from icecore.experiments.sweep import Sweep
from icecore.experiments.time_limit import cells_within

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
    assert chosen(config, 130) == [*first, ("none", "slow")]


def test_too_little_time_says_what_would_fit(config: Config) -> None:
    with pytest.raises(ConfigError, match="No cell fits into 5 s"):
        chosen(config, 5)
    # nothing to train fits into any time
    assert cells_within([cell for cell, _ in plan(config)], [], 1) == []
