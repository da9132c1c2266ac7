"""What a user can say about their data, as one frozen value. Everything left out is inferred from the data."""

from dataclasses import dataclass
from typing import Literal

from icecore.core.errors import ConfigError
from icecore.core.settings import at_least, check_settings, must, setting

SourceKind = Literal["auto", "images", "table", "array", "series", "strings", "fasta"]
TaskKind = Literal["auto", "classification", "regression", "forecast"]
Axes = Literal["auto", "time-last", "values-last"]
DecimalMark = Literal["auto", "point", "comma"]
DateOrder = Literal["auto", "day-first", "month-first"]

# Headings of the command line's help.
CONTENT, TOKENS, ROWS = "Content of the data", "Division into tokens", "Selection of rows"
INFERRED = "inferred"

_is_share = must(lambda share: 0 <= share < 1, "a share of the rows in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What a user says about the data; the defaults let everything be inferred.

    The help text of each field says what it is. Raises ConfigError for values outside their range.
    """

    target: tuple[str, ...] = setting(
        (),
        help="Columns to predict.",
        group=CONTENT,
        default_note="a column with a usual name such as label, else the last",
    )
    task: TaskKind = setting("auto", help="Kind of task: auto, classification, regression or forecast.", group=CONTENT)
    kind: SourceKind = setting(
        "auto", help="Kind of data: auto, images, table, array, series, strings or fasta.", group=CONTENT
    )
    column: str | None = setting(
        None,
        help="Column of the character sequences, or of the names of image files.",
        group=CONTENT,
        default_note=INFERRED,
    )
    series: str | None = setting(
        None, help="Column that identifies the series of each row, in a long table of time series.", group=CONTENT
    )
    time: str | None = setting(None, help="Column that orders the rows of a series.", group=CONTENT)
    values: tuple[str, ...] = setting(
        (), help="Columns of measured values.", group=CONTENT, default_note="all numeric columns"
    )
    decimal: DecimalMark = setting(
        "auto",
        help="Decimal mark, point or comma, where cells such as 1,201 are ambiguous.",
        group=CONTENT,
    )
    dates: DateOrder = setting(
        "auto",
        help="Order of dates such as 03/04/2024 where the cells are ambiguous: day-first or month-first.",
        group=CONTENT,
    )
    horizon: int | None = setting(
        None, help="Points to forecast, for --task forecast.", check=at_least(1), group=CONTENT, default_note="a season"
    )
    known: tuple[str, ...] = setting(
        (),
        help="For --task forecast: columns that are known in advance, such as holidays. New data have their rows after "
        "the last value.",
        group=CONTENT,
        default_note="none",
    )
    season: int | None = setting(
        None,
        help="Number of points after which a series to forecast repeats itself; 1 if it does not.",
        check=at_least(1),
        group=CONTENT,
        default_note=INFERRED,
    )
    patch: int | None = setting(
        None,
        help="Side of an image patch in pixels, or the number of columns or points in time per token.",
        check=at_least(1),
        group=TOKENS,
        default_note=INFERRED,
    )
    size: int | None = setting(
        None,
        help="Side in pixels of the squares that images are resized to.",
        check=at_least(1),
        group=TOKENS,
        default_note=INFERRED,
    )
    length: int | None = setting(
        None,
        help="Longest sequence, in characters or points in time. The rest is cut off.",
        check=at_least(1),
        group=TOKENS,
        default_note=INFERRED,
    )
    val: float = setting(
        0.15,
        help="Share of the rows for validation, at most 10,000, if the data have no such split.",
        check=_is_share,
        group=ROWS,
    )
    test: float = setting(
        0.15,
        help="Share of the rows for the test, at most 10,000, if the data have no such split.",
        check=_is_share,
        group=ROWS,
    )
    seed: int = setting(
        0, help="Seed of the random splits and of the sample of large tables.", check=at_least(0), group=ROWS
    )
    strict: bool = setting(
        False, help="Stop with an error where rows or cells would otherwise be skipped and counted.", group=ROWS
    )
    max_rows: int | None = setting(
        None,
        help="Largest number of rows. Larger tables are sampled.",
        check=at_least(1),
        group=ROWS,
        default_note="2,000,000",
    )
    drop: tuple[str, ...] = setting((), help="Columns to leave out.", group=CONTENT)
    keep: tuple[str, ...] = setting(
        (), help="Columns to use although they count the rows or differ in every row.", group=CONTENT
    )
    split: str | None = setting(
        None,
        help="Column with the split of each row; or the splits of folders or files, as in a=train,b=test; or none: "
        "names such as train and test are ordinary names.",
        group=ROWS,
        default_note=INFERRED,
    )
    group: str | None = setting(
        None, help="Column of patients, users and the like. All rows of a group share a split.", group=ROWS
    )
    axes: Axes = setting(
        "auto",
        help="Axes of arrays of series: auto, time-last (N, values, time) or values-last (N, time, values).",
        group=TOKENS,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.horizon is not None and self.task not in ("forecast", "regression"):
            raise ConfigError("horizon is the number of points to forecast: set --task forecast too, or leave it out.")
        if self.known and self.task not in ("forecast", "regression"):
            raise ConfigError("known names columns for a forecast: set --task forecast too, or leave it out.")
        if self.val + self.test >= 1:
            raise ConfigError(
                f"val and test must leave rows to train on, so they must be less than 1 together, but are {self.val} "
                f"and {self.test}."
            )
