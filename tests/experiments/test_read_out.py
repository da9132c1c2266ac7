"""`--read-out`: which position the output layer reads, in training, in what is stored, and when it is served."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from icecore.backbones import Backbone, build_body_of
from icecore.backbones.backbone import ReadOut
from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError
from icecore.core.read_outs import READ_OUTS
from icecore.experiments import sweep
from icecore.experiments.executor import LocalExecutor
from icecore.inference.engine import Engine
from icecore.model.fpt import FPT
from icecore.model.program import Program
from icecore.tasks.algorithms import Needle
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext

NEEDLE = {"task": "needle", "task_options": {"needles": 3, "values": 4}}
CHOICES = (*READ_OUTS, "pool-3", "last+pool-2")


def test_ids_of_runs_without_the_setting_are_as_before(config: Callable[..., RunConfig]) -> None:
    assert "read_out" not in config().to_json()
    assert config(read_out="last").run_id != config().run_id


@pytest.mark.parametrize("read_out", CHOICES)
def test_a_run_reads_there_and_its_program_says_so(
    read_out: str, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    chosen = config(**NEEDLE, read_out=read_out)
    sweep.run_sweep([chosen], ExecutionContext(tmp_path))
    model, task = sweep.open_run(tmp_path / chosen.run_id)
    assert model.spec.read_out == task.spec.read_out == read_out
    program = Program.load(RunFolder(tmp_path, chosen).program_path)
    assert program.spec.read_out == read_out
    batch = next(task.batches("test", 5))
    engine = Engine(build_body_of(chosen)).add(program)
    served = torch.stack(engine.predict(batch, 0))
    with torch.no_grad():
        torch.testing.assert_close(served, model(batch), atol=1e-5, rtol=1e-5)


def test_cells_that_differ_in_the_read_out_do_not_share_a_task(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    executor = LocalExecutor(ExecutionContext(tmp_path))
    for read_out in (None, *CHOICES):
        chosen = config(**NEEDLE, **({} if read_out is None else {"read_out": read_out}))
        executor.submit([chosen], "", wait=True)
        executor.next_result()
        program = Program.load(RunFolder(tmp_path, chosen).program_path)
        assert program.spec.read_out == (read_out or "last")


def test_a_task_is_read_once_for_runs_that_share_it(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    tasks = sweep.TaskReader(ExecutionContext(tmp_path))
    assert tasks.task_of(config(**NEEDLE)) is tasks.task_of(config(**NEEDLE, lr=0.1))
    other = config(**NEEDLE, read_out="mean")
    with pytest.raises(ValueError, match="the task is read out at last, and the runs at mean"):
        sweep.train_runs([other], ExecutionContext(tmp_path), tasks.task_of(config(**NEEDLE)))


def test_the_read_outs_differ(body: Callable[..., Backbone], config: Callable[..., RunConfig]) -> None:
    """First and mean of one position are that position; of more positions they are not."""
    task = Needle(3, 4)
    batch = task.train_batch([0], 0, 6)
    logits = {}
    for read_out in CHOICES:
        spec = sweep.load_task(config(**NEEDLE, read_out=read_out), None).spec
        with torch.no_grad():
            logits[read_out] = FPT(spec, body("bert"))(batch)
    assert len({tuple(each.flatten().tolist()) for each in logits.values()}) == len(CHOICES)


def test_programs_of_all_kinds_share_a_pass(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    configs = [config(**NEEDLE, read_out=read_out) for read_out in CHOICES]
    for each in configs:
        sweep.run_sweep([each], ExecutionContext(tmp_path))
    engine = Engine(build_body_of(configs[0]))
    for each in configs:
        engine.add(Program.load(RunFolder(tmp_path, each).program_path), each.run_id)
    batch = next(Needle(3, 4).batches("test", 6))
    assert batch.lengths is not None
    rows = [row[:length] for row, length in zip(batch.tokens, batch.lengths.tolist(), strict=True)]
    mixed = engine.predict(rows, [0, 1, 2, 3, 4, 0])
    for place, row in enumerate(rows):
        torch.testing.assert_close(mixed[place], engine.predict([row], place % len(configs))[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("read_out", ["first", "mean", "pool-2"])
def test_tasks_with_several_answers_read_each_at_its_position(read_out: str, config: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match=f"--read-out {read_out}: bit-xor has 2 answers"):
        sweep.load_task(config(read_out=read_out), None)
    assert sweep.load_task(config(read_out="last"), None).spec.read_positions == 2


def test_the_first_position_of_a_causal_body_is_refused(
    body: Callable[..., Backbone], config: Callable[..., RunConfig]
) -> None:
    spec = sweep.load_task(config(**NEEDLE, read_out="first"), None).spec
    with pytest.raises(ConfigError, match="is causal: its first position sees no other"):
        FPT(spec, body("gpt2"))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("prefix", [0, 2])
def test_pooled_parts_are_those_of_torch(family: str, prefix: int, body: Callable[..., Backbone]) -> None:
    """Adaptive average pooling over the real tokens of each row, also where a row is shorter than the parts."""
    bare, lengths, T = body(family), torch.tensor([3, 9, 5, 1]), 9 + prefix
    x, ends = torch.randn(4, T, bare.info.width), lengths + prefix
    mask = torch.arange(T) < ends[:, None]
    with torch.no_grad():
        (found,) = bare.read_out(x, mask, ends, [ReadOut(slice(0, 4), ("pool-4",), 1, 9, prefix)])
        hidden = bare(x, mask)
    for row, end in enumerate(ends.tolist()):
        expected = F.adaptive_avg_pool1d(hidden[row, prefix:end].T, 4).T
        torch.testing.assert_close(found[row], expected.reshape(1, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("read_out", "message"),
    [
        ("middle", "read-out 'middle'"),
        ("pool", "read-out 'pool'"),
        ("pool-1", "a whole number of parts from 2 to 1,024, found 'pool-1'"),
        ("pool-", "found 'pool-'"),
        ("pool-08", "found 'pool-08'"),
        ("pool-4096", "found 'pool-4096'"),
        (f"pool-{'9' * 5000}", "found 'pool-9999"),
        ("pool-4+last+pool-4", "names one read-out twice"),
        ("last+last", "names one read-out twice"),
    ],
)
def test_other_names_are_refused(read_out: str, message: str, config: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**NEEDLE, read_out=read_out)
