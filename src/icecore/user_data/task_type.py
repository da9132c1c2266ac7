"""Decides from the values of the targets whether the task is classification or regression."""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from icecore.core.errors import ConfigError, DataError
from icecore.core.text import join_names, pluralize
from icecore.user_data.columns import Column
from icecore.user_data.data_settings import DataSettings

TaskType = Literal["classification", "regression"]
#: the most distinct values of a target that can be classes even if it has few rows
FEW_DISTINCT_VALUES = 20
#: rows on average from which on whole numbers that count from 0 or 1 are classes, however many there are
MIN_ROWS_PER_CLASS = 10


def decide_task(columns: Mapping[str, Column], settings: DataSettings) -> tuple[TaskType, str]:
    """The task type and the reason for it. Raises DataError or ConfigError if neither type fits the targets."""
    if settings.task == "forecast":
        raise ConfigError("forecast needs a table of series in a file. Save these data as one, or set another task.")
    if settings.task != "auto":
        _check_task(columns, settings.task)
        return settings.task, "as requested"
    types: dict[str, TaskType] = {name: _infer_task(column) for name, column in columns.items()}
    if len(set(types.values())) > 1:
        parts = "; ".join(f"{name}: {task}" for name, task in types.items())
        raise ConfigError(f"The targets need different tasks ({parts}). Fit them one by one, or set --task for all.")
    return next(iter(types.values())), "inferred from the target's values (--task overrides it)"


def _check_task(columns: Mapping[str, Column], task: TaskType) -> None:
    """Raise ConfigError if the task that was set does not fit the targets."""
    texts = [column for column in columns.values() if column.type == "text"]
    if task == "classification":
        if any(column.levels is None for column in texts):
            raise ConfigError("A target has too many different texts to be classes. Choose another --target.")
        return
    if not texts:
        return
    if number_like := [f"{column.name} ({column.number_hint})" for column in texts if column.number_hint]:
        raise ConfigError(
            f"Regression needs numeric targets. Not numeric: {join_names(number_like)}. "
            "Write these cells as plain numbers."
        )
    names = join_names([column.name for column in texts])
    codes = [t for column in texts for t in column.distinct_texts if len(t) > 1 and t[0] == "0" and t.isdecimal()]
    reason = f" because of leading zeros, as in {codes[0]!r}" if codes else ""
    raise ConfigError(f"Regression needs numeric targets, but {names} is text{reason}. Set --task classification.")


def _infer_task(column: Column) -> TaskType:
    if column.type == "date":
        raise DataError(
            f"Target {column.name!r} holds dates. Turn them into numbers, for example days since a fixed date, "
            "or into classes."
        )
    known = column.values[~column.is_missing()]
    distinct = len(np.unique(known))
    if column.type == "text" or column.origin == "bool":
        if column.levels is None or (distinct > FEW_DISTINCT_VALUES and distinct > len(known) / 2):
            counts = f"{pluralize(distinct, 'different text')} in {pluralize(len(known), 'row')}"
            remedy = "Choose another --target."
            if column.number_hint:
                remedy = (
                    f"However, {column.number_hint}. Write these cells as plain numbers, or choose another --target."
                )
            raise DataError(f"Target {column.name!r} has {counts}, too many for classes. {remedy}")
        return "classification"
    written = column.as_written
    if written is not None:  # 1.1 and 1.10, versions perhaps, are different labels but one number
        texts = len(np.unique(written.values[written.values >= 0]))
        if texts > distinct and texts <= min(FEW_DISTINCT_VALUES, len(known) / 2):
            return "classification"
    if (known % 1).any():
        return "regression"
    if distinct <= min(FEW_DISTINCT_VALUES, len(known) / 2):
        return "classification"
    counts_from_start = distinct and np.ptp(known) == distinct - 1 and known.min() in (0, 1)
    many_rows = len(known) >= MIN_ROWS_PER_CLASS * distinct
    return "classification" if counts_from_start and many_rows else "regression"
