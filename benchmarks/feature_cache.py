"""What does an epoch cost once the body's features are cached? Only the output layer is trained.

`ratio` is the time of one full pass of icecore's body over the examples, divided by that of an epoch after the first;
`ratio_plain` uses the pass of the plain loop instead. Both sides train two epochs, and their losses must agree.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from icecore.tasks.task import Task
from icecore.training.evaluation import evaluate, examples_per_pass
from measure import Bench, agree, in_turn, options
from plain import PlainFPT, PlainLoop
from sides import GPT2_SMALL, TINY, Patches, build_pack, ours_step, plain_models, save_gpt2


@torch.no_grad()
def plain_features(model: PlainFPT, task: Task, rows: int) -> Tensor:
    """Features of every training example in order, (examples, 1, D), computed in passes of `rows`."""
    return torch.cat([model.features(batch.tokens) for batch in task.batches("train", rows)])


def epoch_of(step: Callable[[], Tensor], steps: int) -> Callable[[], Tensor]:
    """A function that makes `steps` steps and returns their losses (steps, 1)."""
    return lambda: torch.stack([step() for _ in range(steps)])


def plain_epochs(model: PlainFPT, features: Tensor, task: Task, batch_size: int, steps: int) -> Tensor:
    """Losses (steps, 1) of training the output layer on features (examples, 1, D) cached by hand."""
    loop, losses = PlainLoop(model.output, lr=1e-3), []
    targets = torch.cat([batch.targets for batch in task.batches("train", len(features))])
    for number in range(steps):
        index = task.train_index([0], number, batch_size)
        assert index is not None
        index = index.to(features.device)
        losses.append(loop.train_step(features[index], targets[index]))
    return torch.stack(losses)[:, None]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    bench = Bench("feature_cache", options(__doc__, seconds=20).parse_args(argv))
    runtime, geometry = bench.runtime, TINY if bench.quick else GPT2_SMALL
    examples, batch_size = (16, 4) if bench.quick else (8192 if bench.on_gpu else 128, 32)
    task, steps = Patches(examples), examples // batch_size
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        body = save_gpt2(out, geometry)
        pack = build_pack(task, body, runtime, batch_size, out, train_roles=("output",), eval_examples=1)
        model, rows = plain_models(pack)[0], min(examples, examples_per_pass(pack.model))
        epoch = epoch_of(ours_step(pack), steps)
        start = time.perf_counter()
        first_epoch = epoch()
        runtime.synchronize()
        first = time.perf_counter() - start
        sides = {
            "epoch on cached features": epoch,
            "full pass": lambda: evaluate(pack.model, task, "train"),
            "plain full pass": lambda: plain_features(model, task, rows),
        }
        timings = in_turn(sides, runtime, bench.seconds, checked=2)
        ours = torch.cat([first_epoch.cpu(), timings["epoch on cached features"].results[0]])
        features = timings["plain full pass"].results[0].float().to(runtime.device)
        plain = plain_epochs(model, features, task, batch_size, 2 * steps)
        difference = agree("losses of two epochs", ours, plain, runtime.precision)
    seconds = {name: side.seconds for name, side in timings.items()}
    cached = seconds["epoch on cached features"]
    bench.report(
        {
            "ratio": seconds["full pass"] / cached,
            "ratio_plain": seconds["plain full pass"] / cached,
            "seconds": seconds,
            "first_epoch_seconds": first,
            "samples": timings["full pass"].samples,
            "examples": examples,
            "batch_size": batch_size,
            "loss_difference": difference,
        },
        ["measured", "ms", "over an epoch on cached features"],
        [
            ["first epoch", f"{first * 1e3:.1f}", f"{first / cached:.1f}"],
            *([name, f"{taken * 1e3:.1f}", f"{taken / cached:.1f}"] for name, taken in seconds.items()),
        ],
        f"{examples} examples of 64 x 48, {geometry.layers} layers of width {geometry.width}, output layer trained "
        f"in batches of {batch_size}. A full pass over an epoch on cached features: "
        f"**{seconds['full pass'] / cached:.1f}**; losses differ by {difference:.1e}.",
    )


if __name__ == "__main__":
    main()
