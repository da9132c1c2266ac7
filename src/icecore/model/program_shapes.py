"""The shapes of a program's tensors, which follow from its header and the body."""

import itertools

from icecore.backbones.backbone import Backbone
from icecore.core.errors import DataError
from icecore.model.program import Program


def program_shapes(program: Program, backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor of `program` must have on `backbone`, but for those of the body that are no norms."""
    spec, config, info = program.spec, program.config, backbone.info
    read, outputs = backbone.output_sizes(spec.length, spec.read_positions, spec.outputs, spec.hidden_states)
    sizes = {
        "input": [spec.size, *config.input_hidden, info.width],
        "output": [read, *config.output_hidden, outputs],
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for part, widths in sizes.items():
        for number, pair in enumerate(itertools.pairwise(widths)):
            shapes[f"{part}.layers.{number}.weight"] = pair
            if part == "output" or number > 0 or spec.kind == "continuous":
                shapes[f"{part}.layers.{number}.bias"] = pair[1:]
    if backbone.takes_positions:
        shapes["positions"] = (config.prefix_length + spec.length, info.width)
    if config.prefix:
        shapes["prefix"] = (config.prefix_length, info.width)
    norms = backbone.norms().items()
    return shapes | {
        f"body.{name}.{kind}": tuple(parameter.shape)
        for name, norm in norms
        for kind, parameter in norm.named_parameters()
    }


def check_shapes(program: Program, shapes: dict[str, tuple[int, ...]], subject: str = "Tensor") -> None:
    """Raise DataError, with `subject` before its name, for a tensor that is missing or of another shape."""
    for name, expected in shapes.items():
        tensor = program.tensors.get(name)
        if tensor is None or tuple(tensor.shape) != expected:
            problem = "missing" if tensor is None else f"of shape {tuple(tensor.shape)}"
            raise DataError(f"{subject} {name} is {problem}, expected shape {expected}.")
