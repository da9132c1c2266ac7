"""A program is a small file that says what it is, notices any damage, and fits one body only."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from icecore.backbones import Backbone, build_body_of
from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, DataError, WeightsError
from icecore.experiments import sweep
from icecore.model.fpt import FPT
from icecore.model.loading import load_programs, start_from_program
from icecore.model.model_settings import model_settings
from icecore.model.program import Program
from icecore.tasks.bits import BitXor
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext

Body = Callable[..., Backbone]
TASK = BitXor(2)


@pytest.fixture
def make(body: Body, config: Callable[..., RunConfig]) -> Callable[..., Program]:
    """A program fresh from its seed: `make(seed=1)`."""

    def build(**changes: Any) -> Program:
        settings = config(**changes)
        model = FPT(TASK.spec, body(), [settings.seed], model_settings(settings))
        metrics, extra = {"val": 0.5, "test": 1 / 3}, {"classes": ["a", "ä"]}
        versions = {"icecore": "0"}
        return Program(settings, TASK.spec, model.body_fingerprint, model.programs()[0], metrics, versions, extra)

    return build


@pytest.fixture
def path(make: Callable[..., Program], tmp_path: Path) -> Path:
    make().save(tmp_path / "program.safetensors")
    return tmp_path / "program.safetensors"


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], None]) -> None:
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def test_save_and_load_is_identity(make: Callable[..., Program], path: Path) -> None:
    program, found = make(), Program.load(path)
    assert replace(found, tensors={}) == replace(program, tensors={})
    assert found.tensors.keys() == program.tensors.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in program.tensors.items())


def test_views_of_one_buffer_are_saved_apart(make: Callable[..., Program], path: Path) -> None:
    buffer = torch.arange(12.0)
    tensors = {"a": buffer[:4].view(2, 2), "b": buffer[4:]}
    replace(make(), tensors=tensors).save(path)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in Program.load(path).tensors.items())


def test_a_program_is_small_and_no_pickle(path: Path) -> None:
    data = path.read_bytes()
    numbers = sum(tensor.numel() for tensor in load_file(path).values())
    assert len(data) < 4 * numbers + 8192
    length = int.from_bytes(data[:8], "little")
    assert json.loads(data[8 : 8 + length])["__metadata__"]["icecore"]  # a safetensors header, plain JSON


def test_the_model_of_a_loaded_program_is_the_model(make: Callable[..., Program], path: Path, body: Body) -> None:
    programs = [make(seed=1), Program.load(path)]
    model = load_programs(programs, body())
    batch = TASK.train_batch([0], 0, 6)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for run, program in enumerate(programs):
        alone = FPT(TASK.spec, body(), [program.config.seed])(batch)
        mixed = model(batch, run_of_row=torch.full((6,), run))
        torch.testing.assert_close(mixed, alone)


def test_every_flipped_byte_is_noticed(path: Path, body: Body) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    places = [*range(0, 8 + length, 41), *range(8 + length, len(data), 977), len(data) - 1]
    for place in places:
        for flip in (0x01, 0x0F):
            path.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            with pytest.raises(DataError, match=str(path)):
                Program.load(path)


def test_a_damaged_tensor_is_named(path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    name, place = next(
        (name, entry["data_offsets"][0])
        for name, entry in json.loads(data[8 : 8 + length]).items()
        if name == "output.layers.0.weight"
    )
    at = 8 + length + place + 5
    path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
    with pytest.raises(
        DataError, match=rf"Tensor {name} in {path} is damaged \(its checksum differs\)\. Copy the file again"
    ):
        Program.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: t.pop("positions"), "Tensor positions is missing in PATH. Copy the file again"),
        (lambda t, m: t.update(positions=t["positions"].int()), "Tensor positions in PATH is damaged"),
        (lambda t, m: t.update(positions=t["positions"].t().contiguous()), "Tensor positions in PATH is damaged"),
        (lambda t, m: m.update(icecore=m["icecore"].replace("bit-xor", "bit-xoR")), "The header of PATH is damaged"),
        (lambda t, m: m.pop("icecore"), "PATH is a safetensors file, but not an icecore program"),
    ],
)
def test_a_changed_file_is_refused(path: Path, change: Callable[..., None], message: str) -> None:
    rewrite(path, change)
    with pytest.raises(DataError, match=f"^{message.replace('PATH', str(path))}"):
        Program.load(path)


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_file_cut_short_is_refused(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=rf"{path} is not a readable program and may be incomplete .*Copy it again"):
        Program.load(path)


def test_files_that_are_no_programs(path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no program file"):
        Program.load(tmp_path / "none.safetensors")
    with pytest.raises(DataError, match="is not a readable program"):
        Program.load(tmp_path)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="is not a readable program"):
        Program.load(path)


def test_a_newer_format_asks_for_an_upgrade(
    make: Callable[..., Program], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("icecore.model.program.FORMAT", 2)
    make().save(path)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"program format 2, but this version reads 1\. Upgrade icecore"):
        Program.load(path)


def test_another_body_is_refused_with_both_fingerprints(path: Path, body: Body) -> None:
    program = Program.load(path)
    other = body(weights="random")
    here = FPT(TASK.spec, body(weights="random"), [0]).body_fingerprint
    with pytest.raises(WeightsError, match="another body") as caught:
        load_programs([program], other)
    assert program.fingerprint in str(caught.value)
    assert here in str(caught.value)


def test_the_same_body_in_bf16_is_the_same_body(path: Path, body: Body) -> None:
    assert load_programs([Program.load(path)], body(), "bf16").dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"positions": torch.zeros(3, 16)}, r"Tensor positions is of shape \(3, 16\), expected shape \(4, 16\)"),
        ({}, r"Tensor input.layers.0.weight is missing, expected shape \(1, 16\)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(
    make: Callable[..., Program], body: Body, tensors: dict[str, torch.Tensor], message: str
) -> None:
    program = make()
    held = dict(program.tensors) | tensors if tensors else {}
    with pytest.raises(DataError, match=message):
        load_programs([replace(program, tensors=held)], body())


def test_programs_that_cannot_share_a_model(make: Callable[..., Program], body: Body) -> None:
    with pytest.raises(
        ConfigError, match="Programs of bit-xor and bit-xor cannot share a model: their sizes or roles differ"
    ):
        load_programs([make(), make(train_roles=("output",))], body())


# --- starting from a program -------------------------------------------------------------------------


def started(
    config: Callable[..., RunConfig], tmp_path: Path, task: str, options: Mapping[str, Any], **changes: Any
) -> tuple[Program, FPT]:
    """A program of bit XOR over two bits, and a model of two runs of another task that began from it."""
    first = config()
    sweep.train_runs([first], ExecutionContext(tmp_path, device="cpu"))
    path = RunFolder(tmp_path, first).program_path
    later = config(task=task, task_options=options, start=str(path), **changes)
    model = FPT(sweep.load_task(later, None).spec, build_body_of(later), [0, 1], model_settings(later))
    start_from_program(model, Program.load(path), later)
    return Program.load(path), model


@pytest.mark.parametrize("widths", [(5,), (16, 7), ()])
def test_an_input_layer_is_taken_whole_or_not_at_all(
    config: Callable[..., RunConfig], tmp_path: Path, widths: tuple[int, ...]
) -> None:
    first = config(input_hidden=(9, 16))
    sweep.train_runs([first], ExecutionContext(tmp_path, device="cpu"))
    program = Program.load(RunFolder(tmp_path, first).program_path)
    later = config(input_hidden=widths, start="a program")
    model = FPT(sweep.load_task(later, None).spec, build_body_of(later), [0], model_settings(later))
    assert not [name for name in start_from_program(model, program, later) if name.startswith("input.")]
    same = FPT(model.spec, build_body_of(first), [0], model_settings(first))
    assert len([name for name in start_from_program(same, program, first) if name.startswith("input.")]) == 6


@pytest.mark.parametrize(("before", "after"), [("2", None), (None, "2"), ("1", "3"), ("2", "2")])
def test_tokens_keep_their_positions_whatever_the_prefix(
    config: Callable[..., RunConfig], tmp_path: Path, before: str | None, after: str | None
) -> None:
    first = config(prefix=before)
    sweep.train_runs([first], ExecutionContext(tmp_path, device="cpu"))
    program = Program.load(RunFolder(tmp_path, first).program_path)
    later = config(prefix=after, start="a program")
    model = FPT(sweep.load_task(later, None).spec, build_body_of(later), [0, 1], model_settings(later))
    fresh = model.programs()[0]["positions"].clone()
    assert "positions" in start_from_program(model, program, later)
    source, K = program.tensors["positions"], later.prefix_length
    for run in model.programs():
        assert torch.equal(run["positions"][K:], source[first.prefix_length :])
        assert torch.equal(run["positions"][:K], source[:K] if before == after else fresh[:K])


def test_what_fits_is_taken_and_the_output_layer_is_not(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    program, model = started(config, tmp_path, "bit-xor", {"n": 4})
    fresh = FPT(model.spec, build_body_of(config()), [0, 1], model.settings).programs()
    for own, new in zip(model.programs(), fresh, strict=True):
        for name, tensor in own.items():
            if name.startswith("output."):
                assert torch.equal(tensor, new[name])
            elif name == "positions":
                assert torch.equal(tensor[:4], program.tensors[name])
                assert torch.equal(tensor[4:], new[name][4:])
            else:
                assert torch.equal(tensor, program.tensors[name])


def test_an_input_layer_of_other_tokens_starts_afresh(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    program, model = started(config, tmp_path, "bit-memory", {"strings": 2, "bits": 4, "width": 2})
    fresh = FPT(model.spec, build_body_of(config()), [0, 1], model.settings).programs()[0]
    own = model.programs()[0]
    assert torch.equal(own["input.layers.0.weight"], fresh["input.layers.0.weight"])
    norms = [name for name in own if name.startswith("body.")]
    assert norms
    assert all(torch.equal(own[name], program.tensors[name]) for name in norms)


def test_a_started_run_is_another_run_and_goes_on_from_there(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    first = config(steps=40)
    sweep.train_runs([first], ExecutionContext(tmp_path, device="cpu"))
    path = str(RunFolder(tmp_path, first).program_path)
    assert config(start=path).run_id != config().run_id
    assert "start" not in config().to_json()
    assert RunConfig.from_json(config(start=path).to_json()) == config(start=path)
    still = [config(start=path, steps=1, lr=1e-12), config(steps=1, lr=1e-12)]
    tensors = []
    for each in still:
        sweep.train_runs([each], ExecutionContext(tmp_path, device="cpu"))
        tensors.append(Program.load(RunFolder(tmp_path, each).program_path).tensors["positions"])
    learned = Program.load(Path(path)).tensors["positions"]
    torch.testing.assert_close(tensors[0], learned)
    assert not torch.allclose(tensors[1], learned)


def test_another_body_is_no_start(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"bert \(pretrained, all layers, body seed 0\), but the run has .*bert \(random,"
    ):
        started(config, tmp_path, "bit-xor", {"n": 4}, weights="random")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "program format 2, but this version reads 1"),
        (
            {"spec": {"kind": "discrete", "colour": 3}},
            r"written by icecore 0 and cannot be read here\. Upgrade icecore\. .*colour",
        ),
        (
            {"config": {"task": "x", "velocity": 1}},
            "written by icecore 0 and cannot be read here. Upgrade icecore. Unknown setting 'velocity'",
        ),
    ],
)
def test_a_program_of_another_version(path: Path, change: Mapping[str, Any], message: str) -> None:
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["icecore"])
    text = json.dumps(header | dict(change))
    checksum = hashlib.sha256(text.encode()).hexdigest()
    save_file(load_file(path), path, {"icecore": text, "sha256": checksum})
    with pytest.raises(DataError, match=message):
        Program.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(make: Callable[..., Program], tmp_path: Path, value: float) -> None:
    program = make()
    tensors = {name: tensor.clone() for name, tensor in program.tensors.items()}
    tensors["output.layers.0.weight"].view(-1)[0] = value
    replace(program, tensors=tensors).save(tmp_path / "bad.safetensors")
    with pytest.raises(DataError, match=r"output\.layers\.0\.weight in .* not finite numbers"):
        Program.load(tmp_path / "bad.safetensors")


def test_tensors_of_another_kind_are_refused(make: Callable[..., Program], tmp_path: Path) -> None:
    program = make()
    strange = {name: tensor.to(torch.int8) for name, tensor in program.tensors.items()}
    replace(program, tensors=strange).save(tmp_path / "bad.safetensors")
    with pytest.raises(DataError, match=r"has the type torch\.int8, but programs hold numbers in fp32"):
        Program.load(tmp_path / "bad.safetensors")
