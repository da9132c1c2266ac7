"""Backbone: a sequence body (N, T, D) -> (N, T, D) whose every parameter has exactly one role.

Roles are found by module type and structure. A parameter that fits none is an error that names it:
freezing is a total function, never a substring match.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from torch import Tensor, nn

from icecore.backbones.modules.run_axis import RunAxis, RunNorm


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
    """Sizes and kind of a body; `max_length` None means no limit of its own."""

    name: str
    family: str
    width: int
    layers: int
    heads: int | None
    max_length: int | None
    causal: bool
    weights: str
    source: str
    #: the body mixes nothing (no body): the output layer then reads all positions at once
    identity: bool = False


class Backbone(nn.Module):
    """A body and its description. Subclasses implement `forward` and `role_of`.

    The absolute position table is not part of the body: it is handed out as `position_table` (P, D),
    or None where the family has none, and added by the model outside. Norms are `RunNorm`s with gains
    (R, D). Dropout is `RunDropout`. All of these read `axis`, which the model sets before a pass.

    A body is always in evaluation mode: dropout in training is steered by `axis.row_keys`.
    """

    #: whether learned absolute positions are added to the input (the paper's plain LSTM has none)
    takes_positions: bool = True

    def __init__(self, info: BackboneInfo) -> None:
        super().__init__()
        self.info = info
        self.axis = RunAxis()
        self.position_table: Tensor | None = None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Hidden states (N, T, D) from inputs (N, T, D).

        mask (N, T) bool, True on real positions (padding is at the end), or None where all are real.
        """
        raise NotImplementedError

    def hidden_at(self, x: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
        """Hidden states (N, n, D) at `positions` (N, n) only; bodies that can leave out work override this."""
        return gather(self(x, mask), positions)

    def role_of(self, name: str, module: nn.Module, path: Iterable[nn.Module]) -> Role | None:
        """Role of the parameters held by leaf `module`, given its ancestors from the root down; None: unknown."""
        raise NotImplementedError

    def roles(self) -> dict[str, Role]:
        """Role of every parameter, by name. Raises TypeError naming a parameter without one."""
        found: dict[str, Role] = {}
        for module_name, module in self.named_modules():
            prefix = f"{module_name}." if module_name else ""
            own = [prefix + name for name, _ in module.named_parameters(recurse=False)]
            if not own:
                continue
            is_norm = isinstance(module, RunNorm)
            role = Role.NORM if is_norm else self.role_of(module_name, module, self._path(module_name))
            if role is None:
                raise TypeError(
                    f"parameter {own[0]} of {self.info.name} ({type(module).__name__}) has no role; "
                    f"teach the {self.info.family} adapter what it is for"
                )
            found.update(dict.fromkeys(own, role))
        return found

    def _path(self, name: str) -> list[nn.Module]:
        """The ancestors of the module called `name`, from the root down; the root has none."""
        parts = name.split(".") if name else []
        return [self.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]

    def transformer_blocks(self) -> Sequence[nn.Module]:
        """The equal blocks that the body is a chain of, in order; none where it is no transformer."""
        return ()

    def norms(self) -> dict[str, RunNorm]:
        """Every norm of the body, by module name, in order."""
        return {name: module for name, module in self.named_modules() if isinstance(module, RunNorm)}

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the body by its plain name: norms without run axis, the table as `positions`."""
        norms = {f"{name}.{kind}" for name in self.norms() for kind in ("weight", "bias")}
        found = {name: p[0] if name in norms else p for name, p in self.named_parameters()}
        if self.position_table is not None:
            found["positions"] = self.position_table
        return {name: p.detach() for name, p in found.items()}

    def fingerprint(self, trained: Collection[str]) -> str:
        """sha256 of the tensors that stay as they are while the roles `trained` are trained."""
        roles = self.roles()
        return fingerprint(
            {name: t for name, t in self.tensors().items() if roles.get(name, "position") not in trained}
        )

    def counts(self) -> dict[Role, int]:
        """Number of parameters of each role for one run; the position table counts whole."""
        counts = dict.fromkeys(Role, 0)
        roles = self.roles()
        for name, parameter in self.named_parameters():
            share = parameter[0] if roles[name] is Role.NORM else parameter
            counts[roles[name]] += share.numel()
        if self.position_table is not None:
            counts[Role.POSITION] += self.position_table.numel()
        return counts


def gather(hidden: Tensor, positions: Tensor) -> Tensor:
    """Rows (N, T, D) at positions (N, n): (N, n, D)."""
    return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))


@dataclass(frozen=True)
class BodyRequest:
    """Which body to build: the named or local backbone, its weights, depth, and the seed of random weights."""

    name: str
    weights: str = "pretrained"
    layers: int | None = None
    seed: int = 0
    options: Mapping[str, str] = field(default_factory=dict)


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and values (as float32) of `tensors`, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.to("cpu", torch.float32).contiguous().numpy().data)
    return digest.hexdigest()
