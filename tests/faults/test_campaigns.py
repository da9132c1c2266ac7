"""Damaged files of each kind end in an answer or a message: some cases with a fixed seed here, 10,000 by hand.

By hand, in parts of any size: `python tests/faults/campaigns.py archives 0 1000`.
"""

from pathlib import Path

import pytest
from campaigns import SECONDS, campaign
from fuzz_cases import KINDS
from fuzzing import cases

#: cases that take about as long for each kind
FEW = {"programs": 120, "results": 60, "runs": 100, "archives": 40, "tables": 120, "datasets": 200, "bodies": 20}


@pytest.mark.parametrize("kind", list(KINDS))
def test_damaged_files_end_in_an_answer_or_a_message(tmp_path: Path, kind: str) -> None:
    result = campaign(kind, 0, cases(FEW[kind]), tmp_path)
    assert not result["failures"]
    assert result["slowest"] < SECONDS
    assert result["more_than_before"] < 1024
    assert min(result["outcomes"].get(outcome, 0) for outcome in ("read", "refused")) > 0
