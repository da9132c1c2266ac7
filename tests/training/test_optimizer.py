"""PackedAdam is torch.optim.Adam with clipping, run by run; a run that breaks harms no other."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from icecore.training import optimizer as optim
from icecore.training.optimizer import PackedAdam

R = 3
LR = torch.tensor([1e-2, 1e-3, 0.3])
SHAPES = {"a": (2, 5), "b": (4,), "c": ()}


@pytest.fixture(autouse=True, params=[optim.CACHED, 4 * R, 1], ids=["whole", "parts", "columns"])
def cached(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the update is cut into parts."""
    monkeypatch.setattr(optim, "CACHED", request.param)


def packed(clip: float = 1.0, **options: Any) -> tuple[dict[str, nn.Parameter], PackedAdam]:
    generator = torch.Generator().manual_seed(0)
    parameters = {n: nn.Parameter(torch.randn(R, *s, generator=generator)) for n, s in SHAPES.items()}
    return parameters, PackedAdam(parameters, R, clip, lambda name: True, **options)


def gradients(step: int) -> dict[str, Tensor]:
    """Some below the clipping norm, some far above, one run's tensor without any."""
    generator = torch.Generator().manual_seed(100 + step)
    scale = torch.tensor([1e-3, 1.0, 50.0])
    return {
        n: torch.randn(R, *s, generator=generator) * scale.view(R, *[1] * len(s)) for n, s in SHAPES.items() if n != "c"
    }


def apply(parameters: dict[str, nn.Parameter], adam: PackedAdam, step: int, lr: Tensor = LR) -> None:
    adam.zero_grad()
    for name, grad in gradients(step).items():
        parameters[name].grad = grad
    adam.step(step, lr, adam.gradients())


@pytest.mark.parametrize("clip", [1.0, 1e-4, math.inf])
def test_equals_torch_adam_with_clipping_for_each_run(clip: float) -> None:
    parameters, adam = packed(clip)
    alone = [{n: nn.Parameter(p[r].detach().clone()) for n, p in parameters.items()} for r in range(R)]
    oracles = [torch.optim.Adam(own.values(), lr=float(LR[r])) for r, own in enumerate(alone)]
    for step in range(6):
        apply(parameters, adam, step)
        for r, (own, oracle) in enumerate(zip(alone, oracles, strict=True)):
            for name, parameter in own.items():
                grad = gradients(step).get(name)
                parameter.grad = torch.zeros_like(parameter) if grad is None else grad[r].clone()
            nn.utils.clip_grad_norm_(own.values(), clip)
            oracle.step()
    for r, own in enumerate(alone):
        for name, parameter in own.items():
            torch.testing.assert_close(parameters[name][r], parameter)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_run_with_a_non_finite_gradient_keeps_its_values_and_the_others_go_on(bad: float) -> None:
    parameters, adam = packed()
    others, twin = packed()
    apply(parameters, adam, 0)
    apply(others, twin, 0)
    before = {name: p[1].detach().clone() for name, p in parameters.items()}
    for step in (1, 2):
        adam.zero_grad()
        for name, grad in gradients(step).items():
            if step == 1 and name == "a":
                grad[1, 0, 0] = bad
            parameters[name].grad = grad
        adam.step(step, LR, adam.gradients())
        apply(others, twin, step)
    assert adam.alive.tolist() == [True, False, True]
    for name, parameter in parameters.items():
        assert torch.equal(parameter[1], before[name])
        assert torch.equal(parameter[[0, 2]], others[name][[0, 2]])


def test_an_update_beyond_fp32_is_not_made() -> None:
    parameters, adam = packed()
    before = parameters["a"][1].detach().clone()
    apply(parameters, adam, 0, torch.tensor([1e-3, math.inf, 1e-3]))
    assert adam.alive.tolist() == [True, False, True]
    assert torch.equal(parameters["a"][1], before)
    assert adam.values.isfinite().all()


def test_keep_drops_runs_with_all_their_state() -> None:
    parameters, adam = packed()
    apply(parameters, adam, 0)
    before = [adam.values.clone(), adam.first.clone(), adam.second.clone()]
    adam.keep([2, 0])
    for name in parameters:
        parameters[name].data = parameters[name].data[[2, 0]]
    assert adam.runs == 2
    for kept, whole in zip((adam.values, adam.first, adam.second), before, strict=True):
        assert torch.equal(kept, whole[[2, 0]])
    adam.write()
    assert torch.equal(parameters["b"], before[0][[2, 0]][:, 10:14])


def test_tensors_are_named_views_of_one_run() -> None:
    parameters, adam = packed()
    for name, tensor in adam.tensors(adam.values[1]).items():
        assert torch.equal(tensor, parameters[name][1])


def test_parameters_without_run_axis_belong_to_the_single_run() -> None:
    parameters = {"own": nn.Parameter(torch.ones(1, 3)), "body": nn.Parameter(torch.ones(2, 2))}
    adam = PackedAdam(parameters, 1, 1.0, lambda name: name == "own")
    (parameters["own"].sum() + 2 * parameters["body"].sum()).backward()
    adam.step(0, torch.tensor([0.1]), adam.gradients())
    assert adam.values.shape == (1, 7)
    # Adam's first step is the learning rate against the sign of the gradient
    torch.testing.assert_close(parameters["body"].detach(), torch.full((2, 2), 0.9))


def test_a_scaled_parameter_is_trained_as_its_scale_times_a_number() -> None:
    """An independent oracle: Adam on the number, which sees the gradient times the scale, also in clipping."""
    scales, factors = {"a": 0.01, "b": 30.0}, {"b": 0.5}
    parameters, adam = packed(scales=scales, factors=factors)
    units = {n: nn.Parameter(p.detach() / scales.get(n, 1.0)) for n, p in parameters.items()}
    plain = PackedAdam(units, R, 1.0, lambda name: True, factors)
    for step in range(5):
        apply(parameters, adam, step)
        for name, grad in gradients(step).items():
            units[name].grad = grad * scales.get(name, 1.0)
        plain.step(step, LR, plain.gradients())
    for name, unit in units.items():
        torch.testing.assert_close(parameters[name], unit * scales.get(name, 1.0), rtol=1e-4, atol=1e-6)


def test_the_average_follows_the_values_over_a_share_of_the_steps() -> None:
    parameters, adam = packed(averaging=0.5)
    expected = adam.values.clone()
    for step in range(6):
        apply(parameters, adam, step)
        expected += (adam.values - expected) * min(1.0, 2 / (step + 1))
    torch.testing.assert_close(adam.evaluated_values, expected)
    values = parameters["a"].detach().clone()
    with adam.averaged():
        assert torch.equal(parameters["a"].reshape(R, -1), adam.evaluated_values[:, :10])
    assert torch.equal(parameters["a"], values)


def test_without_averaging_the_values_are_scored() -> None:
    parameters, adam = packed()
    apply(parameters, adam, 0)
    with adam.averaged():
        assert torch.equal(parameters["a"].reshape(R, -1), adam.values[:, :10])
    assert adam.evaluated_values is adam.values
