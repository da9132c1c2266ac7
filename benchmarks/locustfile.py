"""Load by Locust: callers of `icecore serve` who ask every program for its own example row.

icecore serve programs/ --port 8000
locust -f benchmarks/locustfile.py --host http://127.0.0.1:8000 --headless -u 64 -r 64 -t 60s --csv load
"""

import random
from typing import Any

from locust import FastHttpUser, constant, events, task  # pyright: ignore[reportMissingImports]

#: example rows by program
EXAMPLES: dict[str, Any] = {}


@events.test_start.add_listener
def read_cards(environment: Any, **_: Any) -> None:
    """Ask once which programs there are."""
    import icecore

    EXAMPLES.update({card["name"]: card["example"] for card in icecore.Client(environment.host).programs()})


class Caller(FastHttpUser):
    """Sends the next row when the last one is answered."""

    wait_time = constant(0)

    @task
    def predict(self) -> None:
        name = random.choice(list(EXAMPLES))
        with self.client.post(
            f"/v1/programs/{name}/predict", json={"rows": [EXAMPLES[name]]}, name="predict", catch_response=True
        ) as answer:
            if answer.status_code == 200 and answer.json()["program"] != name:
                answer.failure("the answer is another program's")
