"""Reads the bytes of a request, within its limits of size and time, and its rows."""

import asyncio
import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from icecore.core.limits import UnpackedSizeError, unpacking_at_most
from icecore.core.text import shortened
from icecore.serving.request_errors import RequestError, too_large, unsupported_type, wrong_request
from icecore.serving.request_rows import RequestRows
from icecore.serving.serve_settings import ServeSettings
from icecore.serving.served_program import ServedProgram

JSON = "application/json"


class ByteBudget:
    """The bytes of all requests that are being read and answered: many large ones at once must not fill the memory."""

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0

    @contextlib.contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A function that takes bytes for one request, until the end of the block. It raises RequestError (429)."""
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            if self.used + count > self.most:
                message = (
                    "The server is already reading as much data as it allows at once. Send the request again in 1 s."
                )
                raise RequestError(429, "too_much_at_once", message, {"Retry-After": "1"}, retry_after=1)
            self.used += count
            mine += count

        try:
            yield take
        finally:
            self.used -= mine


async def read_body(request: Request, settings: ServeSettings, take: Callable[[int], None]) -> bytes:
    """All bytes of a request, each of which `take` counts.

    Raises RequestError: 413 for too many, 408 if they take too long, 415 if compressed, and what `take` raises.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        message = f"The content encoding {shortened(encoding)} cannot be read. Send the bytes as they are."
        raise RequestError(415, "unsupported_encoding", message)
    most = settings.max_bytes
    limit = too_large(f"The request is larger than {settings.max_request_mib:g} MiB. Divide it into several.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > most):
        raise limit
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.read_seconds):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise limit
                take(len(part))
                parts.append(part)
    except TimeoutError:
        message = f"The request did not arrive within {settings.read_seconds:g} s. Send it again."
        raise RequestError(408, "too_slow", message, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise RequestError(400, "disconnected", "The request ended before all of it had arrived.") from None
    return b"".join(parts)


def media_type(request: Request) -> str:
    """The content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def read_rows(program: ServedProgram, raw: bytes, kind: str, strict: bool, settings: ServeSettings) -> RequestRows:
    """The rows of a request. Raises RequestError and UserError for rows that cannot be read at all."""
    if not kind:
        raise unsupported_type("(none)", [JSON, *program.codec.media_types])
    check_count = functools.partial(_check_count, settings)
    try:
        with unpacking_at_most(settings.max_unpacked_bytes, settings.max_pixels):
            if kind != JSON:
                return program.codec.read_file(raw, kind, strict, check_count)
            values = parse_json_rows(raw)
            check_count(len(values))
            return program.codec.read_json(values, check_count)
    except UnpackedSizeError as error:
        raise too_large(str(error)) from error


def parse_json_rows(raw: bytes) -> list[Any]:
    """The rows of `{"rows": [...]}` or of a list. Raises RequestError (422)."""
    try:
        value = _load_json(raw)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise wrong_request(f"The request is not JSON ({reason}).") from None
    if isinstance(value, dict):
        if unknown := sorted(map(shortened, value.keys() - {"rows"})):
            raise wrong_request(f'The request has {unknown[0]}, which is not known. Send {{"rows": [...]}}.')
        value = value.get("rows")
    if not isinstance(value, list):
        raise wrong_request(f'The request must be {{"rows": [...]}} or a list of rows, but has {shortened(value)}.')
    if not value:
        raise wrong_request("The request has no rows. Send at least one.")
    return value


def _load_json(raw: bytes) -> Any:
    """What Python's reader makes of JSON, in a sixth of its time for long lists of numbers."""
    try:
        return from_json(raw)
    except ValueError:  # the usual reader accepts a little more, and says better what is wrong
        return json.loads(raw)


def _check_count(settings: ServeSettings, rows: int) -> None:
    if rows > settings.max_request_rows:
        raise too_large(
            f"The request has {rows:,} rows, and may have {settings.max_request_rows:,}. Divide it into several."
        )
