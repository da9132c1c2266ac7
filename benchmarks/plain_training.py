"""A frozen BERT trained without icecore until it is good enough: the plain side of time_to_accuracy.py.

    python plain_training.py SETTINGS.json

This is what a user would write by hand, for any task: one constant rate, fp32. Only the examples come from icecore, so
that both sides read the same ones. It appends {"step", "metric"} lines to the file `events` of the settings and ends
at the accuracy `stop_at`, or after `steps` steps.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertModel

from icecore.tasks import build_task
from icecore.tasks.entry import TaskRequest
from icecore.tasks.task import Batch, Task
from plain import PlainFPT, PlainLoop, classes

#: tokens of a pass when the model is validated, as many as icecore takes on a CPU
TOKENS_PER_PASS = 8192


def main(settings: dict[str, Any]) -> None:
    """Train until the validation accuracy is `stop_at`, or for `steps` steps."""
    device, seed = torch.device(settings["device"]), settings["seed"]
    task = build_task(settings["task"], TaskRequest(settings["task_options"], settings["data_dir"])).to(device)
    torch.manual_seed(seed)
    body = BertModel.from_pretrained(settings["body"], dtype=torch.float32, add_pooling_layer=False)
    lengthen_positions(body, task.spec.length)
    model = PlainFPT(body, task.spec).to(device)
    loop = PlainLoop(model, settings["lr"])
    validation = validation_batches(task, settings["eval_examples"])
    with Path(settings["events"]).open("a", buffering=1) as events:
        for step in range(1, settings["steps"] + 1):
            batch = task.train_batch([seed], step - 1, settings["batch_size"])
            loop.train_step(batch.tokens, batch.targets, batch.lengths)
            if step % settings["eval_every"] == 0:
                metric = accuracy(model, validation)
                print(json.dumps({"step": step, "metric": metric}), file=events)
                if metric >= settings["stop_at"]:
                    return


def lengthen_positions(body: Any, length: int) -> None:
    """Repeat the position table of a BertModel from its start if it is shorter than `length`."""
    embeddings = body.embeddings
    table = embeddings.position_embeddings.weight.detach()
    if length > len(table):
        rows = torch.arange(length)
        embeddings.position_embeddings = nn.Embedding.from_pretrained(table[rows % len(table)])
        embeddings.position_ids = rows[None]
        embeddings.token_type_ids = torch.zeros_like(rows[None])


def validation_batches(task: Task, examples: int) -> list[Batch]:
    """The first `examples` validation examples, in passes of about TOKENS_PER_PASS tokens."""
    return list(task.batches("val", max(1, TOKENS_PER_PASS // task.spec.length), examples))


@torch.inference_mode()
def accuracy(model: nn.Module, batches: Sequence[Batch]) -> float:
    """The share of targets that the model predicts."""
    hits = [classes(model(b.tokens, b.lengths), b.targets).argmax(-1) == b.targets for b in batches]
    return float(torch.cat([each.flatten() for each in hits]).double().mean())


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
