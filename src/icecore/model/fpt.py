"""FPT: input layer, positions, frozen body, read-out, output layer, all trainable parts with a run axis.

Rows are run-major (N = R * B) in training; serving mixes programs freely with `run_of_row`.
Source: Lu et al. 2021, Section 2; the run axis is ours.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icecore.backbones.backbone import Backbone
from icecore.backbones.modules import int8
from icecore.core.config import FPT_ROLES, INPUT, OUTPUT, SINGLE_ROLES
from icecore.core.device import to_device
from icecore.core.errors import ConfigError
from icecore.core.random_streams import INIT, random_stream
from icecore.tasks.task import Batch, TaskSpec


@dataclass(frozen=True)
class ModelSettings:
    """What of a model is trained and how its own layers are shaped."""

    train_roles: tuple[str, ...] = FPT_ROLES
    input_hidden: tuple[int, ...] = ()
    output_hidden: tuple[int, ...] = ()
    dropout: float = 0.0


class RunLinear(nn.Module):
    """A linear layer for each run: weight (R, in, out), bias (R, out)."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack(list(weights)))
        self.bias = nn.Parameter(torch.stack(list(biases)))

    def forward(self, x: Tensor, run_of_row: Tensor | None) -> Tensor:
        """x (N, k, in) -> (N, k, out)."""
        N, k, _ = x.shape
        R, _, width = self.weight.shape
        if run_of_row is not None:
            return torch.baddbmm(self.bias[run_of_row][:, None], x, self.weight[run_of_row])
        if R == 1:
            return F.linear(x, self.weight[0].t(), self.bias[0])
        return torch.baddbmm(self.bias[:, None], x.reshape(R, N // R * k, -1), self.weight).view(N, k, width)


class RunEmbedding(nn.Module):
    """A token embedding for each run: weight (R, V, D)."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack(list(weights)))

    def forward(self, tokens: Tensor, run_of_row: Tensor | None) -> Tensor:
        """tokens (N, T) -> (N, T, D)."""
        R, V, D = self.weight.shape
        N = tokens.shape[0]
        if run_of_row is None:
            run_of_row = torch.arange(R, device=tokens.device).repeat_interleave(N // R)
        return F.embedding(tokens + run_of_row[:, None] * V, self.weight.reshape(R * V, D))


class RunMLP(nn.Module):
    """Layers in turn with GELU between them; a single layer is the paper's linear one."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, run_of_row: Tensor | None) -> Tensor:
        """x (N, k, in), or (N, T) tokens where the first layer is an embedding, -> (N, k, out)."""
        for number, layer in enumerate(self.layers):
            x = layer(x if number == 0 else F.gelu(x), run_of_row)
        return x


def round_frozen_weights(backbone: Backbone, precision: str) -> None:
    """Give all weights of a body but its norms' the `precision` of their products, in place."""
    if precision == "int8":
        int8.convert(backbone, backbone.axis)
    norms = {f"{name}.{kind}" for name, norm in backbone.norms().items() for kind, _ in norm.named_parameters()}
    for name, parameter in backbone.named_parameters():
        if name not in norms:
            parameter.data = parameter.data.to(torch.bfloat16 if precision == "bf16" else torch.float32)


class FPT(nn.Module):
    """R programs on one frozen body.

    Parameters:
        spec: the task's sizes
        backbone: the body; taken over (its norms get the run axis, its frozen weights `precision`)
        seeds: one a run, deciding the initial input and output layers
        settings: what is trained and the shape of the own layers
        precision: of the frozen weights' products: "fp32", "bf16" (the residual stream too) or "int8";
            trained parameters stay fp32
    """

    def __init__(
        self,
        spec: TaskSpec,
        backbone: Backbone,
        seeds: Sequence[int],
        settings: ModelSettings | None = None,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.spec = spec
        self.settings = settings = settings or ModelSettings()
        self.precision = precision
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.body_roles = backbone.roles()
        trained = set(settings.train_roles)
        single = sorted(SINGLE_ROLES & trained)
        if single and len(seeds) > 1:
            raise ConfigError(
                f"training {', '.join(single)} changes the shared body: one run at a time, found {len(seeds)} runs"
            )
        self.body_trained = bool(single)
        self.body_fingerprint = backbone.fingerprint(trained)
        self.backbone = backbone.eval().requires_grad_(False)
        generators = [random_stream(seed, INIT) for seed in seeds]
        self.input = self._input_layers(generators)
        self.output = self._output_layers(generators)
        self.positions = nn.Parameter(self._initial_positions(generators)) if backbone.takes_positions else None
        norms = backbone.norms()
        self.norm_names = {f"body.{name}.{kind}" for name, norm in norms.items() for kind, _ in norm.named_parameters()}
        self._add_run_axis(len(seeds))
        self._set_trained(trained)
        if not self.trained():
            raise ConfigError(
                f"nothing is trained: {backbone.info.name} has no parameters of {', '.join(sorted(trained))}"
            )
        # counted now: rounded to 8 bits they are no parameters any more
        held = self.program() | {f"body.{n}": p for n, p in backbone.named_parameters()}
        self._sizes = {n: p.numel() // (len(seeds) if self.has_run_axis(n) else 1) for n, p in held.items()}
        self._set_precision(precision)
        backbone.axis.dropout = settings.dropout

    @property
    def runs(self) -> int:
        """R, the number of programs held."""
        layer = self.output.layers[0]
        assert isinstance(layer, RunLinear)
        return layer.weight.shape[0]

    def forward(self, batch: Batch, run_of_row: Tensor | None = None, row_keys: Tensor | None = None) -> Tensor:
        """Logits (N, n, C) in fp32: the output layer on what `read` gives."""
        return self.logits(self.features(batch, run_of_row, row_keys), run_of_row)

    def features(self, batch: Batch, run_of_row: Tensor | None = None, row_keys: Tensor | None = None) -> Tensor:
        """The body's features at the read-out: (N, n, D), (N, 1, D) for the mean, (N, 1, T D) without a body.

        run_of_row  (N,) program of each row; None: rows are run-major, N = R * B
        row_keys    (N,) int64 keys of the dropout draws; None: no dropout
        """
        self.backbone.axis.begin(run_of_row, row_keys)
        T = batch.tokens.shape[1]
        lengths = mask = None
        if batch.lengths is not None:
            lengths = to_device(batch.lengths, batch.tokens.device)
            mask = torch.arange(T, device=lengths.device) < lengths[:, None]
        x = self.input(batch.tokens, run_of_row)
        if self.positions is not None:
            x = self._add_positions(x, run_of_row)
        if not self.body_trained:
            x = x.to(self.dtype)
        mixed = self.body_trained and self.dtype != torch.float32
        with torch.autocast(x.device.type, self.dtype) if mixed else nullcontext():
            return self._read_out(x, mask, lengths)

    def logits(self, features: Tensor, run_of_row: Tensor | None = None) -> Tensor:
        """The output layer alone: what `read` gave, in any dtype, to logits (N, n, C) in fp32."""
        logits = self.output(features.float(), run_of_row)
        return logits.view(len(features), self.spec.read_positions, self.spec.outputs)

    def program(self) -> dict[str, nn.Parameter]:
        """Everything that makes a run: own layers, positions, norms and trained body weights, by name.

        Tensors lead with R but those of the body's own weights, which are trained with R = 1 only.
        """
        own = {f"input.{n}": p for n, p in self.input.named_parameters()}
        own |= {f"output.{n}": p for n, p in self.output.named_parameters()}
        if self.positions is not None:
            own["positions"] = self.positions
        body = {f"body.{n}": p for n, p in self.backbone.named_parameters()}
        return own | {n: p for n, p in body.items() if n in self.norm_names or p.requires_grad}

    def trained(self) -> dict[str, nn.Parameter]:
        """The part of `program` that has gradients."""
        return {name: p for name, p in self.program().items() if p.requires_grad}

    def role_of(self, name: str) -> str:
        """Role of the program tensor `name`."""
        part, _, rest = name.partition(".")
        return {"input": INPUT, "output": OUTPUT, "positions": "position"}.get(part) or self.body_roles[rest]

    def has_run_axis(self, name: str) -> bool:
        """Whether the program tensor `name` leads with R."""
        return not name.startswith("body.") or name in self.norm_names

    def counts(self) -> tuple[int, int]:
        """(trained, frozen) parameters of one run; dropped token embeddings count nowhere."""
        trained = sum(self._sizes[name] for name in self.trained())
        return trained, sum(self._sizes.values()) - trained

    @torch.no_grad()
    def programs(self) -> list[dict[str, Tensor]]:
        """Each run's tensors without run axis, as copies."""
        held = self.program()
        return [
            {n: (p[r] if self.has_run_axis(n) else p).detach().clone() for n, p in held.items()}
            for r in range(self.runs)
        ]

    @torch.no_grad()
    def set_programs(self, programs: Sequence[Mapping[str, Tensor]]) -> None:
        """Hold these runs instead, however many: the inverse of `programs`."""
        for name, parameter in self.program().items():
            if self.has_run_axis(name):
                rows = [program[name].to(parameter.device) for program in programs]
                parameter.data, parameter.grad = torch.stack(rows), None
            else:
                parameter.copy_(programs[0][name])

    def _input_layers(self, generators: Sequence[torch.Generator]) -> RunMLP:
        sizes = [self.spec.size, *self.settings.input_hidden, self.backbone.info.width]
        layers: list[nn.Module] = []
        for number, (P, D) in enumerate(itertools.pairwise(sizes)):
            weights = [nn.init.orthogonal_(torch.empty(P, D), gain=1.41, generator=g) for g in generators]
            if number == 0 and self.spec.kind == "discrete":
                layers.append(RunEmbedding(weights))
            else:
                layers.append(RunLinear(weights, [torch.zeros(D)] * len(weights)))
        return RunMLP(layers)

    def _output_layers(self, generators: Sequence[torch.Generator]) -> RunMLP:
        spec, body = self.spec, self.backbone.info
        # without a body no position knows of another: the probe reads all of them at once
        inputs = spec.length * body.width if body.identity else body.width
        outputs = spec.read_positions * spec.outputs if body.identity else spec.outputs
        sizes = [inputs, *self.settings.output_hidden, outputs]
        layers: list[nn.Module] = []
        for D, C in itertools.pairwise(sizes):
            bound = 1.0 / math.sqrt(D)  # torch.nn.Linear's default
            weights = [torch.empty(D, C).uniform_(-bound, bound, generator=g) for g in generators]
            layers.append(RunLinear(weights, [torch.empty(C).uniform_(-bound, bound, generator=g) for g in generators]))
        return RunMLP(layers)

    def _initial_positions(self, generators: Sequence[torch.Generator]) -> Tensor:
        """(R, T, D): the pretrained rows, repeated from the start where the table is shorter than T.

        Repeating is Longformer's rule (Beltagy et al. 2020, Section 5): it keeps local order. Families without
        absolute positions start at N(0, 0.02), as GPT-2's and BERT's do before pretraining. Not at zero: an input
        of zeros (an empty patch) would then stay zero through a body without biases, and each of its RMS norms
        multiplies the gradient there by 1 / sqrt(eps), which overflows after a dozen layers.
        """
        T, D = self.spec.length, self.backbone.info.width
        table = self.backbone.position_table
        if table is not None:
            rows = torch.arange(T) % len(table)
            return table[rows].float().expand(len(generators), T, D).clone()
        spread = 0.0 if self.backbone.info.identity else 0.02
        return torch.stack([torch.randn(T, D, generator=g) * spread for g in generators])

    def _add_run_axis(self, runs: int) -> None:
        for norm in self.backbone.norms().values():
            norm.weight = nn.Parameter(norm.weight.detach().expand(runs, -1).clone())
            if norm.bias is not None:
                norm.bias = nn.Parameter(norm.bias.detach().expand(runs, -1).clone())

    def _set_trained(self, trained: set[str]) -> None:
        self.input.requires_grad_(INPUT in trained)
        self.output.requires_grad_(OUTPUT in trained)
        if self.positions is not None:
            self.positions.requires_grad_("position" in trained)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(self.body_roles[name] in trained)

    def _set_precision(self, precision: str) -> None:
        if self.body_trained:
            if precision == "int8":
                raise ConfigError("int8 is for frozen weights: train these roles with --precision fp32 or bf16")
            return  # trained weights stay fp32; the products are autocast
        round_frozen_weights(self.backbone, precision)

    def _add_positions(self, x: Tensor, run_of_row: Tensor | None) -> Tensor:
        """x (N, T, D) + the first T positions of each row's run."""
        assert self.positions is not None
        N, T, D = x.shape
        R = self.positions.shape[0]
        rows = self.positions[:, :T]
        if run_of_row is not None:
            return x + rows[run_of_row]
        return (x.view(R, N // R, T, D) + rows[:, None]).view(N, T, D)

    def _read_out(self, x: Tensor, mask: Tensor | None, lengths: Tensor | None) -> Tensor:
        """The body's hidden states at the read-out, from its inputs x (N, T, D)."""
        N, T, _ = x.shape
        n = self.spec.read_positions
        if self.backbone.info.identity:
            hidden = x if mask is None else x * mask[..., None]
            return F.pad(hidden, (0, 0, 0, self.spec.length - T)).reshape(N, 1, -1)
        # padding is at the end, where no real position of a causal body looks
        seen = None if self.backbone.info.causal else mask
        if self.spec.read_out == "mean":
            weight = x.new_ones(N, T) if mask is None else mask.to(x.dtype)
            # counted in fp32: bf16 has no integers beyond 256
            return (weight[:, None] @ self.backbone(x, seen)) / weight.float().sum(1)[:, None, None]
        ends = torch.full((N,), T, device=x.device) if lengths is None else lengths
        return self.backbone.hidden_at(x, seen, (ends - n)[:, None] + torch.arange(n, device=x.device))
