"""What a user can say about their data, as one frozen value. Everything left out is inferred from the data."""

from dataclasses import dataclass
from typing import Literal, get_args

from icecore.core.errors import ConfigError

SourceKind = Literal["auto", "images", "table", "array", "series", "strings", "fasta"]
TaskKind = Literal["auto", "classification", "regression"]


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What a user says about the data; the defaults let everything be inferred.

    target     columns to predict; by default one with a usual name such as "label", or else the last column
    task       classification or regression; "auto" decides by the values of the target
    kind       kind of data; "auto" decides by the names of the files
    column     column that holds character sequences, or the names of image files
    series     column that identifies the series of each row (a long table of time series)
    time       column that orders the rows of a series
    values     columns of measured values; by default all numeric columns
    patch      side of an image patch in pixels, or the number of columns or points in time per token
    size       side in pixels of the squares that images are resized to
    length     longest sequence, in characters or points in time; the rest is cut off
    val, test  shares of the rows for validation and test, if the data have no such splits; at most 10,000 rows each
    seed       seed of the random splits and of the sample of large tables
    strict     raise an error where rows or cells would be skipped and counted
    max_rows   larger tables are sampled down to so many rows; None: 2,000,000
    drop       columns to leave out

    Raises ConfigError for values outside their range.
    """

    target: tuple[str, ...] = ()
    task: TaskKind = "auto"
    kind: SourceKind = "auto"
    column: str | None = None
    series: str | None = None
    time: str | None = None
    values: tuple[str, ...] = ()
    patch: int | None = None
    size: int | None = None
    length: int | None = None
    val: float = 0.15
    test: float = 0.15
    seed: int = 0
    strict: bool = False
    max_rows: int | None = None
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, choices in (("kind", get_args(SourceKind)), ("task", get_args(TaskKind))):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, but is {value!r}.")
        for name in ("patch", "size", "length", "max_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, but is {value}.")
        if not (0 <= self.val < 1 and 0 <= self.test < 1 and self.val + self.test < 1):
            raise ConfigError(
                "val and test must be shares of the rows, at least 0 and less than 1 together, "
                f"but are {self.val} and {self.test}."
            )
