"""What a table or figure of the paper is: rows, columns, the question that it answers, and the published numbers."""

import functools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from icecore.core.config import FPT_ROLES, SINGLE_ROLES


@dataclass(frozen=True)
class StudyRow:
    """A row of a table: its label, and the settings of its runs.

    A backbone in braces, "{body}", stands for the budget's body of that name. The name of a procedural task as weights
    ("bit-memory", "dyck", "nca") stands for the body after all of it was trained on that task from a random start.
    """

    label: str
    settings: Mapping[str, Any]

    def body_name(self, bodies: Mapping[str, str]) -> str | None:
        """The backbone's name with its placeholder filled from `bodies`; None if they have no such body."""
        try:
            return str(self.settings["backbone"]).format(**bodies)
        except KeyError:
            return None

    @property
    def trains_body(self) -> bool:
        """Whether attention or feed-forward weights are trained, which need other learning rates."""
        return bool(SINGLE_ROLES & set(self.settings.get("train_roles", FPT_ROLES)))


@dataclass(frozen=True)
class Study:
    """A table or figure of the paper.

    question         what the table is meant to answer
    columns          tasks; what follows the first space distinguishes columns of one task
    quantity         what a cell shows: "test" metric, "steps" to converge, "fit" (train and test), or "attention"
    settings         of all runs, in place of the budget's
    column_settings  the same for the runs of a column
    lrs, seeds       in place of the budget's
    """

    name: str
    title: str
    question: str
    columns: Sequence[str]
    rows: Mapping[str, StudyRow]
    quantity: str = "test"
    settings: Mapping[str, Any] = field(default_factory=dict)
    column_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lrs: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()

    def task_of(self, column: str) -> str:
        """The task of a column: its name up to the first space."""
        return column.split()[0]

    @property
    def published(self) -> Mapping[str, Mapping[str, Any]]:
        """Published numbers by row and column: a number, or [mean, standard error]."""
        return published_numbers().get(self.name, {}).get("rows", {})

    @property
    def source(self) -> str:
        """The publication of these numbers; empty if there are none."""
        numbers = published_numbers()
        return numbers["source"].get(numbers.get(self.name, {}).get("source", ""), "")


@functools.cache
def published_numbers() -> Mapping[str, Any]:
    """The content of published.toml."""
    return tomllib.loads((resources.files("icecore.paper") / "published.toml").read_text("utf-8"))
