"""Gathers the rows of different programs and callers into passes through one body.

Workers take what waits when they are free, so callers share passes as soon as there are several of them. Every request
gets an equal share of a pass: one with ten thousand rows does not keep the others waiting. On a CPU, workers share the
cores: two passes on one core each are faster than one on two cores, whose threads wait for each other, and a request
that comes during a pass need not wait for its end.
"""

import asyncio
import contextlib
import itertools
import logging
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icecore.core.errors import UserError
from icecore.inference.engine import Engine, LoadedProgram
from icecore.serving.request_errors import RequestError, queue_full
from icecore.serving.request_rows import RequestRows, RowProblem

if TYPE_CHECKING:
    from icecore.serving.served_program import ServedProgram

logger = logging.getLogger(__name__)
#: workers on a CPU, at most: what a pass does in Python itself keeps the other workers waiting
MAX_WORKERS = 4
#: share of the newest pass in the estimate of the speed
SPEED_WEIGHT = 0.2
#: what is wrong with a row for which a program gives no finite numbers
NO_FINITE_LOGITS = "the program gives NaN or infinite logits for it. Its weights or the row's numbers are too large."
#: longest time after which a caller is told to come back, in seconds
MAX_RETRY_SECONDS = 60


@dataclass(eq=False)
class QueuedRequest:
    """The rows of one request for one program.

    explain    also compute the attention of each row
    finished   gets the job itself, or an exception
    taken      rows that passes have taken
    done       rows whose passes have ended
    is_over    all rows are done, or a pass has failed: the caller is told once, though several workers may have rows
    logits     (n, C) of each row that is done, None for a row with a problem
    attention  of each row that is done, by its place, if it is asked for
    problems   of rows that the program gives no finite numbers for
    """

    program: "ServedProgram"
    rows: RequestRows
    explain: bool
    loop: asyncio.AbstractEventLoop
    finished: "asyncio.Future[QueuedRequest]"
    taken: int = 0
    done: int = 0
    is_over: bool = False
    logits: list[Tensor | None] = field(init=False)
    attention: dict[int, Tensor] = field(default_factory=dict)
    problems: list[RowProblem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.logits = [None] * len(self.rows)

    @property
    def left(self) -> int:
        """Rows that no pass has taken yet."""
        return len(self.rows) - self.taken


#: a job and its rows in a pass: from the first up to the last
Part = tuple[QueuedRequest, int, int]


def usual_workers(device: torch.device, cores: int) -> int:
    """How many workers suit a body: one for each of a few cores, and one on a device of its own."""
    return min(cores, MAX_WORKERS) if device.type == "cpu" else 1


class Batcher:
    """The queue of one body and the workers that empty it.

    workers  threads that compute a pass each
    cores    that they share; None leaves it to torch how many each uses
    observe  is called with the number of rows and the seconds of each pass
    """

    def __init__(
        self,
        engine: Engine,
        wait_ms: float,
        max_rows: int,
        max_queue: int,
        observe: Callable[[int, float], object] = lambda rows, seconds: None,
        workers: int = 1,
        cores: int | None = None,
    ) -> None:
        self.engine, self.observe = engine, observe
        self.threads = None if cores is None else max(1, cores // workers)
        self.wait, self.max_rows, self.max_queue = wait_ms / 1000, max_rows, max_queue
        self._jobs: deque[QueuedRequest] = deque()
        self._waiting = self._idle = 0
        self._rows_per_second = 0.0
        self._is_shared = False
        self._is_closing = False
        self._changed = threading.Condition()
        self._workers = [
            threading.Thread(target=self._run, name=f"icecore-body-{number}", daemon=True) for number in range(workers)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def waiting(self) -> int:
        """Rows that wait for a pass."""
        return self._waiting

    @property
    def is_alive(self) -> bool:
        """Whether all workers run."""
        return all(worker.is_alive() for worker in self._workers)

    def check_room(self, rows: int = 1) -> None:
        """Raise RequestError (429) if the queue has no room for `rows` more rows.

        A request that is larger than the whole queue is accepted when nothing waits.
        """
        waiting = self._waiting
        if waiting and waiting + rows > self.max_queue:
            speed = self._rows_per_second * len(self._workers)
            seconds = waiting / speed if speed else 1.0
            raise queue_full(waiting, max(1, min(MAX_RETRY_SECONDS, math.ceil(seconds))))

    async def run(self, program: "ServedProgram", rows: RequestRows, explain: bool = False) -> QueuedRequest:
        """Wait until the passes of all rows are done.

        Raises RequestError at once if the queue is full (429) or the batcher is being closed (503).
        """
        loop = asyncio.get_running_loop()
        job = QueuedRequest(program, rows, explain, loop, loop.create_future())
        with self._changed:
            if self._is_closing:  # the workers may have ended, and nobody would take the job
                raise RequestError(503, "stopping", "The server is being stopped. Ask another one, or come back later.")
            self.check_room(len(rows))
            self._jobs.append(job)
            self._waiting += len(rows)
            self._changed.notify()
        return await job.finished

    def call_as_worker(self, function: Callable[[], object]) -> None:
        """Call a function in a thread with the cores of a worker: kernels are compiled for a number of threads."""
        with ThreadPoolExecutor(1, initializer=self._set_threads) as pool:
            pool.submit(function).result()

    def close(self) -> None:
        """Finish what waits, then end the workers."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join()

    def _run(self) -> None:
        self._set_threads()
        while parts := self._next_pass():
            start = time.perf_counter()
            try:
                failed = self._compute(parts)
            except Exception as error:  # one faulty pass must not end the worker, which serves all others
                logger.exception("a pass failed")
                failed = {job: error for job, _, _ in parts}
            seconds = time.perf_counter() - start
            rows = sum(last - first for _, first, last in parts)
            with self._changed:
                weight = SPEED_WEIGHT if self._rows_per_second else 1.0
                self._rows_per_second += weight * (rows / seconds - self._rows_per_second)
                ended: list[QueuedRequest] = []
                for job, first, last in parts:
                    job.done += last - first
                    if not job.is_over and (job.done == len(job.rows) or job in failed):
                        job.is_over = True
                        ended.append(job)
            self.observe(rows, seconds)
            self._deliver(ended, failed)

    def _set_threads(self) -> None:
        if self.threads is not None:
            torch.set_num_threads(self.threads)  # of passes in the thread that calls it

    def _next_pass(self) -> list[Part]:
        """Wait for rows and take those of the next pass; none when the batcher is closed and empty."""
        with self._changed:
            self._idle += 1
            while not self._wait_for_rows():
                if self._is_closing:
                    return []
            # an equal share for each worker that is free
            parts = self._take(min(self.max_rows, math.ceil(self._waiting / self._idle)))
            self._idle -= 1
            self._is_shared = len(parts) > 1
            if self._jobs:
                self._changed.notify()
            return parts

    def _wait_for_rows(self) -> bool:
        """Wait until rows are there and others have had time to come. Returns whether another worker has left any."""
        while not self._jobs and not self._is_closing:
            self._changed.wait()
        # where the last pass was shared, more callers are about to come back
        deadline = time.perf_counter() + self.wait * self._is_shared
        while self._jobs and self._waiting < self.max_rows and not self._is_closing:
            left = deadline - time.perf_counter()
            if left <= 0:
                break
            self._changed.wait(left)
        return bool(self._jobs)

    def _take(self, room: int) -> list[Part]:
        """An equal share for each job that waits, in the order of their arrival; what is left waits on, behind."""
        parts: dict[QueuedRequest, Part] = {}
        rows = room
        while room and self._jobs:
            share = max(1, room // len(self._jobs))
            for _ in range(len(self._jobs)):
                if not room:
                    break
                job = self._jobs.popleft()
                count = min(share, room, job.left)
                first = parts[job][1] if job in parts else job.taken
                job.taken += count
                parts[job] = (job, first, job.taken)
                room -= count
                if job.left:
                    self._jobs.append(job)
        self._waiting -= rows - room
        return list(parts.values())

    def _compute(self, parts: Sequence[Part]) -> dict[QueuedRequest, Exception]:
        """Fill in the logits of the rows of a pass, and the attention where it is asked for.

        Returns the jobs whose attention cannot be had, each with its error.
        """
        tokens: list[Tensor] = []
        programs: list[LoadedProgram] = []
        for job, first, last in parts:
            tokens += job.program.codec.tokens(job.rows, first, last)
            programs += [job.program.loaded] * (last - first)
        # a row without finite logits must not cost the others theirs
        logits = iter(_finite_on_cpu(self.engine.predict(tokens, programs, check_finite=False)))
        for job, first, last in parts:
            job.logits[first:last] = itertools.islice(logits, last - first)
            bad = [row for row in range(first, last) if job.logits[row] is None]
            job.problems += [RowProblem(int(job.rows.places[row]), NO_FINITE_LOGITS) for row in bad]
        return self._explain(parts, tokens)

    def _explain(self, parts: Sequence[Part], tokens: Sequence[Tensor]) -> dict[QueuedRequest, Exception]:
        failed: dict[QueuedRequest, Exception] = {}
        start = 0
        for job, first, last in parts:
            rows = tokens[start : start + last - first]
            start += last - first
            if job.explain:
                try:
                    for place, row in enumerate(rows, first):
                        job.attention[place] = self.engine.attention(row, job.program.loaded).cpu()
                except UserError as error:
                    failed[job] = error
        return failed

    def _deliver(self, jobs: Sequence[QueuedRequest], failed: dict[QueuedRequest, Exception]) -> None:
        """Wake the callers of these jobs, once for each event loop."""
        if failed:
            with self._changed:  # what is left of a failed job is not computed
                self._jobs = deque(job for job in self._jobs if job not in failed)
                self._waiting = sum(job.left for job in self._jobs)
        by_loop: dict[asyncio.AbstractEventLoop, list[QueuedRequest]] = defaultdict(list)
        for job in jobs:
            by_loop[job.loop].append(job)
        for loop, done in by_loop.items():
            with contextlib.suppress(RuntimeError):  # a loop that is closed has no callers any more
                loop.call_soon_threadsafe(_finish, done, failed)


def _finite_on_cpu(logits: Sequence[Tensor]) -> list[Tensor | None]:
    """The logits (n, C) of each row on the CPU, fetched in one step; None for a row with one that is not finite."""
    flat = torch.cat([row.flatten() for row in logits]).cpu()
    fetched = flat.split([row.numel() for row in logits])
    # one look for all rows, because there is rarely a bad one
    is_good = bool(flat.isfinite().all())
    return [
        each.view(row.shape) if is_good or bool(each.isfinite().all()) else None
        for each, row in zip(fetched, logits, strict=True)
    ]


def _finish(jobs: Sequence[QueuedRequest], failed: dict[QueuedRequest, Exception]) -> None:
    for job in jobs:
        if job.finished.done():  # the caller has gone
            continue
        job.problems.sort(key=lambda problem: problem.row)  # workers may have ended in another order
        if job in failed:
            job.finished.set_exception(failed[job])
        else:
            job.finished.set_result(job)
