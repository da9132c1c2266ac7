"""The settings of a run as far as they matter when runs are compared."""

import json
from collections.abc import Mapping
from typing import Any

from icecore.backbones.families import FAMILIES
from icecore.backbones.named_models import NAMED
from icecore.core.config import OMITTED_IF_NONE

#: what a configuration without these settings means
_OMITTED: Mapping[str, None] = dict.fromkeys(sorted(OMITTED_IF_NONE))
#: settings in which the runs of a sweep differ
SWEPT = frozenset({"lr", "seed", "body_seed"})


def settings_with_effect(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run without those that change nothing with its body; none of a record without settings.

    A configuration leaves some settings out while they are None, and they count as None here. `position_start` has no
    effect if the body has absolute positions, from which every run starts then, or takes none at all.
    """
    if not config:
        return {}
    no_effect = {"position_start"} if _ignores_position_start(str(config.get("backbone"))) else set[str]()
    return {name: value for name, value in {**_OMITTED, **config}.items() if name not in no_effect}


def _ignores_position_start(backbone: str) -> bool:
    """Whether a body is known by name and brings its own positions. A matched LSTM has as many as its transformer."""
    name = backbone.removeprefix("lstm-matched:")
    if name in NAMED:
        return FAMILIES[NAMED[name].family].positions is not None
    return name.partition(":")[0] in ("none", "lstm", "lstm-star")


def value_text(value: Any) -> str:
    """The value of a setting as a note names it."""
    return value if isinstance(value, str) else json.dumps(value)
