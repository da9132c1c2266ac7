"""Backbones by name. Importing this loads neither weights nor transformers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from icecore.backbones import lstm, no_body, weights
from icecore.backbones.backbone import Backbone, BodyRequest, HubAccess, Role
from icecore.backbones.named_models import NAMED
from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, WeightsError, unknown_name
from icecore.core.text import shortened

__all__ = ["BACKBONES", "Backbone", "BodyRequest", "HubAccess", "Role", "build_backbone", "build_body_of"]

#: characters of the longest path, and of one name in it
MAX_NAME, MAX_PART = 4000, 255

Builder = Callable[[BodyRequest], Backbone]


def _matched(request: BodyRequest) -> Backbone:
    """`lstm-matched:NAME`: an LSTM with the frozen and trainable counts of the transformer NAME."""
    lstm.require_random(request)
    name = request.options.get("like", "minilm")
    like = build_backbone(BodyRequest(name, "random", request.layers, request.seed, hub=request.hub))
    if like.info.heads is None:
        raise ConfigError(
            f"lstm-matched:{name}: {name} is not a transformer. Name one, for example lstm-matched:minilm."
        )
    norms = list(like.norms().values())
    if not norms:
        raise ConfigError(f"lstm-matched:{name}: {name} has no norms to match. Match another body.")
    counts = like.counts()
    return lstm.build_matched(
        width=like.info.width,
        layers=like.info.layers,
        frozen=counts[Role.ATTENTION] + counts[Role.FEEDFORWARD] + counts[Role.EMBEDDING],
        norms=len(norms),
        norm_kind=norms[0].kind,
        norm_bias=norms[0].bias is not None,
        positions=0 if like.position_table is None else len(like.position_table),
        seed=request.seed,
    )


BACKBONES: Mapping[str, Builder] = {
    **dict.fromkeys(NAMED, weights.build_transformer),
    "lstm": lstm.build_lstm,
    "lstm-star": lstm.build_lstm_star,
    "lstm-matched": _matched,
    "none": no_body.build_none,
}


def find_builder(name: str) -> Builder:
    """What builds the bodies of this name. Raises ConfigError if no body, folder, file or hub model can have it."""
    known, _, like = name.partition(":")
    if known in BACKBONES and (not like or known == "lstm-matched"):
        return BACKBONES[known]
    path = Path(name).expanduser()
    if path.is_file() and path.suffix != ".gguf":
        raise ConfigError(f"{name} is a file. Name the folder that it is in, or a GGUF file.")
    if not path.exists() and name.count("/") != 1:
        raise unknown_name("backbone", name, [*BACKBONES, "a folder", "org/model"])
    return weights.build_transformer


def build_backbone(request: BodyRequest) -> Backbone:
    """The body that `request` describes, frozen, in fp32 on the CPU.

    `request.name` is a name of BACKBONES, `lstm-matched:NAME`, a folder, a GGUF file or a hub name `org/model`.
    `request.weights` is "pretrained", "random", "statistics" or the path of a weights file.
    Raises ConfigError for unknown names, WeightsError if weights are missing or do not fit.
    """
    for text in (request.name, request.weights):  # a program or a run of somebody else may say anything
        if len(text) > MAX_NAME or any(len(part) > MAX_PART for part in text.split("/")):
            raise ConfigError(f"{shortened(text)} is too long for the name of a body, a folder or a file.")
    builder = find_builder(request.name)
    name, _, like = request.name.partition(":")
    if builder is _matched and like:
        request = replace(request, name=name, options={**request.options, "like": like})
    if request.weights in weights.WEIGHTS:
        return builder(request)
    path = Path(request.weights).expanduser()
    if not path.is_file():
        known = ", ".join(weights.WEIGHTS)
        raise ConfigError(f"--weights {request.weights} is neither one of {known} nor an existing weights file.")
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} is not a weights file. These are .safetensors files written by icecore.")
    body = builder(replace(request, weights="random"))
    weights.load(body, path)
    body.info = replace(body.info, weights="file", source=str(path))
    return body


def build_body_of(config: RunConfig, hub: HubAccess = "login") -> Backbone:
    """The body of a run's configuration. Raises what `build_backbone` raises.

    hub  "off" for a configuration from a file that may be somebody else's
    """
    return build_backbone(BodyRequest(*config.body, hub=hub))
