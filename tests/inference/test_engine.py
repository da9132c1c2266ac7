"""Programs on one body answer in any mixture what each answers alone, at the price of their own numbers."""

import importlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hardware import needs_vnni
from icecore.backbones import Backbone, BodyRequest, build_backbone
from icecore.backbones.backbone import fingerprint
from icecore.backbones.modules.body_pass import PLAIN_PASS, running_pass
from icecore.backbones.modules.kernels import can_compile
from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, DataError, WeightsError
from icecore.inference import engine as engines
from icecore.inference.engine import Engine
from icecore.model.fpt import FPT
from icecore.model.loading import load_programs
from icecore.model.model_settings import model_settings
from icecore.model.program import Program
from icecore.tasks.task import Batch, TaskSpec

Body = Callable[..., Backbone]
IMAGES = TaskSpec("continuous", length=6, size=3, outputs=4)
BITS = TaskSpec("continuous", length=5, size=2, outputs=2, read_positions=3)
WORDS = TaskSpec("discrete", length=9, size=7, outputs=7)
MEANS = TaskSpec("discrete", length=4, size=5, outputs=3, read_out="mean")
#: task and settings of each program of the mixture; those of one shape are batched
MIXTURE: Sequence[tuple[TaskSpec, dict[str, Any]]] = [
    (IMAGES, {}),
    (WORDS, {}),
    (IMAGES, {"train_roles": ("input", "output")}),
    (IMAGES, {"input_hidden": (8,), "output_hidden": (5, 6)}),
    (BITS, {"train_roles": ("input", "norm", "output")}),
    (WORDS, {"input_hidden": (8,)}),
    (MEANS, {}),
    (MEANS, {"train_roles": ("output", "position")}),
]


@pytest.fixture
def bare(body: Body) -> Body:
    """Builds a fresh body: `bare("gpt2")`, `bare("lstm")`."""

    def build(family: str) -> Backbone:
        if family in ("bert", "gpt2"):
            return body(family)
        layers = None if family == "none" else 1
        return build_backbone(BodyRequest(family, "random", layers, options={"width": "16"}))

    return build


def make(body: Backbone, spec: TaskSpec = IMAGES, seed: int = 0, **settings: Any) -> Program:
    """A program whose trained numbers are far from where they started; it takes `body` over."""
    config = RunConfig(task="toy", steps=1, batch_size=1, lr=1e-3, backbone="tiny", seed=seed, **settings)
    model = FPT(spec, body, [seed], model_settings(config))
    generator = torch.Generator().manual_seed(seed)
    tensors = model.programs()[0]
    for name in model.trained():
        tensors[name] += 0.3 * torch.randn(tensors[name].shape, generator=generator)
    return Program(config, spec, model.body_fingerprint, tensors)


def draw(spec: TaskSpec, generator: torch.Generator, full: bool = False) -> Tensor:
    """A row of the task, of any length that it may have."""
    T = spec.length
    if not full:
        T = int(torch.randint(spec.read_positions, spec.length + 1, (), generator=generator))
    if spec.kind == "discrete":
        return torch.randint(spec.size, (T,), generator=generator)
    return torch.randn(T, spec.size, generator=generator)


def mixture(bare: Body, family: str, count: int = 24) -> tuple[list[Program], list[Tensor], list[int]]:
    """Programs of MIXTURE, and rows of them in disorder."""
    programs = [make(bare(family), spec, seed, **settings) for seed, (spec, settings) in enumerate(MIXTURE)]
    generator = torch.Generator().manual_seed(1)
    which = torch.randint(len(programs), (count,), generator=generator).tolist()
    return programs, [draw(programs[index].spec, generator) for index in which], which


def hold(programs: Sequence[Program], body: Backbone, precision: str = "fp32") -> Engine:
    engine = Engine(body, precision)
    for program in programs:
        engine.add(program)
    return engine


def alone(
    programs: Sequence[Program], build: Callable[[], Backbone], rows: Sequence[Tensor], which: Sequence[int], **kw: str
) -> list[Tensor]:
    """What the model of each row's program, which holds no other, makes of the row, in a batch of one."""
    models = [load_programs([program], build(), **kw) for program in programs]
    return [models[index](Batch(row[None], torch.zeros(1)))[0] for row, index in zip(rows, which, strict=True)]


def same(found: Sequence[Tensor], expected: Sequence[Tensor], within: float | None = None) -> None:
    """Equal to floating-point order, or `within` so much."""
    assert len(found) == len(expected)
    rtol = None if within is None else 0.0
    for row, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=within, msg=lambda m, row=row: f"row {row}: {m}")


@pytest.mark.parametrize("family", ["bert", "gpt2", "lstm", "lstm-star", "none"])
def test_every_row_of_a_mixture_is_what_its_program_alone_makes_of_it(bare: Body, family: str) -> None:
    programs, rows, which = mixture(bare, family)
    found = hold(programs, bare(family)).predict(rows, which)
    same(found, alone(programs, lambda: bare(family), rows, which))


@pytest.mark.parametrize("tasks", [(0, 1, 2, 3, 4, 5), (6, 7), (0, 3), (4,)])
def test_read_outs_of_any_kinds_beside_each_other(bare: Body, tasks: Sequence[int]) -> None:
    programs, rows, which = mixture(bare, "gpt2", 40)
    chosen = [row for row, index in enumerate(which) if index in tasks]
    engine = hold(programs, bare("gpt2"))
    found = engine.predict([rows[row] for row in chosen], [which[row] for row in chosen])
    same(found, [engine.predict([rows[row]], [which[row]])[0] for row in chosen])


@pytest.mark.parametrize("precision", ["bf16", pytest.param("int8", marks=needs_vnni)])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_rounded_bodies(bare: Body, family: str, precision: str) -> None:
    programs, rows, which = mixture(bare, family)
    engine = hold(programs, bare(family), precision)
    found = engine.predict(rows, which)
    # sums that differ in their last bit are rounded apart, now and then
    single = [engine.predict([row], [index])[0] for row, index in zip(rows, which, strict=True)]
    same(found, single, within=0.01)
    same(found, alone(programs, lambda: bare(family), rows, which, precision=precision), within=0.01)
    exact = hold(programs, bare(family)).predict(rows, which)
    same(found, exact, within=0.1)
    assert any(not torch.allclose(ours, wide) for ours, wide in zip(found, exact, strict=True))


@pytest.mark.parametrize("setting", [{"TOKENS_PER_PASS": {"cpu": 8}}, {"MAX_GATHERED": 0}])
def test_neither_passes_nor_groups_change_anything(
    bare: Body, monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any]
) -> None:
    programs, rows, which = mixture(bare, "bert")
    engine = hold(programs, bare("bert"))
    expected = engine.predict(rows, which)
    for name, value in setting.items():
        monkeypatch.setattr(engines, name, value)
    same(engine.predict(rows, which), expected)


def test_a_mixed_batch_is_one_pass(bare: Body) -> None:
    programs, _, _ = mixture(bare, "bert")
    engine = hold(programs, bare("bert"))
    passes: list[int] = []
    engine.backbone.register_forward_pre_hook(lambda body, given: passes.append(len(given[0])))
    generator = torch.Generator().manual_seed(0)
    engine.predict([draw(program.spec, generator, full=True) for program in programs], range(len(programs)))
    assert passes == [len(programs)]


def test_a_batch_is_its_rows(bare: Body) -> None:
    engine = hold([make(bare("bert"), WORDS, 1), make(bare("bert"), WORDS, 2)], bare("bert"))
    tokens, lengths = torch.randint(7, (4, 9)), torch.tensor([9, 1, 4, 6])
    names = ["toy-2", "toy", "toy", "toy-2"]
    found = engine.predict(Batch(tokens, torch.zeros(4), lengths), names)
    same(found, engine.predict([row[:end] for row, end in zip(tokens, lengths, strict=True)], [1, 0, 0, 1]))
    same(engine.predict(Batch(tokens, torch.zeros(4)), "toy"), engine.predict(list(tokens), 0))
    assert engine.predict([], []) == []


def test_rows_of_any_type(bare: Body) -> None:
    engine = hold([make(bare("bert"), seed=seed) for seed in range(2)], bare("bert"))
    whole, halves = torch.randint(255, (6, 3), dtype=torch.uint8), torch.randn(4, 3).half()
    expected = engine.predict([whole.float(), halves.float()], [0, 1])
    same(engine.predict([whole, halves], [0, 1]), expected)


def test_programs_come_and_go(bare: Body) -> None:
    programs = [make(bare("bert"), seed=seed) for seed in range(3)]
    engine = Engine(bare("bert")).add(programs[0]).add(programs[1], name="second").add(programs[2])
    row = torch.randn(6, 3)
    expected = engine.predict([row] * 3, [0, 1, 2])
    assert (len(engine), engine.names) == (3, ["toy", "second", "toy-3"])
    engine.remove("toy")
    assert (len(engine), engine.names) == (2, ["second", "toy-3"])
    same(engine.predict([row] * 3, [1, "second", 0]), [expected[2], expected[1], expected[1]])
    engine.add(programs[0])
    same(engine.predict([row], ["toy"]), expected[:1])
    with pytest.raises(ConfigError, match=r"There is a program 'second' already\. Remove it first, or choose"):
        engine.add(programs[0], name="second")
    assert len(engine) == 3


def test_the_body_is_only_borrowed(bare: Body) -> None:
    programs, rows, which = mixture(bare, "bert")
    body = bare("bert")
    before = fingerprint(body.tensors())
    engine = hold(programs, body)
    engine.predict(rows, which)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    handle = body.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine.predict(rows, which)
    handle.remove()
    assert fingerprint(body.tensors()) == before
    assert running_pass().value is PLAIN_PASS
    same(engine.predict(rows[:1], which[:1]), alone(programs[which[0] :][:1], lambda: body, rows[:1], [0]))


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark, imported as a script in benchmarks/ finds its neighbours."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("serving")


def test_memory_grows_by_the_programs_alone(bare: Body, serving: Any) -> None:
    engine, first = Engine(bare("bert")), make(bare("bert"))
    size = sum(tensor.nbytes for tensor in first.tensors.values())
    before = serving.live_bytes()
    for _ in range(100):
        engine.add(replace(first, tensors={name: tensor.clone() for name, tensor in first.tensors.items()}))
    assert 100 * size <= serving.live_bytes() - before <= 101 * size
    engine.predict([torch.randn(6, 3)] * 100, range(100))
    assert serving.live_bytes() - before <= 101 * size
    for name in engine.names:
        engine.remove(name)
    assert serving.live_bytes() == before


def test_the_benchmark(serving: Any, capsys: pytest.CaptureFixture[str]) -> None:
    serving.main(["--quick", "--device", "cpu"])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["benchmark"] == "serving"
    assert {"ratio", "target", "rows_per_second", "bytes_per_program"} <= line.keys()
    assert line["bytes_held_per_program"] <= 1.01 * line["bytes_per_program"]


#: what the rows of IMAGES look like, as messages have it
IMAGE_ROWS = r"\(T, 3\) with T from 1 to 6\."


@pytest.mark.parametrize(
    ("row", "which", "message"),
    [
        (
            torch.zeros(6, 2),
            0,
            r"Row 1 has tokens of shape \(6, 2\), but program 'images' reads " + IMAGE_ROWS,
        ),
        (
            torch.zeros(7, 3),
            0,
            r"Row 1 has tokens of shape \(7, 3\), but program 'images' reads " + IMAGE_ROWS,
        ),
        (torch.zeros(0, 3), 0, r"Row 1 has tokens of shape \(0, 3\), but"),
        (torch.zeros(()), 0, r"Row 1 has tokens of shape \(\), but"),
        (
            torch.zeros(2, 2),
            1,
            r"Row 1 has tokens of shape \(2, 2\), but program 'bits' reads \(T, 2\) with T from 3 to 5\.",
        ),
        (
            torch.zeros(6, 3),
            2,
            r"Row 1 has tokens of shape \(6, 3\), but program 'words' reads \(T,\) with T from 1 to 9",
        ),
        (torch.zeros(6), 2, r"Row 1 has tokens of torch.float32, but program 'words' reads whole numbers\."),
        (torch.tensor([1, 7]), 2, r"Row 1 has tokens from 1 to 7, but program 'words' reads 0 to 6\."),
        (torch.tensor([-1, 2]), 2, r"Row 1 has tokens from -1 to 2, but program 'words' reads 0 to 6\."),
    ],
)
def test_a_row_that_its_program_cannot_read(bare: Body, row: Tensor, which: int, message: str) -> None:
    engine = Engine(bare("bert"))
    for name, spec in {"images": IMAGES, "bits": BITS, "words": WORDS}.items():
        engine.add(make(bare("bert"), spec), name)
    with pytest.raises(DataError, match=message):
        engine.predict([torch.zeros(6, 3), row], [0, which])


def test_programs_that_are_not_there(bare: Body) -> None:
    engine = Engine(bare("bert")).add(make(bare("bert")), "digits")
    row = torch.zeros(6, 3)
    with pytest.raises(ConfigError, match=r"Unknown program 'digit'\. Did you mean 'digits'"):
        engine.predict([row], ["digit"])
    with pytest.raises(ConfigError, match=r"Unknown program 'digit'\. Did you mean 'digits'"):
        engine.remove("digit")
    for index in (1, -1):
        with pytest.raises(ConfigError, match=f"There is no program {index}: the engine has 1, counted from 0"):
            engine.predict([row], [index])
    with pytest.raises(DataError, match=r"There are 2 rows but 1 programs\. Name one program for each row\."):
        engine.predict([row, row], [0])
    with pytest.raises(ConfigError, match="Unknown precision 'fp16'"):
        Engine(bare("bert"), "fp16")


@pytest.mark.parametrize("roles", [("input", "output", "norm", "position"), ("output",)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_another_body_is_refused_with_both_fingerprints(body: Body, precision: str, roles: tuple[str, ...]) -> None:
    program = make(body(), train_roles=roles)
    other = make(body(weights="random"), train_roles=roles)
    with pytest.raises(WeightsError, match="Program 'mine' was trained on another body: ") as caught:
        Engine(body(weights="random"), precision).add(program, "mine")
    assert program.fingerprint in str(caught.value)
    assert other.fingerprint in str(caught.value)


def test_a_program_that_changed_the_body_is_refused(bare: Body) -> None:
    program = make(bare("bert"), train_roles=("attention", "feedforward", "output"))
    with pytest.raises(
        ConfigError, match="Program 'toy' trained attention, feedforward, so its body differs from every other"
    ):
        Engine(bare("bert")).add(program)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": torch.zeros(3, 16)}, r"tensor positions is of shape \(3, 16\), expected shape \(6, 16\)"),
        ({"input.layers.0.bias": None}, r"tensor input.layers.0.bias is missing, expected shape \(16,\)"),
        ({"output.layers.0.weight": torch.zeros(4, 16)}, r"expected shape \(16, 4\)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(bare: Body, change: dict[str, Tensor | None], message: str) -> None:
    program, engine = make(bare("bert")), Engine(bare("bert"))
    held = {name: tensor for name, tensor in {**program.tensors, **change}.items() if tensor is not None}
    with pytest.raises(DataError, match=rf"Program 'toy': .*{message}"):
        engine.add(replace(program, tensors=held))
    assert len(engine) == 0


def test_logits_that_are_not_finite_are_refused(bare: Body) -> None:
    """Weights of 1e38 are finite, but their sums are not; a label of them would have the probability nan."""
    program = make(bare("bert"), *MIXTURE[0][:1], seed=0)
    tensors = {name: torch.full_like(t, 3e38) if "output" in name else t for name, t in program.tensors.items()}
    engine = Engine(bare("bert")).add(replace(program, tensors=tensors), "large")
    row = draw(program.spec, torch.Generator().manual_seed(0))
    with pytest.raises(DataError, match=r"Program 'large' gives NaN or infinite logits for row 0\."):
        engine.predict([row], "large")
    engine.add(program, "right")
    large, right = engine.predict([row, row], ["large", "right"], check_finite=False)
    assert not large.isfinite().all()
    assert right.isfinite().all()


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler here")
# inductor leaves files to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_large_passes_with_compiled_kernels_equal_eager_ones(bare: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "COMPILED_FROM", 3 * IMAGES.length)
    programs = [make(bare("bert"), seed=seed) for seed in range(2)]
    eager, compiled = Engine(bare("bert")), Engine(bare("bert"))
    compiled.compile_kernels(programs[0])
    for program in programs:
        eager.add(program)
        compiled.add(program)
    generator = torch.Generator().manual_seed(0)
    rows = [draw(IMAGES, generator, full=True) for _ in range(5)]
    seen: list[bool] = []
    read_features = engines.read_features
    monkeypatch.setattr(
        engines, "read_features", lambda *given: seen.append(given[3].compiled) or read_features(*given)
    )
    for count, is_large in ((2, False), (5, True)):
        chosen = [number % 2 for number in range(count)]
        ours, theirs = compiled.predict(rows[:count], chosen), eager.predict(rows[:count], chosen)
        torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-4, atol=1e-5)
        assert seen == [is_large, False]
        seen.clear()


def test_kernels_need_a_compiler(bare: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "can_compile", lambda device: False)
    with pytest.raises(ConfigError, match=re.escape("cannot be compiled for cpu, which needs g++ or clang++")):
        Engine(bare("bert")).compile_kernels(make(bare("bert")))
