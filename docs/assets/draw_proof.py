"""Draw docs/proof.svg, the picture of the README, from results/table2.jsonl: `python docs/assets/draw_proof.py`.

For each task and body, the learning rate with the best mean validation over seeds is scored on the test set.
"""

import statistics
from collections import defaultdict
from pathlib import Path

from matplotlib import pyplot as plt

from icecore.experiments.results import RunRecord, read_records
from icecore.paper.trivial_answers import TRIVIAL_ANSWERS

ROOT = Path(__file__).parents[2]
BUDGET = "cpu"
#: tasks in the order of the picture
TASKS = {
    "bit-xor": "bit XOR",
    "bit-memory": "bit memory",
    "listops": "ListOps",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "remote-homology": "remote homology",
}
ROWS = {
    "pretrained": ("pretrained on language", "#0072B2", "o"),
    "antibodies": ("pretrained on antibodies", "#009E73", "D"),
    "bit-memory": ("pretrained on bit memory", "#CC79A7", "v"),
    "random": ("the first body, random", "#D55E00", "s"),
    "statistics": ("random with pretrained scales", "#E69F00", "^"),
    "lstm-matched": ("LSTM of the same size, random", "#8C5A2B", "h"),
    "none": ("no body", "#555555", "X"),
}


def read_means(path: Path) -> dict[tuple[str, str], float]:
    """Mean test accuracy over seeds by row and task, on MiniLM and the bodies beside it.

    Results of other protocols than the default one count for tasks that have no others.
    """
    records = [record for record in read_records(path)[0] if record.key.body == "minilm" and record.run_id]
    of_default = {record.key.column for record in records if record.key.budget == BUDGET}
    runs: dict[tuple[str, str], dict[float, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.key.budget == BUDGET or record.key.column not in of_default:
            runs[record.key.row, record.key.column][record.summary.lr].append(record)
    means: dict[tuple[str, str], float] = {}
    for key, by_rate in runs.items():
        complete = max(len(records) for records in by_rate.values())
        rates = [records for records in by_rate.values() if len(records) == complete]
        best = max(rates, key=lambda records: statistics.fmean(r.summary.val_metric or 0.0 for r in records))
        means[key] = statistics.fmean(record.summary.test_metric or 0.0 for record in best)
    return means


def draw(means: dict[tuple[str, str], float], path: Path) -> None:
    """One line for each task, one mark for each body, and a bar where an answer without training is."""
    plt.rcParams.update({"font.size": 11, "svg.fonttype": "path", "svg.hashsalt": "icecore"})
    figure, ax = plt.subplots(figsize=(8.6, 3.9), layout="constrained")
    for line, task in enumerate(reversed(TASKS)):
        ax.axhline(line, color="#E8E8E8", linewidth=1, zorder=0)
        if task in TRIVIAL_ANSWERS:
            ax.plot(
                [100 * TRIVIAL_ANSWERS[task].accuracy] * 2,
                [line - 0.3, line + 0.3],
                color="#222222",
                linewidth=2,
                zorder=1,
            )
        for row, (_, colour, marker) in ROWS.items():
            if (row, task) in means:
                size = 95 if row == "pretrained" else 62
                place = 100 * means[row, task], line
                ax.scatter(
                    *place,
                    size,
                    colour,
                    marker=marker,
                    edgecolor="white",
                    linewidth=0.8,
                    zorder=4 if row == "pretrained" else 3,
                )
    for label, colour, marker in ROWS.values():
        ax.scatter([], [], 62, colour, marker=marker, label=label)
    ax.plot([], [], color="#222222", linewidth=2, label="an answer without training")
    ax.set_yticks(range(len(TASKS)), list(reversed(TASKS.values())))
    ax.set_xlim(0, 103)
    ax.set_ylim(-0.6, len(TASKS) - 0.4)
    ax.set_xlabel("test accuracy in %, mean over three seeds")
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, handletextpad=0.4, columnspacing=1.4)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    draw(read_means(ROOT / "results" / "table2.jsonl"), ROOT / "docs" / "proof.svg")
