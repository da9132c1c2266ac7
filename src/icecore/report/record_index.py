"""Which records a cell of the paper's tables has: rows of several tables that are the same share their runs."""

import functools
import json
from collections.abc import Sequence

from icecore.core.config import FPT_ROLES
from icecore.experiments.results import RunRecord
from icecore.paper.paper_tables import STUDIES

#: study, row and column
Place = tuple[str, str, str]


class RecordIndex:
    """Records by the cell that they are of; equal rows of several studies share theirs."""

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self._records: dict[tuple[str, str, str], list[RunRecord]] = {}
        #: (budget, body) of all records, in their order
        self.groups: dict[tuple[str, str], None] = {}
        # the newest ones last: they say which configuration counts
        for record in sorted(records, key=lambda record: record.date):
            key = record.key
            if key.study in STUDIES and key.row in STUDIES[key.study].rows:
                identity = row_identity(key.study, key.row, key.column)
                self._records.setdefault((identity, key.budget, key.body), []).append(record)
                self.groups.setdefault((key.budget, key.body))

    def records_of(self, place: Place, budget: str, body: str) -> list[RunRecord]:
        """The records of a cell, each run once, also if they were made for another table with the same row."""
        records = self._records.get((row_identity(*place), budget, body), [])
        by_run: dict[str, RunRecord] = {}
        for record in records:
            name = record.run_id or record.missing
            if record.replaces(by_run.get(name)):
                by_run[name] = record
        return list(by_run.values())


@functools.cache
def row_identity(study: str, row: str, column: str) -> str:
    """A text that is equal for cells of different tables if, and only if, they have the same runs at every budget."""
    table = STUDIES[study]
    settings = {**table.settings, **table.column_settings.get(column, {}), **table.rows[row].settings}
    roles = sorted(settings.pop("train_roles", FPT_ROLES))
    own = (study, row) if not settings else ()
    return json.dumps([column, settings, roles, table.lrs, table.seeds, own], sort_keys=True)
