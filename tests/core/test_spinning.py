"""Threads that wait do not keep other processes from working, unless the user set how long they spin."""

import os
import subprocess
import sys

import pytest

from icecore.core.spinning import SPIN_COUNT, limit_spinning

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": SPIN_COUNT}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_spin_for_a_short_time_unless_the_user_set_another(
    monkeypatch: pytest.MonkeyPatch, setting: dict[str, str], expected: dict[str, str]
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what is set here is undone after the test
        monkeypatch.delenv(name)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "torch")
    limit_spinning()
    assert {name: os.environ[name] for name in VARIABLES if name in os.environ} == expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import icecore; icecore.UserError", SPIN_COUNT),
        ("from icecore import UserError", SPIN_COUNT),
        ("import icecore", "None"),
        # libgomp has read its variables already
        ("import sys; sys.modules['torch'] = None; from icecore import UserError", "None"),
    ],
)
def test_python_sets_it_before_icecore_imports_torch(code: str, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    code += "; import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == expected
