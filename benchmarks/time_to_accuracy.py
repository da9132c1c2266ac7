"""How long does it take until it works? Seconds from process start to a validation accuracy (goals.py).

The command `icecore train` with its own recipe, against a plain loop (plain_training.py) at the best of three constant
rates, on the same frozen body (MiniLM). Both sides get their examples from the same task, are validated on the same
ones, and are stopped when they reach the target. `ratio` is plain over ours, as the geometric mean over the goals.

Without --goals and --all, only bit XOR is measured, at one plain rate, which takes a minute or two. Measurements are
kept in a file as soon as they are finished. The next call reads them from there, if nothing changed but icecore's own
code: after such a change, use --again.
"""

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from goals import BACKBONE, GOALS, PLAIN_BATCH, PLAIN_RATES, Goal
from icecore.backbones import build_body_of
from icecore.core import device as runtimes
from icecore.core.config import RunConfig
from icecore.core.device import Runtime
from icecore.tasks import build_task
from icecore.tasks.entry import TaskRequest
from measure import RESULTS, Bench, hardware, options
from measurements import Conditions, Measurement, Measurements
from ratios import Comparison, Ratio, geometric_mean
from sides import body_folder
from watching import watch

PLAIN_SCRIPT = Path(__file__).parent / "plain_training.py"
#: what is measured without --goals and --all
SHORT_GOALS, SHORT_RATES = ("bit-xor",), (1e-3,)
SIDES = ("ours", "plain")
#: load average (of one minute) of a machine on which nothing else runs
IDLE_LOAD = 0.5
BUSY = "Other processes use this machine, or did a minute ago. Use --again when it is idle, because times are too long."


def read_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Raises SystemExit for an unknown goal."""
    parser = options(__doc__, seconds=None)
    # as in `icecore train`, because rounding to 8 bits does not pay in a short run
    parser.set_defaults(precision="auto")
    selection = parser.add_mutually_exclusive_group()
    selection.add_argument("--goals", help=f"some of {','.join(GOALS)}, each at three plain rates")
    selection.add_argument("--all", action="store_true", help="all goals, each at three plain rates, which takes hours")
    parser.add_argument("--cap", type=float, default=3600, help="seconds for a side to reach a goal (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of both sides (%(default)s)")
    parser.add_argument("--data-dir", help="folder with MNIST and CIFAR-10 (default: ICECORE_DATA)")
    parser.add_argument(
        "--again", nargs="?", const="both", choices=(*SIDES, "both"), help="measure both sides or one of them anew"
    )
    parser.add_argument(
        "--measurements",
        type=Path,
        default=RESULTS / "time_to_accuracy.jsonl",
        metavar="FILE",
        help="file of finished measurements (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    arguments.goals = arguments.goals.split(",") if arguments.goals else list(GOALS) if arguments.all else None
    unknown = [name for name in arguments.goals or () if name not in GOALS]
    if unknown:
        parser.error(f"--goals: there is no goal {unknown[0]!r}. Choose from {', '.join(GOALS)}.")
    return arguments


@dataclass(frozen=True)
class Measuring:
    """What all measurements of one call have in common.

    body   folder of the frozen body
    again  sides that are measured even if there is a measurement of them
    """

    runtime: Runtime
    body: str
    data_dir: str | None
    cap: float
    seed: int
    known: Measurements
    again: Sequence[str]
    conditions: Conditions

    def compare(self, goal: Goal, rates: Sequence[float]) -> Comparison:
        """Measure icecore and then the plain loop, each rate for as long as it may still be the best one."""
        ours, plain, limit = self.ours(goal), [], self.cap
        for rate in rates:
            plain.append(self.plain(goal, rate, limit))
            if plain[-1].reached:
                limit = min(limit, plain[-1].seconds)
        return Comparison(goal, ours, plain)

    def ours(self, goal: Goal) -> Measurement:
        """Measure the command that a user types."""
        device = str(self.runtime.device)
        config = goal.config(self.seed, precision=self.runtime.precision, device=device)
        typed = ours_command(goal, config)

        def command(out: Path) -> list[str]:
            data = [] if self.data_dir is None else ["--data-dir", self.data_dir]
            return [sys.executable, "-m", *typed, "--device", device, "--quiet", "--out", str(out), *data]

        settings = json.loads(config.to_json())
        return self.measure(goal, "ours", settings, shlex.join(typed), command, self.cap)

    def plain(self, goal: Goal, rate: float, limit: float) -> Measurement:
        """Measure the plain loop at one rate for at most `limit` seconds."""
        settings = goal.plain_settings(rate, self.seed)

        def command(out: Path) -> list[str]:
            machine = {"body": self.body, "device": str(self.runtime.device), "data_dir": self.data_dir}
            file = out / "settings.json"
            file.write_text(json.dumps(settings | machine | {"events": str(out / "events.jsonl")}))
            return [sys.executable, str(PLAIN_SCRIPT), str(file)]

        typed = f"python benchmarks/{PLAIN_SCRIPT.name} SETTINGS.json"
        return self.measure(goal, "plain", settings, typed, command, limit)

    def measure(
        self,
        goal: Goal,
        side: str,
        settings: Mapping[str, Any],
        typed: str,
        command: Callable[[Path], list[str]],
        limit: float,
    ) -> Measurement:
        """The known measurement of these settings if it will do, otherwise a new one, which is kept."""
        found = None if side in self.again else self.known.find(side, settings, self.conditions, limit)
        if found is None:
            with tempfile.TemporaryDirectory() as folder:
                watched = watch(command(Path(folder)), Path(folder), goal.target, limit)
            found = Measurement(goal.name, side, settings, typed, **vars(watched), conditions=self.conditions)
            self.known.add(found)
            remark = ""
        else:
            remark = f" (measured on {found.conditions.date})"
        rate = f" at {settings['lr']:g}" if side == "plain" else ""
        print(f"{goal.name}, {side}{rate}: {outcome(found)}{remark}", file=sys.stderr, flush=True)
        return found


def ours_command(goal: Goal, config: RunConfig) -> list[str]:
    """The command that trains `config`: the goal's settings, and defaults for all others."""
    names = ("backbone", "stop_at", "eval_every", "eval_examples", "precision")
    given = {name: getattr(config, name) for name in names} | dict(goal.recipe)
    command = ["icecore", "train", goal.task, "--seeds", str(config.seed)]
    for name, value in goal.options.items():
        command += ["--task-option", f"{name}={value}"]
    for name, value in given.items():
        if isinstance(value, Mapping):
            value = ",".join(f"{key}={each}" for key, each in value.items())
        elif isinstance(value, (list, tuple)):
            value = ",".join(map(str, value))
        command += [f"--{name.replace('_', '-')}", str(value)]
    return command


def outcome(measurement: Measurement) -> str:
    """What a side reached, in words."""
    if measurement.reached:
        return f"{measurement.seconds:.1f} s, {measurement.examples:,} examples"
    best = "no validation" if measurement.best is None else f"at best {measurement.best:.1%}"
    return f"{not_reached(measurement)}, {measurement.examples:,} examples, {best}"


def not_reached(measurement: Measurement) -> str:
    """The time in which a side did not reach the target, in words."""
    return f"{'never, ended after' if measurement.ended else 'not in'} {measurement.seconds:.0f} s"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    arguments = read_arguments(argv)
    bench = Bench("time_to_accuracy", arguments)
    goals = [GOALS[name] for name in arguments.goals or SHORT_GOALS]
    rates = PLAIN_RATES if arguments.goals else SHORT_RATES
    if bench.quick:  # any accuracy counts, because only the mechanism is tested
        goals = [replace(goal, target=0.0, eval_every=256, eval_examples=8) for goal in goals]
    if arguments.goals:
        bench.part = "all" if arguments.all else "_".join(arguments.goals)
    if os.getloadavg()[0] > IDLE_LOAD:
        print(BUSY, file=sys.stderr, flush=True)
    for goal in goals:
        # data that are missing should not end hours of measurements, and data in the cache be there for both sides
        build_task(goal.task, TaskRequest(goal.options, arguments.data_dir))
    words = [f"benchmarks/{Path(__file__).name}", *(sys.argv[1:] if argv is None else argv)]
    measuring = Measuring(
        bench.runtime,
        body_folder(build_body_of(goals[0].config())),
        arguments.data_dir,
        arguments.cap,
        arguments.seed,
        Measurements(None if bench.quick else arguments.measurements),
        SIDES if arguments.again == "both" else [arguments.again],
        Conditions(
            hardware(bench.runtime),
            runtimes.package_versions(),
            date.today().isoformat(),
            shlex.join(["python", *words]),
        ),
    )
    # on its way to a higher target a side passes the lower ones of the same task
    highest_first = sorted(goals, key=lambda goal: goal.target, reverse=True)
    compared = {goal.name: measuring.compare(goal, rates) for goal in highest_first}
    report(bench, [compared[goal.name] for goal in goals], arguments)


def report(bench: Bench, comparisons: Sequence[Comparison], arguments: argparse.Namespace) -> None:
    """Print the table, the geometric mean and the JSON line."""
    mean = geometric_mean([each.ratio for each in comparisons])
    rates = [f"{each.settings['lr']:g}" for each in comparisons[0].plain]
    chosen = f"the best of the constant rates {', '.join(rates)}" if len(rates) > 1 else f"the constant rate {rates[0]}"
    bench.report(
        {
            "ratio": None if mean is None else mean.value,
            "bound": "" if mean is None else mean.bound,
            "cap_seconds": arguments.cap,
            "seed": arguments.seed,
            "goals": {each.goal.name: goal_numbers(each) for each in comparisons},
        },
        ["goal", "ours, s", "plain, s", "its rate", "plain / ours", "ours, examples", "plain, examples"],
        [row(each) for each in comparisons],
        f"Frozen pretrained {BACKBONE}: seconds from the start of the process until the validation first reaches the "
        f"target. Ours is `icecore train` with its default recipe and the settings that goals.py names; plain is "
        f"{chosen}, with batch {PLAIN_BATCH} in fp32. Seed {arguments.seed}, at most {arguments.cap:g} s a side. "
        f"{mean_text(mean, len(comparisons))}",
    )


def mean_text(mean: Ratio | None, goals: int) -> str:
    """The geometric mean over the goals, and what counts in it."""
    if mean is None:
        return "There is no mean ratio, because a side did not arrive with which another could be compared."
    text = f"The plain loop's time over ours, as the geometric mean over the goals ({goals}): **{mean}**."
    if mean.bound:
        text += " Where one side did not arrive, the ratio is a bound. It counts as its value, so the mean is a bound."
    return text


def row(comparison: Comparison) -> list[object]:
    """The comparison's row of the table."""
    goal, ours, best = comparison.goal, comparison.ours, comparison.best_plain
    # if no rate arrived, the one that came closest
    shown = best or max(comparison.plain, key=lambda each: each.best or 0.0)
    return [
        f"{goal.name}, {goal.target:.0%}",
        *(f"{each.seconds:.1f}" if each.reached else not_reached(each) for each in (ours, shown)),
        f"{shown.settings['lr']:g}",
        comparison.ratio or "none",
        *(f"{each.examples:,}" + best_accuracy(each) for each in (ours, shown)),
    ]


def best_accuracy(measurement: Measurement) -> str:
    """How far a side came that did not reach the target."""
    return "" if measurement.reached or measurement.best is None else f" (at best {measurement.best:.1%})"


def goal_numbers(comparison: Comparison) -> dict[str, Any]:
    """The numbers of one goal for the JSON line."""

    def of(measurement: Measurement) -> dict[str, Any]:
        names = ("seconds", "reached", "examples", "best")
        return {name: getattr(measurement, name) for name in names} | {"date": measurement.conditions.date}

    ratio = comparison.ratio
    return {
        "ratio": None if ratio is None else ratio.value,
        "bound": "" if ratio is None else ratio.bound,
        "ours": of(comparison.ours) | {"command": comparison.ours.command},
        "plain": {f"{each.settings['lr']:g}": of(each) for each in comparison.plain},
    }


if __name__ == "__main__":
    main()
