"""icecore: frozen pretrained transformers as universal computation engines.

The names in `__all__` are the public API. They are imported when they are first used, so `import icecore` is quick and
does not import torch. Before the first of them imports torch, `limit_spinning` sees to it that its threads do not keep
other processes from working.
"""

import importlib
from typing import TYPE_CHECKING, Any

from icecore.core.spinning import limit_spinning
from icecore.core.version import __version__

if TYPE_CHECKING:
    from icecore.api import fit, inspect_body, load_backbone, load_run, load_task, plan, predict, sweep, train
    from icecore.autofit.estimators import FPTClassifier, FPTRegressor
    from icecore.core.errors import UserError
    from icecore.inference.engine import Engine
    from icecore.model.fpt import FPT
    from icecore.model.program import Program
    from icecore.serving.client import Client
    from icecore.user_data import DataSettings


__all__ = [
    "FPT",
    "Client",
    "DataSettings",
    "Engine",
    "FPTClassifier",
    "FPTRegressor",
    "Program",
    "UserError",
    "__version__",
    "fit",
    "inspect_body",
    "load_backbone",
    "load_run",
    "load_task",
    "plan",
    "predict",
    "sweep",
    "train",
]

#: the module that defines each public name
_MODULES = {
    **dict.fromkeys(
        ("fit", "inspect_body", "load_backbone", "load_run", "load_task", "plan", "predict", "sweep", "train"),
        "icecore.api",
    ),
    **dict.fromkeys(("FPTClassifier", "FPTRegressor"), "icecore.autofit.estimators"),
    "FPT": "icecore.model.fpt",
    "Engine": "icecore.inference.engine",
    "Program": "icecore.model.program",
    "Client": "icecore.serving.client",
    "DataSettings": "icecore.user_data.data_settings",
    "UserError": "icecore.core.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'icecore' has no attribute {name!r}")
    limit_spinning()
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
