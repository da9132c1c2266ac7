"""What does it cost that each row may be another program's? A batch of 100 tasks against one of a single task.

MiniLM geometry, T = 64. The single side is the model of one program as `icecore eval` runs it; the mixed one an
engine that holds 100. Target: a mixed batch has at least 0.8 of the single task's rows a second, and a further
program costs no more memory than its own numbers.
"""

import gc
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from icecore.backbones import Backbone, BodyRequest, build_backbone
from icecore.core.config import RunConfig
from icecore.core.random_streams import random_stream
from icecore.inference.engine import Engine
from icecore.model.fpt import FPT
from icecore.model.loading import load_programs
from icecore.model.program import Program
from icecore.tasks.task import Batch
from icecore.training.evaluation import examples_per_pass
from icecore.training.micro_batches import split_by_length
from measure import Bench, agree, in_turn, options
from sides import Patches

PROGRAMS = 100
TARGET = 0.8


def make_programs(task: Patches, body: Backbone, count: int) -> list[Program]:
    """Programs as training leaves them: nothing in one is as in another."""
    model = FPT(task.spec, body, seeds=range(count))
    config = RunConfig(task=task.name, steps=1, batch_size=1, lr=1e-3, weights="random")
    programs = []
    for seed, tensors in enumerate(model.programs()):
        generator = random_stream(seed)
        moved = {n: t + 0.02 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}
        programs.append(Program(config, task.spec, model.body_fingerprint, moved))
    return programs


@torch.inference_mode()
def single(model: FPT, batch: Batch) -> Tensor:
    """Logits (N, n, C) of the batch in passes, all by the model's one program."""
    passes = split_by_length(batch, runs=1, tokens=examples_per_pass(model) * model.spec.length)
    return torch.cat([model(part) for part, _ in passes])


def live_bytes() -> int:
    """Bytes of all tensors there are, each storage once; 8-bit weights, packed by oneDNN, left out."""
    gc.collect()
    tensors = [found for found in gc.get_objects() if type(found) in (Tensor, nn.Parameter)]
    storages = [tensor.untyped_storage() for tensor in tensors if tensor.layout == torch.strided]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    bench = Bench("serving", options(__doc__, seconds=60).parse_args(argv))
    device, precision = bench.runtime.device, bench.precision
    count, N = (5, 8) if bench.quick else (PROGRAMS, 4096 if bench.on_gpu else 256)
    request = BodyRequest("minilm", "random", layers=1 if bench.quick else None)
    task = Patches(N)
    batch = next(task.to(device).batches("test", N))
    which = (torch.randperm(N, generator=random_stream(0)) % count).tolist()
    programs = make_programs(task, build_backbone(request), count)
    size = sum(tensor.nbytes for tensor in programs[0].tensors.values())
    model = load_programs(programs[:1], build_backbone(request).to(device), precision).to(device)
    body = build_backbone(request).to(device)
    body_size = sum(parameter.nbytes for parameter in body.parameters())
    engine = Engine(body, precision)
    before = live_bytes()
    while programs:
        engine.add(programs.pop(0))
    held = (live_bytes() - before) / count + size  # the programs themselves are gone
    first = [row for row, index in enumerate(which) if index == 0]
    ours, theirs = torch.stack(engine.predict(batch, which))[first], single(model, batch)[first]
    difference = agree("logits of the first program's rows", ours, theirs, precision)
    sides = {
        "one program, model": lambda: single(model, batch),
        "one program, engine": lambda: torch.stack(engine.predict(batch, 0)),
        f"{count} programs, engine": lambda: torch.stack(engine.predict(batch, which)),
    }
    found = in_turn(sides, bench.runtime, bench.seconds, checked=2)
    alone, _, mixed = (side.seconds for side in found.values())
    ratio = alone / mixed
    bench.report(
        {
            "ratio": ratio,
            "target": TARGET,
            "programs": count,
            "rows": N,
            "rows_per_second": {name: N / side.seconds for name, side in found.items()},
            "bytes_per_program": size,
            "bytes_held_per_program": held,
            "body_bytes": body_size,
            "samples": min(side.samples for side in found.values()),
            "logits_difference": difference,
        },
        ["rows of", "rows/s", "warm-up, s"],
        [[name, f"{N / side.seconds:.1f}", f"{side.warmup:.3f}"] for name, side in found.items()],
        f"{N} rows of 64 x 48 on MiniLM's geometry. {count} programs over one: **{ratio:.2f}** of the rows/s (target: "
        f"at least {TARGET}). A program has {size:,} bytes and costs {held:,.0f}; the body has {body_size:,} in "
        f"fp32. Logits of one program differ by {difference:.1e}.",
    )


if __name__ == "__main__":
    main()
