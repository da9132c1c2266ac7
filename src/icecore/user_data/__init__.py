"""Your own data: files or arrays become a task, and new rows are encoded like the training rows."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icecore.user_data.data_encoder import DataEncoder
    from icecore.user_data.data_plan import Plan, from_arrays, plan
    from icecore.user_data.data_settings import DataSettings, TaskKind
    from icecore.user_data.encoded_rows import EncodedRows, encode
    from icecore.user_data.user_task import UserTask

__all__ = [
    "DataEncoder",
    "DataSettings",
    "EncodedRows",
    "Plan",
    "TaskKind",
    "UserTask",
    "encode",
    "from_arrays",
    "plan",
]

#: The module that defines each name. They are imported when they are first used, because the command line reads the
#: settings to show its help, and must not import torch for that.
_MODULES = {
    **dict.fromkeys(("DataSettings", "TaskKind"), "data_settings"),
    **dict.fromkeys(("EncodedRows", "encode"), "encoded_rows"),
    **dict.fromkeys(("Plan", "from_arrays", "plan"), "data_plan"),
    "DataEncoder": "data_encoder",
    "UserTask": "user_task",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
