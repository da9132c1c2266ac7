"""How fast is one run? GPT-2 small geometry, 64 x 48 input. `ratio` is samples per second over the plain loop's.

`peak_fraction` is the FLOP/s of the step's matrix products (forward, and backward to the inputs, because frozen weights
have no gradients), divided by the FLOP/s that the machine reaches in these products alone. These are measured in bf16
and fp32, and the faster one counts (`peak_of`), because some machines only emulate bf16.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from measure import Bench, agree, in_turn, matmul_rate, options
from sides import GPT2_SMALL, TINY, Geometry, Patches, build_pack, ours_step, plain_loops, plain_step, save_gpt2


def step_flops(geometry: Geometry, rows: int, length: int) -> float:
    """FLOPs of the body's products in one training step on `rows` sequences."""
    per_token = geometry.layers * (24 * geometry.width**2 + 4 * length * geometry.width)
    return 2.0 * rows * length * per_token


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    bench = Bench("training_speed", options(__doc__, seconds=30).parse_args(argv))
    runtime, geometry = bench.runtime, TINY if bench.quick else GPT2_SMALL
    batch_size = 4 if bench.quick else 256 if bench.on_gpu else 32
    task = Patches(16 * batch_size)
    T = task.spec.length
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        pack = build_pack(task, save_gpt2(out, geometry), runtime, batch_size, out)
        timings = in_turn(
            {"plain": plain_step(plain_loops(pack), task, batch_size), "ours": ours_step(pack)}, runtime, bench.seconds
        )
    ours, plain = timings["ours"], timings["plain"]
    difference = agree("losses of the first steps", ours.results, plain.results, runtime.precision)
    rows = batch_size * T
    rates = {name: matmul_rate(getattr(torch, name), rows, geometry.width, runtime) for name in ("float32", "bfloat16")}
    peak = max(rates, key=lambda name: rates[name])
    achieved = {name: step_flops(geometry, batch_size, T) / side.seconds for name, side in timings.items()}
    bench.report(
        {
            "ratio": plain.seconds / ours.seconds,
            "peak_fraction": achieved["ours"] / rates[peak],
            "peak_of": peak,
            "samples_per_second": {name: batch_size / side.seconds for name, side in timings.items()},
            "warmup_seconds": {name: side.warmup for name, side in timings.items()},
            "samples": ours.samples,
            "batch_size": batch_size,
            "gflops": {name: rate / 1e9 for name, rate in achieved.items()},
            "matmul_gflops": {name: rate / 1e9 for name, rate in rates.items()},
            "loss_difference": difference,
        },
        ["side", "samples/s", "ms a step", "warm-up, ms", "GFLOP/s", "of bf16 products", "of fp32 products"],
        [
            [
                name,
                f"{batch_size / side.seconds:.2f}",
                f"{side.seconds * 1e3:.1f}",
                f"{side.warmup * 1e3:.1f}",
                f"{achieved[name] / 1e9:.1f}",
                *(f"{achieved[name] / rates[kind]:.2f}" for kind in ("bfloat16", "float32")),
            ]
            for name, side in timings.items()
        ],
        f"One run, {geometry.layers} layers of width {geometry.width}, {T} x {task.spec.size} input, batch "
        f"{batch_size}. icecore over the plain loop: **{plain.seconds / ours.seconds:.2f}**; losses differ by "
        f"{difference:.1e}.",
    )


if __name__ == "__main__":
    main()
