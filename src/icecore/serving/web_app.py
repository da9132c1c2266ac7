"""The application: routes, and how mistakes become answers. See docs/serving.md for what callers see."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from icecore.core.errors import UserError, WeightsError
from icecore.core.text import pluralize
from icecore.core.version import __version__
from icecore.serving import web_pages
from icecore.serving.access import check_host, check_may_change, check_origin, check_token
from icecore.serving.answer_writing import write_answer
from icecore.serving.batcher import QueuedRequest
from icecore.serving.explanations import MAX_EXPLAINED_ROWS
from icecore.serving.json_answers import to_json
from icecore.serving.openapi_schema import (
    CARD_ROUTE,
    CARDS_ROUTE,
    DELETE_ROUTE,
    PREDICT_PATH,
    PUT_ROUTE,
    STATE_ROUTE,
    STATE_TAG,
    ProgramName,
    schema,
)
from icecore.serving.predict_options import PredictOptions, read_options
from icecore.serving.program_registry import ProgramRegistry
from icecore.serving.queue_gate import QueueGate
from icecore.serving.request_errors import RequestError, too_large, wrong_request, wrong_rows
from icecore.serving.request_reading import JSON, ByteBudget, media_type, read_body, read_rows
from icecore.serving.served_program import ServedProgram
from icecore.serving.serving_metrics import CONTENT_TYPE
from icecore.serving.watched_folder import WatchedFolders

logger = logging.getLogger("icecore.serve")
#: larger requests are read in a thread, so that others are answered meanwhile
SMALL_BYTES = 2**17
#: answers of more rows are written in a thread
SMALL_ROWS = 256
#: threads that read large requests; what changes and lists programs has one of its own, and does not wait for them
READER_THREADS = 2
#: requests of the largest size that may be in memory at once
LARGE_REQUESTS = 16


@dataclass(frozen=True)
class Access:
    """Who may do what.

    token          that all callers need, if there is one
    is_local       only this machine reaches the server, so a request for another host, or from a page of another
                   site, is one that a browser was made to send
    is_replicated  this process is one of several replicas
    """

    token: str | None = None
    is_local: bool = True
    is_replicated: bool = False


class JsonResponse(Response):
    """An answer in JSON that every reader accepts."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json(content)


def create_app(registry: ProgramRegistry, access: Access, folders: WatchedFolders | None = None) -> FastAPI:
    """The application that serves the programs of a registry."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if folders is not None:
            await asyncio.to_thread(folders.close)
        await asyncio.to_thread(registry.close)
        readers.shutdown()
        changes.shutdown()

    readers = ThreadPoolExecutor(READER_THREADS, "icecore-reader")
    changes = ThreadPoolExecutor(1, "icecore-changes")
    app = FastAPI(
        title="icecore", version=__version__, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan
    )
    routes = _Routes(registry, access, folders, readers, changes)
    routes.add_to(app)
    app.add_middleware(QueueGate, registry=registry, check=routes.check)
    _add_error_answers(app)
    return app


class _Routes:
    def __init__(
        self,
        registry: ProgramRegistry,
        access: Access,
        folders: WatchedFolders | None,
        readers: ThreadPoolExecutor,
        changes: ThreadPoolExecutor,
    ) -> None:
        self.registry, self.access, self.folders = registry, access, folders
        self.readers, self.changes = readers, changes
        self.budget = ByteBudget(LARGE_REQUESTS * registry.settings.max_bytes)
        self._openapi: tuple[int, bytes] | None = None

    def add_to(self, app: FastAPI) -> None:
        """Add all routes."""
        self.app = app
        programs, one = "/v1/programs", "/v1/programs/{name}"
        # first, because routes are tried in this order
        app.add_route(PREDICT_PATH, self.predict, ["POST"])  # not a route of FastAPI, see `predict_options`
        app.get("/", include_in_schema=False)(self.page)
        app.get("/docs", include_in_schema=False)(self.reference)
        app.get("/openapi.json", include_in_schema=False)(self.openapi)
        app.get("/health", tags=[STATE_TAG], **STATE_ROUTE)(self.health)
        app.get("/ready", tags=[STATE_TAG], **STATE_ROUTE)(self.ready)
        app.get("/metrics", include_in_schema=False)(self.metrics)
        app.get(programs, tags=["programs"], **CARDS_ROUTE)(self.list_programs)
        app.get(one, tags=["programs"], **CARD_ROUTE)(self.show_program)
        app.put(one, tags=["programs"], **PUT_ROUTE)(self.put_program)
        app.delete(one, tags=["programs"], **DELETE_ROUTE)(self.delete_program)

    def check(self, request: Request) -> None:
        """Raise RequestError for a caller who may not use the server."""
        if self.access.is_local:
            check_host(request)
            check_origin(request)
        check_token(request, self.access.token)

    async def page(self) -> Response:
        """The page to try the programs."""
        return web_pages.response("try.html")

    async def reference(self) -> Response:
        """The reference of the API."""
        return web_pages.response("reference.html")

    async def openapi(self, request: Request) -> Response:
        """The description of the API, with examples from the programs."""
        self.check(request)
        generation = self.registry.generation
        if self._openapi is None or self._openapi[0] != generation:
            described = schema(self.app, list(self.registry.programs.values()), self.access.token is not None)
            self._openapi = (generation, to_json(described))
        return Response(self._openapi[1], media_type="application/json")

    async def health(self) -> JsonResponse:
        """Whether the process lives."""
        return JsonResponse({"status": "ok"})

    async def ready(self, request: Request) -> JsonResponse:
        """Whether programs can be asked, and how many files of the watched folders are refused.

        Callers who may use the server also get the names of these files; the log says why they are refused.
        """
        bodies = self.registry.bodies
        is_ready = all(body.batcher.is_alive for body in bodies)
        problems = list(self.folders.problems) if self.folders else []  # a copy, since the folders are watched on
        state: dict[str, Any] = {
            "status": "ready" if is_ready else "stopped",
            "programs": len(self.registry.programs),
            "bodies": len(bodies),
            "changes": self.registry.generation,
            "refused_files": len(problems),
        }
        with contextlib.suppress(RequestError):
            self.check(request)
            state["refused_names"] = sorted(path.name for path in problems)
        return JsonResponse(state, 200 if is_ready else 503)

    async def metrics(self, request: Request) -> Response:
        """Everything that is counted, for Prometheus."""
        self.check(request)
        return Response(self.registry.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def list_programs(self, request: Request) -> JsonResponse:
        """The cards of all programs."""
        self.check(request)
        programs = sorted(self.registry.programs.values(), key=lambda program: program.name)
        limits = self.registry.settings
        answer = {
            "programs": await _run_in(self.changes, lambda: [program.card() for program in programs]),
            "limits": {"bytes": limits.max_bytes, "rows": limits.max_request_rows, "explained": MAX_EXPLAINED_ROWS},
            "icecore": __version__,
        }
        return JsonResponse(answer)

    async def show_program(self, request: Request, name: ProgramName) -> JsonResponse:
        """The card of one program."""
        self.check(request)
        return JsonResponse(self.registry.find(name).card())

    async def put_program(self, request: Request, name: ProgramName) -> JsonResponse:
        """Serve a program file under a name, in place of the one that has it. Nothing is written to disk."""
        self.check(request)
        check_may_change(self.access.is_local, self.access.token, self.access.is_replicated)
        with self.budget.share() as take:
            raw = await read_body(request, self.registry.settings, take)
            is_new = name not in self.registry.programs
            served = await _run_in(self.changes, self.registry.put, name, raw)
        logger.info("Serving %s, version %s.", served.name, served.version)
        return JsonResponse(served.card(), 201 if is_new else 200)

    async def delete_program(self, request: Request, name: ProgramName) -> JsonResponse:
        """Stop serving a program. Requests that it has accepted are answered."""
        self.check(request)
        check_may_change(self.access.is_local, self.access.token, self.access.is_replicated)
        served = await _run_in(self.changes, self.registry.delete, name)
        return JsonResponse({"name": served.name, "version": served.version})

    async def predict(self, request: Request) -> Response:
        """Predict the rows of a request."""
        start, status, rows, label = time.perf_counter(), 500, 0, ""
        try:
            self.check(request)
            program = self.registry.find(request.path_params["name"])
            label = program.name
            options = read_options(request.url.query)
            with self.budget.share() as take:
                raw = await read_body(request, self.registry.settings, take)
                job = await self._run(program, raw, media_type(request), options)
            is_slow = len(job.rows) > SMALL_ROWS or program.codec.is_slow
            answer = await self._maybe_in_thread(is_slow, write_answer, job, options.top)
            status, rows = 200, len(job.rows)
            return Response(answer, media_type="application/json")
        except RequestError as error:
            status = error.status
            raise
        except UserError as error:
            status, _ = _status_and_code(error)
            raise
        finally:
            self.registry.metrics.observe_request(label, status, rows, time.perf_counter() - start)

    async def _run(self, program: ServedProgram, raw: bytes, kind: str, options: PredictOptions) -> QueuedRequest:
        """Read the rows of a request and wait for their passes."""
        explain, partial = bool(options.explain), options.partial
        if explain and not program.codec.can_explain:
            raise wrong_request(f"explain=attention: {program.name} forecasts series, which is not explained.")
        settings = self.registry.settings
        is_slow = len(raw) > SMALL_BYTES or kind != JSON or program.codec.is_slow
        rows = await self._maybe_in_thread(is_slow, read_rows, program, raw, kind, options.strict, settings)
        if rows.problems and not (partial and len(rows)):
            raise wrong_rows(rows.problems, rows.total)
        if explain and len(rows) > MAX_EXPLAINED_ROWS:
            raise too_large(
                f"{pluralize(len(rows), 'row')} cannot be explained at once. Send at most {MAX_EXPLAINED_ROWS}."
            )
        if not len(rows):
            raise wrong_request("No row of the request can be read.")
        job = await program.body.batcher.run(program, rows, explain)
        if job.problems and not (partial and len(job.problems) < len(rows)):
            raise wrong_rows(job.problems, rows.total)
        return job

    async def _maybe_in_thread(self, is_long: bool, work: Callable[..., Any], *arguments: Any) -> Any:
        return await _run_in(self.readers, work, *arguments) if is_long else work(*arguments)


async def _run_in(pool: ThreadPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)


def _answer(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JsonResponse:
    return JsonResponse({"error": {"code": code, "message": message}}, status, dict(headers or {}))


def _status_and_code(error: Exception) -> tuple[int, str]:
    """The HTTP status and the code of the answer for a mistake that is no RequestError."""
    return (409, "other_body") if isinstance(error, WeightsError) else (422, "wrong_request")


def _methods(request: Request) -> str:
    """The methods that the path of a request has, as an Allow header."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route.methods or () for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for methods in matching for method in methods}))


def _add_error_answers(app: FastAPI) -> None:
    """Make every mistake an answer of the same shape."""

    async def on_request_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)
        return JsonResponse(error.to_json(), error.status, error.headers)

    async def on_user_error(_: Request, error: Exception) -> Response:
        return _answer(*_status_and_code(error), str(error))

    async def on_wrong_parameter(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        parts = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()]
        return _answer(422, "wrong_parameter", "; ".join(parts))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        hint = " /docs lists what there is." if error.status_code in (404, 405) else ""
        # the library names the methods of the first route of the path only
        headers = {"Allow": _methods(request)} if error.status_code == 405 else error.headers
        code = "wrong_method" if error.status_code == 405 else "no_such_route"
        return _answer(error.status_code, code, f"{error.detail}.{hint}", headers)

    async def on_fault(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        message = "The server failed because of a bug in icecore. The server log has the details."
        return _answer(500, "fault", message)

    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(UserError, on_user_error)
    app.add_exception_handler(RequestValidationError, on_wrong_parameter)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_fault)
