"""What do many runs cost together? 16 runs of bit XOR in one pack against 16 plain loops, one after another.

GPT-2 small geometry, the paper's batch size of 4. A round is one step of each run. `ratio` is the time of the plain
loops divided by that of the pack.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from icecore.tasks.bits import BitXor
from measure import Bench, agree, in_turn, options
from sides import GPT2_SMALL, TINY, build_pack, ours_step, plain_loops, plain_step, save_gpt2

BATCH = 4


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    bench = Bench("packed_runs", options(__doc__, seconds=30).parse_args(argv))
    runtime, geometry = bench.runtime, TINY if bench.quick else GPT2_SMALL
    task, runs = BitXor(n=5), 4 if bench.quick else 16
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        pack = build_pack(task, save_gpt2(out, geometry), runtime, BATCH, out, runs)
        timings = in_turn(
            {"plain loops": plain_step(plain_loops(pack), task, BATCH), "pack": ours_step(pack)}, runtime, bench.seconds
        )
    ours, plain = timings["pack"], timings["plain loops"]
    difference = agree("losses of the first steps", ours.results, plain.results, runtime.precision)
    bench.report(
        {
            "ratio": plain.seconds / ours.seconds,
            "runs": runs,
            "batch_size": BATCH,
            "ms_per_run_step": {name: side.seconds / runs * 1e3 for name, side in timings.items()},
            "warmup_seconds": {name: side.warmup for name, side in timings.items()},
            "samples": ours.samples,
            "loss_difference": difference,
        },
        ["side", "ms a step of all runs", "ms a step of one run", "warm-up, ms"],
        [
            [name, f"{side.seconds * 1e3:.1f}", f"{side.seconds / runs * 1e3:.2f}", f"{side.warmup * 1e3:.1f}"]
            for name, side in timings.items()
        ],
        f"{runs} runs of bit XOR (n = {task.n}), batch {BATCH} each, {geometry.layers} layers of width "
        f"{geometry.width}. One pack over {runs} plain loops: **{plain.seconds / ours.seconds:.2f}**; losses differ by "
        f"{difference:.1e}.",
    )


if __name__ == "__main__":
    main()
