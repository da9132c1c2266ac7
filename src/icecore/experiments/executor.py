"""Executors train the runs of a study: `LocalExecutor` in this process, `RayExecutor` on the nodes of a cluster."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from icecore.core.config import RunConfig
from icecore.core.errors import BusyError, ConfigError, DataError, UserError, WeightsError
from icecore.experiments import sweep
from icecore.training.context import ExecutionContext
from icecore.training.run_summary import RunSummary

#: configurations that were submitted, and their summaries or the error for which they could not be trained
Completion = tuple[Sequence[RunConfig], Sequence[RunSummary] | UserError]


class Executor(Protocol):
    """Takes runs of a study and returns them trained, in any order."""

    @property
    def has_capacity(self) -> bool:
        """Whether more runs may be submitted before the next result is taken."""
        ...

    def submit(self, configs: Sequence[RunConfig], title: str, wait: bool) -> None:
        """Take runs of one task for training.

        title  what messages call these runs
        wait   wait for runs that another process is training; otherwise their result is a BusyError
        """

    def next_result(self) -> Completion:
        """Wait until some of the submitted runs are trained. Raises errors that concern all runs, e.g. a full disk."""
        ...


class LocalExecutor:
    """Trains in this process, one cell after another. Consecutive cells of one task share its data."""

    def __init__(self, context: ExecutionContext) -> None:
        self.context = context
        self.submitted: tuple[Sequence[RunConfig], bool] | None = None
        self.tasks = sweep.TaskReader(context)

    @property
    def has_capacity(self) -> bool:
        """Whether no runs are waiting to be trained."""
        return self.submitted is None

    def submit(self, configs: Sequence[RunConfig], title: str, wait: bool) -> None:
        """Remember runs of one task; `next_result` trains them."""
        self.submitted = configs, wait

    def next_result(self) -> Completion:
        """Train the runs that were submitted last. Raises StorageError, and UserError if memory is short."""
        assert self.submitted is not None
        (configs, wait), self.submitted = self.submitted, None
        try:
            summaries = sweep.train_runs(configs, replace(self.context, wait=wait), self.tasks.task_of(configs[0]))
        except (BusyError, ConfigError, DataError, WeightsError) as error:
            return configs, error
        return configs, summaries
