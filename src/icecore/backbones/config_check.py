"""Refuse configurations of bodies with sizes that no body has: they decide how much memory is taken.

A config.json may be somebody else's. The library builds what it says before it looks at the weights.
"""

from typing import Any

import torch

from icecore.core.device import total_memory
from icecore.core.errors import WeightsError
from icecore.core.text import shortened

#: fields of configurations that are sizes, by the names of all families
SIZE_NAMES = (
    *("hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner", "d_ff", "d_kv", "head_dim"),
    *("num_hidden_layers", "n_layer", "num_layers", "num_attention_heads", "n_head", "num_heads"),
    *("num_key_value_heads", "max_position_embeddings", "n_positions", "type_vocab_size", "vocab_size"),
    *("image_size", "patch_size", "num_channels", "relative_attention_num_buckets"),
)
#: larger than the size of any body
MAX_BODY_SIZE = 2**24
MAX_BODY_LAYERS = 1000


def check_config(config: Any, layers: int, place: str) -> None:
    """Raise WeightsError for a configuration of `layers` layers that is no body's, or of one too large for memory."""
    for name in SIZE_NAMES:
        value = getattr(config, name, None)
        if value is not None and (type(value) is not int or not 0 < value <= MAX_BODY_SIZE):
            raise WeightsError(
                f"{place}: {name} in its configuration is {shortened(value)}, which icecore cannot use as a size."
            )
    width, positions = config.hidden_size, getattr(config, "max_position_embeddings", None) or 0
    inner = next((n for name in ("intermediate_size", "n_inner", "d_ff") if (n := getattr(config, name, None))), 0)
    needed = 4 * (layers * (4 * width**2 + 2 * width * (inner or 4 * width)) + positions * width)
    memory = total_memory(torch.device("cpu"))
    if layers > MAX_BODY_LAYERS or needed > memory:
        raise WeightsError(
            f"{place}: by its configuration, the body has {layers:,} layers and needs about {needed / 2**30:,.1f} GiB, "
            f"but this machine has {memory / 2**30:,.1f} GiB, and at most {MAX_BODY_LAYERS:,} layers are built."
        )
