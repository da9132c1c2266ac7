"""How a model is shaped and what of it is trained."""

from dataclasses import dataclass

from icecore.core.config import FPT_ROLES, RunConfig, prefix_length


@dataclass(frozen=True)
class ModelSettings:
    """What of a model is trained and how its own layers are shaped.

    train_roles     roles of the parameters that are trained
    input_hidden    hidden widths of the input layer; none for the paper's linear one
    output_hidden   hidden widths of the output layer
    dropout         rate of every dropout in the body while training
    position_start  standard deviation of the positions at the start, for bodies without a table, relative to that of
                    the body's token embeddings; None for 0.02
    input_scale     factor on the weights of the input layer's first part at the start; None for 1
    prefix          vectors before the first token: a number, "bos", or None for none
    input_norm      "rms" for a norm after the input layer at the size of the body's token embeddings, or None
    input_start     size of the input layer's outputs at the start, relative to the standard deviation of the body's
                    token embeddings; None for orthogonal weights with gain 1.41
    """

    train_roles: tuple[str, ...] = FPT_ROLES
    input_hidden: tuple[int, ...] = ()
    output_hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    position_start: float | None = None
    input_scale: float | None = None
    prefix: str | None = None
    input_norm: str | None = None
    input_start: float | None = None

    @property
    def prefix_length(self) -> int:
        """K, the number of vectors before the first token."""
        return prefix_length(self.prefix)


def model_settings(config: RunConfig) -> ModelSettings:
    """The part of a run's configuration that shapes its model."""
    return ModelSettings(
        train_roles=config.train_roles,
        input_hidden=config.input_hidden,
        output_hidden=config.output_hidden,
        dropout=config.dropout,
        position_start=config.position_start,
        input_scale=config.input_scale,
        prefix=config.prefix,
        input_norm=config.input_norm,
        input_start=config.input_start,
    )
