"""Recurrent bodies, as controls beside a frozen transformer.

`lstm` and `lstm-star` are the paper's LSTM and LSTM* with the faults of its cell fixed; `lstm-matched` has the frozen
and trainable counts of a given transformer.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from icecore.backbones.backbone import Backbone, BackboneInfo, BodyRequest, Role
from icecore.backbones.modules.body_pass import per_row, running_pass
from icecore.backbones.modules.norm import NormKind, RunNorm
from icecore.backbones.recurrence import EPS, Recurrence
from icecore.core.device import total_memory
from icecore.core.errors import ConfigError, WeightsError, unknown_name

Module = TypeVar("Module", bound=nn.Module)

#: more layers than any body has, and few enough to be built in seconds
MAX_RECURRENT_LAYERS = 1000
#: names that `torch.backends.cpu.get_cpu_capability` gives CPUs without AVX-512
WITHOUT_AVX512 = ("DEFAULT", "NO AVX", "AVX2")


def _drawn(module: Module, bound: float, generator: torch.Generator) -> Module:
    """`module`, which comes from the meta device and so has drawn nothing, with parameters from U(-bound, bound)."""
    module.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return module


def _norm(kind: NormKind, width: int, bias: bool) -> RunNorm:
    return RunNorm(kind, torch.ones(width), torch.zeros(width) if bias else None, EPS)


class StepWeights(nn.Linear):
    """A linear layer whose weight the recurrence reads step by step, so it is not converted to 8 bits."""


class LayerNormLSTM(nn.Module):
    """One layer of the paper's LSTM: norms on both halves of the preactivation and on the cell.

    It differs from the published code where that is wrong (docs/method.md): gains start at 1 and biases at 0, and the
    initial states are zeros instead of new draws. With `residual`, its input is added to its output.
    """

    def __init__(self, width: int, residual: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.residual = residual
        bound = 1 / math.sqrt(width)
        self.input = _drawn(nn.Linear(width, 4 * width, device="meta"), bound, generator)
        self.recurrent = _drawn(StepWeights(width, 4 * width, device="meta"), bound, generator)
        self.input_norm = _norm("layer", 4 * width, True)
        self.recurrent_norm = _norm("layer", 4 * width, True)
        self.cell_norm = _norm("layer", width, True)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, T, D) -> hidden states (N, T, D) in x's dtype."""
        recurrent, cell = self.recurrent_norm.pass_parameters(), self.cell_norm.pass_parameters()
        assert recurrent.bias is not None
        assert cell.bias is not None
        run_of_row = running_pass().value.run_of_row
        drive = self.input_norm(self.input(x))
        # the recurrent norm's bias is the same at every position: adding it here keeps it out of the loop
        drive = drive + per_row(recurrent.bias, drive, run_of_row)
        rows = x[:, 0]
        gains = (per_row(values, rows, run_of_row) for values in (recurrent.weight, cell.weight, cell.bias))
        out = Recurrence.apply(drive, self.recurrent.weight, self.recurrent.bias, *gains)
        return x + out if self.residual else out


class _RecurrentBody(Backbone):
    """What recurrent bodies share: a position table of `positions` rows (none for 0), and the roles.

    They need no mask: padding is at the end and the recurrence is causal, so no real position depends on padding.
    """

    def __init__(self, info: BackboneInfo, positions: int, generator: torch.Generator) -> None:
        super().__init__(info)
        if positions:
            # GPT-2's init
            self.position_table = torch.randn(positions, info.width, generator=generator) * 0.02

    def role_of(self, name: str, module: nn.Module, path: Iterable[nn.Module]) -> Role | None:
        """`other` for the weights and biases of linear maps and LSTMs; norms are told apart by `roles`."""
        return Role.OTHER if isinstance(module, nn.Linear | nn.LSTM) else None


class LSTMBody(_RecurrentBody):
    """The paper's LSTM, or with `residual` and `positions` its LSTM* (Table 3).

    Parameters:
        info: width D and number of layers
        residual: add each layer's input to its output
        positions: rows of the position table, 0 for a body without positions
        seed: of weights and positions
    """

    def __init__(self, info: BackboneInfo, residual: bool, positions: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        super().__init__(info, positions, generator)
        self.takes_positions = positions > 0
        self.layers = nn.ModuleList(LayerNormLSTM(info.width, residual, generator) for _ in range(info.layers))

    def residual_blocks(self) -> Sequence[nn.Module]:
        return list(self.layers)

    def run(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MatchedBlock(nn.Module):
    """x + norm(project(LSTM(norm(x)))): a recurrent block with a transformer block's two norms."""

    def __init__(self, width: int, hidden: int, make_norm: Callable[[], RunNorm], generator: torch.Generator) -> None:
        super().__init__()
        self.norm_in, self.norm_out = make_norm(), make_norm()
        bound = 1 / math.sqrt(hidden)
        self.lstm = _drawn(nn.LSTM(width, hidden, batch_first=True, device="meta"), bound, generator)
        self.project = _drawn(nn.Linear(hidden, width, device="meta"), bound, generator)

    def train(self, mode: bool = True) -> "MatchedBlock":
        """As usual, but the LSTM stays in training mode: cuDNN differentiates in no other, and it has no dropout."""
        super().train(mode)
        self.lstm.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """x (N, T, D) -> (N, T, D)."""
        return x + self.norm_out(self.project(self._recur(self.norm_in(x))))

    def _recur(self, x: Tensor) -> Tensor:
        """The LSTM's hidden states (N, T, H) from x (N, T, D), in x's dtype."""
        narrow = x.dtype == torch.bfloat16 or torch.is_autocast_enabled(x.device.type)
        if not (narrow and x.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in WITHOUT_AVX512):
            return self.lstm(x)[0]
        # oneDNN has no bf16 LSTM for these CPUs and raises an error, so the recurrence runs in fp32
        weights = [weight.float() for weight in self.lstm.parameters()]
        state = torch.zeros(1, len(x), self.lstm.hidden_size)
        with torch.autocast(x.device.type, enabled=False):
            return torch._VF.lstm(x.float(), (state, state), weights, True, 1, 0.0, False, False, True)[0].to(x.dtype)  # type: ignore[attr-defined]


def matched_hidden_sizes(width: int, layers: int, frozen: int) -> list[int]:
    """Hidden size of each layer's LSTM so that all layers together have about `frozen` frozen parameters.

    A block of hidden size H has 4H(D + H) + 8H in its LSTM and HD + D in its projection. Sizes
    differ by at most 1, which spreads the rounding error: it is at most half of one unit's cost.

    Raises:
        ConfigError: if `frozen` is too small for one hidden unit a layer
    """

    def cost(hidden: int) -> int:
        return 4 * hidden * hidden + (5 * width + 8) * hidden + width

    budget = frozen / layers
    linear = 5 * width + 8
    low = int((math.sqrt(linear * linear + 16 * max(budget - width, 0)) - linear) / 8)
    if low < 1:
        raise ConfigError(
            f"An LSTM of {layers} layers of width {width} cannot be matched to {frozen:,} frozen parameters, because "
            f"it has at least {layers * cost(1):,}. Match a larger body."
        )
    larger = round((frozen - layers * cost(low)) / (cost(low + 1) - cost(low)))
    return [low + 1] * larger + [low] * (layers - larger)


class MatchedLSTM(_RecurrentBody):
    """The LSTM of `build_matched`."""

    def __init__(
        self,
        info: BackboneInfo,
        frozen: int,
        norms: int,
        norm_kind: NormKind,
        norm_bias: bool,
        positions: int,
        seed: int,
    ) -> None:
        D, L = info.width, info.layers
        if norms - 2 * L not in (0, 1, 2):
            raise ConfigError(
                f"{info.name}: an LSTM of {L} layers can have {2 * L} to {2 * L + 2} norms, but the body has {norms}. "
                "Match a body with two norms in each layer, such as minilm."
            )

        def norm() -> RunNorm:
            return _norm(norm_kind, D, norm_bias)

        generator = torch.Generator().manual_seed(seed)
        super().__init__(info, positions, generator)
        self.first = norm() if norms == 2 * L + 2 else nn.Identity()
        self.blocks = nn.ModuleList(
            MatchedBlock(D, hidden, norm, generator) for hidden in matched_hidden_sizes(D, L, frozen)
        )
        self.last = norm() if norms > 2 * L else nn.Identity()

    def residual_blocks(self) -> Sequence[nn.Module]:
        return list(self.blocks)

    def run(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def _info(name: str, width: int, layers: int, source: str) -> BackboneInfo:
    return BackboneInfo(name, "lstm", width, layers, None, None, causal=True, weights="random", source=source)


def requested_width(request: BodyRequest, default: int) -> int:
    """The option "width", the only one of these bodies. Raises ConfigError."""
    for option in request.options:
        if option != "width":
            raise unknown_name(f"option of {request.name}", option, ["width"])
    given = request.options.get("width", str(default))
    try:
        width = int(given)
    except ValueError:
        width = 0
    if width < 1:
        raise ConfigError(f"Option width of {request.name} must be a positive whole number, but is {given!r}.")
    return width


def require_random(request: BodyRequest) -> None:
    """Raises WeightsError for weights "pretrained" and "statistics", which no LSTM has."""
    if request.weights in ("pretrained", "statistics"):
        raise WeightsError(
            f"{request.name} has no {request.weights} weights, because no pretrained LSTM was published. "
            "Use --weights random (in Python weights='random'), or give a weights file."
        )


def _random_lstm(request: BodyRequest, layers: int, residual: bool, positions: int) -> LSTMBody:
    require_random(request)
    layers = layers if request.layers is None else request.layers
    if layers < 1:
        raise ConfigError(f"{request.name} needs at least 1 layer, but {layers} were requested.")
    width = requested_width(request, 768)
    needed, memory = 32 * width**2 * layers, total_memory(torch.device("cpu"))
    if layers > MAX_RECURRENT_LAYERS or needed > memory:
        raise ConfigError(
            f"{request.name} with {layers:,} layers would need about {needed / 2**30:,.1f} GiB, but this machine has "
            f"{memory / 2**30:,.1f} GiB, and at most {MAX_RECURRENT_LAYERS:,} layers are built. Choose fewer."
        )
    info = _info(request.name, width, layers, f"random, seed {request.seed}")
    return LSTMBody(info, residual, positions, request.seed)


def build_lstm(request: BodyRequest) -> Backbone:
    """The paper's frozen LSTM: 3 layers of width 768 by default, without positions (paper, Table 3).

    Weights are U(-1/sqrt(D), 1/sqrt(D)), a pure function of the request's seed. The caller may load a weights file
    over them.

    Raises:
        ConfigError: for an unknown option, a width or a number of layers below 1
        WeightsError: for weights "pretrained" or "statistics", which no LSTM has
    """
    return _random_lstm(request, layers=3, residual=False, positions=0)


def build_lstm_star(request: BodyRequest) -> Backbone:
    """The paper's LSTM*: 12 layers with residual connections and 1024 positions (paper, Table 3).

    Otherwise as `build_lstm`. The recurrence itself has no longest input, so `max_length` is None.
    """
    return _random_lstm(request, layers=12, residual=True, positions=1024)


def build_matched(
    width: int,
    layers: int,
    frozen: int,
    norms: int,
    norm_kind: NormKind = "layer",
    norm_bias: bool = True,
    positions: int = 1024,
    seed: int = 0,
) -> Backbone:
    """An LSTM with the counts of a given transformer, frozen and trainable.

    Answers the objection that the paper's LSTM had other counts than the transformer beside it
    (docs/method.md): its norms and positions are the transformer's in number and width, and so are
    its depth and the number of frozen parameters, up to half a hidden unit.

    Parameters:
        width: D of the transformer
        layers: its number of blocks L
        frozen: parameters of its attention and feed-forward blocks
        norms: its number of norms of width D: 2L, one more at the end, one more at the start
        norm_kind, norm_bias: what its norms are
        positions: rows of its position table, 0 if it has none (the model then learns positions without a start)
        seed: of weights and positions

    Raises:
        ConfigError: if `norms` is outside 2L to 2L + 2, or `frozen` too small for one hidden unit a layer
    """
    info = _info("lstm-matched", width, layers, f"random, seed {seed}, matched to {frozen:,} frozen parameters")
    return MatchedLSTM(info, frozen, norms, norm_kind, norm_bias, positions, seed)
