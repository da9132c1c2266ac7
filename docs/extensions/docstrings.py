"""Docstrings as Markdown: this package writes them as plain text, which a terminal shows best.

Aligned blocks of `name  description` become lists, and examples become code.
"""

import dataclasses
import importlib
import re
from collections.abc import Iterator

import griffe

#: the first line of a field: one name or several, at least two spaces, and the description
FIELD = re.compile(r"(\*?[\w*]+(?:, \*?[\w*]+)*) {2,}\S.*")

#: dataclasses whose fields are made by `icecore.core.settings.setting`
SETTINGS = (
    "icecore.core.config.RunConfig",
    "icecore.autofit.fit_settings.FitSettings",
    "icecore.user_data.data_settings.DataSettings",
)


def to_markdown(text: str) -> str:
    """The docstring `text` with its fields and examples as Markdown."""
    return "\n\n".join(_block(block) for block in re.split(r"\n\s*\n", text.strip()))


def _block(block: str) -> str:
    lines = block.splitlines()
    if lines[0].startswith(">>>"):
        code = [re.sub(r"\s*# doctest:.*", "", line) for line in lines]
        return "\n".join(["```pycon", *code, "```"])
    if not FIELD.fullmatch(lines[0]):
        return block
    column = re.match(r"\S.*? {2,}", lines[0])
    assert column is not None
    if any(line[column.end() - 1] != " " for line in lines if len(line) >= column.end()):
        return block  # a paragraph that only looks like a field
    return "\n".join(f"- **{name}**: {text}" for name, text in _fields(lines, column.end()))


def _fields(lines: list[str], column: int) -> Iterator[tuple[str, str]]:
    """Names, and descriptions that begin at `column`; indented lines continue the description before them."""
    name, text = "", ""
    for line in lines:
        if line.startswith(" "):
            text += " " + line.strip()
            continue
        if name:
            yield name, text
        name, text = line[:column].strip().replace("*", r"\*"), line[column:].strip()
    yield name, text


class PlainDocstrings(griffe.Extension):
    """Converts every docstring when griffe loads the package."""

    def on_object(self, *, obj: griffe.Object, loader: griffe.GriffeLoader, **kwargs: object) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring is not None and obj.docstring.value.strip():
            obj.docstring.value = to_markdown(obj.docstring.value)


class Settings(griffe.Extension):
    """Dataclasses of settings keep the help text in the fields: it becomes part of the docstring.

    The values of such fields are calls, in place of which the signature shows the default.
    """

    def on_class_members(self, *, cls: griffe.Class, **kwargs: object) -> None:
        """Called for each class once its attributes are known."""
        if cls.path not in SETTINGS:
            return
        module = importlib.import_module(cls.module.path)
        lines = []
        for field in dataclasses.fields(getattr(module, cls.name)):
            attribute = cls.attributes[field.name]
            value = field.default
            if field.default_factory is not dataclasses.MISSING:
                value = field.default_factory()
            attribute.value = None if value is dataclasses.MISSING else repr(value)
            default = "required" if attribute.value is None else f"default: `{attribute.value}`"
            if note := field.metadata.get("default_note"):
                default = f"default: {note}"
            lines.append(f"- **{field.name}** (`{attribute.annotation}`, {default}): {field.metadata.get('help', '')}")
        if cls.docstring is not None:
            cls.docstring.value += "\n\n" + "\n".join(lines)
