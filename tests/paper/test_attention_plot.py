"""Pictures of attention maps. An SVG has its texts as comments beside their outlines."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from icecore.core.config import RunConfig
from icecore.core.errors import UserError
from icecore.experiments import sweep
from icecore.experiments.results import CellKey, read_records
from icecore.experiments.study import CellPlan, run_study
from icecore.inference.attention_maps import AttentionMaps
from icecore.paper import attention_plot
from icecore.paper.attention_plot import draw_attention, measure_and_draw
from icecore.tasks.bits import BitXor
from icecore.tasks.stored_task import Examples, StoredTask
from icecore.tasks.task import TaskSpec
from icecore.training.context import ExecutionContext


class Words(StoredTask):
    name = "words"
    spec = TaskSpec("discrete", 6, 5, 2)

    def tokens(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        return inputs.long()


@pytest.fixture
def words() -> Words:
    return Words({"val": Examples(torch.zeros(1, 6, dtype=torch.uint8), torch.zeros(1).long(), torch.tensor([6]))})


def xor_maps(n: int, L: int = 1, H: int = 1) -> Tensor:
    return torch.rand(L, H, 2 * n, 2 * n, generator=torch.Generator().manual_seed(0)).softmax(-1)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_pictures_are_written_and_maps_unchanged(tmp_path: Path, kind: str, words: Words):
    for task in (BitXor(n=2), words):
        path = tmp_path / f"{task.name}.{kind}"
        maps = torch.rand(2, 3, task.spec.length, task.spec.length)
        original = maps.clone()
        draw_attention(AttentionMaps(maps, 1), path, "title", task)
        assert path.read_bytes().startswith(b"\x89PNG" if kind == "png" else b"<?xml")
        assert torch.equal(maps, original), "drawing must not change the maps"


def test_pictures_of_long_strings_are_small_and_explain_their_dots(tmp_path: Path):
    path = tmp_path / "long.svg"
    draw_attention(AttentionMaps(xor_maps(256, 6), 1), path, "title", BitXor(256))
    assert path.stat().st_size < 2**20
    assert "below the lines" in path.read_text()
    assert "a dot is 4 x 4 positions" in path.read_text()


def test_pictures_of_deep_bodies_show_their_most_informative_layers(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(attention_plot, "MAX_LAYERS", 2)
    path, maps = tmp_path / "deep.svg", xor_maps(2, 4, 2)
    for layer in (0, 3):
        maps[layer, 1, 2:] = torch.eye(4)[2:]  # all attention on the outputs' own bits
    draw_attention(AttentionMaps(maps, 1), path, "title", BitXor(2))
    assert "the 2 most informative of 4 layers" in path.read_text()
    shown = [layer for layer in range(4) if f"<!-- layer {layer + 1}, head 2 -->" in path.read_text()]
    assert shown == [0, 3]


def test_maps_with_a_single_weight_per_query_can_be_drawn(tmp_path: Path, words: Words):
    draw_attention(AttentionMaps(torch.eye(6).expand(1, 2, 6, 6), 1), tmp_path / "one.png", "title", words)
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch, words: Words):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'icecore\[plot\]'"):
        draw_attention(AttentionMaps(torch.rand(1, 1, 6, 6), 1), tmp_path / "x.png", "title", words)


def cell(config: RunConfig) -> CellPlan:
    lr_sweep = sweep.Sweep(config, (1e-2, 3e-2), (0,))
    return CellPlan(CellKey("t", "pretrained", "bit-xor", "cpu", "tiny"), lr_sweep, "", analysis=measure_and_draw)


def test_a_study_records_the_attention_of_the_chosen_run(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    file, context = tmp_path / "t.jsonl", ExecutionContext(tmp_path / "runs", device="cpu")
    records = run_study([cell(config())], file, context, print)
    (record,) = (record for record in records if record.extra)
    shares = record.extra["attention"]
    assert (shares["n"], shares["uniform"]) == (2, 0.5)
    assert 0 < shares["best"] <= 1
    assert record.extra["picture"] == f"attention/{record.run_id}.png"
    assert (tmp_path / record.extra["picture"]).read_bytes().startswith(b"\x89PNG")
    assert read_records(file)[0] == records


def test_a_study_of_another_task_says_that_attention_is_measured_on_bit_xor(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    small = {"strings": 2, "bits": 4, "width": 2}
    cells = [cell(config(task="bit-memory", task_options=small, eval_examples=8, test_examples=8))]
    context = ExecutionContext(tmp_path / "runs", device="cpu")
    (record,) = run_study(cells, tmp_path / "t.jsonl", context, print)
    assert "can only be measured on bit-xor" in record.missing
