"""`--prefix`, `--input-norm`, `--input-start` and joined read-outs: what they compute, packed, served and stored."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertModel

from icecore.backbones import Backbone, BodyRequest, build_backbone, build_body_of
from icecore.backbones.first_token import first_token_id
from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, DataError
from icecore.experiments import sweep
from icecore.inference.engine import Engine
from icecore.model.fpt import FPT
from icecore.model.loading import load_programs
from icecore.model.model_settings import ModelSettings
from icecore.model.program import Program
from icecore.tasks.algorithms import Needle
from icecore.tasks.bits import BitXor
from icecore.tasks.stored_task import StoredTask
from icecore.tasks.task import Batch
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.evaluation import evaluate

Body = Callable[..., Backbone]
SEEDS = [3, 1, 7]
B = 5
NEEDLE = {"task": "needle", "task_options": {"needles": 3, "values": 4}}
CHOICES: list[dict[str, Any]] = [{"prefix": "2"}, {"prefix": "1", "input_norm": "rms"}, {"input_norm": "rms"}]


@pytest.fixture
def any_body(bodies: Mapping[str, str]) -> Body:
    """As `body`, and also LSTMs and no body."""

    def build(family: str) -> Backbone:
        own = BodyRequest(family, "random", None if family == "none" else 2, options={"width": "8"})
        return build_backbone(BodyRequest(bodies[family]) if family in bodies else own)

    return build


def moved(model: FPT, seeds: list[int]) -> FPT:
    """The model away from its start, so that runs differ in every part."""
    programs = model.programs()
    for seed, program in zip(seeds, programs, strict=True):
        generator = torch.Generator().manual_seed(seed)
        for name in sorted(program):
            program[name] += 0.1 * torch.randn(program[name].shape, generator=generator)
    model.set_programs(programs)
    return model


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("family", ["bert", "gpt2", "lstm"])
def test_packed_equals_alone(any_body: Body, ragged: StoredTask, family: str, choice: dict[str, Any]) -> None:
    settings = ModelSettings(**choice)
    packed = moved(FPT(ragged.spec, any_body(family), SEEDS, settings), SEEDS)
    batch = ragged.train_batch(SEEDS, 3, B)
    assert batch.lengths is not None
    together = packed(batch)
    ragged.loss(together, batch.targets).sum().backward()
    for run, seed in enumerate(SEEDS):
        alone = moved(FPT(ragged.spec, any_body(family), [seed], settings), [seed])
        rows = batch.rows(slice(run * B, (run + 1) * B))
        logits = alone(rows)
        close(logits, together[run * B : (run + 1) * B])
        ragged.loss(logits, rows.targets).sum().backward()
        trained = packed.trained()
        for name, parameter in alone.trained().items():
            gradient = trained[name].grad
            assert gradient is not None
            assert parameter.grad is not None
            torch.testing.assert_close(gradient[run], parameter.grad[0], atol=1e-4, rtol=1e-4)
    if settings.prefix:
        gradient = packed.trained()["prefix"].grad
        assert gradient is not None
        assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_prefix_is_vectors_before_the_first_token(body: Body, family: str) -> None:
    """The same as a body that is given the vectors by hand."""
    task = BitXor(3)
    model = moved(FPT(task.spec, body(family), [0], ModelSettings(prefix="2")), [0])
    assert model.prefix is not None
    assert model.positions is not None
    assert model.prefix.shape == (1, 2, model.backbone.info.width)
    assert model.positions.shape[1] == 2 + task.spec.length
    batch = task.train_batch([0], 0, 4)
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(batch)
    weight, bias = model.input.weights()[0]
    assert bias is not None
    tokens = batch.tokens @ weight[0] + bias[0]
    expected = torch.cat([model.prefix.expand(4, -1, -1), tokens], 1) + model.positions
    close(seen[0], expected)


def test_padding_and_the_mean_leave_the_prefix_out(body: Body, ragged: StoredTask) -> None:
    spec = replace(ragged.spec, read_out="mean")
    model = moved(FPT(spec, body("bert"), [0], ModelSettings(prefix="3")), [0])
    batch = next(ragged.batches("train", 6))
    assert batch.lengths is not None
    hidden, features = model.hidden_states(batch), model.features(batch)
    for row, length in enumerate(batch.lengths.tolist()):
        close(features[row, 0], hidden[row, 3 : 3 + length].mean(0))
        alone = model(Batch(batch.tokens[row : row + 1, :length], batch.targets[row : row + 1]))
        close(alone[0], model.logits(features)[row])


def test_joined_read_outs_are_read_side_by_side(body: Body, ragged: StoredTask) -> None:
    batch = next(ragged.batches("train", 6))
    features = {
        read_out: FPT(replace(ragged.spec, read_out=read_out), body("bert")).features(batch)
        for read_out in ("last", "first", "mean", "last+mean", "mean+first+last")
    }
    close(features["last+mean"], torch.cat([features["last"], features["mean"]], -1))
    close(features["mean+first+last"], torch.cat([features[name] for name in ("mean", "first", "last")], -1))


@pytest.mark.parametrize(
    "choice",
    [*CHOICES, {"read_out": "last+mean"}, {"read_out": "last+pool-2"}, {"prefix": "2", "read_out": "first"}],
    ids=str,
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_storing_and_serving_agree(
    choice: dict[str, Any], precision: str, config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    chosen = config(**NEEDLE, **choice, precision=precision)
    sweep.run_sweep([chosen], ExecutionContext(tmp_path))
    model, task = sweep.open_run(tmp_path / chosen.run_id)
    program = Program.load(RunFolder(tmp_path, chosen).program_path)
    assert ("prefix" in program.tensors) == (chosen.prefix is not None)
    batch = next(task.batches("test", 5))
    served = torch.stack(Engine(build_body_of(chosen), precision).add(program).predict(batch, 0))
    tolerance = 1e-5 if precision == "fp32" else 0.05
    with torch.no_grad():
        torch.testing.assert_close(served, model(batch), atol=tolerance, rtol=tolerance)


def test_programs_with_and_without_a_prefix_share_a_pass(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    choices = [
        {},
        {"prefix": "3"},
        {"prefix": "1", "read_out": "mean"},
        {"input_norm": "rms"},
        {"read_out": "last+mean"},
        {"prefix": "2", "read_out": "pool-2"},
    ]
    configs = [config(**NEEDLE, **choice) for choice in choices]
    for each in configs:
        sweep.run_sweep([each], ExecutionContext(tmp_path))
    engine = Engine(build_body_of(configs[0]))
    for each in configs:
        engine.add(Program.load(RunFolder(tmp_path, each).program_path), each.run_id)
    batch = next(Needle(3, 4).batches("test", 6))
    ragged_rows = [row[: 2 + number] for number, row in enumerate(batch.tokens[:3])]
    for rows in (list(batch.tokens), ragged_rows):
        doubled = [row for row in rows for _ in configs]
        numbers = list(range(len(configs))) * len(rows)
        mixed = engine.predict(doubled, numbers)
        for row, number, logits in zip(doubled, numbers, mixed, strict=True):
            close(logits, engine.predict([row], number)[0])


@pytest.mark.parametrize("roles", [("output",), ("input", "norm", "output", "position")])
def test_kept_features_and_closed_form_starts_know_the_choices(
    roles: tuple[str, ...], config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Kept features and a ridge start both read what the output layer reads."""
    chosen = config(**NEEDLE, prefix="2", read_out="last+mean", train_roles=roles, output_start="ridge")
    (run,) = sweep.run_sweep([chosen], ExecutionContext(tmp_path)).runs
    model, task = sweep.open_run(tmp_path / chosen.run_id)
    assert run.test_metric == pytest.approx(float(evaluate(model, task, "test")[0]))
    width = model.backbone.info.width
    assert model.output.weights()[0].weight.shape[1] == 2 * width


def test_attention_of_a_program_with_a_prefix_is_among_its_tokens(body: Body) -> None:
    task = BitXor(3)
    model = FPT(task.spec, body("bert"), [0], ModelSettings(prefix="2"))
    maps: list[Tensor] = []
    model.features(task.train_batch([0], 0, 2), record=maps.append)
    assert {tuple(each.shape[2:]) for each in maps} == {(task.spec.length, task.spec.length)}
    # the rest of the attention is on the prefix
    assert float(maps[0].detach().sum(-1).max()) < 1


def test_bos_is_the_bodys_own_token(bodies: Mapping[str, str], body: Body, tmp_path: Path) -> None:
    source = BertModel.from_pretrained(bodies["bert"])
    source.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    request = BodyRequest(str(tmp_path))
    model = FPT(BitXor(3).spec, build_backbone(request), SEEDS, ModelSettings(prefix="bos"))
    assert model.prefix is not None
    embedding = source.embeddings.word_embeddings.weight[2]
    close(model.prefix.detach(), embedding.detach().expand(3, 1, -1))
    # any token of a random body is a random one
    drawn = FPT(BitXor(3).spec, build_backbone(replace(request, weights="random")), SEEDS, ModelSettings(prefix="bos"))
    assert drawn.prefix is not None
    assert len({tuple(row) for row in drawn.prefix.detach().flatten(1).tolist()}) == 3


def test_the_first_token_is_found_in_configuration_or_vocabulary(tmp_path: Path) -> None:
    class Settings:
        bos_token_id: int | None = None
        cls_token_id: int | None = None

    settings = Settings()
    assert first_token_id(settings, str(tmp_path)) is None
    (tmp_path / "vocab.txt").write_text("<pad>\n<cls>\n")
    assert first_token_id(settings, str(tmp_path)) == 1
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text('{"added_tokens": [{"id": 7, "content": "[CLS]"}]}')
    assert first_token_id(settings, str(tmp_path)) == 7
    tokenizer.write_text('{"added_tokens": [3')  # damaged
    assert first_token_id(settings, str(tmp_path)) == 1
    settings.bos_token_id = 0
    assert first_token_id(settings, str(tmp_path)) == 0
    assert first_token_id(Settings(), "no/such/model") is None


def test_a_prefix_that_a_body_cannot_have_is_refused(any_body: Body) -> None:
    with pytest.raises(ConfigError, match="--prefix 2: none computes each position by itself"):
        FPT(BitXor(3).spec, any_body("none"), [0], ModelSettings(prefix="2"))
    with pytest.raises(ConfigError, match="--prefix bos: icecore finds no token with which sequences of lstm start"):
        FPT(BitXor(3).spec, any_body("lstm"), [0], ModelSettings(prefix="bos"))
    bert = any_body("bert")
    bert.first_token = None
    with pytest.raises(ConfigError, match=r"--prefix bos: icecore finds no token .* for example --prefix 1\."):
        FPT(BitXor(3).spec, bert, [0], ModelSettings(prefix="bos"))


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "", "²", "1025", "BOS", "9" * 5000])
def test_other_prefixes_are_refused(value: str, config: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match="prefix: expected bos or a number from 1 to 1,024"):
        config(prefix=value)


def test_a_read_out_that_names_a_position_twice_is_refused(config: Callable[..., RunConfig]) -> None:
    with pytest.raises(ConfigError, match="last\\+last names one read-out twice"):
        config(**NEEDLE, read_out="last+last")


def test_a_header_with_another_prefix_than_its_tensors_is_refused(
    config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    chosen = config(prefix="2")
    sweep.run_sweep([chosen], ExecutionContext(tmp_path))
    program = Program.load(RunFolder(tmp_path, chosen).program_path)
    changed = replace(program, config=replace(chosen, prefix="3"))
    changed.save(tmp_path / "changed.safetensors")
    with pytest.raises(DataError, match="the header gives"):
        Program.load(tmp_path / "changed.safetensors")
    without = replace(program, tensors={name: tensor for name, tensor in program.tensors.items() if name != "prefix"})
    with pytest.raises(DataError, match="Tensor prefix is missing"):
        load_programs([without], build_body_of(chosen))


def test_the_input_norm_gives_tokens_the_size_of_the_bodys_embeddings(body: Body) -> None:
    bert = body("bert")
    model = FPT(BitXor(3).spec, bert, [0], ModelSettings(input_norm="rms"))
    assert model.positions is not None
    with torch.no_grad():
        model.positions.zero_()
        model.input.weights()[0].weight.mul_(10.0)
    seen: list[Tensor] = []
    bert.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    tokens = torch.ones(2, 10, BitXor(3).spec.size)
    tokens[1] = 0.0  # an empty token stays empty, and gradients stay finite
    model(Batch(tokens[:, : BitXor(3).spec.length], torch.zeros(2, 3))).sum().backward()
    size = seen[0].detach().square().mean(-1).sqrt()
    torch.testing.assert_close(size[0], torch.full_like(size[0], bert.embedding_spread), rtol=0.01, atol=0.0)
    assert float(size[1].max()) == 0
    assert all(bool(p.grad.isfinite().all()) for p in model.trained().values() if p.grad is not None)


def test_a_program_keeps_the_size_that_its_input_norm_had(config: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Token embeddings are not part of a body, so its fingerprint does not tell bodies apart that differ in them."""
    chosen = config(input_norm="rms")
    sweep.run_sweep([chosen], ExecutionContext(tmp_path))
    program, body = Program.load(RunFolder(tmp_path, chosen).program_path), build_body_of(chosen)
    batch = BitXor(2).train_batch([0], 0, 2)
    expected = load_programs([program], body)(batch)
    body.embedding_spread *= 30
    close(load_programs([program], body)(batch), expected)
    engine = Engine(body)
    engine.add(program, "kept")
    close(torch.stack(engine.predict(batch, "kept")), expected)
    older = replace(program, extra={name: value for name, value in program.extra.items() if name != "input_rms"})
    assert not torch.allclose(load_programs([older], body)(batch), expected)
    with pytest.raises(ConfigError, match="cannot share a model"):
        load_programs([program, older], body)
    for value in (0.0, -1.0, float("nan"), "large", None):
        damaged = replace(program, extra={**program.extra, "input_rms": value})
        with pytest.raises(DataError, match=r"input_rms of the program is .* but must be a positive number"):
            load_programs([damaged], body)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_the_input_layer_starts_at_a_multiple_of_the_embeddings_spread(body: Body, kind: str) -> None:
    bert = body("bert")
    spec = replace(BitXor(3).spec, kind=kind, size=6)
    model = FPT(spec, bert, [0], ModelSettings(input_start=4.0))
    weight = model.input.weights()[0].weight[0].detach()
    tokens = torch.eye(6) if kind == "discrete" else torch.randn(4000, 6)
    size = float((tokens @ weight).square().mean().sqrt())
    assert size == pytest.approx(4 * bert.embedding_spread, rel=0.03)


def test_ids_of_runs_without_the_settings_are_as_before(config: Callable[..., RunConfig]) -> None:
    text = config().to_json()
    assert not any(name in text for name in ("prefix", "input_norm", "input_start"))
