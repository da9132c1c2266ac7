"""Which cells of a table to train if there is less time than all of them take."""

from collections.abc import Sequence
from dataclasses import dataclass

from icecore.core.errors import ConfigError
from icecore.core.text import approximate_duration, list_in_words
from icecore.experiments.study import CellPlan

#: cells with the seconds that each takes
PlannedCells = Sequence[tuple[CellPlan, float]]


@dataclass(frozen=True)
class CellGroup:
    """Unfinished cells of a column that are trained together or not at all: those of the pair, or of one more row."""

    column: str
    is_pair: bool
    cells: PlannedCells

    @property
    def seconds(self) -> float:
        """What all of its cells take."""
        return sum(seconds for _, seconds in self.cells)


def cells_within(cells: Sequence[CellPlan], unfinished: PlannedCells, seconds: float) -> list[tuple[CellPlan, float]]:
    """The unfinished cells that fit into `seconds`, the most informative ones first.

    cells       all cells of the table, which decide the order of its rows
    unfinished  cells with the seconds that each takes (`study.unfinished_cells`)

    A column says something when its first two rows are there, because they are what the table compares. So these come
    first, both or none, column by column, and then one row after another. Quick columns come before slow ones. What
    does not fit is passed over, and so are further rows of a column without its pair. The list is empty if nothing
    fits.
    """
    chosen: list[tuple[CellPlan, float]] = []
    without_pair: set[str] = set()
    left = seconds
    for group in _groups(cells, unfinished):
        if group.seconds <= left and group.column not in without_pair:
            chosen += group.cells
            left -= group.seconds
        elif group.is_pair:
            without_pair.add(group.column)
    return chosen


def shortest_group(cells: Sequence[CellPlan], unfinished: PlannedCells) -> CellGroup:
    """The least that can be trained; `unfinished` must not be empty."""
    groups = _groups(cells, unfinished)
    with_open_pair = {group.column for group in groups if group.is_pair}
    possible = [group for group in groups if group.is_pair or group.column not in with_open_pair]
    return min(possible, key=lambda group: group.seconds)


class TimeLimit:
    """The seconds that are left for the cells of several tables, one after another."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds
        self._took_any = False
        self._too_long: list[CellGroup] = []

    def take(self, cells: Sequence[CellPlan], unfinished: PlannedCells) -> list[tuple[CellPlan, float]]:
        """The unfinished cells of a table that fit, whose time is then no longer left. Arguments as `cells_within`."""
        fitting = cells_within(cells, unfinished, self.left)
        self.left -= sum(seconds for _, seconds in fitting)
        self._took_any |= bool(fitting)
        if not fitting:
            self._too_long.append(shortest_group(cells, unfinished))
        return fitting

    def check(self) -> None:
        """Raise ConfigError if there were unfinished cells, but none of any table fitted."""
        if self._took_any or not self._too_long:
            return
        least = min(self._too_long, key=lambda group: group.seconds)
        titles = list_in_words([f"{cell.key.row} on {cell.key.column}" for cell, _ in least.cells])
        raise ConfigError(
            f"No cell fits into the time. The least that says something, {titles}, takes "
            f"{approximate_duration(least.seconds)}. Raise --minutes."
        )


def _groups(cells: Sequence[CellPlan], unfinished: PlannedCells) -> list[CellGroup]:
    """The groups of unfinished cells in the order in which they are worth training."""
    rows = list(dict.fromkeys(cell.key.row for cell in cells))
    of_column: dict[str, float] = {}
    parts: dict[tuple[int, str], list[tuple[CellPlan, float]]] = {}
    for cell, cost in unfinished:
        column = cell.key.column
        of_column[column] = of_column.get(column, 0.0) + cost
        parts.setdefault((max(rows.index(cell.key.row), 1), column), []).append((cell, cost))
    ordered = sorted(parts.items(), key=lambda item: (item[0][0], of_column[item[0][1]]))
    return [CellGroup(column, row == 1, part) for (row, column), part in ordered]
