"""Damaged files of each kind end in an answer or a message: some cases with a fixed seed here, 10,000 by hand.

By hand, in parts of any size: `python tests/faults/campaigns.py archives 0 1000`.
"""

from pathlib import Path

import pytest
from campaigns import SECONDS, campaign
from fuzz_cases import KINDS
from fuzzing import cases

#: cases that take about as long for each kind
FEW = {"programs": 60, "results": 40, "runs": 60, "archives": 60, "tables": 200, "datasets": 200, "bodies": 20}
#: cases that once failed: messages that quoted a whole file
FOUND = {"bodies": (290, 1935, 2090), "programs": (9515,)}


@pytest.mark.parametrize("kind", list(KINDS))
def test_damaged_files_end_in_an_answer_or_a_message(tmp_path: Path, kind: str) -> None:
    result = campaign(kind, 0, cases(FEW[kind]), tmp_path)
    assert not result["failures"]
    assert result["slowest"] < SECONDS
    assert result["more_than_before"] < 1024
    # of a results file, the good lines are always read
    expected = {"read"} if kind == "results" else {"read", "refused"}
    assert result["outcomes"].keys() == expected


@pytest.mark.parametrize(("kind", "number"), [(kind, number) for kind, numbers in FOUND.items() for number in numbers])
def test_what_once_failed(tmp_path: Path, kind: str, number: int) -> None:
    assert not campaign(kind, number, 1, tmp_path)["failures"]
