"""What do processes gain that share a step, and what does their exchange cost? GPT-2 small geometry, bit XOR.

1, 2 and 4 processes of one thread each (no more than there are cores) train the same runs with the same batch. The
exchange is also timed alone, and steps are also timed with an exchange that overlaps with the backward pass.
"""

import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from icecore.core import device as runtimes
from icecore.tasks.bits import BitXor
from icecore.training.distributed import World, join_processes
from icecore.training.loop import Pack
from measure import Bench, Result, agree, clock, options
from sides import GPT2_SMALL, TINY, build_pack, save_gpt2

#: runs, examples in each step of a run, bits of a string
RUNS, BATCH, BITS = 4, 16, 5
#: number of buckets of the overlapping exchange
BUCKETS = 4
#: floating-point operations per second that a GPU is assumed to reach on a frozen body in bf16
GPU_RATE = 200e12
#: examples per step of each GPU, and Gbit/s of the networks between GPUs
SHARE, NETWORKS = 64, (10, 100, 400)
#: seconds until a message arrives, which is most of an exchange between few machines
LATENCY = 20e-6


def exchange_seconds(size: int, numbers: int, bits_a_second: float) -> float:
    """Seconds of one all-reduce of fp32 `numbers` over `size` machines, by recursive halving and doubling.

    2 (W - 1) / W * bytes / bandwidth + 2 log2(W) * latency (Thakur et al. 2005, reduce-scatter and all-gather).
    """
    return 2 * (size - 1) / size * 4 * numbers / (bits_a_second / 8) + 2 * math.log2(size) * LATENCY


def efficiency(size: int, numbers: int, bits_a_second: float, step: float) -> float:
    """Share of the time that each of `size` machines computes, if its part of a step takes `step` seconds."""
    return step / (step + exchange_seconds(size, numbers, bits_a_second))


def expected() -> dict[str, Any]:
    """Calculated efficiency of CIFAR-10 on GPT-2 small, by what is trained, number of GPUs, and network speed."""
    D, layers, T, P, C = GPT2_SMALL.width, GPT2_SMALL.layers, 64, 48, 10
    program = (P + 1) * D + T * D + 2 * (2 * layers + 1) * D + (D + 1) * C
    body = 12 * layers * D * D
    efficiencies: dict[str, Any] = {"numbers": {"program": program, "whole body": body + program}}
    for name, numbers in (("program", program), ("whole body", body + program)):
        # forward and the gradient of the inputs; if the body is trained, the gradient of its weights as well
        flops = (4 if numbers == program else 6) * body * T
        for size in (8, 64, 512):
            shares = {f"{s} Gbit/s": efficiency(size, numbers, s * 1e9, SHARE * flops / GPU_RATE) for s in NETWORKS}
            efficiencies[f"{name}, {size} GPUs"] = shares
    return efficiencies


class Overlapped:
    """The exchange in buckets, in the order of the backward pass; each bucket is sent as soon as it is full."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        parameters = list(reversed(pack.model.trained().values()))  # the output layer's gradient comes first
        share = sum(p.numel() for p in parameters) / BUCKETS
        ends = itertools.accumulate(p.numel() for p in parameters)
        self.buckets: list[list[nn.Parameter]] = [[] for _ in range(BUCKETS)]
        for parameter, end in zip(parameters, ends, strict=True):
            self.buckets[min(BUCKETS - 1, int((end - 1) / share))].append(parameter)
        self.flat: list[Tensor] = []
        self.work: list[Any] = []
        self.missing: list[int] = []
        for bucket, members in enumerate(self.buckets):
            for parameter in members:
                parameter.register_post_accumulate_grad_hook(self._counter(bucket))

    def _counter(self, bucket: int) -> Callable[[nn.Parameter], None]:
        def count(parameter: nn.Parameter) -> None:
            if not self.missing:
                return
            self.missing[bucket] -= 1
            if not self.missing[bucket]:
                flat = torch.cat([p.grad.flatten() for p in self.buckets[bucket] if p.grad is not None])
                self.flat.append(flat)
                self.work.append((bucket, dist.all_reduce(flat, async_op=True)))

        return count

    def step(self) -> Tensor:
        """One step of the pack in one pass, with its gradients exchanged bucket by bucket."""
        pack, R = self.pack, self.pack.adam.runs
        batch = pack.task.train_batch([m.config.seed for m in pack.active], pack.step, pack.config.batch_size)
        part, _ = pack.world.share(batch, R)
        self.missing, self.flat, self.work = [len(p) for p in self.buckets], [], []
        pack.adam.zero_grad()
        losses = pack.task.loss(pack.model(part), part.targets).view(R, -1).sum(1) / pack.config.batch_size
        losses.sum().backward()
        for (bucket, work), flat in zip(self.work, self.flat, strict=True):
            work.wait()
            sizes = [p.numel() for p in self.buckets[bucket]]
            for parameter, total in zip(self.buckets[bucket], flat.split(sizes), strict=True):
                parameter.grad = total.view_as(parameter)
        self.missing = []
        losses = losses.detach()
        pack.world.sum(losses)
        return pack._update(losses, pack.adam.gradients())


def worker(folder: Path, steps: int, device: str) -> None:
    """The work of each process: time steps, overlapping steps, and the exchange alone. The first one prints JSON."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with join_processes() as world:
        runtime = runtimes.select_runtime(world.device(device), "fp32" if device == "cpu" else "auto")
        task, body, out = BitXor(BITS), str(folder / "gpt2"), folder / f"runs_{world.size}_{torch.get_num_threads()}"
        context = {"world": world, "compile": False}
        packs = [build_pack(task, body, runtime, BATCH, out, RUNS, context) for _ in range(2)]
        plain, numbers = packs[0], packs[0].adam.values.numel() + RUNS
        overlapped = Overlapped(packs[1]) if world.size > 1 else None
        buffer = torch.zeros(numbers, device=runtime.device)
        taken: dict[str, list[float]] = {"step": [], "overlapped": [], "exchange": []}
        losses: dict[str, list[list[float]]] = {"step": [], "overlapped": []}
        for _ in range(steps):
            seconds, result = together(plain.train_step, world, runtime)
            taken["step"].append(seconds)
            losses["step"].append(result.tolist())
            plain.step += 1
            if overlapped is not None:
                seconds, result = together(overlapped.step, world, runtime)
                taken["overlapped"].append(seconds)
                losses["overlapped"].append(result.tolist())
                overlapped.pack.step += 1
                taken["exchange"].append(together(lambda: world.sum(buffer), world, runtime)[0])
        if world.is_main:
            times = {name: median(seconds[2:]) for name, seconds in taken.items() if seconds}
            print(json.dumps({**times, "numbers": numbers, "losses": losses, "device": runtime.describe()}))


def together(call: Callable[[], Result], world: World, runtime: runtimes.Runtime) -> tuple[float, Result]:
    """Seconds and result of a call that all processes start at the same time."""
    if world.size > 1:
        dist.barrier()
    return clock(call, runtime)


def measured(folder: Path, processes: int, threads: int, steps: int, device: str) -> dict[str, Any]:
    """What `worker` prints if this many processes run it, each with this many threads."""
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [__file__, "--worker", str(folder), str(steps), device]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{processes} processes failed:\n{ended.stderr.strip()[-2000:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    bench = Bench("data_parallel", options(__doc__, seconds=60).parse_args(argv))
    bench.precision = "fp32" if bench.runtime.device.type == "cpu" else bench.runtime.precision
    device, cores = bench.runtime.device.type, os.cpu_count() or 1
    most = torch.cuda.device_count() if device == "cuda" else 2 if bench.quick else cores
    counts = [(n, 1) for n in (1, 2, 4) if n <= most] + ([(1, 2)] if device == "cpu" and most > 1 else [])
    steps = 4 if bench.quick else max(6, int(bench.seconds / 4))
    geometry = TINY if bench.quick else GPT2_SMALL
    with tempfile.TemporaryDirectory() as folder:
        save_gpt2(Path(folder), geometry)
        # one measurement after the other, except in a test of the script
        with ThreadPoolExecutor(len(counts) if bench.quick else 1) as pool:
            jobs = {(p, t): pool.submit(measured, Path(folder), p, t, steps, device) for p, t in counts}
        measurements = {count: job.result() for count, job in jobs.items()}
    alone = measurements[1, 1]
    for count, numbers in measurements.items():
        for kind, losses in numbers["losses"].items():
            if losses:
                what = f"losses of {count[0]} processes ({kind})"
                agree(what, torch.tensor(losses), torch.tensor(alone["losses"]["step"]), bench.precision)
    rows = []
    for (processes, threads), numbers in measurements.items():
        exchange = numbers.get("exchange", 0.0)
        share = f"{exchange / numbers['step']:.2%}" if processes > 1 else "-"
        overlapped = f"{numbers['overlapped'] * 1e3:.1f}" if processes > 1 else "-"
        speed = alone["step"] / numbers["step"]
        sent = f"{4 * numbers['numbers']:,}" if processes > 1 else "0"
        rows.append(
            [
                processes,
                threads,
                f"{numbers['step'] * 1e3:.1f}",
                overlapped,
                f"{speed:.2f}",
                sent,
                f"{exchange * 1e3:.2f}",
                share,
            ]
        )
    two = measurements.get((2, 1), alone)
    bench.report(
        {
            "step_seconds": {f"{p} x {t}": numbers["step"] for (p, t), numbers in measurements.items()},
            "overlapped_seconds": {f"{p} x {t}": numbers.get("overlapped") for (p, t), numbers in measurements.items()},
            "exchange_seconds": {f"{p} x {t}": numbers.get("exchange") for (p, t), numbers in measurements.items()},
            "bytes_per_step": 4 * alone["numbers"],
            "ratio": alone["step"] / two["step"],
            "expected": expected(),
        },
        ["processes", "threads each", "ms a step", "overlapped", "times one", "bytes exchanged", "ms of it", "share"],
        rows,
        f"{geometry.layers} layers of width {geometry.width}, {RUNS} runs of bit XOR (T = {2 * BITS}), batch {BATCH} "
        "of each run, shared by the processes. "
        f"`overlapped` is a step with an exchange in {BUCKETS} buckets that overlaps with the backward pass.",
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        main()
