"""The settings of a run as far as they matter when runs are compared."""

import json
from collections.abc import Mapping
from typing import Any

from icecore.backbones.families import FAMILIES
from icecore.backbones.named_models import NAMED

#: settings in which the runs of a sweep differ
SWEPT = frozenset({"lr", "seed", "body_seed"})


def settings_with_effect(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run without those that change nothing with its body.

    Every run of a body with absolute positions starts from these, whatever `position_start` says.
    """
    has_positions = _has_position_table(str(config.get("backbone")))
    return {name: value for name, value in config.items() if not (has_positions and name == "position_start")}


def _has_position_table(backbone: str) -> bool:
    """Whether a body is known by name and has absolute positions of its own. A matched LSTM has as many as its body."""
    name = backbone.removeprefix("lstm-matched:")
    return backbone == "lstm-star" or (name in NAMED and FAMILIES[NAMED[name].family].positions is not None)


def value_text(value: Any) -> str:
    """The value of a setting as a note names it."""
    return value if isinstance(value, str) else json.dumps(value)
