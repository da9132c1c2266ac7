"""A kill at any file operation loses nothing: the same call continues, and ends with the same numbers and files.

ICECORE_FUZZ tries every operation in both orders of listing folders, which takes some minutes; CI tries a few.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kills.py")
EVERYTHING = "ICECORE_FUZZ" in os.environ


@pytest.mark.parametrize(
    ("job", "order"),
    [("train", "ascending"), ("grid", "descending"), ("fit", "ascending")]
    + [("train", "descending"), ("grid", "ascending"), ("fit", "descending")] * EVERYTHING,
)
def test_a_kill_at_any_file_operation_can_be_resumed(job: str, order: str) -> None:
    stride, first = (1, 0) if EVERYTHING else (41, 9)
    command = [sys.executable, str(SCRIPT), job, order, str(stride), str(first)]
    source = str(SCRIPT.parents[2] / "src")
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": source}
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    # the last operation of the first job may be one that later ones need not make, such as making a folder
    assert result["killed"] >= len(range(first, result["operations"], stride)) - 1 > 2
    assert not result["failures"]
