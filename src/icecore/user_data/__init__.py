"""Turns a user's own files or arrays into a task, and encodes new rows in the same way for prediction."""

from icecore.user_data.data_encoder import DataEncoder
from icecore.user_data.data_settings import DataSettings, TaskKind
from icecore.user_data.encoded_rows import EncodedRows, encode
from icecore.user_data.planning import Plan, from_arrays, plan
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
