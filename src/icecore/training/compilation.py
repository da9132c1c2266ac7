"""When compiled kernels pay back the seconds that compiling takes."""

import math

from icecore.backbones.modules.kernels import can_compile
from icecore.model.fpt import FPT

#: floating-point operations from which a training pays back the time of compiling
COMPILE_FROM = {"cpu": 5e13, "cuda": 5e16}
#: time box from which compiling, which takes up to half a minute on two cores, is not a large part of it
MIN_COMPILE_MINUTES = 3.0


def pays_to_compile(model: FPT, passes: int, training: bool = True) -> bool:
    """Whether kernels can be compiled here, and `passes` rows through the body (of all runs together) pay for it.

    On CPUs only 8 bits gain, for which compiled kernels round in the same pass (docs/performance.md). It depends on
    the configuration only, never on measured time, so a resumed run computes as an unbroken one.
    """
    device = next(model.parameters()).device
    if device.type == "cpu" and model.precision != "int8":
        return False
    # two operations per weight and token forward, and as many for the gradient of the input
    work = (4 if training else 2) * model.counts()[1] * model.spec.length * passes
    return work >= COMPILE_FROM.get(device.type, math.inf) and can_compile(device)
