"""Adam over a pack of runs: one flat buffer (R, K), so clipping, learning rates and state are per run.

A step gathers the gradients once, does a few operations on the whole pack however many tensors there are, and copies
the result back. The formula is torch.optim.Adam's, run by run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: numbers of all runs that a CPU updates at a time, so that the six buffers of an update stay in its cache
CACHED = 2**16


@dataclass(frozen=True)
class Slot:
    """The place of one parameter in a run's K numbers, and its shape without the run axis."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]


class PackedAdam:
    """Adam (Kingma and Ba 2015) with the run axis.

    Parameters:
        parameters: trained parameters by name, leading with R where `has_run_axis` says so (else R = 1)
        runs: R
        clip: largest gradient norm of a run
        factors: learning rate of a parameter, by name, relative to its run's (1 where not named)
        scales: unit in which a parameter is trained, by name (1 where not named): a parameter of scale s is s times
            a number that Adam moves. So its steps, and its share in the norm of the gradient, are relative to s
        averaging: length of the average over past values, as a share of the steps so far; None for no average

    Attributes: values, first, second: (R, K) fp32, parameters and moments; average (R, K), or None; alive (R,) bool,
    False once a run's loss, gradient or update was not finite; such a run keeps its last finite values.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        runs: int,
        clip: float,
        has_run_axis: Callable[[str], bool],
        factors: Mapping[str, float] | None = None,
        scales: Mapping[str, float] | None = None,
        averaging: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters = dict(parameters)
        self.clip, self.betas, self.eps = clip, betas, eps
        self.slots: list[Slot] = []
        self._run_axis = {name: has_run_axis(name) for name in parameters}
        stop = 0
        for name, parameter in self.parameters.items():
            shape = tuple(parameter.shape[1:] if self._run_axis[name] else parameter.shape)
            start, stop = stop, stop + parameter.numel() // (runs if self._run_axis[name] else 1)
            self.slots.append(Slot(name, start, stop, shape))
        device = next(iter(self.parameters.values())).device
        self.values = self.current(runs)
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.averaging = averaging
        self.average = None if averaging is None else self.values.clone()
        self.scales = None if not scales else self._by_name(scales)
        self.factors = self._by_name(factors or {}) * (1.0 if self.scales is None else self.scales)
        self.alive = torch.ones(runs, dtype=torch.bool, device=device)
        self.on_cpu = device.type == "cpu"
        #: the values of the previous step, whose memory is used for the next ones
        self._spare = self.values.new_empty(0)

    @property
    def runs(self) -> int:
        """R, the number of runs still in the pack."""
        return self.values.shape[0]

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def gradients(self) -> Tensor:
        """The current gradients (R, K), as one new tensor."""
        return torch.cat([self._grad(slot) for slot in self.slots], 1)

    @torch.no_grad()
    def step(self, step: int, lr: Tensor, grads: Tensor) -> None:
        """One update along `grads` (R, K), which are overwritten.

        `step` counts from 0, `lr` is (R,). Runs with a number that is not finite stay as they are.
        """
        if self.scales is not None:
            grads.mul_(self.scales)
        norm = torch.linalg.vector_norm(grads, dim=1)
        self.alive &= norm.isfinite()
        scale = (self.clip / (norm + 1e-6)).clamp(max=1.0).nan_to_num_(0.0)
        b1, b2 = self.betas
        rate = (lr / (1 - b1 ** (step + 1)))[:, None]
        moved = self._spare if self._spare.shape == self.values.shape else torch.empty_like(self.values)
        for part in self._parts():
            grad = grads[:, part].nan_to_num_(0.0, 0.0, 0.0).mul_(scale[:, None])
            first = self.first[:, part].lerp_(grad, 1 - b1)
            second = self.second[:, part].mul_(b2).addcmul_(grad, grad, value=1 - b2)
            denominator = second.sqrt().div_((1 - b2 ** (step + 1)) ** 0.5).add_(self.eps)
            change = first.div(denominator).mul_(rate * self.factors[part])
            new = torch.sub(self.values[:, part], change, out=moved[:, part])
            # a norm takes a fifteenth of the time of isfinite().all(1)
            self.alive &= torch.linalg.vector_norm(new, dim=1).isfinite()
        if self.on_cpu and bool(self.alive.all()):  # on a GPU this would wait
            self.values, self._spare = moved, self.values
        else:
            self.values = torch.where(self.alive[:, None], moved, self.values)
        self.update_average(step)
        self.write()

    def update_average(self, step: int) -> None:
        """Count the values after `step`, from 0, in the average, if there is one."""
        if self.average is not None and self.averaging is not None:
            self.average.lerp_(self.values, min(1.0, 1 / (self.averaging * (step + 1))))

    def keep(self, runs: Sequence[int]) -> None:
        """Keep only the given runs; the model must do the same (`FPT.set_programs`)."""
        index = torch.tensor(list(runs), device=self.values.device)
        for name in self.state_names:
            setattr(self, name, getattr(self, name)[index])

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the attributes, each with R rows, that continue a training."""
        return ("values", "first", "second", "alive", *(() if self.average is None else ("average",)))

    @property
    def evaluated_values(self) -> Tensor:
        """The numbers (R, K) to score and to keep: the average over past values, or the values."""
        return self.values if self.average is None else self.average

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The parameters are the average over past values inside this context, if there is one, and may be changed."""
        if self.average is not None:
            self.write(self.average)
        try:
            yield
        finally:
            self.write()

    @torch.no_grad()
    def write(self, values: Tensor | None = None) -> None:
        """Copy the numbers of all runs, or other `values` (R, K), into the parameters."""
        values = self.values if values is None else values
        for slot in self.slots:
            parameter = self.parameters[slot.name]
            parameter.copy_(values[:, slot.start : slot.stop].reshape(parameter.shape))

    @torch.no_grad()
    def current(self, runs: int) -> Tensor:
        """The parameters of R `runs` as they are now: (R, K), as a new tensor."""
        return torch.cat([self.parameters[slot.name].detach().reshape(runs, -1) for slot in self.slots], 1)

    @torch.no_grad()
    def read(self) -> None:
        """Start from the parameters as they are now, before the first step."""
        self.values = self.current(self.runs)
        if self.average is not None:
            self.average.copy_(self.values)

    def _by_name(self, numbers: Mapping[str, float]) -> Tensor:
        """One number for each of the K, given by parameter name; 1 where not named."""
        flat = torch.ones(self.values.shape[1], device=self.values.device)
        for slot in self.slots:
            flat[slot.start : slot.stop] = numbers.get(slot.name, 1.0)
        return flat

    def tensors(self, values: Tensor) -> dict[str, Tensor]:
        """One run's numbers (K,) as named tensors without run axis."""
        return {slot.name: values[slot.start : slot.stop].view(slot.shape) for slot in self.slots}

    def _parts(self) -> Iterator[slice]:
        """The K numbers of all runs in parts that fit into a CPU's cache together with a step's temporaries."""
        K = self.values.shape[1]
        width = max(1, CACHED // self.runs) if self.on_cpu else K
        return (slice(start, start + width) for start in range(0, K, width))

    def _grad(self, slot: Slot) -> Tensor:
        grad = self.parameters[slot.name].grad
        return self.values.new_zeros(self.runs, slot.stop - slot.start) if grad is None else grad.reshape(self.runs, -1)
