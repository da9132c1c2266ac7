"""Do the claims that fail here also fail in a plain loop? Some rows, trained without icecore's model and recipe.

    python benchmarks/plain_claims.py --data-dir DATA --write

Where a result contradicts the paper, the first suspect is our own code. This trains the rows in question with the
library's BertModel in fp32, Adam and clipping at constant rates, on the same examples, and prints the test accuracy at
the rate that is best on validation. Only the examples come from icecore.
"""

import argparse
import functools
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from icecore.backbones import BodyRequest, build_backbone
from icecore.tasks import build_task
from icecore.tasks.entry import TaskRequest
from icecore.tasks.task import Task, TaskSpec
from measure import Bench, options
from plain import PlainFPT, PlainLoop
from plain_training import accuracy, lengthen_positions
from sides import body_folder

RATES = (1e-4, 3e-4, 1e-3, 3e-3)
BATCH_SIZE, VALIDATION_EXAMPLES, TEST_EXAMPLES = 8, 300, 500


class LinearProbe(nn.Module):
    """No body: a linear layer on all of the input's numbers, tokens (N, T, P) to logits (N, 1, C)."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__()
        self.output = nn.Linear(spec.length * spec.size, spec.outputs)

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits of tokens that all have the task's length."""
        return self.output(tokens.flatten(1))[:, None]


@functools.cache
def minilm_folder() -> str:
    """The folder of MiniLM's weights."""
    return body_folder(build_backbone(BodyRequest("minilm")))


def build_body(weights: str, length: int) -> Any:
    """MiniLM as the library builds it, with its pretrained weights or the library's own random ones."""
    if weights == "random":
        body = BertModel(BertConfig.from_pretrained(minilm_folder()), add_pooling_layer=False)
    else:
        body = BertModel.from_pretrained(minilm_folder(), dtype=torch.float32, add_pooling_layer=False)
    lengthen_positions(body, length)
    return body


def frozen(weights: str) -> Callable[[TaskSpec], nn.Module]:
    """A row whose attention and feed-forward layers are frozen."""
    return lambda spec: PlainFPT(build_body(weights, spec.length), spec)


def trained(weights: str) -> Callable[[TaskSpec], nn.Module]:
    """A row of which everything is trained."""

    def build(spec: TaskSpec) -> nn.Module:
        return PlainFPT(build_body(weights, spec.length), spec).requires_grad_(True)

    return build


ROWS: dict[str, Callable[[TaskSpec], nn.Module]] = {
    "frozen, pretrained": frozen("pretrained"),
    "trained, pretrained": trained("pretrained"),
    "frozen, random": frozen("random"),
    "trained, random": trained("random"),
    "no body": LinearProbe,
}


@dataclass(frozen=True)
class Outcome:
    """Accuracies of one training on the validation examples and on the test examples."""

    row: str
    lr: float
    seed: int
    validation: float
    test: float


def train(row: str, task: Task, lr: float, seed: int, steps: int) -> Outcome:
    """Train a row for so many steps, with the order of the examples that icecore has."""
    torch.manual_seed(seed)
    model = ROWS[row](task.spec)
    loop = PlainLoop(model, lr)
    for step in range(steps):
        batch = task.train_batch([seed], step, BATCH_SIZE)
        loop.train_step(batch.tokens, batch.targets, batch.lengths)
    model.eval()
    scores: list[float] = []
    for split, examples in (("val", VALIDATION_EXAMPLES), ("test", TEST_EXAMPLES)):
        scores.append(accuracy(model, list(task.batches(split, 100, examples))))
    return Outcome(row, lr, seed, *scores)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the check with the command line `argv`."""
    parser: argparse.ArgumentParser = options(__doc__, seconds=0)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with the data of the task")
    parser.add_argument("--task", default="mnist", help="mnist or cifar10 (%(default)s)")
    parser.add_argument("--rows", default=";".join(ROWS), help="rows to train, separated by semicolons")
    parser.add_argument("--seeds", default="0,1,2", help="seeds; the first one tries all rates (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="steps of 8 examples (%(default)s)")
    arguments = parser.parse_args(argv)
    bench = Bench("plain_claims", arguments)
    bench.part, bench.precision = arguments.task, "fp32"
    task = build_task(arguments.task, TaskRequest({}, arguments.data_dir))
    steps = 2 if bench.quick else arguments.steps
    first, *others = map(int, arguments.seeds.split(","))
    table, outcomes = [], []
    for row in arguments.rows.split(";"):
        tried = [train(row, task, lr, first, steps) for lr in RATES]
        best = max(tried, key=lambda outcome: outcome.validation)
        chosen = [best, *(train(row, task, best.lr, seed, steps) for seed in others)]
        outcomes += [*tried, *chosen[1:]]
        tests = [100 * outcome.test for outcome in chosen]
        table.append([row, f"{best.lr:g}", ", ".join(f"{test:.1f}" for test in tests), f"{statistics.mean(tests):.1f}"])
        print(json.dumps(table[-1]), flush=True)
    bench.report(
        {"task": arguments.task, "steps": steps, "batch_size": BATCH_SIZE, "runs": [asdict(each) for each in outcomes]},
        ["row", "rate", f"test accuracy on {arguments.task} by seed, %", "mean"],
        table,
        f"{steps} steps of {BATCH_SIZE} examples at a constant rate, scored on {TEST_EXAMPLES} test examples.",
    )


if __name__ == "__main__":
    main()
