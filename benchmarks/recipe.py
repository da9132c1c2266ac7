"""What is each part of the training recipe worth? Validation accuracy with one change at a time.

Each change is measured on two tasks, on pretrained, random and statistics bodies, and with three seeds, because a
recipe that was chosen on one kind of body would decide a comparison of bodies. All trainings of a task see equally many
examples at one learning rate. MNIST and CIFAR-10 need their data (--data-dir or ICECORE_DATA).

Measurements are kept in a file as soon as they are finished, and the next call reads them from there. This is not part
of `make bench`, because it measures what is learned and not how fast.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from goals import BACKBONE
from icecore.core import device as runtimes
from icecore.core.config import INPUT, OUTPUT, RIDGE, RunConfig
from icecore.core.storage import write_atomic
from icecore.experiments import sweep
from icecore.tasks.task import Task
from icecore.training.context import ExecutionContext
from icecore.training.loop import Pack
from icecore.training.optimizer import Slot
from measure import RESULTS, Bench, options

BODIES = ("pretrained", "random", "statistics")
SEEDS = (0, 1, 2)
DEFAULT = "the default recipe"
#: settings of every training on a task; the accuracy is the mean over all validations
TASKS: Mapping[str, Mapping[str, Any]] = {
    "bit-xor": {"task_options": {"n": 5}, "steps": 400, "batch_size": 8, "eval_every": 20, "eval_examples": 256},
    "mnist": {"steps": 160, "batch_size": 8, "lr": 2e-3, "eval_every": 160, "eval_examples": 1000},
    "cifar10": {"steps": 160, "batch_size": 8, "lr": 2e-3, "eval_every": 160, "eval_examples": 1000},
}
EVERYWHERE, IMAGES = ("bit-xor", "mnist"), ("mnist", "cifar10")
#: a start in closed form, scored after a step that changes nothing
UNTRAINED: Mapping[str, Any] = {
    "output_start": RIDGE,
    "start_examples": 5000,
    "input_scale": 0.15,
    "lr": 1e-12,
    "steps": 1,
    "eval_every": 1,
}


@dataclass(frozen=True)
class Lead:
    """A change of the recipe.

    settings  in place of the default ones
    change    what is changed in a pack of runs before its first step
    tasks     where it is measured
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[Pack], None] | None = None
    tasks: Sequence[str] = EVERYWHERE


# --- changes that are no settings --------------------------------------------------------------------


def smooth_labels(pack: Pack) -> None:
    """Train towards 90 % of the right class and 10 % of all classes alike."""
    task, loss = pack.task, pack.task.loss

    def smoothed(logits: Tensor, targets: Tensor) -> Tensor:
        uniform = torch.stack([loss(logits, torch.full_like(targets, c)) for c in range(task.spec.outputs)]).mean(0)
        return 0.9 * loss(logits, targets) + 0.1 * uniform

    task.loss = smoothed


def grow_batches(pack: Pack) -> None:
    """Half the batch for two thirds of the steps and twice the batch for the rest, so equally many examples."""
    step, config = pack.train_step, pack.config

    def grown() -> Tensor:
        early = pack.step < config.steps * 2 // 3
        pack.config = replace(config, batch_size=config.batch_size // 2 if early else config.batch_size * 2)
        return step()

    pack.train_step = grown


def betas(first: float, second: float) -> Callable[[Pack], None]:
    """Adam with other decay rates of its moments."""

    def change(pack: Pack) -> None:
        pack.adam.betas = (first, second)

    return change


def whiten_updates(pack: Pack) -> None:
    """Multiply the input layer's updates by the inverse root of the covariance of the training set's tokens."""
    covariance = token_covariance(pack.task)
    damped = covariance / covariance.diagonal().mean() + 0.01 * torch.eye(len(covariance))
    values, vectors = torch.linalg.eigh(damped)
    whitening = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    whitening /= whitening.diagonal().mean()
    replace_updates(pack, (INPUT,), lambda slot, change, rate: whitening @ change)


def orthogonal_updates(pack: Pack) -> None:
    """Muon for input layer and output layer: the nearest orthogonal matrix to Adam's first moment as update."""

    def update(slot: Slot, change: Tensor, rate: Tensor) -> Tensor:
        moment = pack.adam.first[:, slot.start : slot.stop].view(-1, *slot.shape)
        left, _, right = torch.linalg.svd(moment, full_matrices=False)
        return -rate[:, None, None] * (left @ right) * max(slot.shape) ** 0.5  # numbers of size 1, as Adam's

    replace_updates(pack, (INPUT, OUTPUT), update)


def replace_updates(pack: Pack, roles: Sequence[str], update: Callable[[Slot, Tensor, Tensor], Tensor]) -> None:
    """Replace Adam's change (R, rows, columns) of the matrices with these roles, given each run's rate (R,)."""
    adam, update_all = pack.adam, pack.adam.step
    slots = [slot for slot in adam.slots if len(slot.shape) == 2 and pack.model.role_of(slot.name) in roles]

    def replaced(step: int, lr: Tensor, grads: Tensor) -> None:
        before = adam.values.clone()
        average, adam.average = adam.average, None  # Adam's own values do not count in it
        update_all(step, lr, grads)
        for slot in slots:
            part = slice(slot.start, slot.stop)
            change = (adam.values - before)[:, part].view(-1, *slot.shape)
            rate = lr * adam.factors[slot.start]
            adam.values[:, part] = before[:, part] + update(slot, change, rate).flatten(1)
        adam.average = average
        adam.update_average(step)
        adam.write()

    adam.step = replaced


def token_covariance(task: Task, examples: int = 1000) -> Tensor:
    """Covariance (P, P) of the tokens of the first training examples."""
    batch = next(iter(task.batches("train", examples, examples)))
    return task.prepare_batch(batch).tokens.flatten(0, 1).float().T.cov()


LEADS: Mapping[str, Lead] = {
    DEFAULT: Lead(tasks=("bit-xor", "mnist", "cifar10")),
    "the output layer solved in closed form at each validation": Lead({"output_refit": RIDGE}),
    "norms trained at absolute rates": Lead({"lr_scale": "absolute"}),
    "no averaging": Lead({"averaging": 1e-6}),
    "one rate for all parts": Lead({"lr_factors": {"position": 1.0, "output": 1.0}}),
    "positions at 10 times the rate": Lead({"lr_factors": {"position": 10.0, "output": 0.3}}),
    "warm-up over 5 % of the steps": Lead({"warmup": 0.05}),
    "one cycle: warm-up over 30 % of the steps": Lead({"warmup": 0.3}),
    "a constant rate": Lead({"schedule": "constant"}),
    "batches of 4": Lead({"batch_size": 4}),
    "batches of 16": Lead({"batch_size": 16}),
    "batches that grow from 4 to 16": Lead(change=grow_batches),
    "the output layer started in closed form on 500 examples": Lead({"output_start": RIDGE, "start_examples": 500}),
    "the norm rms after the input layer": Lead({"input_norm": "rms"}),
    "an input layer of 0.3 times the size": Lead({"input_scale": 0.3}),
    "the body's first token in front": Lead({"prefix": "bos"}),
    "label smoothing of 0.1": Lead(change=smooth_labels),
    "Adam with betas 0.9 and 0.98": Lead(change=betas(0.9, 0.98)),
    "Adam with betas 0.95 and 0.999": Lead(change=betas(0.95, 0.999)),
    "Muon for the input and output layers": Lead(change=orthogonal_updates),
    "the mean of all positions as read-out": Lead({"read_out": "mean"}, tasks=IMAGES),
    "last position and mean as read-out": Lead({"read_out": "last+mean"}, tasks=IMAGES),
    "the means of eight parts as read-out": Lead({"read_out": "pool-8"}, tasks=IMAGES),
    "the means of eight parts as read-out, solved in closed form at each validation": Lead(
        {"read_out": "pool-8", "output_refit": RIDGE}, tasks=IMAGES
    ),
    "the input layer's updates whitened": Lead(change=whiten_updates, tasks=IMAGES),
    "no training, but the output layer in closed form on 5,000 images": Lead(UNTRAINED, tasks=IMAGES),
    "the same, with the means of eight parts as read-out": Lead(UNTRAINED | {"read_out": "pool-8"}, tasks=IMAGES),
    "the same, with last and first position and the means of four parts": Lead(
        UNTRAINED | {"read_out": "last+first+pool-4"}, tasks=IMAGES
    ),
}


# --- measuring ---------------------------------------------------------------------------------------


def configs_of(lead: Lead, task: str, body: str, precision: str, device: str, quick: bool) -> list[RunConfig]:
    """One run for each seed."""
    settings = {**TASKS[task], "backbone": BACKBONE, "weights": body, **lead.settings}
    factor = settings["batch_size"] / TASKS[task]["batch_size"]  # equally many examples and validations
    settings["steps"], settings["eval_every"] = (int(settings[name] / factor) for name in ("steps", "eval_every"))
    if quick:
        settings |= {"steps": 3, "eval_every": 3, "eval_examples": 8}
    config = sweep.make_config(task, precision, device, **settings)
    return sweep.expand_sweep(config, seeds=SEEDS)


def measure(lead: Lead, configs: Sequence[RunConfig], context: ExecutionContext, task: Task) -> list[list[float]]:
    """Train one pack. Returns the validation accuracies of each run."""
    pack = Pack(task, context.backbone(configs[0]), configs, context)
    if lead.change is not None:
        lead.change(pack)
    pack.resume()
    pack.run()
    events = [run.folder.events() for run in pack.members]
    return [[e["metric"] for e in each if e["event"] == "validation" and e["step"]] for each in events]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    parser = options(__doc__, seconds=None)
    parser.set_defaults(precision="auto")
    parser.add_argument("--data-dir", help="folder with MNIST and CIFAR-10 (default: ICECORE_DATA)")
    parser.add_argument("--leads", help="only leads whose names contain one of these words, separated by commas")
    parser.add_argument("--bodies", default=",".join(BODIES), help="kinds of weights (%(default)s)")
    parser.add_argument("--measurements", type=Path, default=RESULTS / "recipe.jsonl", metavar="FILE",
                        help="file of finished measurements (default: %(default)s)")  # fmt: skip
    arguments = parser.parse_args(argv)
    bench = Bench("recipe", arguments)
    words = arguments.leads.split(",") if arguments.leads else [""]
    records = read_records(arguments.measurements)
    for body in arguments.bodies.split(","):
        for name, lead in LEADS.items():
            if any(word in name for word in words):
                for task_name in lead.tasks:
                    record = measured(bench, arguments, records, (name, task_name, body))
                    print(json.dumps(record), flush=True)
    report(bench, records)


def measured(
    bench: Bench, arguments: argparse.Namespace, records: dict[str, dict[str, Any]], cell: tuple[str, str, str]
) -> dict[str, Any]:
    """The record of a lead on a task and a kind of weights, from the file if it is there."""
    name, task_name, body = cell
    lead, device = LEADS[name], str(bench.runtime.device)
    configs = configs_of(lead, task_name, body, bench.runtime.precision, device, bench.quick)
    settings = json.loads(configs[0].to_json())
    key = _key(name, settings)
    if key not in records:
        task = sweep.load_task(configs[0], arguments.data_dir)  # a new one, because a lead may change it
        with tempfile.TemporaryDirectory() as folder:
            context = ExecutionContext(Path(folder), arguments.data_dir, device)
            curves = measure(lead, configs, context, task)
        records[key] = {"lead": name, "task": task_name, "body": body, "seeds": SEEDS, "curves": curves} | {
            "settings": settings, "versions": runtimes.package_versions(),
        }  # fmt: skip
        if not bench.quick:
            add_record(arguments.measurements, records[key])
    return {**cell_value(records[key]), "lead": name, "task": task_name, "body": body}


def cell_value(record: Mapping[str, Any]) -> dict[str, float]:
    """Mean accuracy over validations and seeds in percent, and its standard error over seeds."""
    runs = [100 * statistics.fmean(curve) for curve in record["curves"]]
    return {"mean": round(statistics.fmean(runs), 1), "error": round(statistics.stdev(runs) / len(runs) ** 0.5, 1)}


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """The finished measurements in a file, by lead and settings."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    return {_key(each["lead"], each["settings"]): each for each in records}


def _key(lead: str, settings: Mapping[str, Any]) -> str:
    return json.dumps([lead, settings], sort_keys=True)


def add_record(path: Path, record: Mapping[str, Any]) -> None:
    """Add a measurement to a file, which another process may have added to."""
    known = path.read_text() if path.exists() else ""
    write_atomic(path, lambda temporary: temporary.write_text(f"{known}{json.dumps(record)}\n"))


def report(bench: Bench, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Print the table: a row for each lead, a column for each task and kind of weights."""
    cells = {(each["lead"], each["task"], each["body"]): cell_value(each) for each in records.values()}
    columns = [(task, body) for task in TASKS for body in BODIES]
    rows = [
        [name, *(f"{cell['mean']} ± {cell['error']}" if cell else "" for cell in found)]
        for name in LEADS
        if any(found := [cells.get((name, *column)) for column in columns])
    ]
    bench.report(
        {"cells": [{"lead": lead, "task": task, "body": body, **cell} for (lead, task, body), cell in cells.items()]},
        ["change", *(f"{task}, {body}" for task, body in columns)],
        rows,
        f"Frozen MiniLM, validation accuracy in % with its standard error over seeds {', '.join(map(str, SEEDS))}. On "
        f"bit XOR (n = 5) it is the mean of 20 validations within 3,200 examples, on MNIST and CIFAR-10 one "
        f"after 1,280 examples, or before any if there is no training.",
    )


if __name__ == "__main__":
    main()
