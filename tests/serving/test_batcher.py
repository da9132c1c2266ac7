"""Rows of several callers share passes fairly, a bad row costs only itself, and a full queue says when to come back."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from icecore.serving.batcher import NO_FINITE_LOGITS, Batcher, QueuedRequest, usual_workers
from icecore.serving.request_errors import RequestError
from icecore.serving.request_rows import RequestRows

SPEC = object()


class FakeEngine:
    """Answers each row (1,) with its number; holds the passes while `gate` is closed."""

    def __init__(self) -> None:
        self.passes: list[list[float]] = []
        self.gate = threading.Event()
        self.gate.set()

    def predict(self, rows: Sequence[Tensor], programs: Any, check_finite: bool) -> list[Tensor]:
        assert not check_finite
        self.gate.wait(10)
        values = [float(row[0]) for row in rows]
        if any(value < 0 for value in values):
            raise RuntimeError("a fault")
        self.passes.append(values)
        return [row.view(1, 1) for row in rows]


def rows(*values: float) -> RequestRows:
    numbers = np.arange(len(values))
    return RequestRows(torch.tensor(values)[:, None], None, numbers, list(map(str, numbers)), len(values))


def program() -> Any:
    codec = SimpleNamespace(tokens=lambda rows, first, last: list(rows.inputs[first:last]))
    return SimpleNamespace(codec=codec, loaded=SimpleNamespace(spec=SPEC))


@pytest.fixture
def batcher() -> Any:
    """A batcher of passes of four rows with a queue of eight."""
    made = Batcher(FakeEngine(), wait_ms=50, max_rows=4, max_queue=8)  # type: ignore[arg-type]
    yield made
    made.engine.gate.set()  # type: ignore[attr-defined]
    made.close()


def run(batcher: Any, *requests: RequestRows, before: Callable[[], None] = lambda: None) -> list[Any]:
    """The outcomes of requests that wait together behind a pass that is held up."""

    async def together() -> list[Any]:
        batcher.engine.gate.clear()
        first = asyncio.create_task(batcher.run(program(), rows(0.0)))
        while batcher.waiting or not first:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        tasks = [asyncio.create_task(batcher.run(program(), request)) for request in requests]
        await asyncio.sleep(0.02)
        before()
        batcher.engine.gate.set()
        return (await asyncio.gather(first, *tasks, return_exceptions=True))[1:]

    return asyncio.run(together())


def values(job: QueuedRequest) -> list[float | None]:
    return [None if each is None else float(each) for each in job.logits]


def test_rows_of_several_callers_share_a_pass(batcher: Any) -> None:
    jobs = run(batcher, rows(1), rows(2), rows(3))
    assert [values(job) for job in jobs] == [[1], [2], [3]]
    assert batcher.engine.passes == [[0], [1, 2, 3]]


def test_a_long_request_does_not_keep_others_waiting(batcher: Any) -> None:
    jobs = run(batcher, rows(1, 2, 3, 4, 5, 6), rows(7))
    assert [values(job) for job in jobs] == [[1, 2, 3, 4, 5, 6], [7]]
    assert 7 in batcher.engine.passes[1]
    assert max(map(len, batcher.engine.passes)) == 4


def test_a_row_without_finite_logits_costs_only_itself(batcher: Any) -> None:
    good, bad = run(batcher, rows(1), rows(2, float("nan")))
    assert values(good) == [1]
    assert values(bad) == [2, None]
    assert [(problem.row, problem.message) for problem in bad.problems] == [(1, NO_FINITE_LOGITS)]
    assert len(batcher.engine.passes) == 2  # the first, which is held up, and one for all of these rows


def test_a_fault_ends_neither_the_thread_nor_other_requests(batcher: Any) -> None:
    (failed,) = run(batcher, rows(-1, 2, 3, 4, 5, 6))
    assert isinstance(failed, RuntimeError)
    assert batcher.waiting == 0
    (after,) = run(batcher, rows(9))
    assert values(after) == [9]


def test_a_full_queue_says_when_to_come_back(batcher: Any) -> None:
    *accepted, refused = run(batcher, rows(1, 2, 3, 4), rows(5, 6, 7, 8), rows(9))
    assert [values(job) for job in accepted] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert isinstance(refused, RequestError)
    assert refused.status == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert str(refused).startswith("8 rows wait already.")


def test_a_request_longer_than_the_queue_is_accepted_when_nothing_waits(batcher: Any) -> None:
    async def alone() -> QueuedRequest:
        return await batcher.run(program(), rows(*range(20)))

    assert values(asyncio.run(alone())) == list(range(20))


def test_a_lone_caller_does_not_wait(batcher: Any) -> None:
    batcher.wait = 10.0

    async def alone() -> None:
        for number in range(3):
            await asyncio.wait_for(batcher.run(program(), rows(number)), 5)

    asyncio.run(alone())
    assert batcher.engine.passes == [[0], [1], [2]]


def test_closing_finishes_what_waits(batcher: Any) -> None:
    jobs = run(batcher, rows(1), rows(2), before=threading.Thread(target=batcher.close).start)
    assert [values(job) for job in jobs] == [[1], [2]]
    batcher.close()
    assert not batcher.is_alive


def test_a_request_that_meets_the_end_is_refused_and_does_not_wait_for_ever(batcher: Any) -> None:
    """The batcher is closed after a request has come, and before it is in the queue."""

    class ClosingFirst:
        """Closes the batcher before the lock is taken for the first time."""

        def __init__(self, lock: Any) -> None:
            self.lock = lock

        def __enter__(self) -> Any:
            batcher._changed = self.lock
            batcher.close()
            return self.lock.__enter__()

        def __exit__(self, *error: Any) -> Any:
            return self.lock.__exit__(*error)

    async def ask() -> None:
        batcher._changed = ClosingFirst(batcher._changed)
        await asyncio.wait_for(batcher.run(program(), rows(1)), 5)

    with pytest.raises(RequestError, match="is being stopped") as refused:
        asyncio.run(ask())
    assert refused.value.status == 503


# --- several workers ----------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Any:
    """A batcher whose two workers share two cores."""
    made = Batcher(FakeEngine(), wait_ms=50, max_rows=4, max_queue=64, workers=2, cores=2)  # type: ignore[arg-type]
    yield made
    made.engine.gate.set()  # type: ignore[attr-defined]
    made.close()


def test_a_pass_does_not_wait_for_the_one_of_another_worker(pair: Any) -> None:
    async def during_a_pass() -> list[float | None]:
        pair.engine.gate.clear()
        first = asyncio.create_task(pair.run(program(), rows(0.0)))
        while pair.waiting or not first:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        second = asyncio.create_task(pair.run(program(), rows(1.0)))
        await asyncio.sleep(0.05)
        assert pair.waiting == 0  # the other worker has it
        third = asyncio.create_task(pair.run(program(), rows(2.0)))
        await asyncio.sleep(0.05)
        assert pair.waiting == 1
        pair.engine.gate.set()
        return [value for job in await asyncio.gather(first, second, third) for value in values(job)]

    assert asyncio.run(during_a_pass()) == [0, 1, 2]


def test_rows_of_one_request_are_in_order_though_workers_share_them(pair: Any) -> None:
    bad = {7, 30}
    numbers = [float("nan") if number in bad else float(number) for number in range(40)]

    async def alone() -> QueuedRequest:
        return await pair.run(program(), rows(*numbers))

    job = asyncio.run(alone())
    assert values(job) == [None if number in bad else number for number in range(40)]
    assert [problem.row for problem in job.problems] == sorted(bad)
    assert max(map(len, pair.engine.passes)) <= 4


def test_rows_that_wait_are_shared_among_the_workers_that_are_free(pair: Any) -> None:
    async def alone() -> None:
        while pair._idle < 2:
            await asyncio.sleep(0.001)
        pair.engine.gate.clear()
        task = asyncio.create_task(pair.run(program(), rows(1, 2, 3, 4)))
        while pair.waiting or pair._idle == 2:
            await asyncio.sleep(0.001)
        pair.engine.gate.set()
        await task

    asyncio.run(alone())
    assert sorted(map(len, pair.engine.passes)) == [2, 2]


def test_closing_ends_all_workers_when_nothing_waits(pair: Any) -> None:
    async def some() -> list[QueuedRequest]:
        return await asyncio.gather(*(pair.run(program(), rows(number)) for number in range(10)))

    assert [values(job) for job in asyncio.run(some())] == [[number] for number in range(10)]
    pair.close()
    assert not any(worker.is_alive() for worker in pair._workers)


def test_a_fault_in_one_worker_leaves_the_other_requests_alone(pair: Any) -> None:
    async def both() -> list[Any]:
        tasks = (pair.run(program(), rows(*values)) for values in ((-1, -2, -3, -4, -5, -6), (7, 8)))
        return await asyncio.gather(*tasks, return_exceptions=True)

    failed, good = asyncio.run(both())
    assert isinstance(failed, RuntimeError)
    # a pass that both shared fails for both, and the server goes on
    assert isinstance(good, RuntimeError) or values(good) == [7, 8]
    assert pair.waiting == 0
    assert pair.is_alive

    async def after() -> QueuedRequest:
        return await pair.run(program(), rows(9))

    assert values(asyncio.run(after())) == [9]


def test_workers_have_their_share_of_the_cores_and_so_do_compiled_kernels() -> None:
    seen: list[int] = []
    made = Batcher(FakeEngine(), 5, 4, 8, workers=2, cores=6)  # type: ignore[arg-type]
    made.call_as_worker(lambda: seen.append(torch.get_num_threads()))
    made.close()
    assert seen == [3]
    assert [usual_workers(torch.device("cpu"), cores) for cores in (1, 2, 4, 64)] == [1, 2, 4, 4]
    assert usual_workers(torch.device("cuda"), 64) == 1
