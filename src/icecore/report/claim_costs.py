"""What it would cost to run the cells that a claim lacks, at a fixed speed, so that it is the same everywhere."""

import functools
from pathlib import Path

from icecore.core.errors import UserError
from icecore.experiments import estimate
from icecore.paper.planning import TableRequest, plan_table
from icecore.report.claim_records import Place

#: two processor cores of 2026, in fp32
REFERENCE_SPEED = estimate.Speed(1e11)


@functools.cache
def cell_seconds(place: Place, budget: str, body: str) -> float | None:
    """Expected seconds of a cell on two cores, with the pretraining of its body; None if the budget has no body for it.

    budget  the label of a results table, such as "cpu" or "cpu, fair protocol"
    """
    study, row, column = place
    request = TableRequest(budget.partition(",")[0], only=(column,), rows=(row,), body=body, precision="fp32")
    try:
        plans = plan_table(study, request, Path("results"))
    except UserError:
        return None
    plans = [plan for plan in plans if plan.key.column == column]
    if not plans:
        return None
    total = 0.0
    for plan in plans:
        total += estimate.seconds(plan.sweep.config, plan.sweep.cost(race=False), REFERENCE_SPEED)
        if plan.pretraining is not None:
            total += estimate.seconds(plan.pretraining, 1, REFERENCE_SPEED)
    return total
