"""Read the values of options that hold several things: lists, numbers and name=value pairs."""

import atexit
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from icecore.core.errors import ConfigError

if TYPE_CHECKING:
    from icecore.backbones import HubAccess

Number = TypeVar("Number", int, float)


def read_list(text: str) -> list[str]:
    """The parts of a list that is separated by commas.

    >>> read_list("input, norm,")
    ['input', 'norm']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


def read_numbers(option: str, text: str, kind: type[Number]) -> list[Number]:
    """The numbers of a list that is separated by commas. Raises ConfigError that names `option`."""
    try:
        return [kind(part) for part in read_list(text)]
    except ValueError:
        expected = "whole numbers" if kind is int else "numbers"
        raise ConfigError(f"{option}: expected {expected} separated by commas, found {text!r}") from None


def read_pairs(option: str, texts: Sequence[str], kind: Callable[[str], Any] = str) -> dict[str, Any]:
    """A dict of texts of the form name=value. Raises ConfigError that names `option`."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            values[name.strip()] = kind(value)
        except ValueError:
            raise ConfigError(f"{option} {text}: expected a number after '=', as in name=0.5") from None
        if not equals:
            raise ConfigError(f"{option} {text}: expected name=value")
    return values


def read_hub_access(download: bool, token: bool) -> "HubAccess":
    """What --download and --token allow. Raises ConfigError for --token alone.

    >>> read_hub_access(download=False, token=False), read_hub_access(download=True, token=False)
    ('off', 'anonymous')
    """
    if token and not download:
        raise ConfigError("--token says how to fetch a private body. Add --download to fetch it.")
    return "login" if token else "anonymous" if download else "off"


def keep_standard_input(path: Path) -> Path:
    """The path, or for "-" that of a file with what comes from standard input, which is removed at the end.

    Its first bytes say whether it is Parquet, FASTA or, most likely, a table of text. Raises ConfigError if empty.
    """
    if path != Path("-"):
        return path
    raw = sys.stdin.buffer.read()
    if not raw.strip():
        raise ConfigError(
            "DATA is -, but nothing came from standard input. Pipe a table into the command, or name a file."
        )
    ending = ".parquet" if raw.startswith(b"PAR1") else ".fasta" if raw.startswith(b">") else ".csv"
    folder = Path(tempfile.mkdtemp(prefix="icecore-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    kept = folder / f"stdin{ending}"
    kept.write_bytes(raw)
    return kept
