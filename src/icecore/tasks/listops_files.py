"""Long Range Arena's ListOps files: one expression and its value on each line, separated by a tab."""

from pathlib import Path

from icecore.core.errors import DataError
from icecore.tasks.listops_expressions import CLOSE, LISTOPS_VOCABULARY, OPEN, Expressions

_HEADER = b"Source\tTarget"
_IDS = {word.encode(): i for i, word in enumerate(LISTOPS_VOCABULARY, start=1)}
_DIGITS = tuple(_IDS)[:10]


def read_tsv(path: Path, limit: int | None = None) -> Expressions:
    """The first `limit` expressions of a Long Range Arena file, with or without parentheses.

    Raises DataError naming the line for a wrong header, unknown tokens, bad targets and incomplete lines.
    """
    sources: list[bytes] = []
    targets: list[int] = []
    with path.open("rb") as file:
        header = file.readline().rstrip(b"\r\n")
        if header != _HEADER:
            raise _format_error(f"{path}, line 1", "the header 'Source<tab>Target'", _quote(header))
        for number, line in enumerate(file, start=2):
            if number - 2 == limit:
                break
            source, target = _parse(line.rstrip(b"\r\n"), f"{path}, line {number}")
            sources.append(source)
            targets.append(target)
    if not sources:
        raise _format_error(str(path), "expressions after the header", "none")
    return Expressions(sources, targets)


def _parse(line: bytes, location: str) -> tuple[bytes, int]:
    """Token ids and target of one line, without parentheses."""
    text, *target = line.split(b"\t")
    if len(target) != 1:
        raise _format_error(location, "a source, one tab and a target", f"{1 + len(target)} field(s), {_quote(line)}")
    if target[0] not in _DIGITS:
        raise _format_error(location, "a target of one digit", _quote(target[0]))
    try:
        source = bytes(map(_IDS.__getitem__, text.translate(None, b"()").split()))
    except KeyError as error:
        raise _format_error(
            location, f"tokens among {' '.join(LISTOPS_VOCABULARY)} ( )", _quote(error.args[0])
        ) from None
    opened, closed = sum(map(source.count, range(OPEN, CLOSE))), source.count(CLOSE)
    if not source or opened != closed or (len(source) > 1 and not OPEN <= source[0] < CLOSE == source[-1]):
        raise _format_error(
            location, "one complete expression", f"{opened} operators and {closed} ']' in {_quote(text)}"
        )
    return source, int(target[0])


def _format_error(location: str, expected: str, found: str) -> DataError:
    return DataError(
        f'{location}: expected {expected}, found {found}. Use Long Range Arena\'s "basic" files. If the file is cut '
        "short, fetch or copy it again."
    )


def _quote(text: bytes) -> str:
    return repr((text if len(text) <= 40 else text[:40] + b"...").decode("ascii", "backslashreplace"))
