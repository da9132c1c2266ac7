"""Which cells of a table to train if there is less time than all of them take."""

from collections.abc import Sequence

from icecore.core.errors import ConfigError
from icecore.core.text import approximate_duration
from icecore.experiments.study import CellPlan


def cells_within(
    cells: Sequence[CellPlan], unfinished: Sequence[tuple[CellPlan, float]], seconds: float
) -> list[tuple[CellPlan, float]]:
    """The unfinished cells that fit into `seconds`, the most informative ones first.

    cells       all cells of the table, which decide the order of its rows
    unfinished  cells with the seconds that each takes (`study.unfinished_cells`)

    A column says something when its first two rows are there, because they are what the table compares. So these come
    first, both or none, column by column, and then one row after another. Quick columns come before slow ones, and
    what does not fit is passed over. Raises ConfigError if no cell fits.
    """
    rows = list(dict.fromkeys(cell.key.row for cell in cells))
    of_column: dict[str, float] = {}
    parts: dict[tuple[int, str], list[tuple[CellPlan, float]]] = {}
    for cell, cost in unfinished:
        column = cell.key.column
        of_column[column] = of_column.get(column, 0.0) + cost
        parts.setdefault((max(rows.index(cell.key.row), 1), column), []).append((cell, cost))
    chosen: list[tuple[CellPlan, float]] = []
    left = seconds
    for _, part in sorted(parts.items(), key=lambda item: (item[0][0], of_column[item[0][1]])):
        cost = sum(seconds for _, seconds in part)
        if cost <= left:
            chosen += part
            left -= cost
    if unfinished and not chosen:
        cell, cost = min(unfinished, key=lambda entry: entry[1])
        raise ConfigError(
            f"No cell fits into {approximate_duration(seconds).removeprefix('about ')}. The shortest one, "
            f"{cell.key.row} on {cell.key.column}, takes {approximate_duration(cost)}. Raise --minutes."
        )
    return chosen
