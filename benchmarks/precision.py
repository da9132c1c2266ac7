"""Does rounding change results? Steps to 100 % on bit XOR and accuracy on MNIST, for each precision and three seeds.

Pretrained MiniLM, with the same seeds, data and steps for each precision. MNIST needs its data (--data-dir).
This is not part of `make bench`, because it measures what is learned and not how fast.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from icecore.experiments import sweep
from icecore.training.context import ExecutionContext
from icecore.training.run_summary import RunSummary
from measure import Bench, options

PRECISIONS = ("fp32", "bf16", "int8")
SEEDS = (0, 1, 2)


def train(task: str, precision: str, arguments: argparse.Namespace, **settings: Any) -> Sequence[RunSummary]:
    """Train one run for each seed, as one pack. Returns their summaries."""
    config = sweep.make_config(
        task, precision, arguments.device, backbone="minilm", weights=arguments.weights, **settings
    )
    with tempfile.TemporaryDirectory() as folder:
        context = ExecutionContext(Path(folder), arguments.data_dir, arguments.device)
        return sweep.run_sweep(sweep.expand_sweep(config, seeds=SEEDS), context).runs


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    parser = options(__doc__, seconds=0)
    parser.add_argument("--data-dir", help="folder with MNIST; without it, only bit XOR is trained")
    parser.add_argument("--weights", default="pretrained", help="weights of the body: pretrained, random or statistics")
    parser.add_argument("--steps", type=int, default=300, help="steps on MNIST (%(default)s)")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="precisions to compare (%(default)s)")
    arguments = parser.parse_args(argv)
    bench = Bench("precision", arguments)
    bench.precision = "each"
    steps, mnist_steps = (2, 2) if bench.quick else (300, arguments.steps)
    by_precision: dict[str, dict[str, Any]] = {}
    for precision in arguments.precisions.split(","):
        xor = train("bit-xor", precision, arguments, task_options={"n": 5}, steps=steps, eval_every=min(10, steps),
                    batch_size=32, eval_examples=256, stop_at=1.0, test_examples=1000)  # fmt: skip
        row: dict[str, Any] = {
            "bit_xor_steps": [run.steps_done if run.status == "reached stop_at" else None for run in xor],
            "bit_xor_test": [run.test_metric for run in xor],
        }
        if arguments.data_dir:
            mnist = train(
                "mnist",
                precision,
                arguments,
                steps=mnist_steps,
                eval_every=mnist_steps,
                eval_examples=500,
                test_examples=1000,
            )
            row["mnist_test"] = [run.test_metric for run in mnist]
        by_precision[precision] = row
        print(precision, row, flush=True)
    heads = ["precision", "bit XOR: steps to 100 %", "bit XOR: test", f"MNIST: test after {mnist_steps} steps"]
    table = [
        [
            name,
            ", ".join(str(count or "never") for count in row["bit_xor_steps"]),
            mean_and_error(row["bit_xor_test"]),
            mean_and_error(row["mnist_test"]) if "mnist_test" in row else "not run",
        ]
        for name, row in by_precision.items()
    ]
    bench.report(
        {"precisions": by_precision, "seeds": SEEDS, "mnist_steps": mnist_steps, "weights": arguments.weights},
        heads,
        table,
        f"Frozen {arguments.weights} MiniLM, seeds {', '.join(map(str, SEEDS))}: bit XOR (n = 5, batch 32, validated "
        "every 10 steps) and MNIST (batch 8; the first 1,000 test images). Mean and standard error over seeds.",
    )


def mean_and_error(values: Sequence[float]) -> str:
    """Mean and standard error of the mean, in per cent."""
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.2%} ± {error:.2%}"


if __name__ == "__main__":
    main()
