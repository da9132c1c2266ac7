"""The benchmark recipe.py: each change does what its name says, trains on equally many examples, and is kept."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from icecore.core.config import INPUT, RIDGE
from icecore.experiments import sweep
from icecore.training.context import ExecutionContext
from icecore.training.loop import Pack

Script = Callable[[str], ModuleType]


@pytest.fixture
def recipe(script: Script, bodies: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a tiny body and bit XOR only."""
    module = script("recipe")
    monkeypatch.setattr(module, "BACKBONE", bodies["bert"])
    tiny = {"task_options": {"n": 2}, "steps": 8, "batch_size": 8, "eval_every": 4, "eval_examples": 16}
    monkeypatch.setattr(module, "TASKS", {"bit-xor": tiny})
    return module


def new_pack(recipe: ModuleType, tmp_path: Path, name: str) -> Pack:
    """A pack as `measure` trains it, before its first step."""
    configs = recipe.configs_of(recipe.LEADS[name], "bit-xor", "pretrained", "fp32", "cpu", False)
    context = ExecutionContext(tmp_path, device="cpu")
    pack = Pack(sweep.load_task(configs[0], None), context.backbone(configs[0]), configs, context)
    change = recipe.LEADS[name].change
    if change is not None:
        change(pack)
    pack.resume()
    return pack


def test_every_change_sees_equally_many_examples(recipe: ModuleType) -> None:
    for lead in recipe.LEADS.values():
        if "bit-xor" in lead.tasks:
            configs = recipe.configs_of(lead, "bit-xor", "pretrained", "fp32", "cpu", False)
            assert {config.steps * config.batch_size for config in configs} == {64}
            assert {config.eval_every * config.batch_size for config in configs} == {32}
            assert [config.seed for config in configs] == [0, 1, 2]


def test_growing_batches_see_as_many_examples(recipe: ModuleType, tmp_path: Path) -> None:
    pack, sizes = new_pack(recipe, tmp_path, "batches that grow from 4 to 16"), []
    train_batch = pack.task.train_batch

    def recorded(seeds: Any, step: int, batch_size: int) -> Any:
        sizes.append(batch_size)
        return train_batch(seeds, step, batch_size)

    pack.task.train_batch = recorded
    pack.run()
    assert sizes == [4] * 5 + [16] * 3


def test_smooth_labels_are_a_mixture_with_uniform_ones(recipe: ModuleType, tmp_path: Path) -> None:
    logits, targets = torch.randn(5, 2, 2), torch.randint(2, (5, 2))
    smoothed = new_pack(recipe, tmp_path, "label smoothing of 0.1").task.loss(logits, targets)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1, reduction="none"
    )
    assert torch.allclose(smoothed, expected.view(5, 2).mean(1), atol=1e-6)


def test_muon_moves_matrices_by_orthogonal_updates_and_nothing_else(recipe: ModuleType, tmp_path: Path) -> None:
    packs = [new_pack(recipe, tmp_path / str(n), name) for n, name in enumerate((recipe.DEFAULT, MUON))]
    before = packs[1].adam.values.clone()
    for pack in packs:
        pack.train_step()
    for slot in packs[1].adam.slots:
        default, muon = (pack.adam.values[:, slot.start : slot.stop] for pack in packs)
        role = packs[1].model.role_of(slot.name)
        if len(slot.shape) == 2 and role in ("input", "output"):
            change = (muon - before[:, slot.start : slot.stop]).view(-1, *slot.shape)
            values = torch.linalg.svdvals(change)
            assert torch.allclose(values, values[:, :1].expand_as(values), rtol=1e-3)
        else:
            assert torch.equal(default, muon)


MUON = "Muon for the input and output layers"


def test_replaced_updates_reach_the_average_too(recipe: ModuleType, tmp_path: Path) -> None:
    pack = new_pack(recipe, tmp_path, recipe.DEFAULT)

    def none(slot: Any, change: Tensor, rate: Tensor) -> Tensor:
        return torch.zeros_like(change)

    recipe.replace_updates(pack, (INPUT,), none)
    (slot,) = (each for each in pack.adam.slots if each.name.startswith("input") and len(each.shape) == 2)
    start = pack.adam.values[:, slot.start : slot.stop].clone()
    for _ in range(3):
        pack.train_step()
        pack.step += 1
    assert pack.adam.average is not None
    for numbers in (pack.adam.values, pack.adam.average):
        assert torch.equal(numbers[:, slot.start : slot.stop], start)
    trained = dict(pack.model.program())[slot.name].detach().flatten(1)
    assert torch.equal(trained, start)


def test_measurements_are_kept_and_a_start_does_not_count(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = ("bit-xor",)
    start = recipe.Lead({"output_start": RIDGE, "start_examples": 20}, tasks=tasks)
    monkeypatch.setattr(recipe, "LEADS", {recipe.DEFAULT: recipe.Lead(tasks=tasks), "a start": start})
    file = tmp_path / "recipe.jsonl"
    words = ["--device", "cpu", "--precision", "fp32", "--bodies", "pretrained,random", "--measurements", str(file)]
    recipe.main(words)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(each["lead"], each["body"]) for each in records] == [
        (recipe.DEFAULT, "pretrained"), ("a start", "pretrained"), (recipe.DEFAULT, "random"), ("a start", "random"),
    ]  # fmt: skip
    assert all(len(curve) == 2 for each in records for curve in each["curves"])  # without the one of the start
    printed = capsys.readouterr().out
    value = recipe.cell_value(records[0])
    assert f"| {recipe.DEFAULT} | {value['mean']} ± {value['error']} |" in printed
    monkeypatch.setattr(recipe, "measure", lambda *_: pytest.fail("measured again"))
    recipe.main([*words, "--leads", "a start"])
    assert len(file.read_text().splitlines()) == 4


def test_the_error_is_that_of_a_mean_over_seeds(recipe: ModuleType) -> None:
    record = {"curves": [[0.5, 0.7], [0.6, 0.6], [0.9, 0.9]]}
    assert recipe.cell_value(record) == {"mean": 70.0, "error": 10.0}
