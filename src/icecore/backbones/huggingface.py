"""Hugging Face transformers as bodies, of the families in families.py.

The library's own blocks run unchanged except for a few replaced modules: norms, dropouts, activations and, where the
family has the attention interface, attention. Token embeddings are dropped, and the last block works on the positions
that are read only.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from icecore.backbones.backbone import Backbone, BackboneInfo, Role, gather
from icecore.backbones.config_check import check_config
from icecore.backbones.families import Family, blocks_of, family_of
from icecore.backbones.modules import attention
from icecore.backbones.modules.body_pass import running_pass
from icecore.backbones.modules.patching import (
    ZeroPositions,
    parent_of,
    replace_activations,
    replace_dropouts,
    replace_norms,
)
from icecore.core.errors import WeightsError
from icecore.core.text import pluralize


class HuggingFaceBackbone(Backbone):
    """A transformers model of a supported family as a frozen body."""

    def __init__(self, info: BackboneInfo, model: nn.Module, family: Family, first_token_id: int | None = None) -> None:
        super().__init__(info)
        self.family = family
        self.config: Any = model.config
        self.embedding_spread = _embedding_spread(model)
        self.first_token = _first_token(model, first_token_id)
        if family.positions is not None:
            self.position_table = _take_positions(model, family)
        for name in family.remove:
            parent, child = parent_of(model, name)
            setattr(parent, child, None)
        replace_norms(model)
        replace_activations(model)
        salt = replace_dropouts(model)
        if not family.own_attention and attention.attach(model, salt) < info.layers:
            raise TypeError(f"{info.name} has fewer attention modules than layers ({info.layers}).")
        self.model = model.eval().requires_grad_(False)
        self.skips_unread_positions = family.last_step is not None or family.pre_norm is not None
        self._hook_last_block(blocks_of(model, info.layers)[-1])

    def run(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.family.call(self, x, mask)

    def transformer_blocks(self) -> Sequence[nn.Module]:
        return list(blocks_of(self.model, self.info.layers))

    def _hook_last_block(self, block: nn.Module) -> None:
        """In the last block, continue with the read positions only as soon as attention has seen all positions."""
        if self.family.last_step is not None:
            block.get_submodule(self.family.last_step).register_forward_pre_hook(_gather_inputs)
        if self.family.pre_norm is not None:
            norm, attention = (block.get_submodule(name) for name in self.family.pre_norm)
            # the residual is the block's input: it is gathered there, and is whole again for norm and attention
            block.register_forward_pre_hook(_gather_residual)
            norm.register_forward_pre_hook(_restore_residual)
            attention.register_forward_hook(_gather_output)

    def role_of(self, name: str, module: nn.Module, path: Iterable[nn.Module]) -> Role | None:
        # a block may be named for its layers, but has no numbers of its own
        own = () if list(module.children()) else (module,)
        for ancestor in (*own, *reversed(list(path))):
            role = self.family.roles.get(type(ancestor).__name__)
            if role is not None:
                return role
        return None


def _gather_inputs(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    positions = running_pass().positions
    return None if positions is None else tuple(gather(x, positions) for x in inputs)


def _gather_residual(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    running = running_pass()
    if running.positions is None:
        return None
    running.residual, *rest = inputs
    return (gather(inputs[0], running.positions), *rest)


def _restore_residual(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    residual = running_pass().residual
    return None if residual is None else (residual,)


def _gather_output(module: nn.Module, inputs: Any, output: Any) -> Any:
    positions = running_pass().positions
    if positions is None:
        return None
    if isinstance(output, Tensor):
        return gather(output, positions)
    return (gather(output[0], positions), *output[1:])


def check_complete(report: Mapping[str, Any], place: str, kind: str) -> None:
    """Raise WeightsError if the `report` of `from_pretrained` names missing tensors of a body of `kind`."""
    # poolers are not part of a body, and some checkpoints lack them
    lost = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if lost:
        more = f" and {pluralize(len(lost) - 1, 'more tensor')}" if len(lost) > 1 else ""
        raise WeightsError(
            f"{place} has no weights for {lost[0]}{more}, so it is not a complete {kind} model. Get the model again; "
            "--weights random needs only its configuration."
        )


def describe(config: Any, name: str, weights: str, source: str) -> BackboneInfo:
    """Sizes of the body that `config` describes."""
    family = family_of(config)
    return BackboneInfo(
        name=name,
        family=config.model_type,
        width=config.hidden_size,
        layers=getattr(config, family.layers),
        heads=config.num_attention_heads,
        max_length=family.max_length(config),
        causal=family.is_causal(config),
        weights=weights,
        source=source,
    )


def prepare_config(config: Any, layers: int | None) -> Any:
    """`config` shortened to its first `layers` layers (None: all). Raises WeightsError if there are fewer."""
    family = family_of(config)
    depth = getattr(config, family.layers)
    check_config(config, depth if layers is None else min(layers, depth), config.model_type)
    if layers is not None:
        if not 1 <= layers <= depth:
            raise WeightsError(f"--layers {layers}: this body has {depth} layers. Choose 1 to {depth}.")
        setattr(config, family.layers, layers)
        if isinstance(windows := getattr(config, "attention_window", None), list):
            config.attention_window = windows[:layers]
        if getattr(config, "layer_types", None) is not None:
            config.layer_types = config.layer_types[:layers]
    return config


def build(
    config: Any, name: str, weights: str, source: str, model: nn.Module, first_token_id: int | None = None
) -> HuggingFaceBackbone:
    """The body around a loaded or freshly made transformers `model`.

    first_token_id  the token with which the model's own sequences start, None if it is not known
    """
    return HuggingFaceBackbone(describe(config, name, weights, source), model, family_of(config), first_token_id)


def _token_table(model: nn.Module) -> tuple[Tensor | None, float]:
    """The token embeddings (V, D), None without any, and what some families multiply them by when they look them up."""
    table = next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
    return (None, 1.0) if table is None else (table.weight.detach(), getattr(table, "scalar_embed_scale", 1.0))


def _embedding_spread(model: nn.Module) -> float:
    """Standard deviation of the token embeddings: of their rows, or of fresh ones where there are next to none."""
    table, scale = _token_table(model)
    spread = 0.0 if table is None or len(table) < 16 else scale * float(table.float().std())
    return spread or scale * _fresh_spread(model.config)


def _fresh_spread(config: Any) -> float:
    """Standard deviation with which the library draws token embeddings. T5 has a factor of 1 instead."""
    spreads = (getattr(config, name, None) for name in ("initializer_range", "init_std", "initializer_factor"))
    return next((float(spread) for spread in spreads if isinstance(spread, float | int)), 0.02)


def _first_token(model: nn.Module, token: int | None) -> Tensor | None:
    """A copy of the embedding (D,) of the first token of the model's own sequences, or of its class token."""
    # class tokens of vision models are parameters (1, 1, D) beside the patches
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] == "cls_token":
            return parameter.detach().flatten().clone()
    table, scale = _token_table(model)
    if table is None or token is None or not 0 <= token < len(table):
        return None
    return scale * table[token]


def _take_positions(model: nn.Module, family: Family) -> Tensor:
    """Remove the absolute position table from `model` and return its usable rows (P, D) in fp32."""
    assert family.positions is not None
    parent, child = parent_of(model, family.positions)
    embedding = getattr(parent, child)
    table = embedding.weight if isinstance(embedding, nn.Embedding) else embedding[0]
    delattr(parent, child)
    setattr(parent, child, ZeroPositions())
    return table.detach()[family.first_position(model.config) :].float().clone()
