"""Engines that the scikit-learn estimators of a process share.

An estimator holds its program but not the body, which is loaded at the first prediction. So pickles are small, and a
search over hundreds of candidates loads a body once.
"""

from functools import lru_cache

from icecore.backbones import BodyRequest, build_backbone
from icecore.core.device import select_runtime
from icecore.inference.engine import Engine

#: number of bodies that are kept for prediction; each takes as much memory as its weights
CACHED_BODIES = 2


@lru_cache(CACHED_BODIES)
def load_engine(
    name: str, weights: str, layers: int | None, seed: int, precision: str, device: str, fingerprint: str
) -> Engine:
    """An engine on a body. The fingerprint is a part of the key: a body with another one has other weights."""
    runtime = select_runtime(device, precision)
    return Engine(build_backbone(BodyRequest(name, weights, layers, seed)).to(runtime.device), runtime.precision)
