"""The engine answers as the model does, whatever other threads do, and leaves the body as it was."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import pytest
import torch
from test_engine import BITS, IMAGES, WORDS, draw, hold, make, same
from torch import Tensor, nn

from icecore.backbones import Backbone, BodyRequest, build_backbone
from icecore.backbones.modules import body_pass
from icecore.backbones.modules.body_pass import PLAIN_PASS, running_pass
from icecore.inference.engine import Engine
from icecore.model.loading import load_programs
from icecore.model.program import Program
from icecore.tasks.task import Batch, TaskSpec

Build = Callable[[str], Backbone]
LONG_MEANS = TaskSpec("discrete", length=30, size=5, outputs=3, read_out="mean")
SOFT_MEANS = TaskSpec("continuous", length=6, size=3, outputs=4, read_out="mean")


@pytest.fixture
def build(body: Callable[..., Backbone]) -> Build:
    """Builds a fresh body of width 16: `build("gpt2")`, `build("lstm")`."""

    def builder(family: str) -> Backbone:
        if family in ("bert", "gpt2"):
            return body(family)
        layers = None if family == "none" else 2
        return build_backbone(BodyRequest(family, "random", layers, options={"width": "16"}))

    return builder


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def run_together(jobs: Sequence[Callable[[], None]]) -> None:
    """Run each job in a thread of its own and raise what any of them raised."""
    errors: list[BaseException] = []

    def guarded(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize("engines", [1, 2])
@pytest.mark.parametrize("family", ["bert", "gpt2", "lstm", "none"])
def test_threads_on_one_body_get_the_answers_that_they_get_alone(build: Build, family: str, engines: int) -> None:
    programs = [make(build(family), spec, seed) for seed, spec in enumerate([IMAGES, IMAGES, WORDS, BITS])]
    shared = build(family)
    serving = [hold(programs, shared) for _ in range(engines)]
    generator = torch.Generator().manual_seed(3)
    # one thread asks for one program, the other one for a mixture: the first has no program for each row
    choices = [[0] * 5, [1, 2, 3, 1, 2, 3, 2]]
    rows = [[draw(programs[choice].spec, generator) for choice in chosen] for chosen in choices]
    alone = [serving[0].predict(r, c) for r, c in zip(rows, choices, strict=True)]
    in_the_middle = threading.Barrier(2)

    def meet(module: nn.Module, inputs: object) -> None:
        in_the_middle.wait(30)

    # both threads are in the middle of the body before either goes on
    norms = list(shared.norms().values())
    handles = [norm.register_forward_pre_hook(meet) for norm in norms]

    def predict_often(number: int) -> None:
        for _ in range(25):
            answers = serving[number % engines].predict(rows[number], choices[number])
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(answers, alone[number], strict=True))

    run_together([lambda: predict_often(0), lambda: predict_often(1)])
    for handle in handles:
        handle.remove()
    run_together([lambda: predict_often(0), lambda: predict_often(1), lambda: predict_often(1)])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_neither_serving_nor_a_pass_that_breaks_off_changes_the_body(
    build: Build, family: str, error: type[BaseException], precision: str
) -> None:
    programs = [make(build(family), spec, seed) for seed, spec in enumerate([IMAGES, IMAGES, WORDS])]
    body = build(family)
    engine = hold(programs, body, precision)
    before = {name: tensor.clone() for name, tensor in body.tensors().items()}
    parameters = dict(body.named_parameters())
    generator = torch.Generator().manual_seed(0)
    which = [0, 2, 1, 0, 2]
    rows = [draw(programs[index].spec, generator) for index in which]
    expected = engine.predict(rows, which)

    def break_off(module: nn.Module, inputs: object) -> None:
        raise error

    for norm in list(body.norms().values()):
        handle = norm.register_forward_pre_hook(break_off)
        with pytest.raises(error):
            engine.predict(rows, which)
        handle.remove()
        assert running_pass().value is PLAIN_PASS
        tensors = body.tensors()
        assert tensors.keys() == before.keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in before.items())
        assert all(parameter is parameters[name] for name, parameter in body.named_parameters())
        answers = engine.predict(rows, which)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(answers, expected, strict=True))


class InterruptAtLine:
    """Raises KeyboardInterrupt before a line of icecore's own code: the one with this number, in the order they run."""

    def __init__(self, number: int) -> None:
        self.number, self.count = number, 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> "InterruptAtLine":
        if event == "line" and "icecore" in frame.f_code.co_filename:
            self.count += 1
            if self.count == self.number:
                raise KeyboardInterrupt
        return self


@pytest.mark.parametrize("family", ["bert", "gpt2", "lstm"])
def test_an_interrupt_at_any_line_of_a_pass_leaves_body_and_answers_as_they_were(build: Build, family: str) -> None:
    programs = [make(build(family), spec, seed) for seed, spec in enumerate([IMAGES, IMAGES, WORDS])]
    body = build(family)
    engine = hold(programs, body)
    before = {name: tensor.clone() for name, tensor in body.tensors().items()}
    parameters, state = dict(body.named_parameters()), str(body)
    generator, which = torch.Generator().manual_seed(0), [0, 2, 1]
    rows = [draw(programs[index].spec, generator) for index in which]
    expected = engine.predict(rows, which)
    tracing, whole = sys.gettrace(), InterruptAtLine(-1)
    sys.settrace(whole)
    engine.predict(rows, which)
    sys.settrace(tracing)
    # a prime stride, so that other lines are met in other loops
    for number in range(1, whole.count + 1, 13 if whole.count < 1500 else 53):
        sys.settrace(InterruptAtLine(number))
        with pytest.raises(KeyboardInterrupt):
            engine.predict(rows, which)
        sys.settrace(tracing)
        # an interrupt on the line that ends a pass leaves it bound, until the next pass of the thread binds its own
        body_pass._RUNNING.set(None)
        answers = engine.predict(rows, which)
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(answers, expected, strict=True)), number
    tensors = body.tensors()
    assert tensors.keys() == before.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in before.items())
    assert all(parameter is parameters[name] for name, parameter in body.named_parameters())
    assert str(body) == state


def test_threads_that_round_one_body_get_the_same_engine(build: Build) -> None:
    program, shared, engines = make(build("bert"), IMAGES, 0), build("bert"), list[Engine]()
    start = threading.Barrier(4)

    def serve() -> None:
        start.wait(30)
        engines.append(hold([program], shared, "bf16"))

    run_together([serve] * 4)
    row = draw(program.spec, torch.Generator().manual_seed(0))
    answers = [engine.predict([row], 0)[0] for engine in engines]
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def logits_of_model(program: Program, body: Backbone, batch: Batch, precision: str = "fp32") -> Tensor:
    return load_programs([program], body, precision)(batch)


def ragged_batch(spec: TaskSpec, count: int = 7) -> Batch:
    """Rows of all lengths that the task allows, padded with what no read-out may see."""
    shape = (count, spec.length) if spec.kind == "discrete" else (count, spec.length, spec.size)
    tokens = torch.randint(spec.size, shape) if spec.kind == "discrete" else torch.randn(shape)
    lengths = torch.linspace(spec.read_positions, spec.length, count).long().flip(0)
    return Batch(tokens, torch.zeros(count), lengths)


@pytest.mark.parametrize("spec", [IMAGES, BITS, WORDS, LONG_MEANS, SOFT_MEANS], ids=lambda spec: spec.read_out)
@pytest.mark.parametrize("family", ["none", "lstm", "lstm-star", "bert", "gpt2"])
def test_the_engine_and_the_model_give_the_same_logits(build: Build, family: str, spec: TaskSpec) -> None:
    program, body, batch = make(build(family), spec, 1), build(family), ragged_batch(spec)
    full = Batch(batch.tokens, batch.targets)
    engine = Engine(body).add(program)
    for rows in (batch, full):
        expected = logits_of_model(program, body, rows)
        same(engine.predict(rows, 0), list(expected))
        assert expected.shape == (len(batch), spec.read_positions, spec.outputs)
    assert not torch.allclose(logits_of_model(program, body, batch)[-1], logits_of_model(program, body, full)[-1])


@pytest.mark.parametrize("family", ["gpt2", "lstm"])
def test_the_mean_is_summed_in_fp32_in_the_engine_and_the_model(build: Build, family: str) -> None:
    program, body, batch = make(build(family), LONG_MEANS, 1), build(family), ragged_batch(LONG_MEANS)
    assert batch.lengths is not None
    lengths = batch.lengths.tolist()
    engine = Engine(body, "bf16").add(program)
    hidden: list[Tensor] = []
    body.register_forward_hook(lambda module, inputs, output: hidden.append(torch.as_tensor(output)))
    rows = [tokens[:length] for tokens, length in zip(batch.tokens, lengths, strict=True)]
    answers = [*logits_of_model(program, body, batch, "bf16"), *(engine.predict([row], 0)[0] for row in rows)]
    assert {states.dtype for states in hidden} == {torch.bfloat16}
    states_of_rows = [row for states in hidden for row in states]
    weight, bias = program.tensors["output.layers.0.weight"].double(), program.tensors["output.layers.0.bias"].double()
    for logits, states, length in zip(answers, states_of_rows, lengths * 2, strict=True):
        mean = states[:length].double().mean(0)
        torch.testing.assert_close(logits[0].double(), mean @ weight + bias, rtol=1e-5, atol=1e-5)
        # the mean of several positions would be far from that if it were rounded to bf16
        rounded = mean.bfloat16().double() @ weight + bias
        assert length == 1 or (logits[0].double() - rounded).abs().max() > 1e-4
