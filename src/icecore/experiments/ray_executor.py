"""Many machines: the packs of a study as tasks of a Ray cluster. All that knows Ray is here.

A node that shares the results folder trains in it, so that a pack goes on from its last state after its node was
lost; any other trains in a scratch folder of its own and hands the finished run folders over.
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
from icecore.training.checkpoint import CONFIG, EVENTS, PROGRAM, SUMMARY, RunFolder

#: times that a pack is trained again after its node or process was lost; what Ray kills for memory is not counted
RETRIES = 3
#: Ray binds to loopback where this is 0, as it does by default on macOS and Windows
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@dataclass(frozen=True)
class Nodes:
    """Which cluster, and what of it each pack is given.

    address  "local", "auto", "host:port" or "ray://host:port"; empty: what RAY_ADDRESS names or runs here, else local
    cpus     processors, and as many threads
    gpus     GPUs, or a share of one; None: one where the device asked for is, or can be, a GPU
    """

    address: str = ""
    cpus: int = 1
    gpus: float | None = None


@dataclass(frozen=True)
class Job:
    """A pack for a node.

    place   that of the driver, its paths absolute
    home    the driver's working directory, which paths in configurations are relative to
    marker  a file in `place.out`: whoever sees it shares that folder
    files   references to the content of files that the runs name, for who does not share `home`
    threads and
    gpus    of the node that are the pack's; other packs may have the rest, and as much of the memory
    """

    configs: Sequence[RunConfig]
    place: sweep.Place
    home: Path
    marker: str
    files: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class JobResult:
    """What came of an order.

    outcome  the summaries, or what a user can mend
    folders  files by name of each run folder that the driver does not have yet
    """

    outcome: Sequence[Mapping[str, Any]] | UserError
    folders: Mapping[str, Mapping[str, bytes]]
    node: str
    seconds: float


def run_job(order: Job) -> JobResult:
    """Train a pack, on the node that this is called on."""
    begun, place = time.perf_counter(), order.place
    torch.set_num_threads(order.threads)
    share = order.gpus or order.threads / (os.cpu_count() or 1)
    os.environ[MEMORY_SHARE_VARIABLE] = str(min(1.0, share))
    shared = (place.out / order.marker).exists()
    folders: dict[str, dict[str, bytes]] = {}
    with tempfile.TemporaryDirectory(prefix="icecore-") as scratch:
        home = order.home
        if not (shared and place.out.is_relative_to(home)):
            home = _unpack(order.files, Path(scratch) / "home")
        if not shared:
            place = replace(place, out=Path(scratch) / "runs")
        try:
            with contextlib.chdir(home):
                outcome = sweep.train_runs(order.configs, place)
            if not shared:
                folders = {config.run_id: _packed(RunFolder(place.out, config)) for config in order.configs}
        except UserError as error:
            outcome = error
    return JobResult(outcome, folders, platform.node(), time.perf_counter() - begun)


def _unpack(files: Mapping[str, Any], home: Path) -> Path:
    home.mkdir()
    for name, reference in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(_ray().get(reference))
    return home


def _packed(folder: RunFolder) -> dict[str, bytes]:
    """The files of a finished run, its summary last."""
    paths = (folder.path / name for name in (CONFIG, EVENTS, PROGRAM, SUMMARY))
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def spread(packs: Sequence[Sequence[RunConfig]], slots: int) -> list[list[Sequence[RunConfig]]]:
    """Each pack cut into parts that are as even as can be, so that all packs have `slots` parts where runs are enough.

    >>> spread(["abcdef", "gh"], 4)
    [['ad', 'be', 'cf'], ['gh']]
    """
    parts = [1] * len(packs)
    for _ in range(slots - len(packs)):
        largest = max(range(len(packs)), key=lambda i: len(packs[i]) / parts[i], default=None)
        if largest is None or len(packs[largest]) == parts[largest]:
            break
        parts[largest] += 1
    return [[pack[first::count] for first in range(count)] for pack, count in zip(packs, parts, strict=True)]


class RayExecutor:
    """Trains on the nodes of a cluster, all packs at once; the `Crew` of a study. Made by `executor`."""

    #: any number of runs may be submitted
    free = True

    def __init__(self, place: sweep.Place, nodes: Nodes, marker: str, say: Callable[[str], object]) -> None:
        self.ray, self.say = _ray(), say
        gpus = _gpus(nodes, place.device, self.ray.cluster_resources().get("GPU", 0))
        self.slots = _slots(self.ray.nodes(), nodes.cpus, gpus)
        device = "cuda" if gpus else "cpu" if place.device == "auto" else place.device
        data_dir = None if place.data_dir is None else str(Path(place.data_dir).absolute())
        place = replace(place, out=place.out.absolute(), data_dir=data_dir, device=device, watchers=())
        self.order = Job((), place, Path.cwd(), marker, threads=nodes.cpus, gpus=gpus)
        options = {"num_cpus": nodes.cpus, "num_gpus": gpus, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
        self.task = self.ray.remote(**options)(run_job)
        self.asked: list[tuple[Sequence[RunConfig], str, bool]] = []
        self.finished_before: list[tuple[RunConfig, dict[str, Any]]] = []
        self.running: dict[Any, tuple[Sequence[RunConfig], str]] = {}
        self.sent = 0
        self.files: dict[str, Any] = {}

    def submit(self, configs: Sequence[RunConfig], title: str, wait: bool) -> None:
        """Train runs that can be trained together; they are sent when `finished` is called, with all others."""
        missing = []
        for config in configs:
            summary = RunFolder(self.order.place.out, config).summary() if self.order.place.resume else None
            if summary is None:
                missing.append(config)
            else:
                self.finished_before.append((config, summary))
        self.asked.append((missing, title, wait))

    def finished(self) -> tuple[Sequence[RunConfig], Sequence[Mapping[str, Any]] | UserError]:
        """Wait for a pack. One that was lost too often, or cannot be trained, is an error of its own runs only."""
        self._send()
        if self.finished_before:
            pairs, self.finished_before = self.finished_before, []
            return [config for config, _ in pairs], [summary for _, summary in pairs]
        (task,), _ = self.ray.wait(list(self.running), num_returns=1)
        configs, title = self.running.pop(task)
        count = f"pack {self.sent - len(self.running)} of {self.sent}: {title}, {pluralize(len(configs), 'run')}"
        try:
            delivery = self.ray.get(task)
        except self.ray.exceptions.RayTaskError:  # a fault of ours, with the traceback of the node
            raise
        except self.ray.exceptions.RayError as error:
            self.say(f"{count}, lost")
            reason = str(error).strip().partition("\n")[0]
            return configs, UserError(f"lost {RETRIES + 1} times ({reason}); give the command again to go on")
        for run_id, files in delivery.folders.items():
            for name, content in files.items():
                path = self.order.place.out / run_id / name
                write_atomic(path, lambda temporary, content=content: temporary.write_bytes(content))
        state = "not trained" if isinstance(delivery.outcome, UserError) else f"{delivery.seconds:.0f} s"
        self.say(f"{count}, {state} on {delivery.node}")
        return configs, delivery.outcome

    def close(self) -> None:
        """Stop what is under way."""
        for task in self.running:
            self.ray.cancel(task, force=True)

    def _send(self) -> None:
        """Make tasks of what was submitted; packs that had not begun are cut up where there are slots to spare."""
        begun, fresh = [], []
        for configs, title, wait in self.asked:
            states = {config.run_id: RunFolder(self.order.place.out, config).pack() for config in configs}
            for pack in sweep.packs(configs, list(states.values())):
                started = any(states[config.run_id] for config in pack)
                (begun if started else fresh).append((pack, title, wait))
        self.asked = []
        parts = spread([pack for pack, _, _ in fresh], self.slots - len(self.running) - len(begun))
        begun += [(part, *rest) for cut, (_, *rest) in zip(parts, fresh, strict=True) for part in cut]
        for pack, title, wait in begun:
            place, files = replace(self.order.place, wait=wait), self._files(pack)
            self.running[self.task.remote(replace(self.order, configs=pack, place=place, files=files))] = pack, title
        self.sent += len(begun)

    def _files(self, configs: Sequence[RunConfig]) -> dict[str, Any]:
        """References to the files below the working directory that runs name, each kept by Ray once."""
        names = {name for config in configs for name in (config.weights, config.start) if name is not None}
        names = {n for n in names if not Path(n).is_absolute() and ".." not in Path(n).parts and Path(n).is_file()}
        for name in names - self.files.keys():
            self.files[name] = self.ray.put(Path(name).read_bytes())
        return {name: self.files[name] for name in names}


@contextlib.contextmanager
def ray_executor(place: sweep.Place, nodes: Nodes, say: Callable[[str], object]) -> Iterator[RayExecutor]:
    """Connect to a cluster, or start one on this machine; at the end, however it comes, stop what is under way.

    say  is told of each finished pack

    Raises UserError where Ray is not installed, there is no such cluster, or no node has what a pack is to be given.
    """
    if nodes.address == "local" or not (nodes.address or os.environ.get("RAY_ADDRESS")):
        os.environ.setdefault(LOOPBACK, "0")  # read when Ray is imported
    ray = _ray()
    ours = not ray.is_initialized()
    marker = f".cluster-{secrets.token_hex(8)}"
    try:
        if ours:
            _connect(nodes.address)
        with storage_errors(place.out):
            place.out.mkdir(parents=True, exist_ok=True)
            (place.out / marker).touch()
        made = RayExecutor(place, nodes, marker, say)
        try:
            yield made
        finally:
            made.close()
    finally:
        (place.out / marker).unlink(missing_ok=True)
        if ours:
            ray.shutdown()


def _connect(address: str) -> None:
    try:
        _ray().init(address or None, include_dashboard=False, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError) as error:
        where = address or os.environ.get("RAY_ADDRESS")
        raise UserError(f"--ray {where}: no cluster there ({error}); --ray local starts one on this machine") from error


def _ray() -> Any:
    """The library. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError("--ray needs Ray: pip install 'icecore[ray]'") from error


def _gpus(nodes: Nodes, device: str, there: float) -> float:
    """GPUs of a pack, on a cluster that has so many."""
    if nodes.gpus is not None:
        return nodes.gpus
    return float(device.startswith("cuda") or (device == "auto" and there > 0))


def _slots(nodes: Sequence[Mapping[str, Any]], cpus: int, gpus: float) -> int:
    """Packs that the cluster trains at once. Raises ConfigError where it is none."""
    slots, largest = 0, (0.0, 0.0)
    for node in nodes:
        held = (node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)) if node["Alive"] else (0.0, 0.0)
        fits = [int(has / wants + 1e-6) for has, wants in zip(held, (cpus, gpus), strict=True) if wants]
        slots, largest = slots + min(fits), max(largest, held)
    if not slots:
        wanted = f"--cpus {cpus}" + (f" --gpus {gpus:g}" if gpus else "")
        raise ConfigError(
            f"{wanted}: no node of the cluster has that for a pack; the largest has {largest[0]:g} CPUs "
            f"and {largest[1]:g} GPUs"
        )
    return slots
