"""How does the cost scale? Time per run and step for R from 1 to 64, time per token for T from 16 to 2048.

GPT-2 small geometry; bit XOR at batch 4 for R, a fixed number of tokens a step for T. `--write` also draws
both. Run 0 must have the same losses in every pack, and the first loss at every T must be that of
the plain loop.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path

import torch
from torch.nn import functional as F

from icecore.tasks.bits import BitXor
from measure import Bench, agree, in_turn, options
from sides import GPT2_SMALL, TINY, Patches, build_pack, ours_step, plain_models, save_gpt2

RUNS, BATCH = (1, 2, 4, 8, 16, 32, 64), 4
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048)
#: rounds at least: a warm-up and two samples
ROUNDS = 3


def over_runs(bench: Bench, body: str, out: Path, counts: Sequence[int]) -> dict[int, float]:
    """Milliseconds per run-step of packs of R runs, by R."""
    task, precision = BitXor(n=5), bench.runtime.precision
    steps = {str(R): ours_step(build_pack(task, body, bench.runtime, BATCH, out, R)) for R in counts}
    timings = in_turn(steps, bench.runtime, bench.seconds / 2, ROUNDS)
    alone = timings[str(counts[0])].results[:, 0]
    for R, side in timings.items():
        agree(f"losses of run 0 in a pack of {R}", side.results[:, 0], alone, precision)
    return {R: timings[str(R)].seconds / R * 1e3 for R in counts}


def over_lengths(bench: Bench, body: str, out: Path, lengths: Sequence[int], tokens: int) -> dict[int, float]:
    """Microseconds per token of a step of one run that has `tokens` tokens in total, by T."""
    steps, plain = {}, {}
    for T in lengths:
        task = Patches(4 * tokens // T, length=T)
        pack = build_pack(task, body, bench.runtime, tokens // T, out)
        batch = task.train_batch([0], 0, tokens // T)
        with torch.inference_mode():
            logits = plain_models(pack)[0](batch.tokens)
            plain[str(T)] = F.cross_entropy(logits[:, 0], batch.targets)[None]
        steps[str(T)] = ours_step(pack)
    timings = in_turn(steps, bench.runtime, bench.seconds / 2, ROUNDS)
    for T, side in timings.items():
        agree(f"first loss at T = {T}", side.results[0], plain[T], bench.runtime.precision)
    return {T: timings[str(T)].seconds / tokens * 1e6 for T in lengths}


def draw(per_run: Mapping[int, float], per_token: Mapping[int, float], path: Path) -> None:
    """Both curves side by side, as a picture at `path`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = [
        (per_run, "runs in the pack, R", "ms per run and step", "Bit XOR, batch 4 a run"),
        (per_token, "sequence length, T", "µs per token", "One run, tokens a step fixed"),
    ]
    for axes, (curve, x_label, y_label, title) in zip(figure.subplots(1, 2), panels, strict=True):
        axes.plot(list(curve), list(curve.values()), marker="o", color="#1f6fb4")
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(curve), [str(x) for x in curve])
        axes.set_ylim(0, 1.12 * max(curve.values()))
        axes.set(xlabel=x_label, ylabel=y_label, title=title)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    bench = Bench("scaling", options(__doc__, seconds=30).parse_args(argv))
    geometry, tokens = (TINY, 64) if bench.quick else (GPT2_SMALL, 64 * 1024 if bench.on_gpu else 2048)
    counts, lengths = ((1, 2), (16, 32)) if bench.quick else (RUNS, LENGTHS)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        body = save_gpt2(out, geometry, positions=2048)
        per_run = over_runs(bench, body, out, counts)
        per_token = over_lengths(bench, body, out, lengths, tokens)
    rise = max(after / before for before, after in pairwise(per_run.values()))
    rows = [
        [text for point in pair for text in ((point[0], f"{point[1]:.2f}") if point else ("", ""))]
        for pair in zip_longest(per_run.items(), per_token.items())
    ]
    bench.report(
        {
            "ms_per_run_step": {str(R): taken for R, taken in per_run.items()},
            "us_per_token": {str(T): taken for T, taken in per_token.items()},
            "falls_in_runs": per_run[counts[0]] / per_run[counts[-1]],
            "largest_rise_in_runs": rise,
            "batch_size": BATCH,
            "tokens": tokens,
        },
        ["R", "ms per run-step", "T", "µs per token"],
        rows,
        f"{geometry.layers} layers of width {geometry.width}. From {counts[0]} to {counts[-1]} runs of bit XOR at "
        f"batch {BATCH} a run-step becomes **{per_run[counts[0]] / per_run[counts[-1]]:.1f}** times cheaper; one "
        f"run at {tokens} tokens a step over T.",
    )
    if bench.write and importlib.util.find_spec("matplotlib") is None:
        print("The picture needs matplotlib: pip install 'icecore[plot]'", file=sys.stderr)
    elif bench.write:
        draw(per_run, per_token, bench.path(".png"))


if __name__ == "__main__":
    main()
