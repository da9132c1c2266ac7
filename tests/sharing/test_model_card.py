"""Model cards: they state what the header states, are valid for the hub, and name no folder of a machine."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import icecore
from icecore.autofit.predict import Predictions
from icecore.backbones import Backbone
from icecore.core.config import FPT_ROLES, RunConfig
from icecore.model.fpt import FPT
from icecore.model.model_settings import model_settings
from icecore.model.program import Program
from icecore.sharing.model_card import card, front_matter, hub_model, page
from icecore.tasks.bits import BitXor
from icecore.tasks.task import TaskSpec

CONFIG = RunConfig(task="mnist", steps=10, batch_size=2, lr=1e-3, seed=3)
TENSORS = {
    "input.layers.0.weight": torch.zeros(16, 384),
    "positions": torch.zeros(64, 384),
    "body.norm.weight": torch.zeros(384),
    "output.layers.0.weight": torch.zeros(384, 10),
}
DATA = {"format": "idx", "counts": {"train": 50, "test": 5}, "sha256": "e" * 64, "classes": ["0", "a|b", "_c_"]}
PROGRAM = Program(
    CONFIG,
    TaskSpec("continuous", 64, 16, 10),
    "f" * 64,
    TENSORS,
    {"val": 0.75, "test": 2 / 3, "other": None},
    {"icecore": "0.1.0"},
    {"data": DATA, "metric_name": "balanced accuracy"},
)


def parsed(program: Program, name: str = "me/cats") -> tuple[dict[str, Any], str]:
    """The front matter and the Markdown; the hub's reader and a YAML reader must agree on the front matter."""
    text = card(program, name)
    model_card = ModelCard(text)
    matter = yaml.safe_load(text.split("---\n")[1])
    assert model_card.data.to_dict() == matter
    return matter, model_card.text


def with_extra(**extra: Any) -> Program:
    return replace(PROGRAM, extra={**PROGRAM.extra, **extra})


def test_front_matter() -> None:
    matter, _ = parsed(PROGRAM)
    assert matter == {
        "library_name": "icecore",
        "pipeline_tag": "image-classification",
        "tags": ["icecore", "frozen-pretrained-transformer", "mnist", "images", "classification"],
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "base_model_relation": "adapter",
        "metrics": ["balanced_accuracy"],
    }


@pytest.mark.parametrize(
    ("changes", "base", "relation"),
    [
        ({"weights": "random"}, None, None),
        ({"weights": "statistics"}, None, None),
        ({"backbone": "gpt2"}, "openai-community/gpt2", "adapter"),
        ({"backbone": "org/model"}, "org/model", "adapter"),
        ({"backbone": "gpt2", "train_roles": ("input", "output", "attention")}, "openai-community/gpt2", "finetune"),
        ({"backbone": "/home/me/bert"}, None, None),
        ({"backbone": "lstm", "weights": "random"}, None, None),
    ],
)
def test_only_pretrained_models_of_the_hub_are_base_models(
    changes: dict[str, Any], base: str | None, relation: str | None
) -> None:
    matter, _ = parsed(replace(PROGRAM, config=replace(CONFIG, **changes)))
    assert (matter.get("base_model"), matter.get("base_model_relation")) == (base, relation)


def test_a_local_folder_is_not_a_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, backbone="bodies/bert")
    assert hub_model(config) == "bodies/bert"
    (tmp_path / "bodies/bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_model(config) is None


def test_the_card_states_what_the_header_states() -> None:
    _, text = parsed(PROGRAM)
    for line in (
        "# me/cats",
        "icecore pull me/cats\nicecore info cats.safetensors\n",
        "- input: at most T = 64 tokens of P = 16 numbers",
        "- output: C = 10 numbers, read from the last position",
        r"- classes: 0, a\|b, \_c\_",
        f"- fingerprint of the frozen weights: `{'f' * 64}`",
        "| input layer | 6,144 | yes |",
        "| norms of the body | 384 | yes |",
        "| split | balanced accuracy |\n| --- | --- |\n| val | 0.7500 |\n| test | 0.6667 |\n",
        "- train examples: 50",
        f"- sha256: {'e' * 64}",
        "- icecore: 0.1.0",
        "The metrics are those of one run (seed 3) and have no error bar.",
        "No controls are recorded",
    ):
        assert line in text


def test_sections_without_content_are_left_out() -> None:
    bare = replace(PROGRAM, metrics={}, versions={}, extra={})
    matter, text = parsed(replace(bare, config=replace(CONFIG, task="bit-xor")))
    assert matter.keys() == {"library_name", "tags", "base_model", "base_model_relation"}
    sections = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert sections == ["Use", "Task", "Body", "Trained", "Limits"]
    assert "None" not in text
    assert "metric" not in text


def test_controls_in_any_shape() -> None:
    controls = {"random body": {"metric": 0.5, "seconds": 3}, "baseline": 0.75}
    _, text = parsed(with_extra(controls=controls, result={"metric": 0.875}, verdict="The body helped | a lot."))
    table = "|  | metric | seconds |\n| --- | --- | --- |\n| this program | 0.875 |  |\n"
    table += "| random body | 0.5 | 3 |\n| baseline | 0.75 |  |\n"
    assert f"## Controls\n\nThe body helped \\| a lot.\n\n{table}" in text
    assert "No controls" not in text
    for odd in (None, [], [[]], "not json", 3, {"a": None}, {"target": {"names": 1, "classes": [2]}, "b": {"c": {}}}):
        parsed(with_extra(controls=odd, result=odd, verdict=odd, encoder=odd, data=odd, metric_name=odd))


@pytest.mark.parametrize("packed", [json.dumps, dict])
def test_the_encoder_of_your_own_data_is_described(packed: Callable[[dict[str, Any]], Any]) -> None:
    inputs = {"columns": [{"name": "age", "mean": [1.0]}, {"name": "a|b"}], "patch": 2, "mean": list(range(20))}
    target = {"names": ["kind", "size"], "task": "classification", "classes": [["cat", "dog"], ["/s", "/m"]]}
    encoder = packed({"form": "table", "inputs": inputs, "target": target})
    matter, text = parsed(replace(with_extra(encoder=encoder), config=replace(CONFIG, task="own")))
    assert matter["pipeline_tag"] == "tabular-classification"
    assert "- columns: age, a\\|b\n- patch: 2\n- mean: 0, 1, 2, 3, 4, 5, 6, 7 and 12 more" in text
    assert "- classes of kind: cat, dog\n- classes of size: /s, /m\n" in text


def test_no_folder_of_a_machine_is_named() -> None:
    options = {
        "data": "/home/anna/secret/x.csv",
        "other": r"C:\Users\anna\y.csv",
        "note": "read from ~/anna/z.csv, 4/5",
    }
    config = replace(CONFIG, backbone="/home/anna/bodies/bert", weights="~/anna/w.safetensors", task_options=options)
    config = replace(config, start="/home/anna/José Müller/old.safetensors")
    data = {"files": ["/mnt/anna/a.gz", "b.gz"], "source": "file:///home/anna/c.gz", "url": "https://example.org/d/e"}
    text = card(replace(PROGRAM, config=config, extra={"data": data}), "cats")
    assert "anna" not in text
    assert "José" not in text
    for kept in ("x.csv", "y.csv", "read from z.csv, 4/5", "a.gz, b.gz", "c.gz", "https://example.org/d/e"):
        assert kept in text
    assert 'icecore.load_backbone("PATH/TO/bert", weights="PATH/TO/w.safetensors")' in text


@pytest.mark.parametrize("name", ["猫 and 'dogs'", "a*b_c|<d>", "-x", "line\nbreak", "---", 'quote"s'])
def test_odd_names(name: str) -> None:
    matter, text = parsed(with_extra(data={**DATA, "classes": [name]}), name)
    assert matter["library_name"] == "icecore"
    assert text.lstrip().startswith("# ")
    assert "\nbreak" not in text
    assert "<d>" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    compile(python_code(text), "card", "exec")


def test_the_same_program_has_the_same_card() -> None:
    shuffled = replace(PROGRAM, tensors=dict(reversed(TENSORS.items())))
    assert card(shuffled, "me/cats") == card(PROGRAM, "me/cats")
    assert card(PROGRAM, "x") == f"---\n{front_matter(PROGRAM)}\n---\n\n{page(PROGRAM, 'x')}"


def python_code(text: str) -> str:
    """The Python code in a card."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]


@pytest.mark.parametrize("roles", [FPT_ROLES, (*FPT_ROLES, "attention")])
def test_the_code_for_a_built_in_task_runs(
    body: Callable[..., Backbone],
    config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    roles: tuple[str, ...],
) -> None:
    task, settings = BitXor(2), config(train_roles=roles)
    model = FPT(task.spec, body(), [0], model_settings(settings))
    program = Program(settings, task.spec, model.body_fingerprint, model.programs()[0])
    program.save(tmp_path / "xor.safetensors")
    monkeypatch.chdir(tmp_path)
    code = python_code(page(program, "xor"))
    placeholder = f"PATH/TO/{Path(settings.backbone).name}"
    assert placeholder in code
    names: dict[str, Any] = {}
    exec(code.replace(placeholder, settings.backbone), names)
    batch = next(task.batches("test", 16))
    expected = model(batch)  # (B, n, C)
    logits = names["model"](batch) if "attention" in roles else torch.stack(names["logits"])
    torch.testing.assert_close(logits, expected)


def test_the_code_for_your_own_data_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(60, 3))
    body: dict[str, Any] = {"backbone": "minilm", "weights": "random", "layers": 1, "device": "cpu"}
    monkeypatch.chdir(tmp_path)
    fitted = icecore.fit(x, (x[:, 0] > 0).astype(int), out="mine.safetensors", steps=2, lrs=1e-2, **body)
    np.save("DATA.npy", x)
    text = page(fitted.program, "mine")
    assert "icecore predict mine.safetensors DATA\n" in text
    names: dict[str, Any] = {}
    exec(python_code(text).replace('"DATA"', '"DATA.npy"'), names)
    expected = icecore.predict("mine.safetensors", x)
    assert isinstance(expected, Predictions)
    assert names["predictions"].to_csv() == expected.to_csv()
