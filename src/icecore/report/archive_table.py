"""The table of the archive benchmark: our accuracies beside the published ones, as lines of texts and as Markdown."""

from collections.abc import Mapping, Sequence

from icecore.experiments.results import RunRecord
from icecore.report.cell_text import number_text
from icecore.report.cells import MeanWithError

Lines = list[list[str]]


def archive_table(records: Sequence[RunRecord], published: Mapping[str, Mapping[str, float]]) -> Lines:
    """The header, then a line for each data set: its size, ours in % with a standard error over seeds, and published.

    published  accuracy of other classifiers, by data set and name of the classifier
    """
    names = list(dict.fromkeys(record.key.column for record in records))
    bodies = list(dict.fromkeys(record.key.row for record in records))
    classifiers = list(dict.fromkeys(classifier for name in names for classifier in published.get(name, ())))
    lines = [["data set", "train/test", *bodies, *classifiers]]
    for name in names:
        own = [record for record in records if record.key.column == name]
        counts = own[0].summary.data.get("counts", {})
        ours = [_mean_text([record for record in own if record.key.row == body]) for body in bodies]
        theirs = published.get(name, {})
        others = [f"{100 * theirs[each]:.1f}" if each in theirs else "" for each in classifiers]
        label = f"{name} (R²)" if own[0].summary.metric_name == "r2" else name
        size = f"{counts.get('train', 0) + counts.get('val', 0)}/{counts.get('test', 0)}"
        lines.append([label, size, *ours, *others])
    return lines


def _mean_text(runs: Sequence[RunRecord]) -> str:
    number = MeanWithError.of([100 * run.summary.test_metric for run in runs if run.summary.test_metric is not None])
    return "" if number is None else number_text(number, "%")


def archive_markdown(records: Sequence[RunRecord], published: Mapping[str, Mapping[str, float]]) -> str:
    """The table, with where, when and with which versions and commands the runs were made."""
    header, *lines = archive_table(records, published)
    table = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    facts = [
        "Accuracy in % on the archive's own test split, R² x 100 where it says so. Ours is the mean over seeds with "
        "its standard error, at the learning rate that validation chose; all seeds share one random body. The other "
        "classifiers are as aeon publishes them, for the same split.",
        "",
        *("| " + " | ".join(line) + " |" for line in table),
        "",
        f"{records[0].key.body}, {records[0].key.budget} for each fit, which trains all seeds.",
        "",
    ]
    for name, texts in {
        "device": {run.summary.device for run in records},
        "date": {run.date for run in records},
        "versions": {", ".join(f"{n} {v}" for n, v in run.summary.versions.items()) for run in records},
    }.items():
        facts.append(f"- {name}: {'; '.join(sorted(texts))}")
    commands = dict.fromkeys(run.command for run in records)
    return "\n".join(["# UCR and UEA archives", "", *facts, "", *(f"- `{command}`" for command in commands), ""])
