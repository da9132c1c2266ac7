"""JSON that every reader accepts: without NaN and Infinity, and without lone halves of characters."""

import json
import math
from collections.abc import Mapping
from typing import Any


def to_json(value: Any) -> bytes:
    """A value as JSON. Numbers that are not finite become null, texts are escaped to ASCII."""
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        return json.dumps(_without_nan(value), allow_nan=False, separators=(",", ":")).encode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
