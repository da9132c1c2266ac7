"""Bit XOR on a frozen BERT without icecore: the plain side of time_to_accuracy.py, as a user would write it.

    python plain_bit_xor.py SETTINGS.json

It appends {"step", "loss"} and {"step", "metric"} lines to the file `events` of the settings and stops at `stop_at`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import BertModel

from icecore.tasks.bits import BitXor
from plain import PlainFPT, PlainLoop


def main(settings: dict[str, Any]) -> None:
    """Train until the validation accuracy is `stop_at`, or for `steps` steps."""
    device = torch.device(settings["device"])
    task = BitXor(settings["n"]).to(device)
    body = BertModel.from_pretrained(settings["body"], dtype=torch.float32, add_pooling_layer=False)
    model = PlainFPT(body, task.spec.size, task.spec.outputs, task.spec.read_positions)
    model.start_from(load_file(settings["start"]))
    loop = PlainLoop(model.to(device), settings["lr"], settings["factors"])
    warm_up = settings["warmup_steps"]
    schedule = torch.optim.lr_scheduler.LambdaLR(loop.optimizer, lambda step: min(1.0, (step + 1) / max(1, warm_up)))
    validation = next(task.batches("val", settings["eval_examples"]))
    with Path(settings["events"]).open("a", buffering=1) as events:
        for step in range(1, settings["steps"] + 1):
            batch = task.train_batch([0], step - 1, settings["batch_size"])
            loss = loop.train_step(batch.tokens, batch.targets)
            schedule.step()
            print(json.dumps({"step": step, "loss": float(loss)}), file=events)
            if step % settings["eval_every"] == 0:
                with torch.inference_mode():
                    hits = model(validation.tokens).argmax(-1) == validation.targets
                metric = float(hits.float().mean())
                print(json.dumps({"step": step, "metric": metric}), file=events)
                if metric >= settings["stop_at"]:
                    return


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
