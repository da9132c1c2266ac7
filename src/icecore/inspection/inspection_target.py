"""What a user names for an inspection: a bare body, which gets a fresh start, a run folder, or a program file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icecore import user_data
from icecore.autofit.predict import read_encoder
from icecore.backbones import BodyRequest, build_backbone
from icecore.core.device import select_runtime
from icecore.core.errors import ConfigError
from icecore.core.limits import read_small
from icecore.core.protocols import DEFAULT_PROTOCOL
from icecore.experiments.sweep import load_task, make_config, open_program, open_run
from icecore.inspection.measurement import Inspection, measure_model
from icecore.model.fpt import FPT
from icecore.model.model_settings import model_settings
from icecore.model.program import Program
from icecore.tasks import build_task
from icecore.tasks.entry import TaskRequest
from icecore.tasks.task import Task
from icecore.training.checkpoint import CONFIG

#: a task that needs no data files
DEFAULT_TASK = "bit-xor"


@dataclass(frozen=True)
class InspectionRequest:
    """What to inspect, and on which examples.

    target    a body as `build_backbone` takes it, the folder of a run, or a program file
    task      for a body: name of the task whose examples it gets; None: bit XOR
    options   for a body: options of the task
    weights   for a body: its weights, each of which is inspected; none: pretrained
    layers    for a body: number of layers to keep; None: all
    examples  number of examples
    data      for a program that was fitted to your own data: the path of rows to read
    data_dir  folder with data files
    device    where to compute
    protocol  for a body: whose start it gets, see `icecore train`
    """

    target: str
    task: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Sequence[str] = ()
    layers: int | None = None
    examples: int = 16
    data: str | None = None
    data_dir: str | None = None
    device: str = "auto"
    protocol: str = DEFAULT_PROTOCOL


def inspect_target(request: InspectionRequest) -> list[Inspection]:
    """Inspect each of the weights of a body, or one run or program.

    Bodies are in fp32 and start as a run with seed 0 would; a run has its own precision.
    Raises ConfigError for a setting that does not fit the target, and what building task, body or model raises.
    """
    path = Path(request.target).expanduser()
    if _is_run(path) or path.suffix == ".safetensors":
        _check_settings_of_trained(request)
        model, task, split = _open_trained(path, request)
        model.compiled = False  # compiling takes longer than these few passes
        start = f"trained, {path.name}"
        return [measure_model(model, task, split, request.examples, start)]
    if request.data is not None:
        raise ConfigError(f"--data: {request.target} is a body. Give --task, or inspect a program that read such data.")
    if not path.exists() and path.parent != Path() and path.parent.is_dir():
        raise ConfigError(f"There is no file or folder {request.target}.")
    return _inspect_body(request)


def _is_run(path: Path) -> bool:
    """Whether `path` is a folder and not that of a body, whose config.json names its kind of model."""
    if not path.is_dir():
        return False
    try:
        return "model_type" not in json.loads(read_small(path / CONFIG))
    except (OSError, ValueError, RecursionError):
        return True


def _check_settings_of_trained(request: InspectionRequest) -> None:
    given = {
        "--task": request.task,
        "--task-option": request.options,
        "--weights": request.weights,
        "--layers": request.layers,
        "--protocol": request.protocol != DEFAULT_PROTOCOL,
    }
    for option, value in given.items():
        if value:
            raise ConfigError(f"{option}: {request.target} has a task and a body of its own. Leave {option} out.")


def _open_trained(path: Path, request: InspectionRequest) -> tuple[FPT, Task, str]:
    """The model of a run folder or a program file, its task, and the split to take examples from."""
    if path.is_dir():
        if request.data is not None:
            raise ConfigError(f"--data: the run {request.target} has a task with data of its own. Leave --data out.")
        return *open_run(path, request.data_dir, request.device), "val"
    program = Program.load(path)
    if "encoder" not in program.extra:
        if request.data is not None:
            read_encoder(program, path)  # says that the program cannot read such data
        return *open_program(program, load_task(program.config, request.data_dir), request.device), "val"
    if request.data is None:
        raise ConfigError(f"{path} was fitted to your own data. Name rows for it to read with --data.")
    encoder = read_encoder(program, path)
    task = user_data.encode(encoder, request.data).task(encoder)
    return *open_program(program, task, request.device), "test"


def _inspect_body(request: InspectionRequest) -> list[Inspection]:
    device = select_runtime(request.device, "fp32").device
    name = request.task or DEFAULT_TASK
    task = build_task(name, TaskRequest(request.options, request.data_dir)).to(device)
    inspections = []
    for weights in request.weights or ("pretrained",):
        body = build_backbone(BodyRequest(request.target, weights, request.layers))
        config = make_config(
            name, "fp32", request.device, backbone=request.target, weights=weights, protocol=request.protocol
        )
        model = FPT(task.spec, body, settings=model_settings(config)).to(device)
        inspections.append(measure_model(model, task, "val", request.examples, "not trained, seed 0"))
    return inspections
