"""What it would cost to run the cells that a claim lacks, at a fixed speed, so that it is the same everywhere."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from icecore.core.errors import UserError
from icecore.experiments import estimate
from icecore.paper.budgets import budget_of_label
from icecore.paper.planning import TableRequest, plan_table
from icecore.report.record_index import Place

#: two processor cores of 2026, in fp32
REFERENCE_SPEED = estimate.Speed(1e11)


def cells_seconds(places: Sequence[Place], budget: str, body: str) -> float | None:
    """Expected seconds of cells on two cores, with the pretraining of their bodies, which counts once.

    Cells for which the budget has no body are left out; None if there are no others.
    budget  the label of a results table, such as "cpu" or "cpu, fair protocol"
    """
    parts = [part for part in (_trainings(place, budget, body) for place in places) if part]
    return sum({name: seconds for part in parts for name, seconds in part.items()}.values()) if parts else None


@functools.cache
def _trainings(place: Place, budget: str, body: str) -> Mapping[str, float]:
    """Expected seconds of a cell's sweep and of the pretraining of its body, each by a name; empty without a body."""
    study, row, column = place
    request = TableRequest(budget_of_label(budget), only=(column,), rows=(row,), body=body, precision="fp32")
    try:
        plans = plan_table(study, request, Path("results"))
    except UserError:
        return {}
    trainings: dict[str, float] = {}
    for plan in (plan for plan in plans if plan.key.column == column):
        config, runs = plan.sweep.config, plan.sweep.cost(race=False)
        trainings[config.run_id] = estimate.seconds(config, runs, REFERENCE_SPEED)
        if plan.pretraining is not None:
            trainings[plan.pretraining.run_id] = estimate.seconds(plan.pretraining, 1, REFERENCE_SPEED)
    return trainings
