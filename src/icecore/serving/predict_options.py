"""Options of a request for predictions, from its query.

They are read here and not by FastAPI, whose reading took an eighth of the server's time in a profile of small requests.
"""

from typing import Any, Literal
from urllib.parse import parse_qsl

from pydantic import BaseModel, Field, ValidationError

from icecore.serving.request_errors import RequestError

#: classes that an answer lists unless it is asked for more
DEFAULT_TOP = 100


class PredictOptions(BaseModel):
    """What a caller may ask for. The description of each field says what it is."""

    explain: Literal["", "attention"] = Field(default="", description="`attention`: what each row's answer looked at")
    partial: bool = Field(default=False, description="answer the other rows if some cannot be read")
    strict: bool = Field(
        default=False, description="refuse damaged rows and cells of files, which are skipped otherwise"
    )
    top: int = Field(default=DEFAULT_TOP, ge=1, le=10_000, description="most classes to list")


_DEFAULTS = PredictOptions()


def read_options(query: str) -> PredictOptions:
    """The options in the query of a request; others are ignored. Raises RequestError (422) that names a wrong one."""
    if not query:
        return _DEFAULTS
    try:
        return PredictOptions.model_validate(dict(parse_qsl(query, keep_blank_values=True)))
    except ValidationError as error:
        parts = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise RequestError(422, "wrong_parameter", "; ".join(parts)) from error


def described_options() -> list[dict[str, Any]]:
    """The options as OpenAPI has parameters."""
    fields = PredictOptions.model_json_schema()["properties"]
    return [{"name": name, "in": "query", "required": False, "schema": field} for name, field in fields.items()]
