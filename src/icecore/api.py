"""The functions of the public API: what a user types, on top of the folders that do the work.

Import them from `icecore` itself: `icecore.train`, `icecore.fit` and so on. They stay stable between minor versions.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, overload

from icecore.autofit import fit as fitting
from icecore.autofit.fit_result import FitResult
from icecore.autofit.fit_settings import FitSettings
from icecore.autofit.predict import Predictions
from icecore.autofit.predict import predict as predict_files
from icecore.backbones import Backbone, BodyRequest, HubAccess, build_backbone
from icecore.core.protocols import DEFAULT_PROTOCOL
from icecore.core.settings import from_values
from icecore.experiments.sweep import expand_sweep, make_config, open_run, run_sweep
from icecore.inspection.inspection_target import InspectionRequest, inspect_target
from icecore.inspection.measurement import Inspection
from icecore.model.fpt import FPT
from icecore.tasks import build_task
from icecore.tasks.entry import TaskRequest
from icecore.tasks.task import Task
from icecore.training.context import ExecutionContext
from icecore.training.distributed import join_processes
from icecore.training.run_summary import SweepSummary
from icecore.user_data import DataSettings, Plan, from_arrays
from icecore.user_data import plan as plan_files

PathName = str | PathLike[str]


def load_task(name: str, *, data_dir: PathName | None = None, **options: Any) -> Task:
    """Build a task by name, one of the paper or of the others that icecore has, with its data read onto the CPU.

    Parameters:
        name: one of the names that `icecore tasks` lists, for example "bit-xor" or "mnist"
        data_dir: the only folder to search for the data files; by default that of `ICECORE_DATA`, then the cache
        options: options of the task, for example `n=20` for bit XOR

    Raises ConfigError for an unknown name or option, and DataError if data files are missing or damaged.
    """
    return build_task(name, TaskRequest(options, None if data_dir is None else str(data_dir)))


def load_backbone(
    name: PathName = "minilm", *, weights: PathName = "pretrained", layers: int | None = None, seed: int = 0
) -> Backbone:
    """Load a frozen body, in fp32 on the CPU.

    Parameters:
        name: a name that `icecore backbones` lists, a folder written by `save_pretrained`, a GGUF file, or a
            model on the Hugging Face hub (`org/model`)
        weights: "pretrained", "random", "statistics", or the path of a weights file
        layers: number of layers to keep, counted from the input; None keeps all
        seed: seed of random weights

    Raises ConfigError for an unknown name, and WeightsError if weights are missing or do not fit.
    """
    return build_backbone(BodyRequest(str(name), str(weights), layers, seed))


def train(
    task: str,
    *,
    lr: float | Sequence[float] | None = None,
    seeds: int | Sequence[int] = 0,
    out: PathName = "runs",
    data_dir: PathName | None = None,
    device: str = "auto",
    precision: str = "auto",
    race: bool = False,
    **settings: Any,
) -> SweepSummary:
    """Train a task on a frozen body. Several learning rates and seeds are one packed training.

    A run that `out` already holds is not trained again, and an interrupted one continues from its last state.
    In a script that `torchrun` starts, the processes share each batch.

    Parameters:
        task: name of a task, see `load_task`
        lr: one learning rate or several, of which validation chooses; None takes the task's default
        seeds: one seed or several; the result is the mean over them
        out: parent folder of the run folders
        data_dir: folder with data files, see `load_task`
        device: "auto", "cpu", "cuda", "cuda:1" or "mps"
        precision: "auto", "fast", "fp32", "bf16" or "int8"
        race: stop the learning rates that are behind on validation after 1/10, 1/4 and 3/5 of the steps, so that five
            rates cost about two runs; the rate that goes on to the end is not always the best one of the whole sweep
        settings: any other setting of a run (`icecore.core.config.RunConfig`), for example `backbone="gpt2"`,
            `weights="random"`, `steps=500` or `task_options={"n": 20}`

    Returns the runs' summaries, the chosen learning rate, and the test metric's mean and standard error over seeds,
    which `out/summary.json` holds as well. Raises ConfigError, DataError, WeightsError or StorageError.
    """
    config = make_config(task, precision=precision, device=device, **settings)
    lrs = [lr] if isinstance(lr, int | float) else list(lr or ())
    configs = expand_sweep(config, lrs, [seeds] if isinstance(seeds, int) else list(seeds))
    folder = None if data_dir is None else str(Path(data_dir).expanduser())
    with join_processes() as world:
        return run_sweep(
            configs, ExecutionContext(Path(out).expanduser(), folder, world.device(device), race=race, world=world)
        )


def sweep(
    task: str,
    lrs: Sequence[float] = (3e-4, 1e-3, 3e-3),
    seeds: Sequence[int] = (0, 1, 2),
    *,
    race: bool = False,
    **settings: Any,
) -> SweepSummary:
    """Train every learning rate with every seed in one pack; validation chooses the rate.

    Parameters:
        task: name of the task, see `load_task`
        lrs: peak learning rates
        seeds: seeds of the initial values and of the order of the data
        race: learning rates that fall behind on validation stop early
        settings: what `train` takes as well

    Returns the summary of all runs, with the chosen rate. Raises what `train` raises.
    """
    return train(task, lr=lrs, seeds=seeds, race=race, **settings)


def load_run(
    path: PathName, *, data_dir: PathName | None = None, device: str = "auto", download: bool = False
) -> tuple[FPT, Task]:
    """Open a finished run: the model with its trained program, and the task with its data, on one device.

    Parameters:
        path: folder of the run, `out/run_id` of `train`
        data_dir: folder with data files, see `load_task`
        device: "auto", "cpu", "cuda", "cuda:1" or "mps"
        download: fetch the body from the hub if it is not on this machine; the folder may be somebody else's, so this
            is never done by itself, and without your token

    Raises ConfigError if the folder holds no finished run, and WeightsError if the body is not the one that the
    program was trained on.
    """
    folder = None if data_dir is None else str(Path(data_dir).expanduser())
    return open_run(Path(path).expanduser(), folder, device, hub="anonymous" if download else "off")


def inspect_body(
    target: PathName,
    *,
    task: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    weights: PathName | None = None,
    layers: int | None = None,
    examples: int = 16,
    data: PathName | None = None,
    data_dir: PathName | None = None,
    device: str = "auto",
    protocol: str = DEFAULT_PROTOCOL,
) -> Inspection:
    """Measure what a body does with the tokens of a task, layer by layer.

    `inspect_body("minilm", task="mnist").findings` says in words what stands out.

    Parameters:
        target: a body as `load_backbone` takes it, the folder of a run, or a program file; a body starts as a run with
            seed 0 would
        task: for a body: name of a task, see `load_task`; None takes bit XOR
        task_options: for a body: options of the task, for example `{"n": 20}`
        weights: for a body: "pretrained" (the default), "random", "statistics", or the path of a weights file
        layers: for a body: number of layers to keep, counted from the input; None keeps all
        examples: number of examples of the validation split
        data: for a program that was fitted to your own data: the path of rows to read
        data_dir: folder with data files, see `load_task`
        device: "auto", "cpu", "cuda", "cuda:1" or "mps"
        protocol: for a body: whose start it gets, see `train`

    Returns the numbers of each stage from the input on, and what stands out in words (`findings`). Raises ConfigError
    for a setting that does not fit the target, DataError, and WeightsError.
    """
    request = InspectionRequest(
        str(target),
        task,
        task_options or {},
        () if weights is None else (str(weights),),
        layers,
        examples,
        None if data is None else str(data),
        None if data_dir is None else str(data_dir),
        device,
        protocol,
    )
    return inspect_target(request)[0]


def plan(data: Any, y: Any = None, *, data_settings: DataSettings | None = None) -> Plan:
    """Find out what your own data are, without training: the same plan that `fit` follows.

    Parameters:
        data: the path of a folder or file, or arrays, as for `fit`
        y: targets (N,) or (N, targets) of arrays
        data_settings: what to say about the data, for example `DataSettings(target=("label",))`

    Returns the plan, which `plan(data).describe()` gives in words. Raises UserError for what can be corrected.
    """
    if isinstance(data, str | PathLike):
        return plan_files(data, data_settings)
    return from_arrays(data, y, data_settings)


def fit(
    data: Any,
    y: Any = None,
    *,
    out: PathName = "program.safetensors",
    data_settings: DataSettings | None = None,
    device: str = "auto",
    **settings: Any,
) -> FitResult:
    """Fit a program to your own data: find out what they are, sweep learning rates, and stop early.

    Parameters:
        data: the path of a folder or file (images, CSV, Parquet, NumPy arrays, FASTA, text); or arrays, see
            `icecore.user_data.from_arrays`, with their targets `y`
        y: targets (N,) or (N, targets) of arrays
        out: the program file to write
        data_settings: what to say about the data, for example `DataSettings(target=("label",))`
        device: "auto", "cpu", "cuda" or "mps"
        settings: how to train (`icecore.autofit.fit_settings.FitSettings`), for example `minutes=2` or `controls=True`

    Returns the program, its result and those of the controls. Raises ConfigError, with the nearest names, for a setting
    that does not exist, and other kinds of UserError for mistakes in the data, the weights or the output path.
    """
    fit_settings = from_values(FitSettings, settings)  # checked before the data are read
    data_plan = plan(data, y, data_settings=data_settings)
    extra = {"encoder": data_plan.encoder.to_json()}
    return fitting.fit(data_plan.task(), fit_settings, Path(out).expanduser(), extra, device)


# a str is also a sequence of str, which only the first overload means
@overload
def predict(  # pyright: ignore[reportOverlappingOverload]
    programs: PathName, data: Any, *, device: str = "auto", download: bool = False
) -> Predictions: ...


@overload
def predict(
    programs: Sequence[PathName], data: Any, *, device: str = "auto", download: bool = False
) -> Mapping[Path, Predictions]: ...


def predict(
    programs: PathName | Sequence[PathName], data: Any, *, device: str = "auto", download: bool = False
) -> Predictions | Mapping[Path, Predictions]:
    """Predict new rows with one program file or several; programs of one body share its passes.

    Parameters:
        programs: path of a program file, or a list of paths
        data: new rows, of the form that the program was fitted to: a path, or arrays
        device: "auto", "cpu", "cuda" or "mps"
        download: fetch a body from the hub if it is not on this machine; program files may be somebody else's, so this
            is never done by itself, and without your token

    Returns the predictions, by path if a list was given: classes, or numbers in the unit of the training targets.
    Raises DataError for data that a program cannot read, and WeightsError if a body is missing or is another one.
    """
    hub: HubAccess = "anonymous" if download else "off"
    if isinstance(programs, str | PathLike):
        path = Path(programs).expanduser()
        return predict_files([path], data, device, hub=hub)[path]
    return predict_files([Path(path).expanduser() for path in programs], data, device, hub=hub)
