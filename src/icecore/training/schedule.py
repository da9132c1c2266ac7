"""How far a pack is in its schedule: step by step, or by the clock if the configuration has a time box.

Learning rates, validations and races all go by the position in the schedule. With a time box, the position keeps up
with the clock: a slow or busy machine makes fewer steps, and the schedule still ends when the time does.
"""

from icecore.core.config import RunConfig


class Schedule:
    """The position of a pack in the `config.steps` of its schedule; a whole number without a time box."""

    def __init__(self, config: RunConfig) -> None:
        self.steps, self.eval_every = config.steps, config.eval_every
        self.log_every = max(1, config.eval_every // 10)
        self.seconds = None if config.minutes is None else 60 * config.minutes
        self.position: float = 0
        self.previous: float = 0

    def advance(self, elapsed: float) -> None:
        """Go on after a step, at which `elapsed` seconds of the time box are used."""
        self.previous = self.position
        self.position += 1
        if self.seconds is not None:
            self.position = min(self.steps, max(self.position, self.steps * elapsed / self.seconds))

    @property
    def is_over(self) -> bool:
        """Whether no step is left."""
        return self.position >= self.steps

    @property
    def is_validating(self) -> bool:
        """Whether a validation follows the last step."""
        return self.is_over or self._passed(self.eval_every)

    @property
    def is_logging(self) -> bool:
        """Whether the losses since the last log are logged after the last step."""
        return self.is_validating or self._passed(self.log_every)

    def _passed(self, every: int) -> bool:
        return self.position // every > self.previous // every
