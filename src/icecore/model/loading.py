"""Programs and models: put programs on a body, start runs from a program, write what a program made of a body."""

from collections.abc import Sequence
from pathlib import Path

import torch

from icecore.backbones.backbone import Backbone
from icecore.backbones.weights import save
from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, WeightsError
from icecore.model.fpt import FPT
from icecore.model.model_settings import model_settings
from icecore.model.program import Program
from icecore.model.program_shapes import check_shapes, program_shapes


def load_programs(programs: Sequence[Program], backbone: Backbone, precision: str = "fp32") -> FPT:
    """One model that holds `programs` on `backbone`; program r becomes run r.

    Raises WeightsError if the body is not the one that a program was trained on (both fingerprints are shown),
    ConfigError if the programs cannot share one model, DataError that names a tensor that does not fit.
    """
    first = programs[0]
    for program in programs[1:]:
        sizes = [(p.spec, model_settings(p.config), p.input_rms(backbone)) for p in (first, program)]
        if sizes[0] != sizes[1]:
            tasks = f"{first.config.task} and {program.config.task}"
            raise ConfigError(f"Programs of {tasks} cannot share a model: their sizes or roles differ.")
    for program in programs:  # before a model of the sizes in its header is made
        check_shapes(program, program_shapes(program, backbone))
    model = FPT(first.spec, backbone, [p.config.seed for p in programs], model_settings(first.config), precision)
    for program in programs:
        if program.fingerprint != model.body_fingerprint:
            raise WeightsError(
                f"The program was trained on another body: fingerprint {program.fingerprint}, but "
                f"{backbone.info.name} ({backbone.info.weights}) here has {model.body_fingerprint}."
            )
    shapes = {n: tuple(p.shape[1:] if model.has_run_axis(n) else p.shape) for n, p in model.program().items()}
    for program in programs:
        check_shapes(program, shapes)
    model.set_programs([program.tensors for program in programs])
    model.input_rms = first.input_rms(backbone)
    return model.requires_grad_(False)


@torch.no_grad()
def start_from_program(model: FPT, program: Program, config: RunConfig) -> list[str]:
    """Give every run of `model`, built by `config`, the tensors of `program` that fit it. Returns their names.

    Norms fit the same body, and the input layer fits if tokens have the same kind and size. Positions fit as far as
    both have them: those of a prefix of the same length, and those of the tokens behind it, whatever its length. The
    output layer belongs to its classes and stays as it is. Raises ConfigError for another body.
    """
    if program.config.body != config.body:
        names = [
            f"{name} ({weights}, {f'{layers} layers' if layers else 'all layers'}, body seed {seed})"
            for name, weights, layers, seed in (program.config.body, config.body)
        ]
        raise ConfigError(f"{config.start} is a program of {names[0]}, but the run has {names[1]}. Use the same body.")
    runs, used = model.programs(), []
    prefixes = program.config.prefix_length, config.prefix_length
    same_tokens = (program.spec.kind, program.spec.size) == (model.spec.kind, model.spec.size)
    # all of its layers or none
    layers = (
        {n: t.shape for n, t in tensors.items() if n.startswith("input.")} for tensors in (runs[0], program.tensors)
    )
    same_tokens = same_tokens and next(layers) == next(layers)
    for name, current in runs[0].items():
        source = program.tensors.get(name)
        part = name.partition(".")[0]
        if source is None or part == "output" or (part == "input" and not same_tokens):
            continue
        if name == "positions" and prefixes[0] != prefixes[1]:
            source, offset = source[prefixes[0] :], prefixes[1]
        else:
            offset = 0
        rows = min(len(current) - offset, len(source)) if name == "positions" else len(current)
        if source.shape[1:] != current.shape[1:] or (name != "positions" and len(source) != rows):
            continue
        for run in runs:
            run[name][offset : offset + rows] = source[:rows]
        used.append(name)
    model.set_programs(runs)
    return used


@torch.no_grad()
def write_body(program: Program, backbone: Backbone, path: Path) -> None:
    """Write `backbone`, with what `program` trained of it, as a weights file for `--weights FILE`.

    Positions beyond the program's T are the backbone's. Raises StorageError.
    """
    for name, tensor in backbone.tensors().items():
        trained = program.tensors.get("positions" if name == "positions" else f"body.{name}")
        if trained is not None:
            rows = min(len(tensor), len(trained)) if tensor.ndim else None
            tensor[:rows].copy_(trained[:rows])
    save(backbone, path)
