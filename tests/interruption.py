"""Being killed in the middle of training, as the tests of resuming have it."""

from typing import Any

import pytest


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program may catch it."""


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Kill at the `call`-th call (from 0) of a function, before it does anything."""
    original, calls = getattr(owner, name), []

    def stop(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == call + 1:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, stop)
