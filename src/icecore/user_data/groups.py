"""Rows that belong together, such as the visits of a patient, and copies of rows: each group gets into one split.

A model that has seen a patient in training knows the patient, and a test on further visits shows memory, not skill.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from icecore.core.text import join_names, percent, pluralize
from icecore.user_data.array_images import ArrayImages
from icecore.user_data.columns import Column
from icecore.user_data.notes import Note
from icecore.user_data.records import ImageRecords, Records, SequenceRecords, TableRecords, TextRecords
from icecore.user_data.row_counters import counts_rows

#: names of columns whose repeated values are most likely persons, devices and the like
ENTITY_NAME = re.compile(
    r"(.*[ _.-])?(patient|subject|participant|person|user|customer|client|student|speaker|animal|mouse|donor|device"
    r"|house|household|session|plate|batch|group|groups|family|id|uid)([ _.-]?(id|no|nr|code|key|number|name))?",
    re.IGNORECASE,
)
#: those of them that can hardly be anything else
PERSON_NAME = re.compile(
    r"(.*[ _.-])?(patient|subject|participant|person|user|customer|client|student|speaker|animal|mouse|donor)"
    r"([ _.-]?(id|no|nr|code|key|number|name))?",
    re.IGNORECASE,
)
#: fewer groups than this cannot be divided into three splits
MIN_GROUPS = 10
#: copies share a split only if at least this share of the rows differ; otherwise rows are combinations of few values
MIN_DISTINCT_SHARE = 0.05
#: rows that are compared to find near copies, and the rows that they are compared with
NEAR_ROWS, NEAR_REFERENCES = 200, 4000
#: the nearest row of a table is a near copy if it is closer than this share of what chance gives
NEAR_SHARE = 0.2
#: the nearest series or image is a near copy if it is closer than this share of the usual distance of two
NEAR_PAIR_SHARE = 0.1
#: numbers of a series or image that are compared, at most
NEAR_NUMBERS = 1024


class Groups(NamedTuple):
    """The group (N,) of each row, None if every row stands for itself; records without columns of groups; and notes."""

    codes: np.ndarray | None
    records: Records
    notes: list[Note]


def find_groups(records: Records) -> Groups:
    """The groups that a column names, if the user or its name says so, and copies of rows."""
    notes: list[Note] = []
    codes, names = None, ()
    if records.groups is not None:
        codes = records.groups
        count = len(np.unique(codes))
        notes.append(("groups", f"{pluralize(count, 'group')}, each of them in one split"))
    else:
        codes, names, notes = _entity_groups(records)
    copies, copy_notes = _find_copies(records, names)
    notes += copy_notes
    if copies is not None:
        codes = copies if codes is None else _join(codes, copies)
    share = _near_copies(records) if codes is None else 0.0
    if share > 0.5:
        notes.append(
            (
                "similar rows",
                f"{percent(share, digits=0)} of the rows have a near copy; if they come from the same person or thing, "
                "name the column that says so with --group, or divide the data yourself, or the score shows memory",
            )
        )
    if names and isinstance(records, TableRecords):
        columns = {name: column for name, column in records.columns.items() if name not in names}
        records = replace(records, columns=columns)
    return Groups(codes, records, notes)


def shared_groups(parts: Mapping[str, np.ndarray], codes: np.ndarray | None) -> list[Note]:
    """A note of rows of val and test whose group (N,) is in training too, because the data come divided like this."""
    if codes is None:
        return []
    trained = codes[parts["train"]]
    counts = {name: int(np.isin(codes[parts[name]], trained).sum()) for name in ("val", "test")}
    shared = [f"{pluralize(count, 'row')} of {name}" for name, count in counts.items() if count]
    message = f"{join_names(shared)} are copies of training rows or of their groups: the data are divided like this"
    return [("shared", message)] if shared else []


def _entity_groups(records: Records) -> tuple[np.ndarray | None, tuple[str, ...], list[Note]]:
    """Groups by a column with the name of persons or things that decides the target; else a note of such columns.

    Where columns are no inputs, as beside images, the name of a person is enough: then nothing is lost.
    """
    N, targets = len(records), records.targets
    columns = records.columns if isinstance(records, TableRecords) else records.others
    suspects: list[str] = []
    for column in columns.values():
        labels = column.as_labels() if column.type != "date" and column.levels is not None else None
        if labels is None or (column.type == "number" and (column.values[~column.is_missing()] % 1).any()):
            continue
        codes = np.where(labels.values < 0, len(labels.distinct_texts) + np.arange(N), labels.values)
        distinct = len(np.unique(codes))
        if not MIN_GROUPS <= distinct <= N / 2:
            continue
        is_person = column.name in records.others and PERSON_NAME.fullmatch(column.name)
        if not is_person and not _decides(codes, targets):
            continue
        if ENTITY_NAME.fullmatch(column.name):
            message = f"rows with one {column.name!r} share a split, and it is no input (--group names another column)"
            return codes, (column.name,), [("groups", f"{pluralize(distinct, 'group')}: {message}")]
        suspects.append(column.name)
    if not suspects:
        return None, (), []
    message = "decides the target; if it names persons or things, set --group, or the score shows memory"
    return None, (), [("repeated", f"{join_names(suspects)}: each value comes in several rows and {message}")]


def _decides(codes: np.ndarray, targets: Mapping[str, Column]) -> bool:
    """Whether all rows of each group have the same targets, although groups are many and targets few."""
    for target in targets.values():
        values = target.as_labels().values if target.type == "text" else target.values
        pairs = len(np.unique(np.stack([codes.astype(np.float64), values.astype(np.float64)]), axis=1).T)
        if pairs != len(np.unique(codes)):
            return False
    return bool(targets)


def _find_copies(records: Records, without: tuple[str, ...]) -> tuple[np.ndarray | None, list[Note]]:
    """Codes (N,) that rows with equal inputs share, or None if no two are equal; and a note that counts them."""
    codes = _input_codes(records, without)
    if codes is None:
        return None, []
    N, distinct = len(codes), len(np.unique(codes))
    if distinct == N:
        return None, []
    copies = pluralize(N - distinct, "row")
    if distinct < max(MIN_GROUPS, MIN_DISTINCT_SHARE * N):
        return None, [
            ("copies", f"only {pluralize(distinct, 'different row')} of {N:,}, so all splits have the same ones")
        ]
    return codes, [("copies", f"{copies} with the inputs of another; copies share a split")]


def _input_codes(records: Records, without: tuple[str, ...]) -> np.ndarray | None:
    """A code (N,) of each row's inputs, equal for equal inputs; None if that would be costly to say."""
    if isinstance(records, TextRecords):
        return np.unique(np.array(list(map(hash, records.texts))), return_inverse=True)[1]
    if isinstance(records, SequenceRecords):
        sequences = records.sequences
        ends = np.cumsum(sequences.lengths)
        parts = zip(ends - sequences.lengths, ends, strict=True)
        return np.unique([hash(sequences.points[a:b].tobytes()) for a, b in parts], return_inverse=True)[1]
    if isinstance(records, ImageRecords):
        return records.images.content_codes()
    if not isinstance(records, TableRecords):
        return None
    state = np.zeros(len(records), np.uint64)
    for column in records.columns.values():
        if column.name in without or counts_rows(column) or column.levels is None:
            continue
        if column.type == "text" and len(column.distinct_texts) == len(column.values):
            continue  # names
        values = column.values.astype(np.float64) + 0.0  # -0.0 is 0.0
        values[np.isnan(values)] = np.inf
        state = (state ^ values.view(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        state ^= state >> np.uint64(29)
    return np.unique(state, return_inverse=True)[1] if state.any() else None


def _join(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Groups (N,) of rows that are linked by either of two codes (N,)."""
    codes = np.unique(first, return_inverse=True)[1]
    while True:
        # every row takes the smallest group among the rows that share its second code, then its first one
        joined = codes
        for other in (second, first):
            other = np.unique(other, return_inverse=True)[1]
            smallest = np.full(other.max() + 1, len(codes))
            np.minimum.at(smallest, other, joined)
            joined = smallest[other]
        if (joined == codes).all():
            return codes
        codes = joined


def _near_copies(records: Records) -> float:
    """Share of rows that are much closer to another than is usual; 0 where they cannot be compared."""
    if len(records) < 5 * MIN_GROUPS:
        return 0.0
    generator = np.random.default_rng(0)
    chosen = generator.permutation(len(records))[:NEAR_REFERENCES]
    if isinstance(records, TableRecords):
        return _near_rows(records, chosen, generator)
    numbers = _numbers_of(records, chosen)
    return 0.0 if numbers is None else _near_pairs(numbers)


def _near_rows(records: TableRecords, chosen: np.ndarray, generator: np.random.Generator) -> float:
    """Share of rows of a table that are much closer to another than if each column were shuffled."""
    columns = [c for c in records.columns.values() if c.type == "number" and not counts_rows(c)]
    grid = [c.values.astype(np.float64) for c in columns if len(np.unique(c.values)) > NEAR_ROWS / 10]
    if len(grid) < 2:
        return 0.0
    points = np.nan_to_num(np.stack(grid, 1)[chosen], posinf=0, neginf=0)
    points = (points - points.mean(0)) / np.maximum(points.std(0), 1e-12)
    shuffled = np.stack([generator.permutation(values) for values in points.T], 1)
    near, usual = (_nearest_distances(each[:NEAR_ROWS], each) for each in (points, shuffled))
    return float((near < NEAR_SHARE * np.median(usual)).mean())


def _near_pairs(numbers: np.ndarray) -> float:
    """Share of series or images, as numbers (n, F), that are much closer to another than two usually are.

    The points of a series and the pixels of an image depend on each other, so they cannot be shuffled.
    """
    points = np.nan_to_num(numbers.astype(np.float64), posinf=0, neginf=0)
    points = points - points.mean(0)
    near = _nearest_distances(points[:NEAR_ROWS], points)
    usual = np.sqrt(((points[:NEAR_ROWS] - np.roll(points, 1, 0)[:NEAR_ROWS]) ** 2).sum(1))
    return float((near < NEAR_PAIR_SHARE * np.median(usual)).mean())


def _numbers_of(records: Records, rows: np.ndarray) -> np.ndarray | None:
    """Numbers (n, F) of series of one length, or of images that need no decoding, for these rows."""
    if isinstance(records, SequenceRecords) and len(np.unique(records.sequences.lengths)) == 1:
        N, V = len(records), records.sequences.points.shape[1]
        flat = records.sequences.points.reshape(N, -1, V)
    elif isinstance(records, ImageRecords) and isinstance(records.images, ArrayImages):
        flat = records.images.pixels.reshape(len(records), -1, 1)
    else:
        return None
    step = -(-flat.shape[1] * flat.shape[2] // NEAR_NUMBERS)
    return flat[rows, ::step].reshape(len(rows), -1)


def _nearest_distances(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Distance (n,) of each of the first n references to its nearest other one."""
    squares = (queries**2).sum(1)[:, None] + (references**2).sum(1) - 2 * queries @ references.T
    squares[np.arange(len(queries)), np.arange(len(queries))] = np.inf
    return np.sqrt(np.maximum(squares.min(1), 0))
