"""Which rows are for training, validation and test: the splits that the data have, or random ones.

Random splits are stratified, so each has about the same share of every class, or of small and large values.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from icecore.core.errors import ConfigError, DataError
from icecore.core.text import pluralize
from icecore.user_data.columns import Column
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.split_names import SPLITS

#: the most random rows of validation and of test: more take long to score and change little
MAX_HELD_OUT_ROWS = 10_000
#: rows from which on validation and test get a row of a class
MIN_ROWS_FOR_ALL_SPLITS = 3


def split_rows(
    columns: Mapping[str, Column],
    task: str,
    given: np.ndarray | None,
    settings: DataSettings,
    groups: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Indices of the rows of train, val and test, each in random order.

    Splits that the data have are used as they are; the others are drawn from the training rows, stratified by the
    first target.

    columns  the targets (N,), without missing values
    given    (N,) split of each row as the data say, "" if they do not; None: the data have no splits
    groups   (N,) code of each row's group, which is never divided by a random split; None: each row is one

    Raises ConfigError for shares that leave no validation rows, DataError if there are too few rows.
    """
    first = next(iter(columns.values()))
    key = (first.as_labels() if task == "classification" else first).values
    N = len(key)
    generator = np.random.default_rng(settings.seed)
    parts = {name: np.flatnonzero(given == name) if given is not None else np.zeros(0, int) for name in SPLITS}
    pool = parts["train"] if given is not None and (given == "train").any() else np.arange(N)
    if given is not None:
        pool = np.union1d(pool[np.isin(given[pool], ("", "train"))], np.flatnonzero(given == ""))
    if not len(pool):
        raise DataError("The data have no training rows. At least one file, folder or row must belong to train.")
    largest_share = MAX_HELD_OUT_ROWS / len(pool)
    shares = [0.0 if len(parts[name]) else min(getattr(settings, name), largest_share) for name in ("val", "test")]
    if not shares[0] and not len(parts["val"]):
        raise ConfigError(
            "val is 0, but validation rows are needed to choose the learning rate. "
            "Set a larger share, or use data that have a val split."
        )
    split_of_row = _stratify_groups(key[pool], shares, generator, task, None if groups is None else groups[pool])
    for number, name in enumerate(SPLITS):
        rows = pool[split_of_row == number]
        parts[name] = rows if number == 0 or len(rows) else parts[name]
        parts[name] = generator.permutation(parts[name])
    _check_sizes(parts, first, key, task)
    return parts


def _stratify_groups(
    key: np.ndarray, shares: Sequence[float], generator: np.random.Generator, task: str, groups: np.ndarray | None
) -> np.ndarray:
    """As `_stratify`, but rows of one group get the same split; groups are stratified by their first row.

    Raises DataError if there are too few groups.
    """
    has_classes = task == "classification"
    if groups is None:
        return _stratify(key, shares, generator, has_classes)
    _, first, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
    needed = 1 + sum(share > 0 for share in shares)
    if len(first) < needed:
        raise DataError(
            f"The data have {pluralize(len(first), 'group')}, too few for {needed} splits. Provide more groups, "
            "or name another column with --group."
        )
    order = np.argsort(first)  # by first appearance, as rows are
    split_of_group = np.empty(len(first), int)
    split_of_group[order] = _stratify(key[first[order]], shares, generator, has_classes)
    split_of_row = split_of_group[group_of_row]
    for untrained in np.setdiff1d(key, key[split_of_row == 0]) if has_classes else ():
        row = int(np.flatnonzero(key == untrained)[0])
        split_of_row[group_of_row == group_of_row[row]] = 0
    return split_of_row


def _check_sizes(parts: Mapping[str, np.ndarray], target: Column, key: np.ndarray, task: str) -> None:
    """Raise DataError if there are no rows for training or validation."""
    N = len(key)
    for name in ("train", "val"):
        if len(parts[name]):
            continue
        if task == "classification" and 3 < N == len(np.unique(key)):
            remedy = "" if target.type == "text" else ", or set --task regression"
            raise DataError(
                f"Target {target.name!r} has {N:,} classes with one row each. Give each class several rows{remedy}."
            )
        raise DataError(
            f"The data have {pluralize(N, 'row')}, too few for a {name} split. "
            "Provide at least 4 rows and several of each class, or set a larger share."
        )


def _stratify(
    key: np.ndarray, shares: Sequence[float], generator: np.random.Generator, has_classes: bool
) -> np.ndarray:
    """The split of each row: 0 train, 1 val, 2 test, drawn evenly along `key` (N,).

    shares       of val and test
    has_classes  keys are classes, each of which must have a training row
    """
    N, held_out = len(key), sum(shares)
    if not held_out:
        return np.zeros(N, int)
    order = np.lexsort((generator.random(N), key))
    # shuffle within each run of rows with similar keys
    width = int(np.ceil(2 / min(share for share in shares if share)))
    order = order[np.lexsort((generator.random(N), np.arange(N) // width))]
    split_of_row = np.zeros(N, int)
    count = max(round(N * held_out), sum(share > 0 for share in shares))
    is_held_out = np.diff(np.arange(N + 1) * count // N) > 0
    count = int(is_held_out.sum())
    for_test = round(count * shares[1] / held_out)
    for_test = min(max(for_test, int(shares[1] > 0)), count - int(shares[0] > 0))
    split_of_row[order[is_held_out]] = 1 + (np.diff((np.arange(count + 1) * for_test + count // 2) // count) > 0)
    if has_classes:
        # a class without training rows could not be learned
        for untrained in np.setdiff1d(key, key[split_of_row == 0]):
            rows = np.flatnonzero(key == untrained)
            split_of_row[rows[split_of_row[rows].argmax()]] = 0
        _add_rare_classes(key, split_of_row, order, [split for split, share in enumerate(shares, 1) if share])
    return split_of_row


def _add_rare_classes(key: np.ndarray, split_of_row: np.ndarray, order: np.ndarray, splits: Sequence[int]) -> None:
    """Give each of these splits a row of every class with `MIN_ROWS_FOR_ALL_SPLITS` rows, and keep their sizes.

    A split that gets a row gives back one of its most frequent class.

    split_of_row  (N,) changed in place; train has a row of every class
    order         (N,) rows, shuffled within each class
    """
    codes = np.unique(key, return_inverse=True)[1]
    counts = np.bincount(codes * 3 + split_of_row, minlength=3 * (codes.max() + 1)).reshape(-1, 3)
    is_lacking = (counts.sum(1) >= MIN_ROWS_FOR_ALL_SPLITS) & (counts[:, splits] == 0).any(1)
    # rows that may move, by class and split
    movable: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in order[(split_of_row[order] > 0) | is_lacking[codes[order]]].tolist():
        movable[int(codes[row]), int(split_of_row[row])].append(row)

    def move(code: int, source: int, destination: int) -> None:
        row = movable[code, source].pop()
        movable[code, destination].append(row)
        split_of_row[row] = destination
        counts[code, source] -= 1
        counts[code, destination] += 1

    for code in np.flatnonzero(is_lacking).tolist():
        for split in splits:
            if not counts[code, split]:
                source = int(counts[code].argmax())
                move(code, source, split)
                frequent = int(counts[:, split].argmax())
                if counts[frequent, split] > 1:
                    move(frequent, split, source)
