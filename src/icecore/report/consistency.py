"""Consistency: what must agree for numbers to be compared, and notes on the cells that differ.

Versions, precision and device must agree in a whole table; data, task options and test examples in a column.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from icecore.report.cells import TableCell
from icecore.tasks import TASKS
from icecore.training.run_summary import RunSummary

#: task options that give the number of examples
SPLIT_OPTIONS = frozenset({"train", "val", "test"})

#: reads a setting from a run as text; empty if the run does not have it
AspectReader = Callable[[RunSummary], str]
#: row and column
CellPosition = tuple[str, str]


def version_reader(package: str) -> AspectReader:
    """Reads the version of a package."""
    return lambda summary: summary.versions.get(package, "")


def data_text(summary: RunSummary) -> str:
    """The data in a few words: their source, and checksums if there are any."""
    data = summary.data
    source = data.get("source") or " ".join(filter(None, (str(data.get("format", "")), _split_sizes_text(data))))
    checksums = [f"{name} {value[:12]}" for name, value in data.items() if "sha256" in name and isinstance(value, str)]
    return "; ".join(filter(None, [str(source), *checksums, str(data.get("remark", ""))]))


def _split_sizes_text(data: Mapping[str, Any]) -> str:
    counts = data.get("counts", {})
    return f"({', '.join(f'{split} {count or 0:,}' for split, count in counts.items())})" if counts else ""


def tested_text(summary: RunSummary) -> str:
    """How many test examples were used, and how many there are if not all were used."""
    used, size = summary.test_examples, split_size(summary)
    if not used:
        return ""
    return f"{used:,} of {size:,} test examples" if size and used < size else f"{used:,} test examples"


def split_size(summary: RunSummary) -> int | None:
    """The number of examples of the first test split; None if the record does not say it."""
    data, split = summary.data, next(iter(summary.test_metrics), "test")
    sizes = {**data, **data.get("counts", {})}
    size = sizes.get(split, sizes.get(f"{split}_examples"))
    return size if isinstance(size, int) else None


def options_text(summary: RunSummary) -> str:
    """Task options that differ from the task's defaults, as name=value."""
    entry = TASKS.get(summary.task)
    defaults = {} if entry is None else entry.options
    options = {name: value for name, value in summary.task_options.items() if name not in SPLIT_OPTIONS}
    return " ".join(f"{name}={value}" for name, value in options.items() if value != defaults.get(name))


TABLE_ASPECTS: Mapping[str, AspectReader] = {
    "icecore": version_reader("icecore"),
    "torch": version_reader("torch"),
    "transformers": version_reader("transformers"),
    "precision": lambda summary: summary.precision,
    # the number of threads changes the speed of a run, but not its numbers
    "device": lambda summary: re.sub(r", \d+ threads?", "", summary.device),
    "protocol": lambda summary: summary.protocol,
}
COLUMN_ASPECTS: Mapping[str, AspectReader] = {
    "data": data_text,
    "task options": lambda summary: options_text(summary) or "the defaults",
    "scored on": tested_text,
}


def note_differences(cells: Mapping[CellPosition, TableCell]) -> tuple[dict[CellPosition, TableCell], list[str]]:
    """The cells, with a note on those that differ from most others, and a warning for each aspect that is mixed."""
    noted, warnings = dict(cells), []
    columns = {
        f"column {name}": [position for position in cells if position[1] == name]
        for name in dict.fromkeys(column for _, column in cells)
    }
    for groups, aspects in (({"this table": list(cells)}, TABLE_ASPECTS), (columns, COLUMN_ASPECTS)):
        for (aspect, read), (group, positions) in itertools.product(aspects.items(), groups.items()):
            texts = {position: {read(run.summary) for run in cells[position].runs} - {""} for position in positions}
            counts = Counter(text for texts_of_cell in texts.values() for text in sorted(texts_of_cell))
            if len(counts) < 2:
                continue
            usual, _ = counts.most_common(1)[0]
            warnings.append(f"{group} mixes {aspect}: {'; '.join(sorted(counts))}")
            for position, texts_of_cell in texts.items():
                if others := sorted(texts_of_cell - {usual}):
                    note = f"{aspect}: {', '.join(others)}; most of {group}: {usual}"
                    noted[position] = replace(noted[position], notes=(*noted[position].notes, note))
    return noted, warnings
