"""What a training reports to: a progress display, TensorBoard, a test."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from icecore.core.config import RunConfig
from icecore.training.run_summary import RunSummary


class Callback(Protocol):
    """Is called as training proceeds."""

    def waiting(self, run_id: str) -> None:
        """Another process is training this run, and this one waits for it."""

    def begin(self, configs: Sequence[RunConfig], step: int, info: Mapping[str, Any]) -> None:
        """A pack starts or resumes at `step`. `info` has trained and frozen parameters, and the device in words."""

    def progress(self, step: int, losses: Mapping[str, float]) -> None:
        """Mean training loss by run id since the last call."""

    def validated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Validation metric by run id."""

    def note(self, text: str) -> None:
        """A sentence that a person who follows the training should read, for example which learning rates stop."""

    def finished(self, summaries: Sequence[RunSummary]) -> None:
        """The pack is finished."""
