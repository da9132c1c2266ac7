"""What is wrong with a request, with the HTTP status that says so. Every message names the thing and the remedy."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from icecore.core.errors import MAX_SHOWN_NAME, UserError
from icecore.core.text import pluralize, shortened
from icecore.serving.request_rows import RowProblem

#: problems of rows that an answer lists
MAX_LISTED_PROBLEMS = 100


class RequestError(UserError):
    """A request that cannot be answered.

    status   HTTP status
    code     one word for programs that read the answer
    details  what else the answer says
    headers  of the answer
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, **details: Any
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.details, self.headers = status, code, details, dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """The body of the answer."""
        return {"error": {"code": self.code, "message": str(self), **self.details}}


def unknown_program(name: str, known: Iterable[str]) -> RequestError:
    """404, with the nearest names."""
    nearest = difflib.get_close_matches(name[:MAX_SHOWN_NAME], list(known), n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
    message = f"There is no program {shortened(name)}.{hint} GET /v1/programs lists them all."
    return RequestError(404, "unknown_program", message, nearest=nearest)


def wrong_rows(problems: Sequence[RowProblem], total: int) -> RequestError:
    """422, with the row and the column of each problem."""
    first = problems[0].sentence()
    more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
    message = f"{first}{more} Nothing was predicted for {pluralize(total, 'row')}: ?partial=true answers the others."
    if total == 1:
        message = f"{first}{more}"
    listed = [problem.to_json() for problem in problems[:MAX_LISTED_PROBLEMS]]
    return RequestError(422, "wrong_rows", message, rows=listed, problems=len(problems))


def wrong_request(message: str) -> RequestError:
    """422 for a request that is wrong as a whole."""
    return RequestError(422, "wrong_request", message)


def too_large(message: str) -> RequestError:
    """413."""
    return RequestError(413, "too_large", message)


def unsupported_type(found: str, accepted: Iterable[str]) -> RequestError:
    """415, with the media types that are accepted."""
    types = list(accepted)
    message = f"The content type {shortened(found)} cannot be read here. Send one of: {', '.join(types)}."
    return RequestError(415, "unsupported_type", message, accepted=types)


def queue_full(rows: int, seconds: int) -> RequestError:
    """429, with the time after which to come back."""
    message = f"{pluralize(rows, 'row')} wait already. Send the request again in {seconds} s."
    return RequestError(429, "queue_full", message, {"Retry-After": str(seconds)}, retry_after=seconds)
