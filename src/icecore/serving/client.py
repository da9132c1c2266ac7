"""A client for `icecore serve` that needs nothing but the standard library and NumPy."""

import base64
import http.client
import io
import json
import math
import time
import urllib.parse
import weakref
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from icecore.core.errors import ConfigError, DataError, UserError
from icecore.serving.media_types import MEDIA_TYPE_OF_ENDING

if TYPE_CHECKING:
    from icecore.autofit.predict import Predictions

#: rows of one request, at most; more are divided into several
ROWS_PER_REQUEST = 256
#: bytes of a request up to which a server is not asked for its limit, which is 16 MiB unless it was set
UNASKED_BYTES = 2**20
_HEAD, _TAIL = b'{"rows": [', b"]}"
_DISCONNECTED = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError, http.client.CannotSendRequest)


class ServerError(UserError):
    """What a server says is wrong.

    status  HTTP status
    answer  the server's answer, with `code` and, for wrong rows, `rows`
    """

    def __init__(self, message: str, status: int, answer: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status, self.answer = status, answer


class Client:
    """Asks the programs of a server. Threads may share a client, which closes its connections at the end of a block.

    >>> with Client("http://localhost:8000") as client:  # doctest: +SKIP
    ...     client.predict("digits", rows).columns

    Parameters:
        url: address of the server
        token: that of the server, if it has one
        timeout: longest time to wait for an answer, in seconds
        patience: longest time to wait in all while the server's queue is full, in seconds
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 300.0, patience: float = 60.0) -> None:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigError(f"{url} is not the address of a server, such as http://localhost:8000.")
        self.url, self.token, self.timeout, self.patience = url.rstrip("/"), token, timeout, patience
        self._host, self._port, self._prefix = host, port, parts.path.rstrip("/")
        self._is_https = parts.scheme == "https"
        #: connections that no request uses: there are as many as there were requests at once
        self._idle: list[http.client.HTTPConnection] = []
        #: bytes of the largest request, once the server was asked
        self._max_bytes: int | None = None
        weakref.finalize(self, _close_all, self._idle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that no request uses. The client may be used again."""
        _close_all(self._idle)

    def programs(self) -> list[dict[str, Any]]:
        """The cards of all programs."""
        return self._ask("GET", "/v1/programs")["programs"]

    def predict(self, program: str, data: Any, strict: bool = False) -> "Predictions":
        """Predict rows with a program of the server, as `icecore.predict` does with a file.

        Parameters:
            program: name of the program
            data: rows as `ask` takes them
            strict: raise an error for damaged rows of a file, which are skipped and counted otherwise

        Raises ServerError with what the server says is wrong.
        """
        answers = list(self._answers(program, data, {"strict": "true"} if strict else {}))
        return to_predictions(answers)

    def ask(self, program: str, data: Any, **parameters: Any) -> dict[str, Any]:
        """The answer of the server as it is, with the probabilities of all classes.

        Parameters:
            program: name of the program
            data: the path of a file or of a folder of images; or a list of rows: dicts with the cells of a table by
                column, texts, sequences, bytes of image files; or an array or a data frame with the rows
            parameters: those of the server, for example explain="attention" or partial=True

        Raises ServerError with what the server says is wrong.
        """
        texts = {
            name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in parameters.items()
        }
        answers = list(self._answers(program, data, texts))
        first = answers[0]
        for answer in answers[1:]:
            first["predictions"] += answer["predictions"]
            first["notes"] += [note for note in answer["notes"] if note not in first["notes"]]
        return first

    def put(self, name: str, path: str | PathLike[str]) -> dict[str, Any]:
        """Serve a program file under a name, in place of the one that has it. Returns its card.

        Raises DataError for a file that cannot be read, and ServerError with what the server says is wrong.
        """
        raw = _read(Path(path).expanduser())
        return self._ask("PUT", f"/v1/programs/{_quoted(name)}", raw, "application/octet-stream")

    def delete(self, name: str) -> None:
        """Stop serving a program."""
        self._ask("DELETE", f"/v1/programs/{_quoted(name)}")

    def _answers(self, program: str, data: Any, parameters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        path = f"/v1/programs/{_quoted(program)}/predict"
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        if isinstance(data, str | PathLike):
            raw, media_type = read_file(Path(data).expanduser())
            yield self._ask("POST", path + query, raw, media_type)
            return
        rows = to_rows(data)
        if not rows:
            raise DataError("There are no rows to predict.")
        for first, raw in self._requests(rows):
            try:
                answer = self._ask("POST", path + query, raw, "application/json")
            except ServerError as error:
                for problem in error.answer.get("rows", []):
                    problem["row"] += first
                raise
            for prediction in answer["predictions"]:
                is_number = "time" not in prediction and prediction.get("name", "").isdecimal()
                prediction["row"] += first
                if is_number:
                    prediction["name"] = str(prediction["row"])
            yield answer

    def _requests(self, rows: Sequence[Any]) -> Iterator[tuple[int, bytes]]:
        """Rows as the content of as few requests as rows and bytes allow, each with the number of its first row."""
        first, parts, size = 0, [], len(_HEAD + _TAIL)
        for number, row in enumerate(rows):
            part = json.dumps(row).encode()
            added = len(part) + len(b", ")
            if parts and (len(parts) == ROWS_PER_REQUEST or size + added > self._most_bytes(size + added)):
                yield first, _HEAD + b", ".join(parts) + _TAIL
                first, parts, size = number, [], len(_HEAD + _TAIL)
            parts.append(part)
            size += added
        yield first, _HEAD + b", ".join(parts) + _TAIL

    def _most_bytes(self, needed: int) -> int:
        """Bytes of the largest request. A server is asked only when `needed` bytes may be too many."""
        if needed <= UNASKED_BYTES:
            return UNASKED_BYTES
        if self._max_bytes is None:
            limits = self._ask("GET", "/v1/programs").get("limits", {})
            self._max_bytes = int(limits.get("bytes", UNASKED_BYTES))
        return self._max_bytes

    def _ask(self, method: str, path: str, raw: bytes | None = None, media_type: str = "") -> Any:
        """Send a request, again while the queue is full. Raises ServerError, and UserError if no server answers."""
        headers = {"Content-Type": media_type} if media_type else {}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        end = time.monotonic() + self.patience
        while True:
            status, retry_after, content = self._send(method, path, raw, headers)
            if status == 429 and time.monotonic() + retry_after <= end:
                time.sleep(retry_after)
                continue
            try:
                answer = json.loads(content)
            except ValueError:
                raise ServerError(f"{self.url} answers {status}, but not as icecore serve does.", status, {}) from None
            if status >= 400:
                details = answer.get("error", {}) if isinstance(answer, dict) else {}
                message = details.get("message", f"{self.url} answers {status}.")
                raise ServerError(str(message), status, details)
            return answer

    def _send(self, method: str, path: str, raw: bytes | None, headers: Mapping[str, str]) -> tuple[int, float, bytes]:
        """Status, seconds after which to come back, and content of an answer."""
        for is_last in (False, True):
            connection = self._idle.pop() if self._idle and not is_last else self._connect()
            try:
                connection.request(method, self._prefix + path, raw, dict(headers))
                answer = connection.getresponse()
                text = answer.headers.get("Retry-After", "1")
                content = answer.read()
                self._idle.append(connection)
                return answer.status, float(text) if text.isdecimal() else 1.0, content
            except _DISCONNECTED as error:  # the server closed a connection that was idle
                connection.close()
                if is_last:
                    raise UserError(f"{self.url} ended the connection ({error}). Is the server running?") from error
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                raise UserError(f"No server answers at {self.url} ({error}). Start it with: icecore serve") from error
        raise AssertionError("the last attempt returns or raises")

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_https else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=self.timeout)


def _close_all(connections: list[http.client.HTTPConnection]) -> None:
    while connections:
        connections.pop().close()


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _read(path: Path) -> bytes:
    """The bytes of a file. Raises DataError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check the path.") from error


def _archive(folder: Path) -> bytes:
    """A zip archive of the files in a folder, links followed. Raises DataError."""
    from icecore.user_data.data_archives import iterate_files

    file = io.BytesIO()
    try:
        with zipfile.ZipFile(file, "w") as archive:
            for member in iterate_files(folder):
                archive.write(member, member.relative_to(folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}). Check the path.") from error
    return file.getvalue()


def read_file(path: Path) -> tuple[bytes, str]:
    """The bytes of a file and its media type; a folder becomes an archive. Raises DataError."""
    if path.is_dir():
        return _archive(path), "application/zip"
    raw = _read(path)
    media_type = MEDIA_TYPE_OF_ENDING.get(path.suffix.lower())
    if media_type is None:
        known = ", ".join(MEDIA_TYPE_OF_ENDING)
        raise DataError(f"{path}: files that end in {path.suffix or 'nothing'} cannot be sent. Known: {known}.")
    return raw, media_type


def to_rows(data: Any) -> list[Any]:
    """Rows as JSON has them, from lists, arrays and data frames; bytes of images become Base64."""
    for name, arguments in (("to_dicts", ()), ("to_pylist", ()), ("to_dict", ("records",))):  # polars, Arrow, pandas
        if hasattr(data, name) and hasattr(data, "columns"):
            data = getattr(data, name)(*arguments)
            break
    return [_to_plain(row) for row in data]


def _to_plain(value: Any) -> Any:
    if type(value).__name__ in ("NAType", "NaTType"):  # a missing value of pandas
        return None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(name): _to_plain(cell) for name, cell in value.items()}
    if hasattr(value, "tolist"):  # arrays, and the numbers in them
        value = value.tolist()
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_to_plain(item) for item in value]
    return value if isinstance(value, str | int | None) else str(value)


def to_predictions(answers: Sequence[Mapping[str, Any]]) -> "Predictions":
    """Answers of a server as `icecore.predict` has predictions. Raises DataError for a program of a built-in task."""
    import numpy as np

    from icecore.autofit.predict import HIGH, LOW, Predictions

    rows = [row for answer in answers for row in answer["predictions"]]
    targets = answers[0]["targets"]
    if any("targets" not in row for row in rows):
        raise DataError("The program is for a built-in task. `Client.ask` gives its answers as they are.")
    columns: dict[str, Any] = {}
    probabilities: dict[str, Any] = {}
    if any("time" in row for row in rows):
        columns["time"] = np.array([row["time"] for row in rows])
    for name in (target["name"] for target in targets):
        cells = [row["targets"][name] for row in rows]
        columns[name] = np.array([cell.get("class", cell.get("value")) for cell in cells])
        if any("probability" in cell for cell in cells):
            probabilities[f"{name} probability"] = np.array([cell["probability"] for cell in cells], np.float32)
        for column, end in ((LOW, "low"), (HIGH, "high")):
            if any(end in cell for cell in cells):
                columns[column] = np.array([cell[end] for cell in cells])
    spreads = {target["name"]: target["spread"] for target in targets if target["spread"] is not None}
    score = answers[0].get("score")
    notes = list(dict.fromkeys((note["topic"], note["message"]) for answer in answers for note in answer["notes"]))
    metric, value = (score["metric"], score["value"]) if score else ("", None)
    return Predictions([row["name"] for row in rows], columns | probabilities, metric, value, notes, spreads)
