"""Refuse weights with which a body cannot work: values that are not finite, and norms of which all gains are zero.

Training would not say what is wrong: it would end as diverged, or learn as if the body were not there.
"""

import math

from torch import Tensor

from icecore.backbones.backbone import Backbone
from icecore.core.errors import WeightsError
from icecore.core.text import pluralize


def check_values(body: Backbone, source: str) -> None:
    """Check the tensors of a body that were read from `source`. Raises WeightsError that names the first bad one."""
    for name, tensor in body.tensors().items():
        if tensor.numel() and not is_finite(tensor):
            count = int((~tensor.isfinite()).sum())
            raise WeightsError(
                f"{source}: tensor {name} has {pluralize(count, 'value')} of {tensor.numel():,} that are not finite "
                "(NaN or infinite), so the body could only compute NaN. The file is damaged, or its weights left the "
                "range of 16-bit numbers when they were converted. Get the weights again, or convert them to 32 bits. "
                "--weights random works without them."
            )
    first = body.first_token
    embeddings = [("token embeddings", "have", math.isfinite(body.embedding_spread))]
    embeddings.append(("embedding of the first token", "has", first is None or is_finite(first)))
    for name, verb, is_good in embeddings:
        if not is_good:
            raise WeightsError(
                f"{source}: the {name}, from which new positions and prefixes start, {verb} values that are not finite "
                "(NaN or infinite). The file is damaged. Get the weights again. --weights random works without them."
            )
    for name, norm in body.norms().items():
        if not norm.weight.any():
            raise WeightsError(
                f"{source}: all gains of the norm {name} are zero, so nothing passes through it. The file is damaged "
                "or was never filled. Get the weights again; --weights random works without them."
            )


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite, in one pass without a copy: a NaN is the smallest and the largest value."""
    return all(math.isfinite(float(value)) for value in tensor.detach().aminmax())
