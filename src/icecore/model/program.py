"""Program: what one run learned, as a small self-describing safetensors file (never pickle).

The header says which task, sizes and body it was trained for, and has a checksum for every tensor. A program works
only on the body that it was trained on, which the fingerprint of the frozen tensors identifies.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from icecore.backbones.backbone import Backbone
from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, DataError
from icecore.core.limits import check_fits_memory
from icecore.core.storage import write_tensors
from icecore.core.text import shortened
from icecore.model.program_checks import check_parts, check_sizes, checked_tensors, read_header, read_spec
from icecore.tasks.task import TaskSpec

FORMAT = 1
#: the name under which `extra` has what a norm after the input layer scales tokens to
INPUT_RMS = "input_rms"


@dataclass(frozen=True)
class Program:
    """One run's tensors (without run axis), and what is needed to use them.

    fingerprint  sha256 of the frozen tensors of the body
    metrics      validation and test metrics at the end of the run
    extra        what a task or a fit adds (classes, preprocessing, results of controls), and INPUT_RMS if there is one
    """

    config: RunConfig
    spec: TaskSpec
    fingerprint: str
    tensors: Mapping[str, Tensor]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def input_rms(self, backbone: Backbone) -> float | None:
        """What its norm after the input layer scales tokens to; None without one. Older files leave it to the body.

        Raises DataError if the file has no usable number.
        """
        if not self.config.input_norm:
            return None
        value = self.extra.get(INPUT_RMS, backbone.embedding_spread)
        if not isinstance(value, float | int) or not 0 < value < math.inf:
            raise DataError(f"{INPUT_RMS} of the program is {shortened(value)}, but must be a positive number.")
        return float(value)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the program, atomically. Raises StorageError."""
        header = {
            "format": FORMAT,
            "config": json.loads(self.config.to_json()),
            "spec": dataclasses.asdict(self.spec),
            "fingerprint": self.fingerprint,
            "metrics": dict(self.metrics),
            "versions": dict(self.versions),
            "extra": dict(self.extra),
            "sha256": {name: _checksum(tensor) for name, tensor in self.tensors.items()},
        }
        text = json.dumps(header)
        write_tensors(
            Path(path).expanduser(),
            self.tensors,
            {"icecore": text, "sha256": hashlib.sha256(text.encode()).hexdigest()},
        )

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Program":
        """Read a program and check every tensor. Raises DataError that names the file and the damaged part."""
        path = Path(path).expanduser()
        try:
            check_fits_memory(path)
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                text, checksum = metadata["icecore"], metadata["sha256"]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
        except FileNotFoundError as error:
            raise DataError(f"There is no program file {path}.") from error
        except KeyError as error:
            raise DataError(
                f"{path} is a safetensors file, but not an icecore program. Weights of a body go with --weights."
            ) from error
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{path} is not a readable program and may be incomplete ({error}). Copy it again."
            ) from error
        return _read(text, checksum, tensors, path)

    @classmethod
    def from_bytes(cls, raw: bytes, name: str) -> "Program":
        """As `load`, from the bytes of a program file; `name` is for messages. Raises DataError."""
        try:
            tensors = safetensors.torch.load(raw)
            size = int.from_bytes(raw[:8], "little")
            metadata = json.loads(raw[8 : 8 + size])["__metadata__"]
            text, checksum = metadata["icecore"], metadata["sha256"]
        except (KeyError, TypeError) as error:
            raise DataError(f"{name} is not an icecore program.") from error
        except (SafetensorError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{name} is not a readable program and may be incomplete ({error}). Copy it again."
            ) from error
        return _read(text, checksum, tensors, name)


def _read(text: str, checksum: str, tensors: Mapping[str, Tensor], path: str | PathLike[str]) -> Program:
    """The program of a header, with its checksum, and tensors. Raises DataError."""
    if hashlib.sha256(text.encode()).hexdigest() != checksum:
        raise DataError(f"The header of {path} is damaged (its checksum differs). Copy the file again.")
    made: object = "unknown"
    try:
        header = read_header(text)
        if header.get("format") != FORMAT:
            raise DataError(
                f"{path} has program format {shortened(header.get('format'))}, but this version reads {FORMAT}. "
                "Upgrade icecore."
            )
        check_parts(header)
        made = header["versions"].get("icecore", made)
        checksums = header["sha256"]
        for name in sorted(checksums.keys() | tensors.keys()):
            if name not in tensors:
                raise DataError(f"Tensor {name} is missing in {path}. Copy the file again.")
            if _checksum(tensors[name]) != checksums.get(name):
                raise DataError(f"Tensor {name} in {path} is damaged (its checksum differs). Copy the file again.")
        tensors = checked_tensors(tensors, path)
        config, spec = RunConfig.from_json(json.dumps(header["config"])), read_spec(header["spec"])
        check_sizes(config, spec, tensors)
    except ConfigError as error:
        raise DataError(
            f"{path} was written by icecore {made!s:.40} and cannot be read here. Upgrade icecore. {error}"
        ) from error
    metrics, versions, extra = (header[name] for name in ("metrics", "versions", "extra"))
    return Program(config, spec, header["fingerprint"], tensors, metrics, versions, extra)


def _checksum(tensor: Tensor) -> str:
    """sha256 of type, shape and bytes."""
    plain = tensor.detach().cpu().contiguous()
    kind = f"{plain.dtype} {tuple(plain.shape)}\n".encode()
    return hashlib.sha256(kind + plain.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
