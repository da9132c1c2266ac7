"""Requests that schemathesis makes of the API's own description: none is a fault of the server, and none hangs."""

import json
from pathlib import Path
from typing import Any

import pytest

from live_server import running
from serving_samples import Samples

#: requests of each operation; `schemathesis run` tries many more, see docs/serving.md
EXAMPLES = 25


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_no_request_is_a_fault_or_hangs(samples: Samples, tmp_path: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    seen: set[int] = set()
    with running([samples.program("wine"), samples.program("proteins")], read_seconds=2) as live:
        description = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
        operations = [operation.ok() for operation in description.get_all_operations()]
        assert len(operations) == 7
        for operation in operations:

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=[*HealthCheck.__members__.values()],
            )
            @given(case=operation.as_strategy())
            def check(case: Any) -> None:
                response = case.call(timeout=20)
                seen.add(response.status_code)
                assert response.status_code < 500
                if response.headers["content-type"] == "application/json":
                    json.loads(response.content, parse_constant=refuse)

            check()
    assert {200, 404, 422} <= seen
