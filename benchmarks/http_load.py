"""Callers of an HTTP server in a process of their own: so many at once, or so many requests a second.

Reads the plan as JSON from standard input, sends the requests over kept connections, and prints the outcome as JSON.
"""

import asyncio
import json
import random
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class LoadPlan:
    """What to send.

    requests  files, each a whole HTTP request; callers draw them at random
    callers   connections; each sends its next request when it has its answer
    rate      requests a second of all callers together, at random times; 0: as fast as they are answered
    skip      seconds at the start whose answers do not count, until the queue is as long as it gets
    keep      keep the answers' versions and first probabilities, to find mixed ones
    """

    port: int
    requests: Sequence[str]
    callers: int
    seconds: float
    rate: float = 0.0
    skip: float = 0.0
    keep: bool = False


@dataclass
class LoadOutcome:
    """Latencies in seconds of the requests that were answered with 200, counts by status, and what else was seen.

    seconds      of the plan, without what it skips
    cpu_seconds  processor time of the callers themselves, without their start
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
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


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def call(
    connection: Connection,
    texts: Sequence[bytes],
    plan: LoadPlan,
    moments: AsyncIterator[float],
    outcome: LoadOutcome,
    end: float,
) -> None:
    """One caller: sends one of the texts over its connection at each of the moments."""
    reader, writer = connection
    async for moment in moments:
        number = random.randrange(len(texts))
        writer.write(texts[number])
        status, retry_after, content = await read_answer(reader)
        now = time.perf_counter()
        outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
        if status == "200" and end - outcome.seconds <= now <= end:
            outcome.latencies.append(now - moment)
            if plan.keep:
                answer = json.loads(content)
                position = answer["predictions"][0]["positions"][0]
                outcome.answers.append((number, answer["version"], position["probabilities"]["0"]))
        elif retry_after is not None:
            outcome.retry_after.append(retry_after)
    writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[str, float | None, bytes]:
    """Status, seconds after which to come back, and content of an answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length, retry_after = _LENGTH.search(head), _RETRY_AFTER.search(head)
    assert length is not None
    content = await reader.readexactly(int(length[1]))
    return head[9:12].decode(), None if retry_after is None else float(retry_after[1]), content


async def send_all(plan: LoadPlan) -> LoadOutcome:
    """All callers until the end of the plan, which begins when all are connected."""
    texts = [Path(name).read_bytes() for name in plan.requests]
    connections = [await asyncio.open_connection("127.0.0.1", plan.port) for _ in range(plan.callers)]
    outcome, start = LoadOutcome(plan.seconds - plan.skip), time.perf_counter()
    end, due = start + plan.seconds, start
    cpu_start = time.process_time()

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

    await asyncio.gather(*(call(each, texts, plan, moments(), outcome, end) for each in connections))
    outcome.cpu_seconds = time.process_time() - cpu_start
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
