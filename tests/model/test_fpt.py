"""The model's laws: runs are independent, frozen is frozen, rows may be mixed, counts are the paper's."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaModel, T5Config

from icecore.backbones import Backbone, BodyRequest, Role, build_backbone
from icecore.core.config import FPT_ROLES, ROLES, SINGLE_ROLES
from icecore.core.errors import ConfigError
from icecore.model.fpt import FPT
from icecore.model.model_settings import ModelSettings
from icecore.tasks.bits import BitXor
from icecore.tasks.stored_task import StoredTask
from icecore.tasks.task import Batch, Task, TaskSpec

Body = Callable[..., Backbone]
SEEDS = [3, 1, 7]
B = 5


def build(body: Backbone, task: Task, seeds: list[int], **settings: Any) -> FPT:
    model = FPT(task.spec, body, seeds, ModelSettings(**settings))
    # away from the start: runs must differ in every part, also in norms and positions
    for seed, program in zip(seeds, (programs := model.programs()), strict=True):
        generator = torch.Generator().manual_seed(seed)
        for name in sorted(program):
            program[name] += 0.1 * torch.randn(program[name].shape, generator=generator)
    model.set_programs(programs)
    return model


def keys(seed: int) -> Tensor:
    return torch.randint(2**62, (B,), generator=torch.Generator().manual_seed(seed))


def gradients(model: FPT, task: Task, batch: Batch, row_keys: Tensor | None, share: int = B) -> dict[str, Tensor]:
    (task.loss(model(batch, row_keys=row_keys), batch.targets).sum() / share).backward()
    return {n: p.grad.clone() for n, p in model.trained().items() if p.grad is not None}


@pytest.fixture(params=["bit-xor", "ragged"])
def task(request: pytest.FixtureRequest, ragged: StoredTask) -> Task:
    return ragged if request.param == "ragged" else BitXor(3)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_packed_equals_alone(body: Body, task: Task, family: str, dropout: float) -> None:
    packed = build(body(family), task, SEEDS, dropout=dropout)
    step = 3  # there the longest of the ragged sequences differs from run to run: 8, 9 and 7
    batch = task.train_batch(SEEDS, step, B)
    row_keys = torch.cat([keys(seed) for seed in SEEDS]) if dropout else None
    together = gradients(packed, task, batch, row_keys)
    for r, seed in enumerate(SEEDS):
        alone = build(body(family), task, [seed], dropout=dropout)
        own = gradients(alone, task, task.train_batch([seed], step, B), keys(seed) if dropout else None)
        assert own.keys() == together.keys() == packed.trained().keys()
        for name, grad in own.items():
            torch.testing.assert_close(together[name][r], grad[0], msg=lambda m, n=name: f"{n}: {m}")


def test_dropout_does_something(body: Body) -> None:
    task = BitXor(3)
    model = build(body(), task, [0], dropout=0.1)
    batch = task.train_batch([0], 0, B)
    plain, dropped, again = model(batch), model(batch, row_keys=keys(0)), model(batch, row_keys=keys(0))
    assert not torch.allclose(plain, dropped)
    assert torch.equal(dropped, again)
    assert torch.equal(model(batch), plain)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_micro_batches_equal_the_whole_batch(body: Body, task: Task, dropout: float) -> None:
    model = build(body(), task, [0, 1], dropout=dropout)
    batch = task.train_batch([0, 1], 0, B)
    row_keys = torch.cat([keys(0), keys(1)]) if dropout else None
    whole = gradients(model, task, batch, row_keys)
    model.zero_grad()
    for rows in (torch.tensor([0, 1, 5, 6]), torch.tensor([2, 3, 7, 8]), torch.tensor([4, 9])):
        parts = gradients(model, task, batch.rows(rows), None if row_keys is None else row_keys[rows])
    for name, grad in whole.items():
        torch.testing.assert_close(parts[name], grad, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("hidden", [(), (6,)])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_rows_mixed_freely_equal_run_major_rows(body: Body, task: Task, family: str, hidden: tuple[int, ...]) -> None:
    model = build(body(family), task, SEEDS, input_hidden=hidden, output_hidden=hidden)
    batch = task.train_batch(SEEDS, 0, B)
    expected = model(batch)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    mixed = model(batch.rows(order), run_of_row=order // B)
    torch.testing.assert_close(mixed, expected[order])


def test_padding_changes_nothing(body: Body, ragged: StoredTask) -> None:
    model = build(body(), ragged, [0])
    batch = ragged.train_batch([0], 0, B)
    assert batch.lengths is not None
    for row, length in enumerate(batch.lengths.tolist()):
        alone = Batch(batch.tokens[row : row + 1, :length], batch.targets[row : row + 1])
        torch.testing.assert_close(model(alone)[0], model(batch)[row])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_mean_read_out_averages_real_positions(body: Body, ragged: StoredTask, precision: str) -> None:
    spec = TaskSpec("discrete", length=9, size=7, outputs=7, read_out="mean")
    model = FPT(spec, body(), [0], precision=precision)
    batch = ragged.train_batch([0], 0, B)
    hidden: list[Tensor] = []
    model.backbone.register_forward_hook(lambda module, args, out: hidden.append(torch.as_tensor(out)))
    logits, weight, bias = model(batch), model.output.weights()[0].weight[0], model.output.weights()[0].bias
    assert bias is not None
    assert batch.lengths is not None
    assert hidden[0].dtype == model.dtype
    for row, length in enumerate(batch.lengths.tolist()):
        mean = hidden[0][row, :length].float().mean(0)
        # the sum is in fp32, so rounding to bf16 does not come into it
        torch.testing.assert_close(logits[row, 0], mean @ weight + bias[0], rtol=1e-5, atol=1e-6)


def test_programs_there_and_back_is_identity_for_any_number(body: Body) -> None:
    model = build(body(), BitXor(3), SEEDS)
    programs = model.programs()
    model.set_programs([programs[2], programs[0], programs[0], programs[1]])
    assert model.runs == 4
    for program, source in zip(model.programs(), (programs[2], programs[0], programs[0], programs[1]), strict=True):
        assert program.keys() == source.keys()
        assert all(torch.equal(program[name], source[name]) for name in source)


def part_of(name: str, model: FPT) -> str:
    """The role of a program's or body's tensor, by where the model keeps it."""
    own = {"input": "input", "output": "output", "positions": "position"}
    return own.get(name.split(".")[0]) or str(model.backbone.roles()[name.removeprefix("body.")])


@pytest.mark.parametrize(
    "roles", [("output",), ("input", "position"), ("norm",), FPT_ROLES, (*FPT_ROLES, "feedforward"), ROLES]
)
def test_exactly_the_roles_asked_for_get_gradients(body: Body, roles: tuple[str, ...]) -> None:
    task = BitXor(2)
    model = FPT(task.spec, body(), [0], ModelSettings(roles))
    found = gradients(model, task, task.train_batch([0], 0, B), None)
    assert {part_of(name, model) for name in found} == set(roles) - {"other"}
    everything = {f"body.{n}": p for n, p in model.backbone.named_parameters()} | model.program()
    for name, parameter in everything.items():
        assert (parameter.grad is not None) == (part_of(name, model) in roles), name


def test_token_types_of_bert_are_its_embedding(body: Body) -> None:
    model = FPT(BitXor(2).spec, body(), [0], ModelSettings(("embedding",)))
    assert [name.split(".")[-2] for name in model.trained()] == ["token_type_embeddings"]


@pytest.mark.parametrize("role", sorted(SINGLE_ROLES))
def test_the_shared_body_is_trained_by_one_run_only(body: Body, role: str) -> None:
    settings = ModelSettings((*FPT_ROLES, role))
    with pytest.raises(
        ConfigError,
        match=f"Training {role} changes the shared body, so it allows one run at a time, but there are 2 runs",
    ):
        FPT(BitXor(2).spec, body(), [0, 1], settings)


def test_roles_that_a_body_does_not_have_are_refused(body: Body) -> None:
    with pytest.raises(ConfigError, match=r"Nothing would be trained: .* has no parameters of embedding"):
        FPT(BitXor(2).spec, body("gpt2"), [0], ModelSettings(("embedding",)))


def test_bf16_keeps_what_is_trained_in_fp32(body: Body) -> None:
    task = BitXor(2)
    model = FPT(task.spec, body(), [0, 1], precision="bf16")
    assert {p.dtype for p in model.program().values()} == {torch.float32}
    for name, parameter in model.backbone.named_parameters():
        # the body's own norms are where those of programs start: they are as exact as these
        expected = torch.float32 if model.backbone.roles()[name] is Role.NORM else torch.bfloat16
        assert parameter.dtype == expected, name
    batch = task.train_batch([0, 1], 0, B)
    assert model(batch).dtype == torch.float32
    exact = FPT(task.spec, body(), [0, 1])(batch)
    torch.testing.assert_close(model(batch), exact, rtol=0.05, atol=0.05)


def test_short_position_tables_repeat(body: Body) -> None:
    spec = TaskSpec("continuous", length=70, size=1, outputs=2)
    single = body("gpt2")
    table = single.position_table
    assert table is not None
    assert len(table) == 32
    model = FPT(spec, single, [0, 1])
    assert model.positions is not None
    for run in model.positions:
        assert torch.equal(run, torch.cat([table, table, table[:6]]))


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_empty_inputs_do_not_blow_up_in_a_deep_body_without_biases(family: str, tmp_path: Path) -> None:
    """As MNIST's empty patches: where positions start at zero as well, gradients overflow."""
    if family == "llama":
        config = LlamaConfig(hidden_size=16, num_hidden_layers=24, intermediate_size=32, num_attention_heads=2)
    else:
        config = T5Config(d_model=16, num_layers=24, d_ff=32, d_kv=8, num_heads=2)
    config.save_pretrained(tmp_path)
    task = BitXor(3)
    model = FPT(task.spec, build_backbone(BodyRequest(str(tmp_path), weights="random")), [0, 1])
    batch = task.train_batch([0, 1], 0, B)
    empty = replace(batch, tokens=torch.zeros_like(batch.tokens))
    found = gradients(model, task, empty, None)
    assert all(grad.abs().max() < 1e4 for grad in found.values())


def test_seeds_decide_the_own_layers(body: Body) -> None:
    spec = BitXor(3).spec
    packed, alone = FPT(spec, body(), SEEDS).programs(), FPT(spec, body(), [SEEDS[1]]).programs()[0]
    assert all(torch.equal(packed[1][name], alone[name]) for name in alone)
    assert not torch.equal(packed[0]["output.layers.0.weight"], alone["output.layers.0.weight"])


def test_input_layer_starts_orthogonal(body: Body) -> None:
    spec = TaskSpec("continuous", length=4, size=6, outputs=2)
    program = FPT(spec, body(), [0]).programs()[0]
    weight = program["input.layers.0.weight"]
    torch.testing.assert_close(weight @ weight.T, 1.41**2 * torch.eye(6))
    assert not program["input.layers.0.bias"].any()


def test_the_probe_without_a_body_reads_every_position(ragged: StoredTask) -> None:
    model = build(build_backbone(BodyRequest("none")), ragged, [0, 1])
    batch = ragged.train_batch([0, 1], 0, B)
    found = gradients(model, ragged, batch, None)
    assert model(batch).shape == (2 * B, 1, 7)
    by_position = found["output.layers.0.weight"].view(2, ragged.spec.length, -1).abs().sum((0, 2))
    assert batch.lengths is not None
    assert (by_position > 0).tolist() == [t < int(batch.lengths.max()) for t in range(ragged.spec.length)]


def test_fingerprint_is_of_what_is_frozen(body: Body) -> None:
    spec = BitXor(2).spec

    def of(weights: str = "pretrained", **settings: Any) -> str:
        return FPT(spec, body(weights=weights), [0], ModelSettings(**settings)).body_fingerprint

    assert of() == of()
    assert of() != of("random")
    assert of() != of(train_roles=("output",))


def test_parameter_counts_are_the_papers() -> None:
    """GPT-2 base on CIFAR-10 (Lu et al. 2021, Section 3.1): its count, and what it leaves out."""
    spec = TaskSpec("continuous", length=64, size=48, outputs=10)
    body = build_backbone(BodyRequest("gpt2", "random"))
    model = FPT(spec, body, [0, 1])
    count: dict[str, int] = {}
    for name, parameter in model.trained().items():
        place = "final norm" if name.startswith("body.model.ln_f") else part_of(name, model)
        count[place] = count.get(place, 0) + parameter.numel() // 2
    assert count == {
        "norm": 4 * 768 * 12,
        "final norm": 2 * 768,
        "position": 64 * 768,
        "input": 48 * 768 + 768,
        "output": 768 * 10 + 10,
    }
    trained, frozen = model.counts()
    assert trained == sum(count.values())
    # the paper's 106,752: 16 numbers a token, no final norm, no output bias
    assert trained - (48 - 16) * 768 - 2 * 768 - 10 == 106_752
    # a block's attention (4 d^2 + 4 d) and feed-forward part (8 d^2 + 5 d)
    assert frozen == 12 * (12 * 768**2 + 9 * 768)


@pytest.fixture
def llama(tmp_path: Path) -> Body:
    """Builds a tiny body without a position table: `llama(weights="random")`."""
    config = LlamaConfig(hidden_size=16, num_hidden_layers=2, intermediate_size=32, num_attention_heads=2)
    config.vocab_size, config.initializer_range = 50, 0.05
    LlamaModel(config).save_pretrained(tmp_path)
    return lambda **request: build_backbone(BodyRequest(str(tmp_path), **request))


def test_positions_start_at_the_spread_of_the_bodys_own_embeddings(body: Body, llama: Body) -> None:
    rotary = llama()
    rotary.embedding_spread = 0.25
    model = FPT(BitXor(64).spec, rotary, SEEDS, ModelSettings(position_start=2.0))
    assert model.positions is not None
    assert float(model.positions.detach().std()) == pytest.approx(0.5, rel=0.05)
    # a body's own table stays as it is
    table = FPT(BitXor(3).spec, bert := body("bert"), SEEDS, ModelSettings(position_start=2.0)).positions
    assert table is not None
    assert bert.position_table is not None
    assert torch.equal(table[1], bert.position_table[: table.shape[1]])


def test_the_spread_is_that_of_the_token_embeddings(llama: Body, tmp_path: Path) -> None:
    spread = float(LlamaModel.from_pretrained(tmp_path).embed_tokens.weight.detach().std())
    assert llama().embedding_spread == pytest.approx(spread)
    assert llama(weights="statistics").embedding_spread == pytest.approx(spread)
    assert llama(weights="random").embedding_spread == 0.05


def test_scales_are_the_sizes_of_the_bodys_own_tensors(body: Body) -> None:
    bert = body("bert")
    (name, norm), (zero_name, zero), *_ = bert.norms().items()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([3.0, 4.0]).repeat(len(norm.weight) // 2))
        zero.weight.zero_()
    scales = build(bert, BitXor(3), SEEDS).scales()
    assert scales[f"body.{name}.weight"] == scales[f"body.{name}.bias"] == pytest.approx(12.5**0.5)
    assert scales[f"body.{zero_name}.weight"] == 1.0
    assert all(name.startswith("body.") for name in scales)


def test_scales_of_trained_body_weights(body: Body) -> None:
    model = FPT(BitXor(3).spec, body("bert"), [0], ModelSettings(train_roles=ROLES))
    assert set(model.scales()) == {name for name in model.trained() if name.startswith("body.")}
    assert min(model.scales().values()) > 0
