"""Does rounding cost results? Bit XOR's steps to 100 % and MNIST's accuracy, in each precision, three seeds.

Pretrained MiniLM; the same seeds, data and steps in each precision. MNIST needs its data (--data-dir).
Not part of `make bench`: this asks what is learnt, not how fast.
"""

import argparse
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icecore.experiments import sweep
from icecore.training.context import ExecutionContext
from measure import Bench, options

PRECISIONS = ("fp32", "bf16", "int8")
SEEDS = (0, 1, 2)


def train(task: str, precision: str, given: argparse.Namespace, **settings: Any) -> list[Mapping[str, Any]]:
    """Summaries of the seeds' runs, packed."""
    config = sweep.make_config(task, precision, given.device, backbone="minilm", weights=given.weights, **settings)
    with tempfile.TemporaryDirectory() as folder:
        place = ExecutionContext(Path(folder), given.data_dir, given.device)
        return sweep.run_sweep(sweep.expand_sweep(config, seeds=SEEDS), place).runs


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    parser = options(__doc__, seconds=0)
    parser.add_argument("--data-dir", help="folder with MNIST; without it bit XOR only")
    parser.add_argument("--weights", default="pretrained", help="of the body: pretrained, random or statistics")
    parser.add_argument("--steps", type=int, default=300, help="of MNIST (%(default)s)")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="which to try (%(default)s)")
    given = parser.parse_args(argv)
    bench = Bench("precision", given)
    bench.precision = "each"
    steps, rows = (2, 2) if bench.quick else (300, given.steps)
    found: dict[str, dict[str, Any]] = {}
    for precision in given.precisions.split(","):
        xor = train("bit-xor", precision, given, task_options={"n": 5}, steps=steps, eval_every=min(10, steps),
                    batch_size=32, eval_examples=256, stop_at=1.0, test_examples=1000)  # fmt: skip
        row: dict[str, Any] = {
            "bit_xor_steps": [run["steps_done"] if run["status"] == "reached stop_at" else None for run in xor],
            "bit_xor_test": [run["test_metric"] for run in xor],
        }
        if given.data_dir:
            mnist = train("mnist", precision, given, steps=rows, eval_every=rows, eval_examples=500, test_examples=1000)
            row["mnist_test"] = [run["test_metric"] for run in mnist]
        found[precision] = row
        print(precision, row, flush=True)
    heads = ["precision", "bit XOR: steps to 100 %", "bit XOR: test", f"MNIST: test after {rows} steps"]
    table = [
        [
            name,
            ", ".join(str(count or "never") for count in row["bit_xor_steps"]),
            mean_and_error(row["bit_xor_test"]),
            mean_and_error(row["mnist_test"]) if "mnist_test" in row else "not run",
        ]
        for name, row in found.items()
    ]
    bench.report(
        {"precisions": found, "seeds": SEEDS, "mnist_steps": rows, "weights": given.weights},
        heads,
        table,
        f"Frozen {given.weights} MiniLM, seeds {', '.join(map(str, SEEDS))}: bit XOR (n = 5, batch 32, validated every "
        "10 steps) and MNIST (batch 8; the first 1,000 test images). Mean and standard error over seeds.",
    )


def mean_and_error(values: Sequence[float]) -> str:
    """Mean and standard error of the mean, in per cent."""
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.fmean(values):.2%} ± {error:.2%}"


if __name__ == "__main__":
    main()
