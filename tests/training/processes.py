"""The jobs that `torchrun` starts for test_distributed.py: all processes together train each job of a file."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from icecore.backbones import build_body_of
from icecore.core.config import RunConfig
from icecore.experiments import sweep
from icecore.model.fpt import FPT
from icecore.training.context import ExecutionContext
from icecore.training.distributed import join_processes


def main(jobs: Path) -> None:
    torch.set_num_threads(1)
    with join_processes(shard=True) as world:
        for job in json.loads(jobs.read_text()):
            configs = [RunConfig.from_json(text) for text in job["configs"]]
            out, job_world = Path(job["out"]), replace(world, shard=job["shard"])
            options = {"micro_batch": job["micro_batch"], "race": job["race"]}
            context = ExecutionContext(out, device="cpu", world=job_world, **options)
            summaries = [summary.to_json() for summary in sweep.train_runs(configs, context)]
            if job["shard"]:
                (out / f"local_numbers_{world.rank}.json").write_text(json.dumps(local_numbers(configs[0], context)))
            (out / f"summaries_{world.rank}.json").write_text(json.dumps(summaries))
    # a thread that outlives its group may need Python while the interpreter ends, which aborts the process
    if left := gloo_threads():
        raise SystemExit(f"The process group is left, but its threads {left} run on.")


def gloo_threads() -> list[str]:
    """The names of this process's threads that belong to a process group; empty where the system does not tell."""
    names = (path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
    return [name for name in names if "gloo" in name]


def local_numbers(config: RunConfig, context: ExecutionContext) -> int:
    """How many of the body's numbers lie in this process."""
    task = sweep.load_task(config, None)
    model = context.place(FPT(task.spec, build_body_of(config), [0]), context.runtime(config))
    parts = [p.to_local() if isinstance(p, DTensor) else p for p in model.backbone.parameters()]
    return sum(part.numel() for part in parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
