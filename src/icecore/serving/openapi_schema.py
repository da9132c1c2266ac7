"""The description of the API in OpenAPI: what requests and answers look like, with an example row of each program."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Path
from fastapi.openapi.utils import get_openapi

from icecore.serving.predict_options import described_options
from icecore.serving.program_examples import ROW_WORDS
from icecore.serving.served_program import ServedProgram
from icecore.serving.uploads import MEDIA_TYPES

#: programs whose rows are shown as examples
MAX_EXAMPLES = 30

PREDICT_PATH = "/v1/programs/{name}/predict"
ProgramName = Annotated[str, Path(description="name of the program", min_length=1, max_length=200)]

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "rows": {"type": "array", "items": {"$ref": "#/components/schemas/RowProblem"}},
                "nearest": {"type": "array", "items": {"type": "string"}},
            },
        }
    },
}
_ROW_PROBLEM = {
    "type": "object",
    "required": ["row", "message"],
    "properties": {
        "row": {"type": "integer", "description": "counted from 0"},
        "column": {"type": ["string", "null"]},
        "message": {"type": "string"},
    },
}
_PREDICTIONS = {
    "type": "object",
    "required": ["program", "version", "predictions", "notes"],
    "properties": {
        "program": {"type": "string"},
        "version": {"type": "string", "description": "first digits of the sha256 of the program's file"},
        "predictions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["row"],
                "properties": {
                    "row": {"type": "integer"},
                    "name": {"type": "string"},
                    "time": {"type": "string", "description": "of a forecast, which has one entry for each time"},
                    "targets": {"type": "object"},
                    "positions": {"type": "array"},
                    "explanation": {"type": "object"},
                    "errors": {"type": "array", "items": {"$ref": "#/components/schemas/RowProblem"}},
                },
            },
        },
        "targets": {"type": "array", "items": {"type": "object"}},
        "notes": {"type": "array", "items": {"type": "object"}},
        "score": {"type": "object", "description": "of a file whose rows have targets"},
    },
}
_CARD = {
    "type": "object",
    "required": ["name", "version", "form", "task", "targets", "inputs", "media_types"],
    "properties": {
        "name": {"type": "string"},
        "version": {"type": "string"},
        "form": {"enum": list(ROW_WORDS)},
        "task": {"enum": ["classification", "regression"]},
        "targets": {"type": "array", "items": {"type": "object"}},
        "inputs": {"type": "object"},
        "media_types": {"type": "array", "items": {"type": "string"}},
        "verdict": {"type": "string"},
    },
}


def _answers(done: Mapping[int, dict[str, Any]], errors: Mapping[int, str]) -> dict[int, dict[str, Any]]:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {**done} | {status: {"description": text, "content": error} for status, text in errors.items()}


def _json(schema: Any, description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_DENIED = {
    400: "the request ended early, or is for another host",
    401: "no token, or a wrong one",
    403: "a page of another site sent it",
    404: "no such program",
}
_LIMITS = {408: "it took too long", 413: "it is too large"}
_OBJECT = {"type": "object"}
_ONE_CARD = {"$ref": "#/components/schemas/Card"}
_ALL_CARDS = {
    "type": "object",
    "required": ["programs", "limits", "icecore"],
    "properties": {
        "programs": {"type": "array", "items": _ONE_CARD},
        "limits": {"type": "object"},
        "icecore": {"type": "string", "description": "version of icecore"},
    },
}
_DELETED = {
    "type": "object",
    "required": ["name", "version"],
    "properties": {"name": {"type": "string"}, "version": {"type": "string"}},
}
_CHANGE_ERRORS = {
    **_DENIED,
    **_LIMITS,
    403: "the server has no token, or a page of another site sent the request",
    409: "another body, or a server with replicas",
    415: "compressed",
    429: "too much is being read at once",
    422: "a damaged file, or a wrong name",
}
_PROGRAM_FILE = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}

#: tag of the routes that need no token
STATE_TAG = "state"
#: arguments of the routes
STATE_ROUTE: dict[str, Any] = {"responses": {200: _json(_OBJECT, "the state"), 503: _json(_OBJECT, "not ready")}}
CARDS_ROUTE: dict[str, Any] = {"responses": _answers({200: _json(_ALL_CARDS, "the cards")}, _DENIED)}
CARD_ROUTE: dict[str, Any] = {
    "responses": _answers({200: _json(_ONE_CARD, "the card")}, {**_DENIED, 422: "a wrong name"})
}
PUT_ROUTE: dict[str, Any] = {
    "responses": _answers(
        {200: _json(_ONE_CARD, "served in place of another"), 201: _json(_ONE_CARD, "served for the first time")},
        _CHANGE_ERRORS,
    )
}
DELETE_ROUTE: dict[str, Any] = {"responses": _answers({200: _json(_DELETED, "done")}, _CHANGE_ERRORS)}
_PREDICT: dict[str, Any] = {
    "tags": ["predictions"],
    "summary": "Predict",
    "description": "Predict the rows of a request.",
    "operationId": "predict",
    "responses": _answers(
        {200: _json({"$ref": "#/components/schemas/Predictions"}, "the predictions")},
        {
            **_DENIED,
            **_LIMITS,
            415: "a content type that the program does not read",
            422: "rows that cannot be read: which, which column, and why",
            429: "the queue is full; the header Retry-After says when to come back",
        },
    ),
}


def schema(app: FastAPI, programs: Sequence[ServedProgram], has_token: bool = False) -> dict[str, Any]:
    """The description of the application with examples of these programs; `has_token` if callers need one."""
    described = get_openapi(title="icecore", version=app.version, description=_TEXT, routes=app.routes)
    components = described.setdefault("components", {})
    components["schemas"] = {"Error": _ERROR, "RowProblem": _ROW_PROBLEM, "Predictions": _PREDICTIONS, "Card": _CARD}
    if has_token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    described["paths"] = paths = {PREDICT_PATH: {"post": _describe_predict(programs)}, **described["paths"]}
    paths["/v1/programs/{name}"]["put"]["requestBody"] = {"required": True, **_PROGRAM_FILE}
    names = [program.name for program in programs[:MAX_EXAMPLES]]
    for path in paths.values():
        for operation in path.values():
            if has_token and operation["tags"] != [STATE_TAG]:
                operation["security"] = [{"token": []}]
            for parameter in operation.get("parameters", []):
                if parameter["name"] == "name":
                    parameter["examples"] = {name: {"value": name} for name in names}
    return described


def _describe_predict(programs: Sequence[ServedProgram]) -> dict[str, Any]:
    """The operation that predicts, which FastAPI does not know."""
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        **_PREDICT,
        "parameters": [name | {"description": "name of the program"}, *described_options()],
        "requestBody": {"required": True, "content": _contents(programs)},
    }


def _contents(programs: Sequence[ServedProgram]) -> dict[str, Any]:
    """The bodies of a request for predictions: JSON with an example of each program, and files."""
    rows = {"type": "array", "minItems": 1, "items": {}}
    either = {"oneOf": [{"type": "object", "required": ["rows"], "properties": {"rows": rows}}, rows]}
    examples: dict[str, Any] = {}
    for program in programs[:MAX_EXAMPLES]:
        described = program.codec.describe()
        summary = f"{program.name}: a row is {ROW_WORDS[described['form']]}"
        examples[program.name] = {"summary": summary, "value": {"rows": [described["example"]]}}
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {"application/json": {"schema": either, "examples": examples}} | dict.fromkeys(MEDIA_TYPES, binary)


_TEXT = (
    "Programs on frozen bodies. A row is sent as a person has it: the cells of a table by column, a sequence, a text, "
    "an image; or a file as it is, with its media type. The page at / tries the programs."
)
