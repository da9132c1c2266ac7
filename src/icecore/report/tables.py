"""Tables: records as rows and columns of cells, one table a study, budget and body.

A study of the paper has its rows and columns even where nothing was run; others have those their records
name. Runs that do not belong together (versions, data, precision, device) are marked cell by cell.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from icecore.core.config import PROTOCOLS
from icecore.experiments.results import RunRecord
from icecore.paper.budgets import BUDGETS
from icecore.paper.tables import STUDIES, Study
from icecore.report.cells import MEASURES, Estimate, Measure, TableCell, build, rate_text
from icecore.tasks import TASKS

#: options that say how many examples there are, not what they are
COUNTS = frozenset({"train", "val", "test"})


@dataclass(frozen=True)
class TableColumn:
    """A column: what makes its task smaller than usual (`remarks`), and what it was trained on (`facts`)."""

    name: str
    remarks: tuple[str, ...] = ()
    facts: str = ""


@dataclass(frozen=True)
class TableRow:
    """A row: trained and frozen parameters as (fewest, most) over its columns, None where nothing was run."""

    key: str
    label: str
    cells: Mapping[str, TableCell]
    trained: tuple[int, int] | None = None
    frozen: tuple[int, int] | None = None


@dataclass(frozen=True)
class ResultTable:
    """A table of results.

    slug      a name for files and links
    name      what it is called: "Table 2", "Rebuttal", "Own grid"
    facts     (what, in words): budget, body, hardware and so on
    warnings  what is mixed in it
    """

    slug: str
    name: str
    title: str
    shows: str
    measure: Measure
    budget: str
    body: str
    columns: tuple[TableColumn, ...]
    rows: tuple[TableRow, ...]
    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...] = ()

    @property
    def notes(self) -> list[str]:
        """The footnotes, in order of their cells; the same words are one note."""
        return list(dict.fromkeys(note for row in self.rows for cell in row.cells.values() for note in cell.notes))

    def marks(self, cell: TableCell) -> list[int]:
        """Numbers of a cell's footnotes, from 1."""
        notes = self.notes
        return sorted(notes.index(note) + 1 for note in cell.notes)

    @property
    def cells(self) -> list[TableCell]:
        """All cells, row by row."""
        return [row.cells[column.name] for row in self.rows for column in self.columns]


def tabulate(records: Sequence[RunRecord], studies: Mapping[str, Study] = STUDIES) -> list[ResultTable]:
    """The tables of the records: those of `studies` in their order, then others as they come."""
    groups: dict[tuple[str, str, str], list[RunRecord]] = {}
    for record in records:
        spot = record.spot
        groups.setdefault((spot.study, spot.budget, spot.body), []).append(record)
    order = {name: place for place, name in enumerate(studies)}
    tables: list[ResultTable] = []
    for study, budget, body in sorted(groups, key=lambda key: order.get(key[0], len(order))):
        slug = _slug("-".join(filter(None, (study or "runs", budget, body))), {table.slug for table in tables})
        tables.append(_table(slug, groups[study, budget, body], studies.get(study)))
    return tables


def _slug(text: str, taken: Iterable[str]) -> str:
    base = slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "table"
    number = 2
    while slug in taken:
        slug, number = f"{base}-{number}", number + 1
    return slug


def _table(slug: str, records: Sequence[RunRecord], study: Study | None) -> ResultTable:
    spot = records[0].spot
    measure = MEASURES[study.measure if study else "test"]
    places: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        row = record.spot.row or f"{record.summary.get('backbone', '')}, {record.summary.get('weights', '')}"
        places.setdefault((row, record.spot.column or record.summary.get("task", "")), []).append(record)
    labels = {key: row.label for key, row in study.rows.items()} if study else {}
    labels |= {row: row for row, _ in places if row not in labels}
    labels = {row: label + _stand_in(study, row, places) for row, label in labels.items()}
    columns = list(dict.fromkeys([*(study.columns if study else ()), *(column for _, column in places)]))
    cells = {
        (row, column): build(places.get((row, column), ()), measure, _published(study, measure, row, column))
        for row in labels
        for column in columns
    }
    cells, warnings = _marked(cells)
    runs = [run for cell in cells.values() for run in cell.runs]
    rows = []
    for key, label in labels.items():
        own = {column: cells[key, column] for column in columns}
        rows.append(TableRow(key, label, own, _range(own, "trainable_parameters"), _range(own, "frozen_parameters")))
    return ResultTable(
        slug,
        re.sub(r"(?<=table)(?=\d)", " ", study.name).capitalize() if study else "Own grid",
        study.title if study else spot.study or "Runs without a place in a table",
        study.shows if study else "",
        measure,
        spot.budget,
        spot.body,
        tuple(_column(name, [r for (_, c), cell in cells.items() if c == name for r in cell.runs]) for name in columns),
        tuple(rows),
        tuple(_facts(spot.budget, spot.body, runs, study)),
        tuple(warnings),
    )


def _stand_in(study: Study | None, row: str, places: Mapping[tuple[str, str], Sequence[RunRecord]]) -> str:
    """The body that stood for one of the paper's in a row, where it is not that of the whole table."""
    place = study.rows[row].settings.get("backbone", "") if study and row in study.rows else ""
    if not place.startswith("{") or place == "{body}":
        return ""
    used = _distinct(r.summary.get("backbone", "") for (key, _), found in places.items() if key == row for r in found)
    return f" ({', '.join(used)})" if used else ""


def _published(study: Study | None, measure: Measure, row: str, column: str) -> dict[str, Estimate]:
    """Published numbers by part; where a cell has several parts, a row's numbers are by part, of its one column."""
    found = study.published.get(row, {}) if study else {}
    keys = {part: column if len(measure.parts) == 1 else part for part in measure.parts}
    pairs = {part: found[key] for part, key in keys.items() if key in found}
    return {part: Estimate(*pair) if isinstance(pair, list) else Estimate(pair) for part, pair in pairs.items()}


def _range(cells: Mapping[str, TableCell], key: str) -> tuple[int, int] | None:
    counts = [run.summary[key] for cell in cells.values() for run in cell.chosen if key in run.summary]
    return (min(counts), max(counts)) if counts else None


# What must agree for numbers to be compared: all over a table, or down a column.
Read = Callable[[Mapping[str, Any]], str]


def _version(package: str) -> Read:
    return lambda summary: summary.get("versions", {}).get(package, "")


def _data(summary: Mapping[str, Any]) -> str:
    """The data in a few words: where they are from, and a checksum where there is one."""
    data = summary.get("data", {})
    origin = data.get("source") or " ".join(filter(None, (data.get("format"), _sizes(data))))
    sums = [f"{name} {value[:12]}" for name, value in data.items() if "sha256" in name and isinstance(value, str)]
    return "; ".join(filter(None, [str(origin), *sums, str(data.get("remark", ""))]))


def _sizes(data: Mapping[str, Any]) -> str:
    counts = data.get("counts", {})
    return f"({', '.join(f'{split} {count:,}' for split, count in counts.items())})" if counts else ""


def _tested(summary: Mapping[str, Any]) -> str:
    """How many test examples a number is over, of how many."""
    used, whole = summary.get("test_examples"), _whole_test(summary)
    if used is None:
        return ""
    return f"{used:,} of {whole:,} test examples" if whole and used < whole else f"{used:,} test examples"


def _whole_test(summary: Mapping[str, Any]) -> int | None:
    data, split = summary.get("data", {}), next(iter(summary.get("test_metrics", {})), "test")
    sizes = {**data, **data.get("counts", {})}
    found = sizes.get(split, sizes.get(f"{split}_examples"))
    return found if isinstance(found, int) else None


def _options(summary: Mapping[str, Any]) -> str:
    """Task options that differ from the task's own, as name=value."""
    entry = TASKS.get(summary.get("task", ""))
    usual = {} if entry is None else entry.options
    given = summary.get("task_options", {})
    return " ".join(f"{k}={v}" for k, v in given.items() if k not in COUNTS and v != usual.get(k))


TABLE_ASPECTS: Mapping[str, Read] = {
    "icecore": _version("icecore"),
    "torch": _version("torch"),
    "transformers": _version("transformers"),
    "precision": lambda summary: summary.get("precision", ""),
    # threads change the speed of a run, not its numbers
    "device": lambda summary: re.sub(r", \d+ threads?", "", summary.get("device", "")),
    "protocol": lambda summary: summary.get("protocol", ""),
}
COLUMN_ASPECTS: Mapping[str, Read] = {
    "data": _data,
    "task options": lambda summary: _options(summary) or "the usual ones",
    "scored on": _tested,
}


def _marked(cells: Mapping[tuple[str, str], TableCell]) -> tuple[dict[tuple[str, str], TableCell], list[str]]:
    """The cells, those that differ from most in an aspect with a note, and a warning for each mixed aspect."""
    marked, warnings = dict(cells), []
    columns = dict.fromkeys(column for _, column in cells)
    wholes = [("this table", list(cells))]
    parts = [(f"column {column}", [place for place in cells if place[1] == column]) for column in columns]
    for aspects, groups in ((TABLE_ASPECTS, wholes), (COLUMN_ASPECTS, parts)):
        for aspect, read in aspects.items():
            for where, places in groups:
                held = {place: {read(run.summary) for run in cells[place].runs} - {""} for place in places}
                count = Counter(value for values in held.values() for value in sorted(values))
                if len(count) < 2:
                    continue
                usual, _ = count.most_common(1)[0]
                warnings.append(f"{where} mixes {aspect}: {'; '.join(sorted(count))}")
                for place, values in held.items():
                    if others := sorted(values - {usual}):
                        note = f"{aspect}: {', '.join(others)}; most of {where}: {usual}"
                        marked[place] = replace(marked[place], notes=(*marked[place].notes, note))
    return marked, warnings


def _column(name: str, runs: Sequence[RunRecord]) -> TableColumn:
    summaries = [run.summary for run in runs]
    # what the column's name says already needs no remark
    options = [o for o in _distinct(map(_options, summaries)) if o not in name]
    parts = [tested for tested in _distinct(map(_tested, summaries)) if " of " in tested]
    steps = [s["steps"] for s in summaries if "steps" in s]
    facts = [
        f"{_span(steps)} steps of {_span([s['batch_size'] for s in summaries if 'batch_size' in s])} examples"
        if steps
        else "",
        *options,
        " or ".join(_distinct(map(_tested, summaries))),
        " or ".join(_distinct(map(_data, summaries))),
    ]
    metrics = [metric for metric in _distinct(s.get("metric_name", "") for s in summaries) if metric != "accuracy"]
    return TableColumn(name, (*metrics, *options, *parts), "; ".join(filter(None, facts)))


def _facts(budget: str, body: str, runs: Sequence[RunRecord], study: Study | None) -> list[tuple[str, str]]:
    """What all the numbers have in common, in words."""
    summaries = [run.summary for run in runs]
    known = BUDGETS.get(budget.partition(",")[0])
    protocols = _distinct(s.get("protocol", "") for s in summaries)
    versions = [
        f"{name} {' or '.join(found)}"
        for name in ("icecore", "torch", "transformers")
        if (found := _distinct(map(_version(name), summaries)))
    ]
    dates = sorted(_distinct(run.date for run in runs))
    seeds = _distinct(str(s.get("seed", "")) for s in summaries)
    rates = sorted({s["lr"] for s in summaries})
    facts = {
        "Budget": f"{budget}: {known.summary}" if known else budget,
        "Body": body,
        "Protocol": "; ".join(f"{p}: {PROTOCOLS[p].summary}" if p in PROTOCOLS else p for p in protocols),
        "Hardware": "; ".join(_distinct(s.get("device", "") for s in summaries)),
        "Precision": ", ".join(_distinct(s.get("precision", "") for s in summaries)),
        "Software": ", ".join(versions),
        "Made": " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "",
        "Runs": f"{len({run.run_id for run in runs})}; learning rates {', '.join(map(rate_text, rates))}; "
        f"seeds {', '.join(sorted(seeds))}"
        if runs
        else "none yet",
        "Published": study.source if study else "",
    }
    return [(name, text) for name, text in facts.items() if text]


def _distinct(values: Iterable[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value]


def _span(values: Sequence[int]) -> str:
    low, high = (f"{edge(values):,}" for edge in (min, max)) if values else ("?", "?")
    return low if low == high else f"{low} to {high}"
