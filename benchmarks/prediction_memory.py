"""What does a row cost at prediction? Peak memory of `icecore predict` on a table, and on one with ten times the rows.

`bytes_per_row` is the difference of the peaks divided by that of the rows, `growth` the ratio of the peaks. Each table
is read, predicted and written in a process of its own. The body is small, because its part does not depend on the rows.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import icecore
from icecore.core.device import select_runtime
from measure import Bench, options, peak_memory
from sides import TINY, save_gpt2

ROWS = (30_000, 300_000)
QUICK_ROWS = (200, 2_000)
COLUMNS = 8
MIB = 2**20


def write_table(path: Path, rows: int) -> Path:
    """A CSV file of numbers, a category and a class."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        print(",".join([*(f"x{i}" for i in range(COLUMNS)), "kind", "label"]), file=file)
        for _ in range(rows):
            x = rng.normal(size=COLUMNS)
            kind = "abc"[int(rng.integers(3))]
            print(",".join(f"{value:.5f}" for value in x), kind, "yes" if x[0] > 0 else "no", sep=",", file=file)
    return path


def predict_alone(program: Path, data: Path) -> None:
    """Predict and write a table; print the peak bytes of this process."""
    icecore.predict(program, data, device="cpu").save(data.with_suffix(".out.csv"))
    print(peak_memory(select_runtime("cpu")))


def peak(program: Path, data: Path) -> int:
    """Peak bytes of a new process that predicts the table."""
    command = [sys.executable, __file__, "--predict", str(program), str(data)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"The memory for {data.name} could not be measured:\n{ended.stderr.strip()[-2000:]}")
    return int(ended.stdout.split()[-1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and report."""
    parser = options(__doc__, None)
    parser.add_argument("--predict", nargs=2, type=Path, metavar=("PROGRAM", "DATA"), help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.predict:
        predict_alone(*parsed.predict)
        return
    bench = Bench("prediction_memory", parsed)
    counts = QUICK_ROWS if bench.quick else ROWS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        body = save_gpt2(folder, TINY, positions=64)
        program = folder / "program.safetensors"
        settings = {"backbone": body, "weights": "pretrained", "steps": 2, "lrs": (1e-3,), "closed_form": False}
        icecore.fit(write_table(folder / "train.csv", 200), out=program, device="cpu", **settings)
        peaks = [peak(program, write_table(folder / f"{count}.csv", count)) for count in counts]
    per_row = (peaks[1] - peaks[0]) / (counts[1] - counts[0])
    bench.report(
        {"bytes_per_row": per_row, "growth": peaks[1] / peaks[0], "peaks": dict(zip(counts, peaks, strict=True))},
        ["rows", "peak memory in MiB"],
        [[f"{count:,}", f"{each / MIB:.0f}"] for count, each in zip(counts, peaks, strict=True)],
        f"`icecore predict` on tables of {COLUMNS} numbers, a category and a class, which are scored as well",
    )


if __name__ == "__main__":
    main()
