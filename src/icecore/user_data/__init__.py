"""One's own data: what they are is found out, said as a plan, and turned into a task.

`plan` looks at files and `from_arrays` at arrays; the encoder that they find goes with a program, so that `encode`
reads new rows in the same way.
"""

from icecore.user_data.encoder import DataEncoder, Plan, Rows, UserTask, encode, from_arrays, plan
from icecore.user_data.records import DataSettings

__all__ = ["DataEncoder", "DataSettings", "Plan", "Rows", "UserTask", "encode", "from_arrays", "plan"]
