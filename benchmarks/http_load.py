"""Callers of an HTTP server in a process of their own: so many at once, or so many requests a second.

Reads the plan as JSON from standard input, sends the requests over kept connections, and prints the outcome as JSON.
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LoadPlan:
    """What to send.

    requests  files, each a whole HTTP request; callers draw them at random
    callers   connections; each sends its next request when it has its answer
    rate      requests a second of all callers together, at random times; 0: as fast as they are answered
    keep      keep the answers' versions and first probabilities, to find mixed ones
    """

    port: int
    requests: Sequence[str]
    callers: int
    seconds: float
    rate: float = 0.0
    keep: bool = False


@dataclass
class LoadOutcome:
    """Latencies in seconds of the requests that were answered with 200, counts by status, and what else was seen."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    retry_after: list[float] = field(default_factory=list)
    answers: list[tuple[int, str, float]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers with 200 a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """The latency that this share of the answers did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def call(plan: LoadPlan, moments: AsyncIterator[float], outcome: LoadOutcome, end: float) -> None:
    """One caller: a connection that sends a request at each of the moments."""
    texts = [Path(name).read_bytes() for name in plan.requests]
    reader, writer = await asyncio.open_connection("127.0.0.1", plan.port)
    async for moment in moments:
        number = random.randrange(len(texts))
        writer.write(texts[number])
        status, headers, content = await read_answer(reader)
        now = time.perf_counter()
        outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
        if status == "200" and now <= end:
            outcome.latencies.append(now - moment)
            if plan.keep:
                answer = json.loads(content)
                position = answer["predictions"][0]["positions"][0]
                outcome.answers.append((number, answer["version"], position["probabilities"]["0"]))
        elif "retry-after" in headers:
            outcome.retry_after.append(float(headers["retry-after"]))
    writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """Status, headers and content of an answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    return head[0].split()[1], headers, await reader.readexactly(int(headers["content-length"]))


async def send_all(plan: LoadPlan) -> LoadOutcome:
    """All callers until the end of the plan."""
    outcome, start = LoadOutcome(), time.perf_counter()
    end = start + plan.seconds
    due = start

    async def moments() -> AsyncIterator[float]:
        nonlocal due
        while (now := time.perf_counter()) < end:
            if not plan.rate:
                yield now
                continue
            mine = due = due + random.expovariate(plan.rate)
            if mine >= end:
                return
            await asyncio.sleep(max(0.0, mine - now))
            yield max(mine, now)  # what a caller is late by is not the server's

    await asyncio.gather(*(call(plan, moments(), outcome, end) for _ in range(plan.callers)))
    outcome.seconds = plan.seconds
    return outcome


def load(plan: LoadPlan) -> LoadOutcome:
    """Run the plan in a process of its own."""
    import subprocess

    command = [sys.executable, __file__]
    ended = subprocess.run(command, input=json.dumps(asdict(plan)), capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"The callers failed: {ended.stderr}")
    return LoadOutcome(**json.loads(ended.stdout))


def main(text: str) -> None:
    """Run the plan that `text` describes."""
    values: dict[str, Any] = json.loads(text)
    random.seed(0)
    print(json.dumps(asdict(asyncio.run(send_all(LoadPlan(**values))))))


if __name__ == "__main__":
    main(sys.stdin.read())
