"""How long does it take until it works? Seconds from process start to 100 % of the validation pairs of bit XOR, n = 5.

Pretrained MiniLM: the command `icecore train` against plain_bit_xor.py with the same body, data, start, batch size,
learning rates and evaluations. `ratio` is plain over ours, `share` is ours over plain. `plain_one_rate` is the plain
script without icecore's learning-rate factors.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from icecore.backbones import build_body_of
from icecore.backbones.huggingface import HuggingFaceBackbone
from icecore.core.config import RunConfig
from icecore.experiments import sweep
from icecore.model.fpt import FPT
from icecore.tasks import build_task
from icecore.tasks.entry import TaskRequest
from measure import Bench, agree, options
from watching import Reached, watch

HERE = Path(__file__).parent


def settings_of(bench: Bench) -> RunConfig:
    """The run of both sides: constant rate after a warm-up, validated every ten steps."""
    changes: dict[str, Any] = {
        "steps": 200,
        "batch_size": 32,
        "eval_every": 10,
        "task_options": {"n": 5},
        "stop_at": 1.0,
    }
    if bench.quick:  # any accuracy counts, because only the mechanism is tested
        changes |= {"steps": 10, "batch_size": 4, "stop_at": 0.0}
    changes |= {"backbone": "minilm", "lr": 1e-3, "schedule": "constant", "eval_examples": 256}
    runtime = bench.runtime
    return sweep.make_config("bit-xor", precision=runtime.precision, device=str(runtime.device), **changes)


def ours_command(config: RunConfig, bench: Bench, out: Path) -> list[str]:
    """The command that a user types."""
    command = [sys.executable, "-m", "icecore", "train", config.task, "--quiet", "--out", str(out)]
    for name in ("backbone", "lr", "steps", "batch_size", "schedule", "eval_every", "eval_examples", "stop_at"):
        command += [f"--{name.replace('_', '-')}", str(getattr(config, name))]
    return [*command, "--precision", config.precision, "--device", str(bench.runtime.device)]


def plain_command(config: RunConfig, bench: Bench, out: Path, factors: Mapping[str, float]) -> list[str]:
    """The plain script with the same settings, from the input and output layers that icecore starts from."""
    body = build_body_of(config)
    assert isinstance(body, HuggingFaceBackbone)
    folder = body.config._name_or_path
    task = build_task(config.task, TaskRequest(config.task_options))
    program = FPT(task.spec, body, [config.seed]).programs()[0]
    layers = {name: tensor for name, tensor in program.items() if name.startswith(("input.", "output."))}
    save_file(layers, out / "start.safetensors")
    names = ("lr", "steps", "batch_size", "eval_every", "eval_examples", "stop_at")
    settings = {name: getattr(config, name) for name in names} | dict(config.task_options)
    settings |= {"device": str(bench.runtime.device), "body": folder, "factors": dict(factors)}
    settings |= {"warmup_steps": round(config.warmup * config.steps), "start": str(out / "start.safetensors")}
    (out / "settings.json").write_text(json.dumps(settings | {"events": str(out / "events.jsonl")}))
    return [sys.executable, str(HERE / "plain_bit_xor.py"), str(out / "settings.json")]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    parser = options(__doc__, seconds=30)
    # as in `icecore train`, because rounding to 8 bits does not pay in a short run
    parser.set_defaults(precision="auto")
    bench = Bench("time_to_accuracy", parser.parse_args(argv))
    config = settings_of(bench)
    begun = time.perf_counter()
    reached: dict[str, list[Reached]] = {"ours": [], "plain": [], "plain_one_rate": []}

    def run(side: str) -> Reached:
        with tempfile.TemporaryDirectory() as folder:
            out, factors = Path(folder), config.lr_factors if side == "plain" else {}
            ours = side == "ours"
            command = ours_command(config, bench, out) if ours else plain_command(config, bench, out, factors)
            return watch(command, out, config.stop_at or 0.0)

    sides = ("ours", "plain")
    # one side after the other, except in a test of the script
    with ThreadPoolExecutor(len(sides) if bench.quick else 1) as pool:
        while not reached["plain"] or time.perf_counter() - begun < bench.seconds:
            for side, result in zip(sides, pool.map(run, sides), strict=True):
                reached[side].append(result)
    if bench.quick:
        del reached["plain_one_rate"]
    else:
        reached["plain_one_rate"].append(run("plain_one_rate"))
    difference = agree("losses", reached["ours"][0].losses, reached["plain"][0].losses, bench.runtime.precision)
    seconds = {side: median([each.seconds for each in runs]) for side, runs in reached.items()}
    steps = {side: runs[0].step for side, runs in reached.items()}
    ours, plain = seconds["ours"], seconds["plain"]
    if ours is None or plain is None:
        raise SystemExit(
            f"There is no ratio, because validation did not reach {config.stop_at:.0%} within {config.steps} steps. "
            f"Steps: {steps}"
        )
    bench.report(
        {
            "ratio": plain / ours,
            "share": ours / plain,
            "seconds": seconds,
            "steps": steps,
            "rounds": len(reached["ours"]),
            "loss_difference": difference,
        },
        ["side", f"seconds to {config.stop_at:.0%}", "steps"],
        [
            [
                side,
                "never" if seconds[side] is None else f"{seconds[side]:.1f}",
                steps[side] or f"not in {config.steps}",
            ]
            for side in reached
        ],
        f"Bit XOR (n = {config.task_options['n']}) on frozen pretrained MiniLM, batch {config.batch_size}, validated "
        f"every {config.eval_every} steps. The plain script's time over `icecore train`'s: **{plain / ours:.2f}**, "
        f"both with icecore's learning-rate factors ({describe(config.lr_factors)}); plain_one_rate is without them.",
    )


def median(values: Sequence[float | None]) -> float | None:
    """Median of `values`, or None if one of them is None."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None


def describe(factors: Mapping[str, float]) -> str:
    """The factors of the roles, in words."""
    return ", ".join(f"{role} {factor:g}" for role, factor in factors.items())


if __name__ == "__main__":
    main()
