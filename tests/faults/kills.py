"""Kills a job at its k-th file operation and continues it: `python kills.py JOB ORDER STRIDE FIRST`.

Run as a script, because each kill is one of a forked process, by `os._exit`: nothing that would clean up runs. File
operations are seen through Python's audit events: opening for writing, renaming, removing, making and removing folders.
A file that is opened for writing counts twice: the second kill leaves it with the first bytes of what was to be
written. Folders are listed in ascending or descending order, since a file system may do either. Prints JSON.
"""

import contextlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

KILLED = 77
#: the first bytes of a line or of a file of JSON
TORN = b'{"event": "tr'
OPERATIONS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link"})


class Counter:
    """Counts the file operations below a folder, and kills the process before operation `last`."""

    def __init__(self) -> None:
        self.folder, self.count, self.last = "", 0, -1
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not writes and event not in OPERATIONS:
            return
        # names relative to an open folder, as shutil.rmtree gives them, count too
        name = os.fspath(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else ""
        if name.startswith("/") and not name.startswith(self.folder):
            return
        if self.count == self.last:
            os._exit(KILLED)
        self.count += 1
        if writes and name:
            if self.count == self.last:
                self.folder = ""  # the next opening is this one's own
                os.write(os.open(name, arguments[2], 0o666), TORN)
                os._exit(KILLED)
            self.count += 1


class Listing:
    """What `os.scandir` returns, in a fixed order."""

    def __init__(self, entries: Iterator[os.DirEntry[str]], reverse: bool) -> None:
        self.entries = iter(sorted(entries, key=lambda entry: entry.name, reverse=reverse))

    def __iter__(self) -> Iterator[os.DirEntry[str]]:
        return self.entries

    def __next__(self) -> os.DirEntry[str]:
        return next(self.entries)

    def __enter__(self) -> "Listing":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


def fix_order(reverse: bool) -> None:
    scandir, listdir = os.scandir, os.listdir
    os.scandir = lambda *place: Listing(scandir(*place), reverse)  # type: ignore[assignment,misc]
    os.listdir = lambda *place: sorted(listdir(*place), reverse=reverse)  # type: ignore[assignment]


def in_child(work: Callable[[], object]) -> int:
    """Run in a forked process. Returns its exit code."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ------------------------------------------------------------------------------------------------- jobs


def train(folder: Path) -> None:
    from icecore.experiments import sweep
    from icecore.training.context import ExecutionContext

    few = {"steps": 6, "batch_size": 4, "eval_every": 3, "task_options": {"n": 2}}
    config = sweep.make_config("bit-xor", "fp32", "cpu", backbone="none", weights="random", **few)
    context = ExecutionContext(folder / "runs", device="cpu", checkpoint_seconds=0.0, compile=False)
    sweep.run_sweep(sweep.expand_sweep(config, [1e-2, 3e-2]), context)


def grid(folder: Path) -> None:
    from icecore.experiments.grid_file import read_grid
    from icecore.experiments.study import run_study
    from icecore.training.context import ExecutionContext

    file = folder.parent / "mine.toml"
    file.write_text(
        'task = "bit-xor"\nbackbone = "none"\nweights = "random"\nsteps = [2, 3]\nbatch_size = 4\nlr = [1e-2, 3e-2]\n'
        'precision = "fp32"\ntask_options = { n = 2 }\n'
    )
    context = ExecutionContext(folder / "runs", device="cpu", compile=False)
    run_study(read_grid(file, "cpu"), folder / "mine.jsonl", context, lambda message: None)


def fit(folder: Path) -> None:
    import numpy as np

    from icecore import user_data
    from icecore.autofit.fit import fit as fit_program
    from icecore.autofit.fit_settings import FitSettings

    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    plan = user_data.from_arrays(x, (x[:, 0] > 0).astype(int))
    settings = FitSettings(backbone="none", weights="random", lrs=(1e-2, 3e-2), steps=4, batch_size=8, precision="fp32")
    fit_program(plan.task(), settings, folder / "mine.safetensors", {"encoder": plan.encoder.to_json()}, "cpu")


JOBS: dict[str, Callable[[Path], None]] = {"train": train, "grid": grid, "fit": fit}


def outcome(folder: Path) -> Any:
    """What must not depend on kills: trained numbers, scores and lines of results, and which files there are."""
    from icecore.experiments.results import read_records
    from icecore.model.program import Program

    programs = {}
    for path in sorted(path for path in folder.rglob("*.safetensors") if path.parent.name != "checkpoint"):
        program = Program.load(path)
        tensors = {name: tensor.double().sum().item() for name, tensor in sorted(program.tensors.items())}
        programs[path.relative_to(folder).as_posix()] = [program.config.run_id, tensors, dict(program.metrics)]
    records = []
    if (folder / "mine.jsonl").exists():
        found, faults = read_records(folder / "mine.jsonl")
        records = sorted([r.run_id, r.key.row, r.summary.val_metric, r.summary.packed_runs] for r in found)
        assert len(faults) <= 1, faults
    # a temporary file beside the runs may still be another process's, so it goes when it is an hour old
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    files = [name for name in files if not re.fullmatch(r"runs/\.summary\.json\.\w+\.tmp", name)]
    return json.loads(json.dumps({"programs": programs, "records": records, "files": files}))


def main() -> None:
    job, order, stride, first = JOBS[sys.argv[1]], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    import torch

    torch.set_num_threads(1)
    counter = Counter()
    fix_order(order == "descending")
    with tempfile.TemporaryDirectory() as parent:
        place = Path(parent).resolve()
        # everything is imported and compiled once, before the forks
        (place / "whole").mkdir()
        counter.folder = str(place / "whole")
        with contextlib.redirect_stdout(sys.stderr):
            job(place / "whole")
        counter.folder, operations = "", counter.count
        expected, failures, killed = outcome(place / "whole"), [], 0
        for last in range(first, operations, stride):
            folder = place / f"kill{last}"
            folder.mkdir()

            def work(folder: Path = folder, last: int = last) -> None:
                counter.folder, counter.count, counter.last = str(folder), 0, last
                job(folder)

            killed += in_child(work) == KILLED
            code = in_child(lambda folder=folder: job(folder))
            found = outcome(folder) if code == 0 else f"the second call ended with {code}"
            if found != expected:
                failures.append({"operation": last, "found": found, "expected": expected})
    print(json.dumps({"operations": operations, "killed": killed, "failures": failures}))


if __name__ == "__main__":
    main()
