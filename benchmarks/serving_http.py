"""What does HTTP cost? `icecore serve` with 100 programs and 64 callers against `Engine.predict` on the same rows.

MiniLM geometry, T = 64, one row a request. The engine's side takes batches of 64 rows of all programs and takes turns
with the server's, in one process; the callers are in another one on the same machine. Waiting threads spin as long as
in `icecore serve`. Targets: at least 0.85 of the engine's rows per second; at a tenth of that, a latency of at most 1.5
(median) and 3 times (p99) a bare pass of one row; at 3 times that for 60 s, at least 0.95 of it answered and no growth
of memory; 100 hot swaps under load without a failed request or a mixed answer; and a further program that costs its own
bytes.
"""

import ctypes
import gc
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from icecore.core.spinning import limit_spinning

if __name__ == "__main__":
    limit_spinning()  # before torch is imported, as the command line does

import torch
from torch import Tensor

from http_load import LoadOutcome, LoadPlan, load
from icecore.backbones import Backbone, BodyRequest, build_backbone
from icecore.inference.engine import Engine
from icecore.model.program import Program
from icecore.serving.http_server import open_socket, prepare_process
from icecore.serving.program_registry import ProgramRegistry
from icecore.serving.serve_settings import ServeSettings
from icecore.serving.served_program import ServedBody
from icecore.serving.serving_metrics import ServingMetrics
from measure import Bench, options
from serving import make_programs
from sides import Patches

PROGRAMS, CALLERS, BATCH = 100, 64, 64
MANY_PROGRAMS = 1000
TARGETS = {"throughput": 0.85, "p50": 1.5, "p99": 3.0, "overload": 0.95}


class Served:
    """A server of programs on one body in this process, and requests for it."""

    def __init__(self, body: Backbone, precision: str, folder: Path, settings: ServeSettings, program: Program) -> None:
        self.registry = ProgramRegistry(settings, ServingMetrics(), "cpu")
        engine = Engine(body, precision)
        batcher = self.registry.make_batcher(engine, "body")
        if settings.compile:
            engine.compile_kernels(program)  # for the side of the engine, which uses all cores
            batcher.call_as_worker(lambda: engine.compile_kernels(program))
        self.registry.bodies.append(ServedBody("body", "random", precision, engine, batcher))
        self.engine, self.folder = engine, folder

    def start(self) -> None:
        """Listen on a free port."""
        import uvicorn

        from icecore.serving.web_app import Access, create_app

        prepare_process()
        listener = open_socket("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(create_app(self.registry, Access()), log_level="warning", access_log=False)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        """Finish what was accepted."""
        self.server.should_exit = True
        self.thread.join()

    def write_request(self, name: str, row: Tensor, number: int) -> str:
        """A file with a request for one row."""
        content = json.dumps({"rows": [[[round(x, 3) for x in token] for token in row.tolist()]]})
        head = f"POST /v1/programs/{name}/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        path = self.folder / f"request-{number}"
        path.write_bytes(f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode())
        return str(path)


def resident_bytes() -> int:
    """Memory of this process now, after memory that was freed has been given back to the system."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return int(re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024


def engine_rate(engine: Engine, rows: Sequence[Tensor], programs: Sequence[Any], seconds: float) -> float:
    """Rows per second of `Engine.predict` in batches."""
    done, start = 0, time.perf_counter()
    while not done or time.perf_counter() - start < seconds:
        first = done % len(rows)
        engine.predict(rows[first : first + BATCH], programs[first : first + BATCH])
        done += len(rows[first : first + BATCH])
    return done / (time.perf_counter() - start)


def bare_pass(engine: Engine, row: Tensor, program: Any, count: int, pause: float = 0.0) -> float:
    """Median seconds of a pass of one row, with so many seconds between two: a core that has rested starts slowly."""
    samples: list[float] = []
    for _ in range(count):
        time.sleep(pause)
        start = time.perf_counter()
        engine.predict([row], program)
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def swap_under_load(served: Served, files: Sequence[bytes], plan: LoadPlan, swaps: int) -> tuple[LoadOutcome, int]:
    """Put the versions of a program in turn while callers ask it. Returns also the number of answers that are mixed."""
    outcomes: list[LoadOutcome] = []
    callers = threading.Thread(target=lambda: outcomes.append(load(plan)))
    callers.start()
    for number in range(swaps):
        served.registry.put("swapped", files[number % len(files)])
        time.sleep(0.8 * plan.seconds / swaps)
    callers.join()
    seen: dict[tuple[int, str], list[float]] = {}
    for number, version, value in outcomes[0].answers:
        seen.setdefault((number, version), []).append(value)
    usual = {key: statistics.median(values) for key, values in seen.items()}
    # rounding to 8 bits makes answers vary with the rows of their pass, but never towards the other version's
    mixed = sum(
        abs(value - usual[number, version]) > abs(value - other_value)
        for number, version, value in outcomes[0].answers
        for (other, other_version), other_value in usual.items()
        if other == number and other_version != version
    )
    return outcomes[0], mixed


def cost_of_programs(served: Served, raw: bytes, count: int) -> float:
    """Bytes of memory that each of `count` further programs takes."""
    before = resident_bytes()
    for number in range(count):
        served.registry.put(f"further-{number}", raw)
    return (resident_bytes() - before) / count


def measure(bench: Bench, folder: Path, settings: ServeSettings) -> dict[str, Any]:
    """All numbers of the report."""
    quick = bench.quick
    count, rows_count = (5, 16) if quick else (PROGRAMS, 256)
    seconds = 0.5 if quick else bench.seconds / 6
    request = BodyRequest("minilm", "random", layers=1 if quick else None)
    task = Patches(rows_count)
    rows = [row.mul(1000).round().div(1000) for row in next(task.batches("test", rows_count)).tokens]
    programs = make_programs(task, build_backbone(request), count + 1)
    # answers of the two versions that are swapped must differ by more than rounding to 8 bits makes them vary
    programs[-1].tensors["output.layers.0.bias"][0] += 1.0
    files: list[bytes] = []
    for program in programs:
        # served with the precision that is measured
        program = replace(program, config=replace(program.config, precision=bench.precision))
        program.save(folder / "program")
        files.append((folder / "program").read_bytes())
    served = Served(build_backbone(request), bench.precision, folder, settings, programs[0])
    for number, raw in enumerate(files[:count]):
        served.registry.put(f"p{number}", raw)
    names = [f"p{number % count}" for number in range(rows_count)]
    loaded = [served.registry.find(name).loaded for name in names]
    requests = [served.write_request(name, row, i) for i, (name, row) in enumerate(zip(names, rows, strict=True))]
    served.start()
    numbers: dict[str, Any] = {"programs": count, "callers": CALLERS, "compiled": settings.compile}
    numbers["spin_count"] = os.environ.get("GOMP_SPINCOUNT", "libgomp's own")
    try:
        engine, pairs = served.engine, []
        load(LoadPlan(served.port, requests, CALLERS, seconds / 2))  # warm-up
        engine_rate(engine, rows, loaded, 0)
        for _ in range(1 if quick else 3):
            ours = capacity(served, requests, seconds)
            pairs.append((ours, engine_rate(engine, rows, loaded, seconds)))
        http, direct = (statistics.median(each) for each in zip(*pairs, strict=True))
        numbers["rows_per_second"] = {"http": http, "engine": direct}
        numbers["throughput"] = statistics.median(one / other for one, other in pairs)
        rate = max(2.0, http / 10)
        # before and after, because the speed of a virtual machine drifts
        around = [bare_pass(engine, rows[0], loaded[0], 5 if quick else 50, 0 if quick else 1 / rate)]
        light = load(LoadPlan(served.port, requests, 16, 1 if quick else bench.seconds / 2, rate=rate))
        around.append(bare_pass(engine, rows[0], loaded[0], 5 if quick else 50, 0 if quick else 1 / rate))
        bare = statistics.mean(around)
        numbers |= {
            "bare_pass_ms": [1000 * each for each in around],
            "bare_pass_without_pause_ms": 1000 * bare_pass(engine, rows[0], loaded[0], 5 if quick else 50),
            "p50_ms": 1000 * light.quantile(0.5),
            "p99_ms": 1000 * light.quantile(0.99),
        }
        numbers |= {"p50": light.quantile(0.5) / bare, "p99": light.quantile(0.99) / bare}
        numbers |= overload(served, requests, http, 1 if quick else 60)
        served.registry.put("swapped", files[-1])
        asked = [served.write_request("swapped", row, 1000 + i) for i, row in enumerate(rows[:8])]
        plan = LoadPlan(served.port, asked, 16, 2 if quick else 30, keep=True)
        outcome, mixed = swap_under_load(served, (files[0], files[-1]), plan, 5 if quick else 100)
        numbers["swaps"] = {"answers": outcome.statuses, "mixed": mixed}
        cost = cost_of_programs(served, files[0], 5 if quick else MANY_PROGRAMS)
        numbers |= {"bytes_per_program": len(files[0]), "bytes_held_per_program": cost}
    finally:
        served.stop()
    return numbers


def capacity(served: Served, requests: Sequence[str], seconds: float) -> float:
    """Rows per second with callers who send their next request when they have their answer."""
    return load(LoadPlan(served.port, requests, CALLERS, seconds, skip=seconds / 5)).rate


def overload(served: Served, requests: Sequence[str], usual: float, seconds: float) -> dict[str, Any]:
    """Requests at 3 times the capacity: what is answered, what is refused, and the memory before and after.

    The capacity is measured before and after, because the speed of a virtual machine drifts.
    """
    callers = 16 * CALLERS if seconds > 1 else CALLERS
    plan = LoadPlan(served.port, requests, callers, seconds, rate=3 * usual)
    load(replace(plan, seconds=seconds / 3))  # until the buffers of the connections have their sizes
    # a second at least, in which even a busy machine answers something
    measuring = max(1.0, seconds / 6)
    around = [capacity(served, requests, measuring)]
    before = resident_bytes()
    outcome = load(replace(plan, seconds=seconds * 1.1, skip=seconds * 0.1))
    growth = resident_bytes() - before
    around.append(capacity(served, requests, measuring))
    return {
        "overload": outcome.rate / statistics.mean(around),
        "overload_rows_per_second": {"capacity": around, "answered": outcome.rate},
        "overload_answers": outcome.statuses,
        "overload_p99_s": outcome.quantile(0.99),
        "overload_growth_mib": growth / 2**20,
        "overload_callers_cpu": outcome.cpu_seconds / (seconds * 1.1),
        "retry_after_s": statistics.median(outcome.retry_after) if outcome.retry_after else 0.0,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line `argv`."""
    parser = options(__doc__, seconds=120)
    parser.add_argument("--compile", action="store_true", help="compile kernels, as icecore serve --compile does")
    arguments = parser.parse_args(argv)
    bench = Bench("serving_http", arguments)
    bench.part = "compiled" if arguments.compile else ""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        numbers = measure(bench, Path(folder), ServeSettings(compile=arguments.compile))
    rates = numbers["rows_per_second"]
    bench.report(
        numbers | {"targets": TARGETS},
        ["what", "measured", "target"],
        [
            ["rows/s over HTTP, over the engine's", f"{numbers['throughput']:.2f}", ">= 0.85"],
            [
                "p50 of a row at a tenth of the load, over a bare pass at that pace",
                f"{numbers['p50']:.2f}",
                "<= 1.5",
            ],
            ["p99 of the same", f"{numbers['p99']:.2f}", "<= 3"],
            ["answers at 3 times the capacity, over the capacity", f"{numbers['overload']:.2f}", ">= 0.95"],
            ["growth of memory in that time, MiB", f"{numbers['overload_growth_mib']:.1f}", "0"],
            ["p99 of what is accepted then, s", f"{numbers['overload_p99_s']:.1f}", "bounded"],
            ["failed requests and mixed answers in 100 hot swaps", _swap_text(numbers["swaps"]), "0 and 0"],
            ["bytes of a further program, over those of its file", _cost_text(numbers), "1"],
        ],
        f"{rates['http']:.1f} rows/s over HTTP and {rates['engine']:.1f} from the engine: rows of 64 x 48 on MiniLM's "
        f"geometry, {numbers['programs']} programs, {CALLERS} callers with a row a request.",
    )


def _swap_text(swaps: dict[str, Any]) -> str:
    failed = sum(count for status, count in swaps["answers"].items() if status != "200")
    return f"{failed} of {sum(swaps['answers'].values()):,} and {swaps['mixed']}"


def _cost_text(numbers: dict[str, Any]) -> str:
    return f"{numbers['bytes_held_per_program'] / numbers['bytes_per_program']:.2f}"


if __name__ == "__main__":
    main()
