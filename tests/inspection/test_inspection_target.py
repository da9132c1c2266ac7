"""What can be inspected: bodies with one or several weights, runs, and programs; and what is said of the rest."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import icecore
from commandline import Run
from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, DataError
from icecore.experiments.sweep import run_sweep
from icecore.inspection import inspection_target
from icecore.inspection.inspection_target import InspectionRequest, inspect_target
from icecore.training.context import ExecutionContext
from tiny_models import tiny_model


@pytest.fixture
def trained(config: Callable[..., RunConfig], tmp_path: Path) -> Path:
    """The folder of a finished run on a tiny BERT."""
    context = ExecutionContext(tmp_path / "runs", device="cpu")
    return tmp_path / "runs" / run_sweep([config()], context).runs[0].run_id


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, bodies: Mapping[str, str]) -> tuple[Path, Path]:
    """A table, and a program that was fitted to it."""
    folder = tmp_path_factory.mktemp("fitted")
    table = folder / "flowers.csv"
    rows = [f"{4 + i % 7},{'small' if i % 7 < 3 else 'large'}" for i in range(70)]
    table.write_text("\n".join(["petal_length,size", *rows]))
    program = folder / "program.safetensors"
    icecore.fit(table, out=program, backbone=bodies["bert"], steps=4, lrs=(3e-3,), device="cpu")
    return table, program


def test_each_of_the_weights_is_inspected(bodies: Mapping[str, str]) -> None:
    request = InspectionRequest(
        bodies["gpt2"], options={"n": 3}, weights=("pretrained", "random"), layers=1, examples=5
    )
    pretrained, random = inspect_target(request)
    assert [each.body.weights for each in (pretrained, random)] == ["pretrained", "random"]
    assert (pretrained.task, pretrained.length, pretrained.examples) == ("bit-xor", 6, 5)
    assert [stage.name for stage in random.stages] == ["input", "layer 1", "last norm"]
    assert pretrained.stages[1].hidden.rms != random.stages[1].hidden.rms
    # the fresh start is the same, so the inputs differ in the positions only
    assert pretrained.start == "not trained, seed 0"


def test_a_bare_body_starts_as_a_run_would(tmp_path: Path) -> None:
    """A body with rotary positions gets those of the protocol: large ones by default, 0.02 of the fair one."""
    model = tiny_model("llama", vocab_size=40)
    model.embed_tokens.weight.data *= 10
    model.save_pretrained(tmp_path)
    (fast,) = inspect_target(InspectionRequest(str(tmp_path), options={"n": 3}))
    (fair,) = inspect_target(InspectionRequest(str(tmp_path), options={"n": 3}, protocol="fair"))
    assert fast.stages[0].hidden.rms > fair.stages[0].hidden.rms
    with pytest.raises(ConfigError, match="Unknown protocol 'fare'"):
        inspect_target(InspectionRequest(str(tmp_path), protocol="fare"))


def test_a_run_and_its_program_are_inspected_as_trained(trained: Path, bodies: Mapping[str, str]) -> None:
    (run,) = inspect_target(InspectionRequest(str(trained)))
    (program,) = inspect_target(InspectionRequest(str(trained / "program.safetensors")))
    assert run.start == f"trained, {trained.name}"
    assert run.length == 4, "the run has bit XOR over two bits"
    (fresh,) = inspect_target(InspectionRequest(bodies["bert"], options={"n": 2}))
    values = [{**each.to_json(), "start": ""} for each in (run, program, fresh)]
    assert values[0] == values[1]
    assert values[0]["stages"][0]["rms"] != values[2]["stages"][0]["rms"]


def test_a_program_of_user_data_reads_rows(fitted: tuple[Path, Path]) -> None:
    table, program = fitted
    (found,) = inspect_target(InspectionRequest(str(program), data=str(table), examples=7))
    assert (found.task, found.examples) == ("own", 7)
    with pytest.raises(ConfigError, match=r"was fitted to your own data. Name rows for it to read with --data"):
        inspect_target(InspectionRequest(str(program)))


def test_the_public_function_gives_the_same(bodies: Mapping[str, str]) -> None:
    found = icecore.inspect_body(bodies["bert"], task_options={"n": 2}, weights="random", layers=1, examples=3)
    (expected,) = inspect_target(
        InspectionRequest(bodies["bert"], options={"n": 2}, weights=("random",), layers=1, examples=3)
    )
    assert found.to_json() == expected.to_json()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "mnist"}, "--task: .* has a task and a body of its own. Leave --task out"),
        ({"options": {"n": 3}}, "--task-option: .* Leave --task-option out"),
        ({"weights": ("random",)}, "--weights: .* Leave --weights out"),
        ({"layers": 1}, "--layers: .* Leave --layers out"),
        ({"data": "rows.csv"}, "--data: the run .* has a task with data of its own. Leave --data out"),
    ],
)
def test_settings_of_a_body_do_not_fit_a_run(trained: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        inspect_target(InspectionRequest(str(trained), **settings))


def test_data_do_not_fit_a_program_of_a_task(trained: Path) -> None:
    request = InspectionRequest(str(trained / "program.safetensors"), data="rows.csv")
    with pytest.raises(DataError, match="is a program for the built-in task bit-xor, which cannot read your own data"):
        inspect_target(request)


def test_other_targets_are_refused(bodies: Mapping[str, str], trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--data: .* is a body. Give --task"):
        inspect_target(InspectionRequest(bodies["bert"], data="rows.csv"))
    with pytest.raises(ConfigError, match=f"is not a run folder, .* It contains the runs {trained.name}"):
        inspect_target(InspectionRequest(str(trained.parent)))
    with pytest.raises(ConfigError, match=r"There is no file or folder .*runs/nothing"):
        inspect_target(InspectionRequest(str(trained.parent / "nothing")))
    with pytest.raises(ConfigError, match=r"Unknown backbone 'minilmm'. Did you mean 'minilm'"):
        inspect_target(InspectionRequest("minilmm"))
    with pytest.raises(DataError, match=r"There is no program file .*missing.safetensors"):
        inspect_target(InspectionRequest(str(tmp_path / "missing.safetensors")))
    (trained / "program.safetensors").unlink()
    with pytest.raises(ConfigError, match="has no program: it is not finished"):
        inspect_target(InspectionRequest(str(trained)))


# --- the command ---


def test_the_table_fits_80_columns(run: Run, bodies: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run("inspect", bodies["gpt2"], "--task-option", "n=2", "--examples", 3, "--device", "cpu")
    assert ended.code == 0, ended.err
    heading, *lines = ended.out.splitlines()
    assert heading.endswith(
        "(pretrained; 2 layers of width 16; not trained, seed 0) on bit-xor, 3 examples of 4 positions"
    )
    (header,) = (line for line in lines if line.split()[:3] == ["layer", "rms", "min"])
    table = lines[lines.index(header) : lines.index(header) + 6]
    assert [line.split()[0] for line in table if not line.startswith(" ─")] == ["layer", "input", "1", "2", "norm"]
    assert max(map(len, table)) <= 80
    assert any(line.startswith("- ") for line in lines)
    assert any(line.startswith("rms: root mean square") for line in lines)


def test_json_and_picture(run: Run, bodies: Mapping[str, str], tmp_path: Path) -> None:
    picture = tmp_path / "new" / "body.png"
    words = ("inspect", bodies["bert"], "--weights", "pretrained,random", "--device", "cpu")
    ended = run(*words, "--out", picture, "--json")
    assert ended.code == 0, ended.err
    first, second = json.loads(ended.out)
    assert (first["body"]["weights"], second["body"]["weights"]) == ("pretrained", "random")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    shown = run(*words, "--out", picture)
    assert f"Wrote {picture}." in shown.out.splitlines()
    assert "(random; 2 layers of width 16" in shown.out
    refused = run(*words, "--out", tmp_path / "body.jpg")
    assert refused.code == 2
    assert "The name of a picture must end in one of .png, .svg" in refused.err


def test_a_picture_that_cannot_be_drawn_is_refused_before_the_inspection(
    run: Run, bodies: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(inspection_target, "inspect_target", lambda _: pytest.fail("the body was inspected"))
    refused = run("inspect", bodies["bert"], "--out", tmp_path / "body.png")
    assert refused.code == 2
    assert "Drawing needs matplotlib" in refused.err


def test_a_body_with_weights_that_cannot_work_is_refused(run: Run, bodies: Mapping[str, str], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(bodies["bert"], tmp_path / "zero"))
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.1.output.LayerNorm.weight"].zero_()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for words in (["inspect", folder], ["train", "bit-xor", "--backbone", folder, "--out", tmp_path / "runs"]):
        ended = run(*words, "--device", "cpu")
        assert ended.code == 2
        assert "all gains of the norm model.encoder.layer.1.output.LayerNorm are zero" in ended.err
