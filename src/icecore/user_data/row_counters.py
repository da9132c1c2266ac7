"""Columns that only number the rows.

In a file that is sorted by class they give the class away, and in new rows they mean nothing.
"""

import re

import numpy as np

from icecore.user_data.columns import Column

#: names of columns with ids or numbers of rows
ID_NAME = re.compile(
    r"(.*[ _.-])?(id|ids|uid|pid|uuid|guid|index|idx|key|row|rows|nr|no|rownames?|row[ _.-]?(names?|numbers?|id)|rowid)"
    r"|unnamed.*|column1|",
    re.IGNORECASE,
)
#: the same at the end of a name in which capitals begin the words
CAMEL_ID_NAME = re.compile(r".*[a-z0-9](ID|Id|Ids|IDs|Index|Key|Nr|No|Number|RowNames?)")
#: at least this share of the cells must be there: a counter stays one if a few cells are missing
PRESENT_SHARE = 0.9
#: with fewer rows, consecutive numbers may be chance
MIN_COUNTED_ROWS = 8


def counts_rows(column: Column) -> bool:
    """Whether a column of whole numbers counts the rows: consecutive and all different, or rising from row to row.

    Only names that are usual for ids make any other column of different numbers one. A few cells may be missing.
    Dates count the rows if the time from each to the next is the same.
    """
    if column.type == "date":
        steps = np.diff(column.values)
        return len(steps) >= MIN_COUNTED_ROWS and bool((steps == steps[0]).all() and steps[0] != 0)
    if column.type != "number":
        return False
    values = column.values[~column.is_missing()].astype(np.float64)
    if len(values) < PRESENT_SHARE * len(column.values) or (values % 1).any() or len(np.unique(values)) < len(values):
        return False
    if ID_NAME.fullmatch(column.name) or CAMEL_ID_NAME.fullmatch(column.name):
        return True
    if len(values) < MIN_COUNTED_ROWS:
        return False
    is_consecutive = np.ptp(values) <= len(column.values) - 1
    steps = np.diff(values)
    return bool(is_consecutive or (steps > 0).all() or (steps < 0).all())
