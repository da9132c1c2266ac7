"""Many machines: the packs of a study as tasks of a Ray cluster. Only this module imports Ray.

A node that shares the results folder trains in it, so that a pack resumes from its last state if its node is
lost. Any other node trains in a temporary folder and returns the files of the finished runs.
"""

import contextlib
import importlib
import os
import platform
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from icecore.core.config import RunConfig
from icecore.core.device import MEMORY_SHARE_VARIABLE
from icecore.core.errors import ConfigError, UserError
from icecore.core.storage import storage_errors, write_atomic
from icecore.core.text import pluralize
from icecore.experiments import sweep
from icecore.experiments.executor import Completion
from icecore.experiments.race_plan import done_for
from icecore.training.checkpoint import CONFIG, EVENTS, PROGRAM, SUMMARY, RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.run_summary import RunSummary

#: how often a pack is retried after its node or process was lost; Ray does not count what it kills for memory
MAX_RETRIES = 3
#: Ray binds to loopback if this variable is 0, which is its default on macOS and Windows
LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@dataclass(frozen=True)
class RayOptions:
    """The cluster to use, and the resources of each pack.

    address  "local", "auto", "host:port" or "ray://host:port"; empty: RAY_ADDRESS or a running cluster, else local
    cpus     processors, and as many threads
    gpus     GPUs, or a share of one; None: one if the device is, or may be, a GPU
    """

    address: str = ""
    cpus: int = 1
    gpus: float | None = None


@dataclass(frozen=True)
class Job:
    """A pack of runs for a node to train.

    context            that of the driver, with absolute paths
    working_directory  that of the driver; paths in configurations are relative to it
    marker             name of a file in `context.out`; a node that sees the file shares this folder
    files              Ray references to the files that the runs name, for nodes without that working directory
    threads, gpus      the pack's share of the node; other packs may use the rest, and its share of the memory
    """

    configs: Sequence[RunConfig]
    context: ExecutionContext
    working_directory: Path
    marker: str
    files: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class JobResult:
    """The result of a job.

    outcome  the summaries of its runs, or the error that the user can fix
    folders  content by file name of each run folder, by run id; empty if the node shares the driver's folder
    """

    outcome: Sequence[RunSummary] | UserError
    folders: Mapping[str, Mapping[str, bytes]]
    node: str
    seconds: float


def run_job(job: Job) -> JobResult:
    """Train a pack on the node that calls this function."""
    start, context = time.perf_counter(), job.context
    torch.set_num_threads(job.threads)
    share = job.gpus or job.threads / (os.cpu_count() or 1)
    os.environ[MEMORY_SHARE_VARIABLE] = str(min(1.0, share))
    is_shared = (context.out / job.marker).exists()
    outcome: Sequence[RunSummary] | UserError
    folders: dict[str, dict[str, bytes]] = {}
    with tempfile.TemporaryDirectory(prefix="icecore-") as temporary:
        directory = job.working_directory
        if not (is_shared and context.out.is_relative_to(directory)):
            directory = _write_files(job.files, Path(temporary) / "files")
        if not is_shared:
            context = replace(context, out=Path(temporary) / "runs")
        try:
            with contextlib.chdir(directory):
                outcome = sweep.train_runs(job.configs, context)
            if not is_shared:
                folders = {config.run_id: _read_files(RunFolder(context.out, config)) for config in job.configs}
        except UserError as error:
            outcome = error
    return JobResult(outcome, folders, platform.node(), time.perf_counter() - start)


def _write_files(files: Mapping[str, Any], directory: Path) -> Path:
    """Write the files of a job below a new directory. Returns it."""
    directory.mkdir()
    for name, reference in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(_ray().get(reference))
    return directory


def _read_files(folder: RunFolder) -> dict[str, bytes]:
    """The files of a finished run. The summary is last, because it marks the run as finished."""
    paths = (folder.path / name for name in (CONFIG, EVENTS, PROGRAM, SUMMARY))
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def split_packs(packs: Sequence[Sequence[RunConfig]], slots: int) -> list[list[Sequence[RunConfig]]]:
    """Each pack in parts of nearly equal size, so that there are `slots` parts in all if there are enough runs.

    >>> split_packs(["abcdef", "gh"], 4)
    [['ad', 'be', 'cf'], ['gh']]
    """
    parts = [1] * len(packs)
    for _ in range(slots - len(packs)):
        largest = max(range(len(packs)), key=lambda i: len(packs[i]) / parts[i], default=None)
        if largest is None or len(packs[largest]) == parts[largest]:
            break
        parts[largest] += 1
    return [[pack[first::count] for first in range(count)] for pack, count in zip(packs, parts, strict=True)]


@dataclass(frozen=True)
class _Submission:
    """Runs that a study submitted together, and what messages call them."""

    configs: Sequence[RunConfig]
    title: str
    wait: bool


class RayExecutor:
    """Trains on the nodes of a cluster, all packs at once; an `Executor`. `ray_executor` opens and closes it."""

    #: any number of runs may be submitted
    has_capacity = True

    def __init__(
        self, context: ExecutionContext, options: RayOptions, marker: str, log: Callable[[str], object]
    ) -> None:
        self.ray, self.log = _ray(), log
        gpus = _gpus_per_pack(options, context.device, self.ray.cluster_resources().get("GPU", 0))
        self.slots = _count_slots(self.ray.nodes(), options.cpus, gpus)
        device = "cuda" if gpus else "cpu" if context.device == "auto" else context.device
        data_dir = None if context.data_dir is None else str(Path(context.data_dir).absolute())
        context = replace(context, out=context.out.absolute(), data_dir=data_dir, device=device, callbacks=())
        #: what all jobs have in common
        self.template = Job((), context, Path.cwd(), marker, threads=options.cpus, gpus=gpus)
        resources = {"num_cpus": options.cpus, "num_gpus": gpus}
        remote = self.ray.remote(**resources, max_retries=MAX_RETRIES, scheduling_strategy="SPREAD")
        self.remote_run_job = remote(run_job)
        self.submissions: list[_Submission] = []
        self.already_finished: list[tuple[RunConfig, RunSummary]] = []
        self.running: dict[Any, _Submission] = {}
        self.started = 0
        self.files: dict[str, Any] = {}

    def submit(self, configs: Sequence[RunConfig], title: str, wait: bool) -> None:
        """Remember runs of one task; `next_result` sends them to the cluster, together with all others."""
        context = self.template.context
        folders = [RunFolder(context.out, config) for config in configs] if context.resume else []
        found = {folder.config.run_id: summary for folder in folders if (summary := folder.summary()) is not None}
        finished = done_for(found, configs, context.race)
        missing = [config for config in configs if config.run_id not in finished]
        self.already_finished += [(c, finished[c.run_id]) for c in configs if c.run_id in finished]
        self.submissions.append(_Submission(missing, title, wait))

    def next_result(self) -> Completion:
        """Wait for a pack. If it was lost too often, or cannot be trained, only its own runs get the error."""
        self._start_submitted()
        if self.already_finished:
            pairs, self.already_finished = self.already_finished, []
            return [config for config, _ in pairs], [summary for _, summary in pairs]
        (task,), _ = self.ray.wait(list(self.running), num_returns=1)
        pack = self.running.pop(task)
        runs = pluralize(len(pack.configs), "run")
        label = f"pack {self.started - len(self.running)} of {self.started}: {pack.title}, {runs}"
        try:
            result: JobResult = self.ray.get(task)
        except self.ray.exceptions.RayTaskError:  # an error in icecore itself, with the traceback of the node
            raise
        except self.ray.exceptions.RayError as error:
            self.log(f"{label}, lost")
            reason = str(error).strip().partition("\n")[0]
            message = f"The pack was lost {MAX_RETRIES + 1} times ({reason}). Give the command again to continue it."
            return pack.configs, UserError(message)
        for run_id, files in result.folders.items():
            for name, content in files.items():
                path = self.template.context.out / run_id / name
                write_atomic(path, lambda temporary, content=content: temporary.write_bytes(content))
        state = "not trained" if isinstance(result.outcome, UserError) else f"{result.seconds:.0f} s"
        self.log(f"{label}, {state} on {result.node}")
        return pack.configs, result.outcome

    def close(self) -> None:
        """Cancel the packs that are running."""
        for task in self.running:
            self.ray.cancel(task, force=True)

    def _start_submitted(self) -> None:
        """Start tasks for all submitted runs. New packs are split if there are free slots."""
        resumed: list[_Submission] = []
        new: list[_Submission] = []
        for submission in self.submissions:
            configs = submission.configs
            last_packs = {config.run_id: RunFolder(self.template.context.out, config).pack() for config in configs}
            for pack in sweep.packs(configs, list(last_packs.values())):
                has_started = any(last_packs[config.run_id] for config in pack)
                (resumed if has_started else new).append(replace(submission, configs=pack))
        self.submissions = []
        # a race needs its learning rates in one pack
        free = 0 if self.template.context.race else self.slots - len(self.running) - len(resumed)
        parts = split_packs([pack.configs for pack in new], free)
        packs = resumed + [replace(pack, configs=p) for ps, pack in zip(parts, new, strict=True) for p in ps]
        for pack in packs:
            context, files = replace(self.template.context, wait=pack.wait), self._references(pack.configs)
            job = replace(self.template, configs=pack.configs, context=context, files=files)
            self.running[self.remote_run_job.remote(job)] = pack
        self.started += len(packs)

    def _references(self, configs: Sequence[RunConfig]) -> dict[str, Any]:
        """References to the files below the working directory that the runs name. Ray stores each file once."""
        names = {name for config in configs for name in (config.weights, config.start) if name is not None}
        names = {n for n in names if not Path(n).is_absolute() and ".." not in Path(n).parts and Path(n).is_file()}
        for name in names - self.files.keys():
            self.files[name] = self.ray.put(Path(name).read_bytes())
        return {name: self.files[name] for name in names}


@contextlib.contextmanager
def ray_executor(context: ExecutionContext, options: RayOptions, log: Callable[[str], object]) -> Iterator[RayExecutor]:
    """Connect to a cluster, or start one on this machine. On exit, running packs are cancelled.

    log  is called with a message for each finished pack

    Raises UserError if Ray is not installed, there is no such cluster, or no node has the resources of a pack.
    """
    if options.address == "local" or not (options.address or os.environ.get("RAY_ADDRESS")):
        os.environ.setdefault(LOOPBACK_VARIABLE, "0")  # read when Ray is imported
    ray = _ray()
    is_own_connection = not ray.is_initialized()
    marker = f".cluster-{secrets.token_hex(8)}"
    try:
        if is_own_connection:
            connect(options.address)
        with storage_errors(context.out):
            context.out.mkdir(parents=True, exist_ok=True)
            (context.out / marker).touch()
        executor = RayExecutor(context, options, marker, log)
        try:
            yield executor
        finally:
            executor.close()
    finally:
        (context.out / marker).unlink(missing_ok=True)
        if is_own_connection:
            ray.shutdown()


def connect(address: str) -> None:
    """Connect this process to the cluster at `address`, see `RayOptions`. Raises UserError if there is none."""
    try:
        _ray().init(address or None, include_dashboard=False, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError) as error:
        name = address or os.environ.get("RAY_ADDRESS")
        raise UserError(
            f"--ray {name}: There is no cluster at this address ({error}). --ray local starts one on this machine."
        ) from error


def _ray() -> Any:
    """The Ray library. Raises UserError if it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError("--ray needs the library Ray. Install it with: pip install 'icecore[ray]'") from error


def _gpus_per_pack(options: RayOptions, device: str, cluster_gpus: float) -> float:
    if options.gpus is not None:
        return options.gpus
    return float(device.startswith("cuda") or (device == "auto" and cluster_gpus > 0))


def _count_slots(nodes: Sequence[Mapping[str, Any]], cpus: int, gpus: float) -> int:
    """How many packs the cluster trains at once. Raises ConfigError if no node has enough for one."""
    slots, largest = 0, (0.0, 0.0)
    for node in nodes:
        resources = node["Resources"] if node["Alive"] else {}
        available = (resources.get("CPU", 0.0), resources.get("GPU", 0.0))
        fits = [int(has / needs + 1e-6) for has, needs in zip(available, (cpus, gpus), strict=True) if needs]
        slots, largest = slots + min(fits), max(largest, available)
    if not slots:
        request = f"--cpus {cpus}" + (f" --gpus {gpus:g}" if gpus else "")
        raise ConfigError(
            f"{request}: No node of the cluster has this much for a pack. The largest has {largest[0]:g} CPUs "
            f"and {largest[1]:g} GPUs."
        )
    return slots
