"""FPT: R programs on one frozen body, trained together.

Rows are run-major (N = R * B) in training; serving mixes programs freely with `run_of_row`.
Source: Lu et al. 2021, Section 2; the run axis is ours.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from icecore.backbones.backbone import Backbone
from icecore.backbones.modules.body_pass import BodyPass, NormParameters
from icecore.backbones.modules.dropout_draws import CounterCache, DropoutDraws
from icecore.core.config import BOS, INPUT, OUTPUT, SINGLE_ROLES
from icecore.core.device import activation_dtype, to_device
from icecore.core.errors import ConfigError
from icecore.core.random_streams import INIT, random_stream
from icecore.model.forward import ProgramStack, Segment, read_features, without_prefix
from icecore.model.layers import RunEmbedding, RunLinear, RunMLP, RunNormGains
from icecore.model.model_settings import ModelSettings
from icecore.tasks.task import Batch, TaskSpec


class FPT(nn.Module):
    """R programs on one frozen body.

    Parameters:
        spec: the task's sizes
        backbone: the body, whose frozen weights are rounded to `precision`; models may share it unless they train
            its attention, feed-forward or embedding weights
        seeds: one for each run, which decides its initial input and output layers
        settings: what is trained and the shape of the own layers
        precision: of the frozen weights' products: "fp32", "bf16" or "int8" (the residual
            stream is bf16 too, with int8 only on CPUs that have fast bf16); trained parameters stay fp32

    Attributes:
        compiled: whether elementwise work runs as compiled kernels
        input_rms: what the norm after the input layer scales tokens to, None without one

    Raises ConfigError if nothing would be trained, or if the settings do not fit each other.
    """

    def __init__(
        self,
        spec: TaskSpec,
        backbone: Backbone,
        seeds: Sequence[int] = (0,),
        settings: ModelSettings | None = None,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        self.spec = spec
        self.settings = settings = settings or ModelSettings()
        self.input_rms = backbone.embedding_spread if settings.input_norm else None
        _check_read_out(spec, backbone)
        _check_prefix(settings, backbone)
        self.precision = precision
        self.dtype = activation_dtype(precision)
        self.compiled = False
        self._counters = CounterCache()
        trained = set(settings.train_roles)
        self.body_trained = _check_trained_body(trained, len(seeds), precision)
        self.body_roles = backbone.roles()
        self.body_fingerprint = backbone.fingerprint(trained)
        self.backbone = backbone.eval().requires_grad_(False)
        generators = [random_stream(seed, INIT) for seed in seeds]
        self.input = self._input_layers(generators)
        self.output = self._output_layers(generators)
        self.positions = nn.Parameter(self._initial_positions(generators)) if backbone.takes_positions else None
        self.prefix = nn.Parameter(self._initial_prefix(generators)) if settings.prefix else None
        body_norms = backbone.norms()
        self.norms = nn.ModuleList(RunNormGains(norm.weight, norm.bias, len(seeds)) for norm in body_norms.values())
        self._norm_names = frozenset(self._norm_tensors())
        self._set_trained(trained)
        if not self.trained():
            raise ConfigError(
                f"Nothing would be trained: {backbone.info.name} has no parameters of {', '.join(sorted(trained))}."
            )
        sizes = {f"body.{name}": size for name, size in backbone.sizes().items()}
        own_sizes = {name: p.numel() // len(seeds) for name, p in self.program().items() if self.has_run_axis(name)}
        self._sizes = sizes | own_sizes
        if not self.body_trained:  # trained weights stay fp32, and their products are autocast
            backbone.round_weights(precision)

    @property
    def runs(self) -> int:
        """R, the number of programs held."""
        return self.output.weights()[0].weight.shape[0]

    def forward(self, batch: Batch, run_of_row: Tensor | None = None, row_keys: Tensor | None = None) -> Tensor:
        """Logits (N, n, C) in fp32: the output layer on what `features` returns."""
        return self.logits(self.features(batch, run_of_row, row_keys), run_of_row)

    def features(
        self,
        batch: Batch,
        run_of_row: Tensor | None = None,
        row_keys: Tensor | None = None,
        record: Callable[[Tensor], object] | None = None,
    ) -> Tensor:
        """The body's features at the read-out: (N, n, k D) of k hidden states, (N, 1, T D) without a body.

        run_of_row  (N,) program of each row, or None if rows are run-major (N = R * B)
        row_keys    (N,) int64 keys of the dropout draws, or None for no dropout
        record      is called with the attention weights (N, H, T, T) among tokens of each layer in turn
        """
        if record is not None and self.settings.prefix_length:
            record = without_prefix(record, self.settings.prefix_length)
        lengths = None if batch.lengths is None else to_device(batch.lengths, batch.tokens.device)
        segment = Segment(self._stack(), batch.tokens, run_of_row)
        with self._autocast(batch.tokens.device):
            body_pass = self._body_pass(run_of_row, row_keys, record)
            return read_features(self.backbone, [segment], lengths, body_pass, self._input_dtype)[0]

    def hidden_states(self, batch: Batch, record: Callable[[Tensor], object] | None = None) -> Tensor:
        """The body's last hidden states (N, K + T, D) at all positions, for run-major rows (N = R * B).

        record  is called with the attention weights (N, H, K + T, K + T) of each layer in turn

        Padding holds whatever the body leaves there.
        """
        mask = None
        if batch.lengths is not None and not self.backbone.info.causal:
            K = self.settings.prefix_length
            lengths = K + to_device(batch.lengths, batch.tokens.device)
            mask = torch.arange(K + batch.tokens.shape[1], device=lengths.device) < lengths[:, None]
        with self._autocast(batch.tokens.device):
            x = self._stack().embed(batch.tokens, None).to(self._input_dtype)
            return self.backbone(x, mask, body_pass=self._body_pass(None, None, record))

    @property
    def _input_dtype(self) -> torch.dtype:
        """Type of the body's inputs."""
        return torch.float32 if self.body_trained else self.dtype

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """In which products of trained weights, which stay fp32, are rounded to the model's precision."""
        rounds = self.body_trained and self.dtype != torch.float32
        return torch.autocast(device.type, self.dtype) if rounds else nullcontext()

    def logits(self, features: Tensor, run_of_row: Tensor | None = None) -> Tensor:
        """The output layer alone: from `features` of any dtype to logits (N, n, C) in fp32."""
        return self._stack().logits(features, run_of_row)

    def _body_pass(
        self, run_of_row: Tensor | None, row_keys: Tensor | None, record: Callable[[Tensor], object] | None
    ) -> BodyPass:
        """What a pass through the body needs besides its inputs. Arguments as for `features`."""
        norms: dict[nn.Module, NormParameters] = {
            norm: NormParameters(gains.weight, gains.bias)  # type: ignore[arg-type]
            for norm, gains in zip(self.backbone.norms().values(), self.norms, strict=True)
        }
        dropout = None if row_keys is None else DropoutDraws(self.settings.dropout, row_keys, self._counters)
        return BodyPass(norms, run_of_row, dropout, self.compiled, record)

    def _stack(self) -> ProgramStack:
        layers = self.input.weights(), self.output.weights()
        return ProgramStack(self.spec, *layers, self.positions, self.prefix, self.input_rms)

    def _norm_tensors(self) -> dict[str, nn.Parameter]:
        """The gains and biases (R, D) of all norms, by their name in a program."""
        return {
            f"body.{name}.{kind}": parameter
            for name, gains in zip(self.backbone.norms(), self.norms, strict=True)
            for kind, parameter in gains.named_parameters()
        }

    def program(self) -> dict[str, nn.Parameter]:
        """Everything that makes up a run: own layers, positions, norms and trained body weights, by name.

        Tensors lead with R, except the body's own weights, which are trained with R = 1 only.
        """
        tensors = {f"input.{n}": p for n, p in self.input.named_parameters()}
        tensors |= {f"output.{n}": p for n, p in self.output.named_parameters()}
        if self.positions is not None:
            tensors["positions"] = self.positions
        if self.prefix is not None:
            tensors["prefix"] = self.prefix
        norms = self._norm_tensors()
        for name, parameter in self.backbone.named_parameters():
            if f"body.{name}" in norms:
                tensors[f"body.{name}"] = norms[f"body.{name}"]
            elif parameter.requires_grad:
                tensors[f"body.{name}"] = parameter
        return tensors

    def trained(self) -> dict[str, nn.Parameter]:
        """The part of `program` that has gradients."""
        return {name: p for name, p in self.program().items() if p.requires_grad}

    def scales(self) -> dict[str, float]:
        """The size of the numbers of each trained tensor of the body: their root mean square in the body.

        That of a bias is its norm's or its matrix's, since biases start near zero, also where they do not stay there.
        Input and output layers and positions have scale 1 and are not listed. Positions are added to what the input
        layer gives, so that is what they must compare with, not the body's table (0.025 in MiniLM).
        """
        starts = dict(self.backbone.named_parameters())
        scales: dict[str, float] = {}
        for name in self.trained():
            part, _, rest = name.partition(".")
            if part == "body":
                scales[name] = _size(starts.get(rest.removesuffix("bias") + "weight", starts[rest]))
        return scales

    def role_of(self, name: str) -> str:
        """Role of the program tensor `name`."""
        part, _, rest = name.partition(".")
        own = {"input": INPUT, "output": OUTPUT, "positions": "position", "prefix": "position"}
        return own.get(part) or self.body_roles[rest]

    def has_run_axis(self, name: str) -> bool:
        """Whether the program tensor `name` leads with R."""
        return not name.startswith("body.") or name in self._norm_names

    def counts(self) -> tuple[int, int]:
        """(trained, frozen) parameters of one run; dropped token embeddings count nowhere."""
        trained = sum(self._sizes[name] for name in self.trained())
        return trained, sum(self._sizes.values()) - trained

    @torch.no_grad()
    def programs(self) -> list[dict[str, Tensor]]:
        """Each run's tensors without run axis, as copies."""
        tensors = self.program()
        return [
            {n: (p[r] if self.has_run_axis(n) else p).detach().clone() for n, p in tensors.items()}
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
        layers: list[RunLinear | RunEmbedding] = []
        for number, (P, D) in enumerate(itertools.pairwise(sizes)):
            weights = [nn.init.orthogonal_(torch.empty(P, D), gain=1.41, generator=g) for g in generators]
            if number == 0:
                weights = [weight * self._input_factor(weight) for weight in weights]
            if number == 0 and self.spec.kind == "discrete":
                layers.append(RunEmbedding(weights))
            else:
                layers.append(RunLinear(weights, [torch.zeros(D)] * len(weights)))
        return RunMLP(layers)

    def _input_factor(self, weight: Tensor) -> float:
        """The factor on the first weight (P, D) of an input layer, as the settings say."""
        factor = 1.0 if self.settings.input_scale is None else self.settings.input_scale
        if self.settings.input_start is None:
            return factor
        # a token with a mean square of 1 has P of them, a discrete one has a row for itself
        squares = weight.square().sum() / (len(weight) if self.spec.kind == "discrete" else 1)
        size = float((squares / weight.shape[1]).sqrt())
        return factor * self.settings.input_start * self.backbone.embedding_spread / size

    def _output_layers(self, generators: Sequence[torch.Generator]) -> RunMLP:
        spec = self.spec
        inputs, outputs = self.backbone.output_sizes(spec.length, spec.read_positions, spec.outputs, spec.hidden_states)
        sizes = [inputs, *self.settings.output_hidden, outputs]
        layers: list[RunLinear | RunEmbedding] = []
        for D, C in itertools.pairwise(sizes):
            bound = 1.0 / math.sqrt(D)  # torch.nn.Linear's default
            weights = [torch.empty(D, C).uniform_(-bound, bound, generator=g) for g in generators]
            layers.append(RunLinear(weights, [torch.empty(C).uniform_(-bound, bound, generator=g) for g in generators]))
        return RunMLP(layers)

    def _initial_positions(self, generators: Sequence[torch.Generator]) -> Tensor:
        """(R, K + T, D): the pretrained rows, repeated from the start where the table is shorter.

        Repeating is Longformer's rule (Beltagy et al. 2020, Section 5): it keeps local order. Families without
        absolute positions start at N(0, s). s is `position_start` times the spread of the body's token embeddings, so
        that tokens differ by as much as the body is used to; without the setting it is 0.02, as GPT-2's and BERT's are
        before pretraining. Not at zero: an input of zeros (an empty patch) would then stay zero through a body without
        biases, and each of its RMS norms multiplies the gradient there by 1 / sqrt(eps), which overflows after a dozen
        layers.
        """
        T, D = self.settings.prefix_length + self.spec.length, self.backbone.info.width
        table = self.backbone.position_table
        if table is not None:
            rows = torch.arange(T) % len(table)
            return table[rows].float().expand(len(generators), T, D).clone()
        start = self.settings.position_start
        spread = 0.02 if start is None else start * self.backbone.embedding_spread
        return torch.stack([torch.randn(T, D, generator=g) * spread for g in generators])

    def _initial_prefix(self, generators: Sequence[torch.Generator]) -> Tensor:
        """(R, K, D): the body's own first token, or vectors with the spread of its token embeddings.

        A random body has a random token, so a vector of that spread is one too.
        """
        K, D = self.settings.prefix_length, self.backbone.info.width
        if self.settings.prefix == BOS and self.backbone.first_token is not None:
            return self.backbone.first_token.float().expand(len(generators), K, D).clone()
        return torch.stack([torch.randn(K, D, generator=g) * self.backbone.embedding_spread for g in generators])

    def _set_trained(self, trained: set[str]) -> None:
        self.input.requires_grad_(INPUT in trained)
        self.output.requires_grad_(OUTPUT in trained)
        self.norms.requires_grad_("norm" in trained)
        if self.positions is not None:
            self.positions.requires_grad_("position" in trained)
        if self.prefix is not None:
            self.prefix.requires_grad_("position" in trained)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(self.body_roles[name] in trained & SINGLE_ROLES)


def _size(tensor: Tensor) -> float:
    """Root mean square of a tensor's numbers, or 1 if they are all zero."""
    return float(tensor.detach().float().square().mean().sqrt()) or 1.0


def _check_trained_body(trained: set[str], runs: int, precision: str) -> bool:
    """Whether weights of the body are trained. Raises ConfigError for several runs or 8 bits then."""
    single = sorted(SINGLE_ROLES & trained)
    if single and runs > 1:
        raise ConfigError(
            f"Training {', '.join(single)} changes the shared body, so it allows one run at a time, but there are "
            f"{runs} runs. Train them one after another."
        )
    if single and precision == "int8":
        raise ConfigError("int8 is for frozen weights only. Train the body's weights with --precision fp32 or bf16.")
    return bool(single)


def _check_read_out(spec: TaskSpec, backbone: Backbone) -> None:
    """Raise ConfigError for a read-out with "first" on a causal body, whose first position sees no other."""
    if "first" in spec.read_outs and backbone.info.causal and backbone.mixes_positions:
        raise ConfigError(
            f"{backbone.info.name} is causal: its first position sees no other, so it says nothing of later tokens. "
            "Use --read-out last or mean."
        )


def _check_prefix(settings: ModelSettings, backbone: Backbone) -> None:
    """Raise ConfigError for a prefix that the body cannot have."""
    if settings.prefix and not backbone.mixes_positions:
        raise ConfigError(
            f"--prefix {settings.prefix}: {backbone.info.name} computes each position by itself, so no token would see "
            "the prefix. Leave it out."
        )
    if (
        settings.prefix == BOS
        and backbone.first_token is None
        and (backbone.info.weights == "pretrained" or backbone.info.heads is None)
    ):
        raise ConfigError(
            f"--prefix {BOS}: icecore finds no token with which sequences of {backbone.info.name} start. Use a number, "
            "for example --prefix 1."
        )
