"""Everything that was fitted on the training rows, as one value that is saved with the program as JSON."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from icecore.core.errors import ConfigError, DataError
from icecore.core.text import reason
from icecore.tasks.task import TaskSpec
from icecore.user_data.columns import ColumnType
from icecore.user_data.data_settings import DataSettings
from icecore.user_data.encoder_checks import check_encoder, check_forecast, check_formats
from icecore.user_data.encoders.image_encoder import ImageEncoder
from icecore.user_data.encoders.input_encoder import InputEncoder, to_tuples
from icecore.user_data.encoders.sequence_encoder import SequenceEncoder
from icecore.user_data.encoders.table_encoder import TableEncoder
from icecore.user_data.encoders.text_encoder import TextEncoder
from icecore.user_data.forecast_windows import ForecastPlan
from icecore.user_data.targets import TargetEncoder

#: version of the JSON; older versions can be read
ENCODER_FORMAT = 1
#: settings that encoders of version 0.1 have
SETTINGS_OF_0_1 = frozenset(
    [
        "column",
        "drop",
        "kind",
        "length",
        "max_rows",
        "patch",
        "seed",
        "series",
        "size",
        "strict",
        "target",
        "task",
        "test",
        "time",
        "val",
        "values",
    ]
)
#: the encoder for each form of records
INPUT_ENCODERS: Mapping[str, type[Any]] = {
    "images": ImageEncoder,
    "table": TableEncoder,
    "sequences": SequenceEncoder,
    "strings": TextEncoder,
}


@dataclass(frozen=True)
class DataEncoder:
    """From rows as they were read to tokens, and from logits back to predictions.

    form      form of the records, a key of `INPUT_ENCODERS`
    settings  those needed to read new data in the same way, with what was inferred filled in
    types     types of the columns of the training data
    formats   how their numbers and dates are written, unless plainly: "1.234,5%", "day-first"
    forecast  how series are cut into windows, if the program forecasts them
    """

    form: str
    settings: DataSettings
    types: Mapping[str, ColumnType]
    inputs: InputEncoder[Any]
    target: TargetEncoder
    formats: Mapping[str, str] = field(default_factory=dict)
    forecast: ForecastPlan | None = None

    @property
    def spec(self) -> TaskSpec:
        """The sizes of the task."""
        inputs = self.inputs
        return TaskSpec(inputs.kind, inputs.length, inputs.token_size, self.target.outputs, inputs.read_out)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        parts = {name: dataclasses.asdict(getattr(self, name)) for name in ("inputs", "target")}
        # what is new since version 0.1 is left out while it says nothing, so that older versions read the encoder
        for name, silent in (("white", None), ("read_out", "last")):
            if name in parts["inputs"] and parts["inputs"][name] == silent:
                del parts["inputs"][name]
        settings = dataclasses.asdict(self.settings)
        defaults = dataclasses.asdict(DataSettings())
        parts["settings"] = {
            name: settings[name] for name in settings if name in SETTINGS_OF_0_1 or settings[name] != defaults[name]
        }
        if self.formats:
            parts["formats"] = dict(self.formats)
        if self.forecast is not None:
            parts["forecast"] = dataclasses.asdict(self.forecast)
        values = {"format": ENCODER_FORMAT, "form": self.form, "types": dict(self.types), **parts}
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "DataEncoder":
        """The inverse of `to_json`. Raises DataError if the text is no encoder, or one of a newer version."""
        try:
            values = json.loads(text)
            if values["format"] > ENCODER_FORMAT:
                raise DataError(
                    f"The data encoder has format {values['format']}, but this version of icecore reads formats up to "
                    f"{ENCODER_FORMAT}. Update icecore."
                )
            encoder = cls(
                values["form"],
                DataSettings(**to_tuples(values["settings"])),
                values["types"],
                INPUT_ENCODERS[values["form"]](**to_tuples(values["inputs"])),
                TargetEncoder(**to_tuples(values["target"])),
                values.get("formats", {}),
                None if values.get("forecast") is None else ForecastPlan(**to_tuples(values["forecast"])),
            )
            check_encoder(encoder.types, encoder.inputs, encoder.target)
            check_formats(encoder.formats)
            check_forecast(encoder.forecast, encoder.inputs)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ConfigError) as error:
            raise DataError(f"The text is not a data encoder ({type(error).__name__}: {reason(error)}).") from error
        return encoder
