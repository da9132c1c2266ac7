"""Checks of what a program file says, before anything is built from it: types, ranges, and sizes against the tensors.

A header is data from somebody else. Its numbers decide how much memory is taken, so each must agree with a tensor
that is really in the file, or stay below a limit.
"""

import json
import math
import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, DataError
from icecore.core.read_outs import check_read_out
from icecore.core.settings import check_types, from_values, must
from icecore.core.text import shortened
from icecore.tasks.task import TaskSpec

#: the largest number of tokens, of numbers in a token and of outputs
MAX_SIZE = 2**24
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_is_size = must(lambda size: 1 <= size <= MAX_SIZE, f"1 to {MAX_SIZE:,}")


def read_header(text: str) -> dict[str, Any]:
    """The header as a table whose parts have the right types. Raises ConfigError that says which part has not."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The header is not JSON ({error}).") from error
    if not isinstance(header, dict):
        raise ConfigError(f"The header is not a table of names and values, but {shortened(header)}.")
    return header


def check_parts(header: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the parts of the header are of the right types."""
    for name in ("config", "spec", "sha256", "metrics", "versions", "extra"):
        if not isinstance(header.get(name), Mapping):
            raise ConfigError(f"{name}: expected a table of names and values, found {shortened(header.get(name))}")
    fingerprint = header.get("fingerprint")
    if not isinstance(fingerprint, str) or not re.fullmatch(r"[0-9a-f]{64}", fingerprint):
        raise ConfigError(f"fingerprint: expected 64 hexadecimal digits, found {shortened(fingerprint)}")


def read_spec(values: Mapping[str, Any]) -> TaskSpec:
    """The sizes of the task. Raises ConfigError for unknown names, and for values that no task has."""
    spec = from_values(TaskSpec, values)
    check_types(TaskSpec, vars(spec))
    for name in ("length", "size", "outputs", "read_positions"):
        _is_size(name, getattr(spec, name))
    if spec.read_positions > spec.length:
        raise ConfigError(f"read_positions: expected at most the length {spec.length}, found {spec.read_positions}")
    check_read_out("read_out", spec.read_out)
    return spec


def checked_tensors(tensors: Mapping[str, Tensor], path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors in fp32. Raises DataError naming one that does not consist of finite floating-point numbers."""
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise DataError(f"Tensor {name} in {path} has the type {tensor.dtype}, but programs hold numbers in fp32.")
        plain[name] = tensor.float()
        if not plain[name].isfinite().all():
            raise DataError(
                f"Tensor {name} in {path} has values that are not finite numbers, so its predictions would have no "
                "meaning. Train the program again."
            )
    return plain


def check_sizes(config: RunConfig, spec: TaskSpec, tensors: Mapping[str, Tensor]) -> None:
    """Raise ConfigError if a size in the header is not that of its tensor, where the program has the tensor."""
    K = config.prefix_length
    sizes = [("positions", 0, K + spec.length), ("prefix", 0, K), ("input.layers.0.weight", 0, spec.size)]
    for part, widths in (("input", config.input_hidden), ("output", config.output_hidden)):
        sizes += [(f"{part}.layers.{number}.weight", -1, width) for number, width in enumerate(widths)]
    for name, axis, size in sizes:
        tensor = tensors.get(name)
        if tensor is not None and (tensor.dim() < 1 or tensor.shape[axis] != size):
            raise ConfigError(f"Tensor {name} has the shape {tuple(tensor.shape)}, but the header gives {size:,}.")
    last = tensors.get(f"output.layers.{len(config.output_hidden)}.weight")
    if last is not None and math.prod(last.shape) < spec.outputs:
        raise ConfigError(f"The header gives {spec.outputs:,} outputs, but the output layer has no room for them.")
