"""Program: what one run learned, as a small self-describing safetensors file (never pickle).

The header says which task, sizes and body it was made for; every tensor has its checksum. A program
goes only onto the body it was trained on: the fingerprint of the frozen tensors decides.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, DataError
from icecore.core.storage import write_tensors
from icecore.tasks.task import TaskSpec

FORMAT = 1


@dataclass(frozen=True)
class Program:
    """One run's tensors (without run axis) and what is needed to use them.

    fingerprint  sha256 of the frozen tensors of the body
    metrics      validation and test metrics at the end of the run
    extra        what a task adds (classes, preprocessing)
    """

    config: RunConfig
    spec: TaskSpec
    fingerprint: str
    tensors: Mapping[str, Tensor]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
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
        write_tensors(path, self.tensors, {"icecore": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})

    @classmethod
    def load(cls, path: Path) -> "Program":
        """Read a program and check every tensor. Raises DataError naming the file and the damaged part."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                text, checksum = metadata["icecore"], metadata["sha256"]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such program file") from error
        except KeyError as error:
            raise DataError(f"{path}: a safetensors file, but not an icecore program") from error
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise DataError(f"{path}: not a readable program, perhaps cut short ({error}); copy it again") from error
        if hashlib.sha256(text.encode()).hexdigest() != checksum:
            raise DataError(f"{path}: the header is damaged (checksum differs); copy the file again")
        header = json.loads(text)
        if header.get("format") != FORMAT:
            raise DataError(
                f"{path}: program format {header.get('format')}, this version reads {FORMAT}; upgrade icecore"
            )
        for name, checksum in header["sha256"].items():
            if name not in tensors:
                raise DataError(f"{path}: tensor {name} is missing; copy the file again")
            if _checksum(tensors[name]) != checksum:
                raise DataError(f"{path}: tensor {name} is damaged (checksum differs); copy the file again")
        try:
            return cls(
                config=RunConfig.from_json(json.dumps(header["config"])),
                spec=TaskSpec(**header["spec"]),
                fingerprint=header["fingerprint"],
                tensors=tensors,
                metrics=header["metrics"],
                versions=header["versions"],
                extra=header["extra"],
            )
        except (ConfigError, KeyError, TypeError) as error:
            made = header.get("versions", {}).get("icecore", "unknown")
            raise DataError(
                f"{path}: made by icecore {made}, not understood here ({error}); upgrade icecore"
            ) from error


def _checksum(tensor: Tensor) -> str:
    """sha256 of type, shape and bytes."""
    held = tensor.detach().cpu().contiguous()
    kind = f"{held.dtype} {tuple(held.shape)}\n".encode()
    return hashlib.sha256(kind + held.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
