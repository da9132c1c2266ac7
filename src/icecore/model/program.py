"""Program: what one run learned, as a small self-describing safetensors file (never pickle).

The header says which task, sizes and body it was made for; every tensor has its checksum. A program
goes only onto the body it was trained on: the fingerprint of the frozen tensors decides.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from icecore.backbones.backbone import Backbone
from icecore.backbones.weights import save
from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, DataError, WeightsError
from icecore.core.storage import write_tensors
from icecore.model.fpt import FPT, ModelSettings
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


def model_settings(config: RunConfig) -> ModelSettings:
    """The part of a run's configuration that shapes its model."""
    return ModelSettings(config.train_roles, config.input_hidden, config.output_hidden, config.dropout)


def load_programs(programs: Sequence[Program], backbone: Backbone, precision: str = "fp32") -> FPT:
    """One model that holds `programs` on `backbone`: program r is run r.

    Raises WeightsError where the body is not the one a program was trained on (both fingerprints
    shown), ConfigError where programs cannot share one model, DataError naming a tensor that does not fit.
    """
    first = programs[0]
    for program in programs[1:]:
        if (program.spec, model_settings(program.config)) != (first.spec, model_settings(first.config)):
            raise ConfigError(f"programs of {first.config.task} and {program.config.task} differ in sizes or roles")
    model = FPT(first.spec, backbone, [p.config.seed for p in programs], model_settings(first.config), precision)
    for program in programs:
        if program.fingerprint != model.body_fingerprint:
            raise WeightsError(
                f"the program was trained on another body: fingerprint {program.fingerprint}, "
                f"{backbone.info.name} ({backbone.info.weights}) here has {model.body_fingerprint}"
            )
    shapes = {n: tuple(p.shape[1:] if model.has_run_axis(n) else p.shape) for n, p in model.program().items()}
    for program in programs:
        for name, expected in shapes.items():
            source = program.tensors.get(name)
            if source is None or tuple(source.shape) != expected:
                found = "missing" if source is None else f"of shape {tuple(source.shape)}"
                raise DataError(f"tensor {name} is {found}, expected shape {expected}")
    model.set_programs([program.tensors for program in programs])
    return model.requires_grad_(False)


@torch.no_grad()
def start_from_program(model: FPT, program: Program, config: RunConfig) -> list[str]:
    """Give every run of `model`, made by `config`, the tensors of `program` that fit it. Returns their names.

    Norms fit the same body, positions as far as both have them, the input layer where tokens are of the same
    kind and size; an output layer belongs to its classes and is left as it is. Raises ConfigError for another body.
    """
    if program.config.body != config.body:
        names = [
            f"{name} ({weights}, {f'{layers} layers' if layers else 'all layers'}, body seed {seed})"
            for name, weights, layers, seed in (program.config.body, config.body)
        ]
        raise ConfigError(f"{config.start}: a program of {names[0]} is no start on {names[1]}; name the same body")
    runs, taken = model.programs(), []
    like = (program.spec.kind, program.spec.size) == (model.spec.kind, model.spec.size)
    # all of its layers or none: one cut to another's width, or beside fresh ones, is no input layer
    layers = ({n: t.shape for n, t in held.items() if n.startswith("input.")} for held in (runs[0], program.tensors))
    like = like and next(layers) == next(layers)
    for name, own in runs[0].items():
        given = program.tensors.get(name)
        part = name.partition(".")[0]
        if given is None or part == "output" or (part == "input" and not like):
            continue
        rows = min(len(own), len(given)) if name == "positions" else len(own)
        if given.shape[1:] != own.shape[1:] or (name != "positions" and len(given) != rows):
            continue
        for run in runs:
            run[name][:rows] = given[:rows]
        taken.append(name)
    model.set_programs(runs)
    return taken


@torch.no_grad()
def write_body(program: Program, backbone: Backbone, path: Path) -> None:
    """Write `backbone` with what `program` trained of it as a weights file: `--weights FILE` starts from it.

    Positions beyond the program's T keep the backbone's. Raises StorageError.
    """
    for name, held in backbone.tensors().items():
        trained = program.tensors.get("positions" if name == "positions" else f"body.{name}")
        if trained is not None:
            rows = min(len(held), len(trained)) if held.ndim else None
            held[:rows].copy_(trained[:rows])
    save(backbone, path)


def _checksum(tensor: Tensor) -> str:
    """sha256 of type, shape and bytes."""
    held = tensor.detach().cpu().contiguous()
    kind = f"{held.dtype} {tuple(held.shape)}\n".encode()
    return hashlib.sha256(kind + held.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
