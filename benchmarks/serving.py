"""What does it cost to serve many programs in one batch? A batch of 100 programs against a batch of one program.

MiniLM geometry, T = 64. The single side is the model of one program, as `icecore eval` runs it; the mixed side is an
engine with 100 programs. Target: a mixed batch reaches at least 0.8 of the rows per second of the single side, and each
further program takes no more memory than its own numbers.
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
    """Programs as if they were trained: all tensors of two programs differ."""
    model = FPT(task.spec, body, seeds=range(count))
    config = RunConfig(task=task.name, steps=1, batch_size=1, lr=1e-3, weights="random")
    programs = []
    for seed, tensors in enumerate(model.programs()):
        generator = random_stream(seed)
        trained = {n: t + 0.02 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}
        programs.append(Program(config, task.spec, model.body_fingerprint, trained))
    return programs


@torch.inference_mode()
def single_program_logits(model: FPT, batch: Batch) -> Tensor:
    """Logits (N, n, C) of the batch from the one program of the model, computed in passes."""
    passes = split_by_length(batch, runs=1, tokens=examples_per_pass(model) * model.spec.length)
    return torch.cat([model(part) for part, _ in passes])


def live_bytes() -> int:
    """Bytes of all tensors in memory, each storage counted once, without 8-bit weights, program_of_row oneDNN packs."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in (Tensor, nn.Parameter)]
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
    program_of_row = (torch.randperm(N, generator=random_stream(0)) % count).tolist()
    programs = make_programs(task, build_backbone(request), count)
    size = sum(tensor.nbytes for tensor in programs[0].tensors.values())
    model = load_programs(programs[:1], build_backbone(request).to(device), precision).to(device)
    body = build_backbone(request).to(device)
    body_size = sum(parameter.nbytes for parameter in body.parameters())
    engine = Engine(body, precision)
    before = live_bytes()
    while programs:
        engine.add(programs.pop(0))
    memory = (live_bytes() - before) / count + size  # the programs themselves have been freed
    first = [row for row, index in enumerate(program_of_row) if index == 0]
    ours, theirs = torch.stack(engine.predict(batch, program_of_row))[first], single_program_logits(model, batch)[first]
    difference = agree("logits of the first program's rows", ours, theirs, precision)
    sides = {
        "one program, model": lambda: single_program_logits(model, batch),
        "one program, engine": lambda: torch.stack(engine.predict(batch, 0)),
        f"{count} programs, engine": lambda: torch.stack(engine.predict(batch, program_of_row)),
    }
    timings = in_turn(sides, bench.runtime, bench.seconds, checked=2)
    alone, _, mixed = (side.seconds for side in timings.values())
    ratio = alone / mixed
    bench.report(
        {
            "ratio": ratio,
            "target": TARGET,
            "programs": count,
            "rows": N,
            "rows_per_second": {name: N / side.seconds for name, side in timings.items()},
            "bytes_per_program": size,
            "bytes_held_per_program": memory,
            "body_bytes": body_size,
            "samples": min(side.samples for side in timings.values()),
            "logits_difference": difference,
        },
        ["rows of", "rows/s", "warm-up, s"],
        [[name, f"{N / side.seconds:.1f}", f"{side.warmup:.3f}"] for name, side in timings.items()],
        f"{N} rows of 64 x 48 on MiniLM's geometry. {count} programs over one: **{ratio:.2f}** of the rows/s (target: "
        f"at least {TARGET}). A program has {size:,} bytes and costs {memory:,.0f}; the body has {body_size:,} in "
        f"fp32. Logits of one program differ by {difference:.1e}.",
    )


if __name__ == "__main__":
    main()
