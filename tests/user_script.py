# pyright: strict
"""What a user writes with the public API. Pyright checks it in strict mode, and test_public_api.py runs it."""

from pathlib import Path

import icecore


def train_and_open(folder: Path) -> list[tuple[int, ...]]:
    """Sweep bit XOR, open the first run, and return the shapes of its logits."""
    summary = icecore.sweep(
        "bit-xor", lrs=[1e-3, 3e-3], seeds=[0, 1], out=folder, weights="random", layers=1, steps=2, test_examples=8
    )
    assert summary.chosen_lr in (1e-3, 3e-3)
    assert summary.test_mean is not None
    assert len(summary.runs) == 4
    model, task = icecore.load_run(folder / summary.runs[0].run_id)
    return [tuple(model(batch).shape) for batch in task.batches("test", 4, 8)]


def pack_programs() -> list[float]:
    """The losses of three programs on one body."""
    task = icecore.load_task("bit-xor", n=2)
    body = icecore.load_backbone("minilm", weights="random", layers=1)
    model = icecore.FPT(task.spec, body, seeds=[0, 1, 2])
    batch = task.train_batch([0, 1, 2], 0, 4)
    losses = task.loss(model(batch), batch.targets).view(3, 4).mean(1)
    return [float(loss.detach()) for loss in losses]


def fit_and_predict(table: Path, folder: Path) -> int:
    """Fit a table, predict it, and return how many rows were predicted."""
    print(icecore.plan(table).describe())
    result = icecore.fit(table, out=folder / "program.safetensors", steps=2, layers=1, lrs=(1e-2,))
    program = icecore.Program.load(folder / "program.safetensors")
    assert program.fingerprint == result.program.fingerprint
    try:
        icecore.fit(table, target="species")
    except icecore.UserError as error:
        print(error)
    else:
        raise AssertionError("`target` is not a setting of how to train")
    alone = icecore.predict(folder / "program.safetensors", table)
    several = icecore.predict([folder / "program.safetensors"], table)
    assert len(several[folder / "program.safetensors"]) == len(alone)
    return len(alone)
