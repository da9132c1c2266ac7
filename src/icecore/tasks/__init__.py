"""The tasks: what is read, what is predicted, and how it is scored; importing this folder reads no data."""

from icecore.tasks.registry import TASKS, build_task, find_task, register_task

__all__ = ["TASKS", "build_task", "find_task", "register_task"]
