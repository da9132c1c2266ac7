"""A server in this process, on a free port of loopback, for the tests of serving."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icecore.serving.http_server import ServeOptions, load_programs_of, open_socket
from icecore.serving.program_registry import ProgramRegistry
from icecore.serving.serve_settings import ServeSettings
from icecore.serving.watched_folder import WatchedFolders


@dataclass(frozen=True)
class Answer:
    """Status, headers and content of an answer."""

    status: int
    headers: Any
    content: bytes

    def json(self) -> Any:
        """The content, which must be JSON without NaN and Infinity."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is not JSON")

        return json.loads(self.content, parse_constant=refuse)

    @property
    def error(self) -> Any:
        return self.json()["error"]


@dataclass(frozen=True)
class LiveServer:
    """A running server, and what it serves."""

    port: int
    registry: ProgramRegistry
    folders: WatchedFolders

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, content: Any = None, kind: str = "application/json", **headers: str
    ) -> Answer:
        """Send a request with JSON, or with bytes as they are."""
        raw = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, raw, ({"Content-Type": kind} if raw is not None else {}) | headers)
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def predict(self, program: str, content: Any, kind: str = "application/json", query: str = "") -> Answer:
        """Ask a program."""
        return self.ask("POST", f"/v1/programs/{program}/predict{query}", content, kind)


@contextlib.contextmanager
def running(paths: Sequence[Path], access: Any = None, **settings: Any) -> Iterator[LiveServer]:
    """Serve program files and folders until the end of the block."""
    import uvicorn

    from icecore.serving.web_app import Access, create_app

    registry, folders = load_programs_of(ServeOptions(paths, ServeSettings(**settings), "cpu"))
    with open_socket("127.0.0.1", 0) as listener:
        app = create_app(registry, access or Access(), folders)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield LiveServer(listener.getsockname()[1], registry, folders)
        finally:
            server.should_exit = True
            thread.join()
