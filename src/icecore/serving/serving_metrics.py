"""What a Prometheus server reads: requests, rows, queues, passes and latencies, by program and body."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

#: upper ends of the buckets of latencies, in seconds
SECOND_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: upper ends of the buckets of rows in a pass
ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServingMetrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "icecore_requests", "Requests for predictions, by HTTP status.", ["program", "status"], registry=registry
        )
        self.rows = Counter("icecore_rows", "Rows predicted.", ["program"], registry=registry)
        self.latency = Histogram(
            "icecore_request_seconds",
            "Time from the first byte of a request to its answer.",
            ["program"],
            buckets=SECOND_BUCKETS,
            registry=registry,
        )
        self.pass_rows = Histogram(
            "icecore_pass_rows", "Rows of a pass through a body.", ["body"], buckets=ROW_BUCKETS, registry=registry
        )
        self.pass_seconds = Histogram(
            "icecore_pass_seconds",
            "Time of a pass through a body.",
            ["body"],
            buckets=SECOND_BUCKETS,
            registry=registry,
        )
        self.queue = Gauge("icecore_queue_rows", "Rows that wait for a pass.", ["body"], registry=registry)
        self.programs = Gauge("icecore_programs", "Programs that are served.", registry=registry)
        self.changes = Counter(
            "icecore_program_changes", "Programs put, deleted and refused.", ["change"], registry=registry
        )

    def observe_request(self, program: str, status: int, rows: int, seconds: float) -> None:
        """Count a request. `program` is "" for a program that is not served, so that callers make no labels."""
        self.requests.labels(program, str(status)).inc()
        if rows:
            self.rows.labels(program).inc(rows)
        if status == 200:
            self.latency.labels(program).observe(seconds)

    def observer(self, body: str) -> Callable[[int, float], None]:
        """A function that counts the passes of a body: rows and seconds."""
        pass_rows, pass_seconds = self.pass_rows.labels(body), self.pass_seconds.labels(body)

        def observe(rows: int, seconds: float) -> None:
            pass_rows.observe(rows)
            pass_seconds.observe(seconds)

        return observe

    def watch_queue(self, body: str, waiting: Callable[[], int]) -> None:
        """Show how many rows wait for a body."""
        self.queue.labels(body).set_function(waiting)

    def text(self) -> bytes:
        """All metrics in the text format."""
        return generate_latest(self.registry)
