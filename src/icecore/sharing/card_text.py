"""Values and texts in Markdown: escaped, on one line, and without folder names of the trainer's machine."""

import html
import re
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any

from icecore.core.text import join_names

#: number of items of a list that are shown
MAX_LIST_ITEMS = 8
#: a path on some machine: as the start of a text, and inside of one
PATH = re.compile(r"file:|~?[/\\]|[A-Za-z]:[/\\]")
FOLDERS_IN_TEXT = re.compile(r"(?<![\w/.:\\])(?:file:/*|~|[A-Za-z]:)?(?:[/\\][^/\\\s]+)*[/\\](?=[^/\\\s])")


def escape(text: str) -> str:
    """Text that has no meaning to Markdown and stays on its line, in a table too."""
    return re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def file_name(path: str) -> str:
    """The last name in a path of any operating system."""
    return PureWindowsPath(path).name


def without_folders(text: str) -> str:
    """The text with only the last name of each path in it."""
    return file_name(text) if PATH.match(text) else FOLDERS_IN_TEXT.sub("", text)


def format_value(value: Any) -> str:
    """A value on one line; empty if it has no short form."""
    if isinstance(value, list | tuple):
        # columns are shown by their names
        items = [item.get("name") if isinstance(item, Mapping) else item for item in value]
        if any(item is None or isinstance(item, list | tuple) for item in items):
            return ""
        return join_names([format_value(item) for item in items], MAX_LIST_ITEMS)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None or isinstance(value, Mapping) else without_folders(str(value))


def format_values(values: Mapping[str, Any]) -> dict[str, str]:
    """The values that have a short form, by name."""
    texts = {without_folders(str(name)): format_value(value) for name, value in values.items()}
    return {name: text for name, text in texts.items() if text}
