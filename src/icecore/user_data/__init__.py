"""Your own data: files or arrays become a task, and new rows are encoded like the training rows."""

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
