"""Refuses requests for a body whose queue is full, before anything else is done with them.

At several times its capacity a server refuses most requests, so a refusal must cost little: here it costs neither
routing nor reading.
"""

import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request

from icecore.serving.json_answers import to_json
from icecore.serving.openapi_schema import PREDICT_PATH
from icecore.serving.program_registry import ProgramRegistry
from icecore.serving.request_errors import RequestError

_PREDICT = re.compile(PREDICT_PATH.replace("{name}", "([^/]+)"))


class QueueGate:
    """Middleware around the application.

    check  raises RequestError for a caller who may not use the server, who gets the usual answer
    """

    def __init__(self, app: Any, registry: ProgramRegistry, check: Callable[[Request], None]) -> None:
        self.app, self.registry, self.check = app, registry, check

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" and scope["method"] == "POST" else None
        if refusal is None:
            await self.app(scope, receive, send)
            return
        content = to_json(refusal.to_json())
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **refusal.headers}
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    def _refusal(self, scope: Any) -> RequestError | None:
        """Why the request is refused; None if it goes on to the application."""
        found = _PREDICT.fullmatch(scope["path"])
        program = self.registry.get(unquote(found[1])) if found else None
        if program is None:
            return None
        start = time.perf_counter()
        try:
            program.body.batcher.check_room()
        except RequestError as error:
            try:
                self.check(Request(scope))
            except RequestError:
                return None
            self.registry.metrics.observe_request(program.name, error.status, 0, time.perf_counter() - start)
            return error
        return None
