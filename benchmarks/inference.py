"""How fast is `icecore eval`? Examples per second, compared with the model library's own forward pass in fp32.

GPT-2 small geometry, 64 x 48 input. Both sides use passes of the same size and count correct predictions.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from icecore.tasks.task import Task
from icecore.training.evaluation import evaluate, examples_per_pass
from measure import Bench, agree, in_turn, options
from plain import PlainFPT
from sides import GPT2_SMALL, TINY, Patches, build_pack, plain_models, save_gpt2


@torch.inference_mode()
def plain_accuracy(model: PlainFPT, task: Task, rows: int) -> Tensor:
    """Accuracy over the test split in passes of `rows`, (1,)."""
    hits = sum((model(b.tokens)[:, 0].argmax(-1) == b.targets).sum() for b in task.batches("test", rows))
    return torch.as_tensor(hits)[None] / task.split_size("test")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    bench = Bench("inference", options(__doc__, seconds=30).parse_args(argv))
    runtime, geometry = bench.runtime, TINY if bench.quick else GPT2_SMALL
    examples = 16 if bench.quick else 8192 if bench.on_gpu else 64
    task = Patches(examples)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        pack = build_pack(task, save_gpt2(out, geometry), runtime, 1, out)
        plain, rows = plain_models(pack)[0], min(examples, examples_per_pass(pack.model))
        batch = next(task.batches("test", rows))
        with torch.inference_mode():
            ours, theirs = (task.loss(x, batch.targets) for x in (pack.model(batch), plain(batch.tokens)))
            difference = agree("each example's loss", ours, theirs, runtime.precision)
        sides = {
            "plain": lambda: plain_accuracy(plain, task, rows),
            "eval": lambda: evaluate(pack.model, task, "test"),
        }
        timings = in_turn(sides, runtime, bench.seconds, checked=3)
    ratio = timings["plain"].seconds / timings["eval"].seconds
    bench.report(
        {
            "ratio": ratio,
            "examples_per_second": {name: examples / side.seconds for name, side in timings.items()},
            "warmup_seconds": {name: side.warmup for name, side in timings.items()},
            "samples": timings["eval"].samples,
            "examples": examples,
            "rows_per_pass": rows,
            "loss_difference": difference,
        },
        ["side", "examples/s", "warm-up, s", "accuracy"],
        [
            [name, f"{examples / side.seconds:.1f}", f"{side.warmup:.3f}", f"{float(side.results[0]):.3f}"]
            for name, side in timings.items()
        ],
        f"{examples} examples of 64 x 48 in passes of {rows}, {geometry.layers} layers of width {geometry.width}. "
        f"`eval` over the plain forward: **{ratio:.2f}**; losses differ by {difference:.1e}.",
    )


if __name__ == "__main__":
    main()
