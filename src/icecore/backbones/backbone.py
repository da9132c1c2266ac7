"""Backbone: a sequence body (N, T, D) -> (N, T, D) in which every parameter has exactly one role.

Roles are found by module type and structure, never by a substring of a name. A parameter without a role is an error
that names it, so nothing is frozen or trained by accident.
"""

import hashlib
import itertools
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import torch
from torch import Tensor, nn

from icecore.backbones.modules import int8
from icecore.backbones.modules.body_pass import PLAIN_PASS, BodyPass, run_pass
from icecore.backbones.modules.norm import RunNorm
from icecore.core.device import activation_dtype, check_int8
from icecore.core.read_outs import parts_of

#: roles that programs may train on a shared body, so that fingerprints of its frozen part depend on them
SHARED_ROLES = ("norm", "position")
#: engines of several threads may ask for the same rounding of one body
_ROUNDING = threading.RLock()


class Role(StrEnum):
    """What a parameter of a body is for."""

    NORM = "norm"
    POSITION = "position"
    ATTENTION = "attention"
    FEEDFORWARD = "feedforward"
    EMBEDDING = "embedding"
    OTHER = "other"


@dataclass(frozen=True)
class BackboneInfo:
    """Sizes and kind of a body; `max_length` is None if the body has no limit of its own."""

    name: str
    family: str
    width: int
    layers: int
    heads: int | None
    max_length: int | None
    causal: bool
    weights: str
    source: str


@dataclass(frozen=True)
class ReadOut:
    """Where the hidden states of some rows of a pass are read.

    rows       the rows, which lie beside each other
    kinds      what is read side by side: "last", the last `positions` real positions; "first", the first one; "mean",
               the mean over all real positions; "pool-N", the means over N equal parts of them
    positions  n, the number of positions read
    length     the longest sequence of the rows' task
    prefix     K, the number of positions before the first token, which do not count for means
    """

    rows: slice
    kinds: tuple[str, ...]
    positions: int
    length: int
    prefix: int = 0


class Backbone(nn.Module):
    """A body and its description. Subclasses implement `run` and `role_of`.

    The absolute position table is not part of the body: it is handed out as `position_table` (P, D), or None where
    the family has none, and the model adds it outside. Norms are `RunNorm`s and dropouts `RunDropout`s: what differs
    between the programs of a pass comes with the pass (`BodyPass`), so a body is never changed by being used.

    A body is always in evaluation mode, since the pass steers its dropout.
    """

    #: whether learned absolute positions are added to the input (the paper's plain LSTM has none)
    takes_positions: bool = True
    #: whether positions meet in the body; without, features are as large as the inputs and not worth keeping
    mixes_positions: bool = True
    #: whether `run` leaves out work on positions that are not read, and returns the read ones only
    skips_unread_positions: bool = False

    def __init__(self, info: BackboneInfo) -> None:
        super().__init__()
        self.info = info
        self.position_table: Tensor | None = None
        #: standard deviation of the body's token embeddings, which it has no other use for
        self.embedding_spread: float = 0.02
        #: embedding (D,) of the token with which the body's own sequences start; None if it has or knows none
        self.first_token: Tensor | None = None
        #: precision of the frozen weights: "fp32", or what `round_weights` made of them
        self.precision = "fp32"
        self._norms: dict[str, RunNorm] = {}
        self._roles: dict[str, Role] = {}
        self._sizes: dict[str, int] = {}
        self._fingerprints: dict[tuple[object, ...], str] = {}

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        body_pass: BodyPass = PLAIN_PASS,
    ) -> Tensor:
        """Hidden states (N, T, D) from inputs x (N, T, D), or those at `positions` only (N, n, D).

        mask       (N, T) bool, True on real positions (padding is at the end), or None if all positions are real
        positions  (N, n) int64
        body_pass  the programs of the rows, and how the pass is computed
        """
        skips = positions is not None and self.skips_unread_positions
        with run_pass(body_pass, positions if skips else None):
            hidden = self.run(x, mask)
        return hidden if positions is None or skips else gather(hidden, positions)

    def run(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The computation of `forward`; its modules look the pass up (`running_pass`)."""
        raise NotImplementedError

    def read_out(
        self,
        x: Tensor,
        mask: Tensor | None,
        lengths: Tensor | None,
        read_outs: Sequence[ReadOut],
        body_pass: BodyPass = PLAIN_PASS,
    ) -> list[Tensor]:
        """What output layers read of inputs x (N, T, D): for each of `read_outs` its rows' features (rows, n, k D).

        k is the number of hidden states that are read side by side. Means are summed in fp32. `lengths` (N,) are the
        real positions of each row, None if all are. Raises what `forward` raises.
        """
        N, T, _ = x.shape
        # padding is at the end, where no real position of a causal body looks
        seen = None if self.info.causal else mask
        ends = torch.full((N,), T, device=x.device) if lengths is None else lengths
        kinds = {kind for each in read_outs for kind in each.kinds}
        if kinds == {"first"}:
            first, n = torch.zeros_like(ends), 1
            hidden = self(x, seen, first[:, None], body_pass)
        elif kinds != {"last"}:
            hidden, first, n = self(x, seen, body_pass=body_pass), torch.zeros_like(ends), T
        else:
            n = max(each.positions for each in read_outs)
            first = ends - n
            # rows may be shorter than what the rows of another task read
            positions = (first[:, None] + torch.arange(n, device=x.device)).clamp(min=0)
            hidden = self(x, seen, positions, body_pass)
        features: list[Tensor] = []
        for each in read_outs:
            rows = hidden[each.rows]
            parts: list[Tensor] = []
            for kind in each.kinds:
                if kind == "first":
                    parts.append(rows[:, :1])
                elif kind != "last":  # means over one part or several
                    members = _members(parts_of(kind), ends[each.rows], each.prefix, T)
                    means = (members @ rows.float()) / members.sum(-1, keepdim=True)
                    parts.append(means.flatten(1)[:, None])
                elif each.positions == n:
                    parts.append(rows)
                else:
                    start = (ends - first)[each.rows, None] - each.positions
                    parts.append(gather(rows, start + torch.arange(each.positions, device=x.device)))
            features.append(parts[0] if len(parts) == 1 else torch.cat([part.float() for part in parts], -1))
        return features

    def output_sizes(self, length: int, read_positions: int, outputs: int, hidden_states: int = 1) -> tuple[int, int]:
        """(inputs, outputs) of an output layer for a task of this length, which reads n positions of C outputs.

        hidden_states  k, how many of them are read side by side at each position
        """
        return hidden_states * self.info.width, outputs

    def role_of(self, name: str, module: nn.Module, path: Iterable[nn.Module]) -> Role | None:
        """Role of the parameters of leaf `module`, given its ancestors from the root down; None if it is unknown."""
        raise NotImplementedError

    def roles(self) -> dict[str, Role]:
        """Role of every parameter, by name. Raises TypeError naming a parameter without one."""
        if self._roles:
            return self._roles
        roles: dict[str, Role] = {}
        for module_name, module in self.named_modules():
            prefix = f"{module_name}." if module_name else ""
            names = [prefix + name for name, _ in module.named_parameters(recurse=False)]
            if not names:
                continue
            is_norm = isinstance(module, RunNorm)
            role = Role.NORM if is_norm else self.role_of(module_name, module, self._path(module_name))
            if role is None:
                raise TypeError(
                    f"Parameter {names[0]} of {self.info.name} ({type(module).__name__}) has no role. "
                    f"Teach the {self.info.family} adapter what it is for."
                )
            roles.update(dict.fromkeys(names, role))
        self._roles = roles
        return roles

    def _path(self, name: str) -> list[nn.Module]:
        """The ancestors of the module called `name`, from the root down; the root has none."""
        parts = name.split(".") if name else []
        return [self.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]

    def transformer_blocks(self) -> Sequence[nn.Module]:
        """The equal blocks that the body is a chain of, in order; none if it is not a transformer."""
        return ()

    def residual_blocks(self) -> Sequence[nn.Module]:
        """The modules that hidden states (N, T, D) pass in turn, in order: the layers of any body; none without one."""
        return self.transformer_blocks()

    def norms(self) -> dict[str, RunNorm]:
        """Every norm of the body, by module name, in order."""
        if not self._norms:
            self._norms = {name: module for name, module in self.named_modules() if isinstance(module, RunNorm)}
        return self._norms

    def sizes(self) -> dict[str, int]:
        """The number of elements of every parameter, by name, whatever their precision is by now."""
        return self._sizes or {name: parameter.numel() for name, parameter in self.named_parameters()}

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the body by its plain name, the position table as `positions`."""
        tensors: dict[str, Tensor] = {name: parameter for name, parameter in self.named_parameters()}  # noqa: C416
        if self.position_table is not None:
            tensors["positions"] = self.position_table
        return {name: tensor.detach() for name, tensor in tensors.items()}

    def fingerprint(self, trained: Collection[str]) -> str:
        """sha256 of the tensors that stay as they are while the roles `trained` are trained.

        It is computed once for tensors that have not changed, and is that of the weights in fp32 even after they
        were rounded. Raises RuntimeError for roles of which it was not taken before the weights were rounded.
        """
        roles = self.roles()
        trained = frozenset(map(str, trained)) & {str(role) for role in (*roles.values(), Role.POSITION)}
        if self.precision != "fp32":
            if (trained,) not in self._fingerprints:
                raise RuntimeError(f"{self.info.name} was rounded to {self.precision}: load it again to train its body")
            return self._fingerprints[trained,]
        frozen = {name: tensor for name, tensor in self.tensors().items() if roles.get(name, "position") not in trained}
        key = (trained, tuple(tensor._version for tensor in frozen.values()))
        if key not in self._fingerprints:
            self._fingerprints[key] = fingerprint(frozen)
        return self._fingerprints[key]

    def round_weights(self, precision: str) -> None:
        """Give all weights but the norms' the `precision` of their products, in place: "fp32", "bf16" or "int8".

        Nothing changes if they have it already. Raises ConfigError if int8 products are missing or wrong on this
        machine, and ValueError for weights of yet another precision.
        """
        with _ROUNDING:
            self._round_weights(precision)

    def _round_weights(self, precision: str) -> None:
        if precision == self.precision:
            return
        if precision == "int8":
            check_int8(next((p.device for p in self.parameters()), torch.device("cpu")))
        if self.precision != "fp32":
            raise ValueError(f"the weights are {self.precision} already and cannot become {precision}")
        # once rounded, a body can no longer say what it was
        for count in range(len(SHARED_ROLES) + 1):
            for trained in itertools.combinations(SHARED_ROLES, count):
                roles = frozenset(trained) & {str(role) for role in (*self.roles().values(), Role.POSITION)}
                self._fingerprints[roles,] = self.fingerprint(trained)
        self._sizes = self.sizes()
        self.norms()
        if precision == "int8":
            int8.convert(self)
        norms = {f"{name}.{kind}" for name, norm in self.norms().items() for kind, _ in norm.named_parameters()}
        for name, parameter in self.named_parameters():
            if name not in norms:
                parameter.data = parameter.data.to(activation_dtype(precision))
        self.precision = precision

    def counts(self) -> dict[Role, int]:
        """Number of parameters of each role; the position table counts whole."""
        counts = dict.fromkeys(Role, 0)
        roles = self.roles()
        for name, size in self.sizes().items():
            counts[roles[name]] += size
        if self.position_table is not None:
            counts[Role.POSITION] += self.position_table.numel()
        return counts


def gather(hidden: Tensor, positions: Tensor) -> Tensor:
    """Rows (N, T, D) at positions (N, n): (N, n, D)."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))


#: whether a body may come from the hub: never; without the user's token; or with the token of their login
HubAccess = Literal["off", "anonymous", "login"]


@dataclass(frozen=True)
class BodyRequest:
    """Which body to build: name or path of the backbone, its weights, its depth, and the seed of random weights.

    hub  what is allowed for a model that is not on this machine; anything but "off" is for names that the user gave,
         not for those that stand in a file
    """

    name: str
    weights: str = "pretrained"
    layers: int | None = None
    seed: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    hub: HubAccess = "login"


def _members(parts: int, ends: Tensor, prefix: int, length: int) -> Tensor:
    """Which of `length` positions belong to each of the equal parts of a row's tokens (N, parts, length), as 0 or 1.

    The tokens of a row lie from `prefix` to its end, `ends` (N,). Part k of n has those from floor(k L / n) to
    ceil((k + 1) L / n), as in torch's AdaptiveAvgPool1d, so no part is empty; neighbours may share a token.
    """
    counts = (ends - prefix)[:, None]
    part = torch.arange(parts, device=ends.device)
    first, end = part * counts // parts, -(-(part + 1) * counts // parts)
    token = torch.arange(length, device=ends.device) - prefix
    return ((token >= first[..., None]) & (token < end[..., None])).float()


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and values (as float32) of `tensors`, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()
