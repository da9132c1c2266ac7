"""What do long sequences cost? Time and peak memory for T = 1024 and 2000, compared with the plain loop.

`ratio` is the smaller of the two speed ratios, `memory` the larger of the two memory ratios. Each side is measured in
its own process: peak memory is what building the side and two steps take, including weights but not imports.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import Bench, agree, in_turn, options, peak_memory
from plain import PlainLoop
from sides import (
    GPT2_SMALL,
    TINY,
    Geometry,
    Patches,
    build_pack,
    ours_step,
    plain_loops,
    plain_model,
    plain_step,
    save_gpt2,
)

LENGTHS = (1024, 2000)
#: rounds at least: a warm-up and two samples
ROUNDS = 3
SIDES = ("plain", "ours")


def peaks(bench: Bench, body: str, length: int, batch_size: int) -> dict[str, int]:
    """Peak bytes of a new process that trains each side; both processes run at the same time."""
    command = [sys.executable, __file__, "--body", body, "--length", str(length), "--batch-size", str(batch_size)]
    command += ["--device", str(bench.runtime.device), "--precision", bench.runtime.precision, "--memory-of"]
    processes = {
        side: subprocess.Popen([*command, side], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for side in SIDES
    }
    peak_bytes = {}
    for side, process in processes.items():
        out, errors = process.communicate()
        if process.returncode:
            raise SystemExit(f"The memory of {side} at T = {length} could not be measured:\n{errors.strip()[-2000:]}")
        peak_bytes[side] = max(1, int(out.split()[-1]))
    return peak_bytes


def train_alone(bench: Bench, arguments: argparse.Namespace) -> None:
    """Build one side, train two steps and print the peak bytes without the imports."""
    from transformers import GPT2Model  # noqa: F401 (it is imported lazily, so import it before memory is measured)

    before = peak_memory(bench.runtime)
    task = Patches(2 * arguments.batch_size, arguments.length).to(bench.runtime.device)
    with tempfile.TemporaryDirectory() as out:
        if arguments.memory_of == "ours":
            step = ours_step(build_pack(task, arguments.body, bench.runtime, arguments.batch_size, Path(out)))
        else:
            loop = PlainLoop(plain_model(arguments.body, task, bench.runtime), lr=1e-3)
            step = plain_step([loop], task, arguments.batch_size)
        for _ in range(2):
            step()
    print(peak_memory(bench.runtime) - before)


def compare(bench: Bench, geometry: Geometry, length: int, tokens: int) -> dict[str, Any]:
    """The measurements of both sides at one length."""
    batch_size = max(1, tokens // length)
    task = Patches(16 * batch_size, length)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        body = save_gpt2(out, geometry, positions=2048)
        memory = peaks(bench, body, length, batch_size)
        pack = build_pack(task, body, bench.runtime, batch_size, out)
        steps = {"plain": plain_step(plain_loops(pack), task, batch_size), "ours": ours_step(pack)}
        timings = in_turn(steps, bench.runtime, bench.seconds / 2, ROUNDS)
    ours, plain = timings["ours"], timings["plain"]
    return {
        "ratio": plain.seconds / ours.seconds,
        "memory": memory["ours"] / memory["plain"],
        "batch_size": batch_size,
        "seconds_per_step": {name: side.seconds for name, side in timings.items()},
        "warmup_seconds": {name: side.warmup for name, side in timings.items()},
        "samples": ours.samples,
        "peak_mib": {name: size / 2**20 for name, size in memory.items()},
        "loss_difference": agree(f"losses at T = {length}", ours.results, plain.results, bench.runtime.precision),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    parser = options(__doc__, seconds=40)
    for name, kind in {"--memory-of": str, "--body": str, "--length": int, "--batch-size": int}.items():
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    bench = Bench("long_sequences", arguments)
    if arguments.memory_of:
        train_alone(bench, arguments)
        return
    geometry, tokens = (TINY, 128) if bench.quick else (GPT2_SMALL, 64 * 1024 if bench.on_gpu else 2048)
    by_length = {T: compare(bench, geometry, T, tokens) for T in ((64,) if bench.quick else LENGTHS)}
    ratio, memory = (
        min(numbers["ratio"] for numbers in by_length.values()),
        max(numbers["memory"] for numbers in by_length.values()),
    )
    bench.report(
        {
            "ratio": ratio,
            "memory": memory,
            "tokens": tokens,
            "lengths": {str(T): numbers for T, numbers in by_length.items()},
        },
        ["T", "batch", "plain, s a step", "ours, s a step", "ratio", "plain, peak MiB", "ours, peak MiB", "memory"],
        [
            [
                T,
                numbers["batch_size"],
                *(f"{numbers['seconds_per_step'][side]:.3f}" for side in SIDES),
                f"{numbers['ratio']:.2f}",
                *(f"{numbers['peak_mib'][side]:.0f}" for side in SIDES),
                f"{numbers['memory']:.2f}",
            ]
            for T, numbers in by_length.items()
        ],
        f"One run, {geometry.layers} layers of width {geometry.width}, {tokens} tokens a step. icecore over the plain "
        f"loop: speed **{ratio:.2f}**, memory **{memory:.2f}** at the worse length.",
    )


if __name__ == "__main__":
    main()
