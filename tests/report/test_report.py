"""Reports: numbers equal those computed by hand, gaps and mixtures are noted, and the page needs no other file."""

import hashlib
import json
import math
import random
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.lines import Line2D

from icecore.core.errors import UserError
from icecore.experiments.results import CellKey, RunRecord, append_records, read_records
from icecore.experiments.sweep import summarize_runs
from icecore.report import plots, write_report
from icecore.report.cell_text import cell_text, published_text
from icecore.report.cells import CellNumber, MeanWithError, TableCell, build_cell
from icecore.report.markdown import render_markdown
from icecore.report.quantities import QUANTITIES, convergence_step
from icecore.report.result_tables import ResultTable, build_tables
from icecore.tasks import TASKS
from icecore.training.run_summary import BEHIND, RunSummary

VERSIONS = {"icecore": "0.1.0", "python": "3.11.7", "torch": "2.13.0+cpu", "transformers": "5.23.0"}
MNIST = CellKey("table2", "pretrained", "mnist", "cpu", "minilm")


def run(
    key: CellKey,
    lr: float = 1e-3,
    seed: int = 0,
    val: float | None = 0.5,
    test: float | None = 0.5,
    curve: Sequence[tuple[int, float]] = (),
    extra: dict[str, Any] | None = None,
    **changes: Any,
) -> RunRecord:
    """The record of an invented run."""
    task = key.column.partition(" ")[0]
    summary = {
        "task": task,
        "task_options": dict(TASKS[task].options) if task in TASKS else {},
        "backbone": "minilm",
        "weights": "pretrained",
        "protocol": "fair",
        "lr": lr,
        "seed": seed,
        "steps": 200,
        "batch_size": 8,
        "status": "diverged" if val is None else "completed",
        "precision": "fp32",
        "train_metric": val,
        "val_metric": val,
        "test_metric": test,
        "test_metrics": {"test": test},
        "test_examples": 1000,
        "metric_name": "accuracy",
        "trainable_parameters": 44938,
        "frozen_parameters": 10638336,
        "seconds_share": 1.0,
        "device": "CPU, 2 threads, AVX512",
        "versions": VERSIONS,
        "data": {"format": "idx", "counts": {"train": 8000, "val": 400, "test": 10000}, "sha256": "29abe478d272"},
        **changes,
    }
    summary["run_id"] = hashlib.sha256(f"{key} {json.dumps(summary, sort_keys=True)}".encode()).hexdigest()[:12]
    command = f"icecore paper {key.study} --budget {key.budget} --only {task} --rows {key.row}"
    config = {"lr": lr, "seed": seed, "task": task, "precision": summary["precision"], "steps": summary["steps"]}
    return RunRecord(key, command, "2026-11-22", RunSummary(**summary), config, tuple(curve), (), extra or {})


def sweep(
    key: CellKey, level: float, seeds: int = 3, lrs: Sequence[float] = (3e-4, 1e-3, 3e-3, 1e-2)
) -> list[RunRecord]:
    """A staged sweep with accuracies near `level`, best at the third learning rate."""
    generator = random.Random(f"{key}")
    records = []
    for index, lr in enumerate(lrs):
        is_best = index == min(2, len(lrs) - 1)
        for seed in range(seeds if is_best else 1):
            end = level - 0.08 * abs(index - 2) * level + generator.gauss(0, 0.004)
            end = min(1.0, max(0.0, end))
            rise = generator.uniform(15, 70)
            steps = range(10, 201, 10)
            curve = [(s, min(1.0, end * (1 - math.exp(-s / rise)) + generator.gauss(0, 0.004))) for s in steps]
            test = min(1, max(0, end + generator.gauss(0, 0.005)))
            records.append(run(key, lr, seed, end, test, curve))
    return records


def cell_of(table: ResultTable, row: str, column: str) -> TableCell:
    return next(r for r in table.rows if r.key == row).cells[column]


def notes_of(table: ResultTable, cell: TableCell) -> str:
    return "; ".join(table.notes[mark - 1] for mark in table.marks(cell))


def coordinates(line: Line2D, axis: str) -> list[float]:
    return np.asarray(line.get_xdata() if axis == "x" else line.get_ydata()).tolist()


def only_table(records: Sequence[RunRecord]) -> ResultTable:
    (table,) = build_tables(records)
    return table


def test_a_cell_has_mean_and_standard_error_at_the_rate_that_validation_chose() -> None:
    tests, key = (0.90, 0.93, 0.96), replace(MNIST, budget="full", body="gpt2")
    runs = [run(key, 1e-3, 0, 0.80, 0.99), run(key, 1e-2, 0, 0.7, 0.99)]
    runs += [run(key, 3e-3, seed, 0.9, test) for seed, test in enumerate(tests)]
    table = only_table(runs)
    cell = cell_of(table, "pretrained", "mnist")
    (number,) = cell.numbers
    group = summarize_runs([each.summary for each in runs])
    assert cell.lr == group.chosen_lr == 3e-3
    assert number.ours is not None
    assert (number.ours.mean, number.ours.n) == (pytest.approx(93.0), 3)
    assert group.test_sem is not None
    assert number.ours.sem == pytest.approx(100 * group.test_sem)
    assert number.ours.sem == pytest.approx(statistics.stdev((90, 93, 96)) / math.sqrt(3))
    assert number.published == MeanWithError(98.0)
    assert number.differs  # 5 points away, and two standard errors are 3.5
    assert cell_text(cell, "%") == "93.0 ± 1.7 ≠"
    assert published_text(cell, "%") == "98.0"
    assert table.name == "Table 2"
    assert (table.rows[0].trained, table.rows[0].frozen) == ((44938, 44938), (10638336, 10638336))


@pytest.mark.parametrize(
    ("ours", "published", "bound", "differs"),
    [
        (MeanWithError(90, 1, 3), MeanWithError(92.5), False, True),
        (MeanWithError(90, 1, 3), MeanWithError(91.5), False, False),
        (MeanWithError(90, 1, 3), MeanWithError(92.5, 1), False, False),
        (MeanWithError(90, None, 1), MeanWithError(50), False, False),
        (MeanWithError(98.04, 0, 3), MeanWithError(98.0), False, False),
        (MeanWithError(90, 1, 3), None, False, False),
        (None, MeanWithError(90), False, False),
        (MeanWithError(90, 1, 3), MeanWithError(99), True, False),
        (MeanWithError(90, 1, 3), MeanWithError(80), True, True),
    ],
)
def test_a_difference_is_marked_beyond_two_combined_standard_errors(
    ours: MeanWithError | None, published: MeanWithError | None, bound: bool, differs: bool
) -> None:
    assert CellNumber("test", ours, published, bound).differs is differs
    assert not CellNumber("test", ours, published, bound, is_comparable=False).differs


def test_numbers_of_another_budget_or_body_are_not_called_different() -> None:
    for budget, body in (("cpu", "minilm"), ("full", "minilm"), ("cpu", "gpt2")):
        key = replace(MNIST, budget=budget, body=body)
        cell = cell_of(only_table([run(key, seed=seed, test=0.5) for seed in range(3)]), "pretrained", "mnist")
        assert "≠" not in cell_text(cell, "%")


def test_a_table_tells_where_its_first_row_is_ahead_and_what_needs_no_training() -> None:
    levels = {
        ("pretrained", "mnist"): (0.90, 0.91, 0.92),
        ("none", "mnist"): (0.95, 0.96, 0.97),
        ("pretrained", "bit-xor"): (0.99, 1.0, 0.98),
        ("random", "bit-xor"): (0.66, 0.67, 0.68),
        ("pretrained", "cifar10"): (0.10, 0.09, 0.11),
        ("random", "cifar10"): (0.10, 0.11, 0.12),
        # three seeds far apart: two standard errors, but the 95 % interval includes 0
        ("pretrained", "listops"): (0.56, 0.76, 0.96),
        ("random", "listops"): (0.49, 0.50, 0.51),
    }
    table = only_table(
        [
            run(replace(MNIST, row=row, column=column), seed=seed, test=test)
            for (row, column), tests in levels.items()
            for seed, test in enumerate(tests)
        ]
    )
    none = next(row.label for row in table.rows if row.key == "none")
    assert table.story == (
        "Pretrained on language is clearly the best on bit-xor (99.0 against 67.0 of random). It is clearly behind on "
        f"mnist (91.0 against 96.0 of {none}). No clear difference on listops (76.0 against 50.0 of random) and "
        "cifar10 (10.0 against 11.0 of random). "
        "No better than an answer without training on cifar10 (10.0)."
    )
    assert {name: share for name, share in table.trivial.items() if name in ("bit-xor", "mnist")} == {
        "bit-xor": 50,
        "mnist": 10,
    }
    markdown = render_markdown([table], [], {})
    assert markdown.index(table.story) < markdown.index("How to read a table")
    assert "| an answer without training" in markdown


def test_convergence_is_the_first_step_within_a_point_of_the_best() -> None:
    assert convergence_step([(10, 0.5), (20, 0.895), (30, 0.9), (40, 0.7)]) == (20, False)
    assert convergence_step([(10, 0.5), (20, 0.895), (30, 0.9)]) == (20, True)  # the curve may rise further
    assert convergence_step([(10, 0.5), (20, 0.99), (30, 1.0)]) == (20, False)  # the curve cannot rise further
    assert convergence_step([]) is None
    rising = build_cell([run(MNIST, curve=[(10, 0.5), (20, 0.9)])], QUANTITIES["steps"], {"steps": MeanWithError(5e3)})
    assert cell_text(rising, "steps") == "≥ 20"
    assert published_text(rising, "steps") == "5,000"


def test_cells_that_were_not_run_are_empty_and_missing_ones_have_a_reason() -> None:
    key = CellKey("table2", "vision", "mnist", "cpu", "minilm")
    table = only_table([run(MNIST), RunRecord(key, "icecore paper", "2026-11-22", missing="no weights: get vit-base")])
    assert cell_text(cell_of(table, "random", "mnist"), "%") == ""
    assert published_text(cell_of(table, "random", "mnist"), "%") == "91.7"
    missing = cell_of(table, "vision", "mnist")
    assert cell_text(missing, "%") == "missing"
    assert notes_of(table, missing) == "no weights: get vit-base"
    assert {cell.state for cell in table.cells} == {"", "missing", "not run"}
    assert len(table.columns) == 7


def test_a_chosen_rate_at_the_edge_of_the_sweep_is_noted() -> None:
    low = only_table([run(MNIST, 1e-3, 0, 0.9), run(MNIST, 3e-3, 0, 0.8)])
    assert "The chosen learning rate is the smallest of the sweep" in low.notes[0]
    assert not only_table([run(MNIST, lr, 0, val) for lr, val in ((1e-3, 0.1), (3e-3, 0.2), (1e-2, 0.1))]).notes
    assert not only_table([run(MNIST)]).notes
    equal = [run(MNIST, lr, 0, 0.9) for lr in (1e-3, 3e-3, 1e-2)]
    assert not only_table(equal).notes  # a rate between the ends is as good
    better = [*equal, run(MNIST, 1e-3, 1, 0.8), run(MNIST, 3e-3, 1, 0.7)]
    assert "The chosen learning rate is the smallest of the sweep" in only_table(better).notes[0]


def test_a_row_names_the_body_that_replaces_the_papers() -> None:
    keys = [CellKey("table8", f"{size}-pretrained", "cifar10", "cpu", "minilm") for size in ("base", "medium")]
    bodies = ("minilm", "smollm2-135m")
    table = only_table([run(key, backbone=body) for key, body in zip(keys, bodies, strict=True)])
    assert [row.label for row in table.rows][:3:2] == ["base, pretrained", "medium, pretrained (smollm2-135m)"]


def test_the_line_over_rates_has_only_seeds_that_tried_all_rates() -> None:
    tried = [run(MNIST, lr, 0, val) for lr, val in ((1e-3, 0.5), (3e-3, 0.6), (1e-2, 0.55))]
    figure = plots.draw_rates(only_table([*tried, run(MNIST, 3e-3, 1, 0.3)]))
    assert figure is not None
    line, ring = (drawn[0] for drawn in figure.axes[0].containers)
    assert coordinates(line, "y") == pytest.approx([50, 60, 55])
    assert (coordinates(ring, "x"), coordinates(ring, "y")) == ([3e-3], pytest.approx([45]))


def test_a_run_that_stopped_early_keeps_its_last_accuracy_in_the_curve() -> None:
    early, late = [(10, 0.5), (20, 1.0)], [(10, 0.4), (20, 0.6), (30, 1.0), (40, 1.0)]
    figure = plots.draw_curves(
        only_table([run(MNIST, seed=seed, curve=curve) for seed, curve in enumerate((early, late))])
    )
    assert figure is not None
    mean, marker, _ = figure.axes[0].lines  # the last one is the answer without training
    assert coordinates(mean, "x") == [10, 20, 30, 40]
    assert coordinates(mean, "y") == pytest.approx([45, 80, 100, 100])
    assert (coordinates(marker, "x"), marker.get_markerfacecolor() == "white") == ([30], False)


def test_results_of_the_default_protocol_come_first() -> None:
    keys = [
        replace(MNIST, budget="cpu, fair protocol"),
        MNIST,
        replace(MNIST, study="table1", budget="cpu, fair protocol"),
    ]
    tables = build_tables([run(key, 1e-3, 0, 0.5) for key in keys])
    assert [(table.name, table.budget) for table in tables] == [
        ("Table 1", "cpu, fair protocol"),
        ("Table 2", "cpu"),
        ("Table 2", "cpu, fair protocol"),
    ]


def test_a_row_may_lack_a_task_that_others_have() -> None:
    """Rates and curves are drawn for the cells that there are."""
    other = replace(MNIST, row="random")
    runs = [run(key, lr, 0, 0.5) for key in (MNIST, other, replace(MNIST, column="cifar10")) for lr in (1e-3, 3e-3)]
    table = only_table(runs)
    assert plots.draw_rates(table) is not None
    assert plots.draw_plots(table, Path())


def test_rates_that_fell_behind_in_a_race_are_noted_and_enter_no_mean() -> None:
    def behind(lr: float, val: float | None, steps: int, seed: int = 0) -> RunRecord:
        stopped: dict[str, Any] = {"status": BEHIND, "steps_done": steps, "test_metrics": {"test": None}}
        return run(MNIST, lr, seed, val, None, test_examples=0, **stopped)

    seeds = [run(MNIST, 3e-3, seed, 0.6 + 0.1 * seed, 0.5 + 0.1 * seed) for seed in (0, 1)]
    others = [behind(lr, 0.9, steps, s) for lr, steps in ((1e-3, 50), (1e-2, 120)) for s in (0, 1)]
    table = only_table([*seeds, *others])
    cell = cell_of(table, "pretrained", "mnist")
    assert (cell.lr, cell.state, len(cell.runs)) == (3e-3, "", 6)
    assert cell.chosen == tuple(seeds)
    assert cell_text(cell, "%") == "55.0 ± 5.0"
    assert table.notes == [
        "Learning rates that stopped in a race, before their last step: 1e-3 at step 50 and 1e-2 at step 120."
    ]
    assert not table.warnings  # that they were not tested is no difference between runs
    figure = plots.draw_rates(table)
    assert figure is not None
    line, _ = (drawn[0] for drawn in figure.axes[0].containers)
    assert (coordinates(line, "x"), coordinates(line, "y")) == ([3e-3], pytest.approx([65]))
    hollow = [drawn for drawn in figure.axes[0].lines if drawn.get_markerfacecolor() == "white"]
    assert [coordinates(each, "x") for each in hollow] == [[1e-3], [1e-2]]
    assert [coordinates(each, "y") for each in hollow] == [pytest.approx([90])] * 2
    assert plots.draw_rates(only_table([seeds[0], behind(1e-3, None, 50)])) is not None


def test_an_edge_of_the_sweep_is_noted_whatever_fell_behind() -> None:
    inner = run(MNIST, 3e-3, 0, 0.9, None, status=BEHIND, steps_done=50, test_metrics={"test": None})
    table = only_table([run(MNIST, 1e-3), inner, run(MNIST, 1e-2, 0, 0.4)])
    assert "The chosen learning rate is the smallest of the sweep, so a smaller one may be better." in table.notes


def test_a_cell_with_nothing_but_runs_that_fell_behind_is_not_finished() -> None:
    alone = only_table([run(MNIST, 1e-3, 0, 0.9, None, status=BEHIND, steps_done=50)])
    assert cell_text(cell_of(alone, "pretrained", "mnist"), "%") == "not finished"


def test_divergence_is_noted() -> None:
    diverged = only_table([run(MNIST, 1e-2, 0, None, None)])
    assert cell_text(cell_of(diverged, "pretrained", "mnist"), "%") == "diverged"
    assert diverged.notes == ["Runs diverged at every learning rate (1e-2)."]
    part = only_table([run(MNIST, 1e-3), run(MNIST, 3e-3, 0, 0.4), run(MNIST, 1e-2, 0, None, None)])
    assert "Runs diverged at learning rate 1e-2." in part.notes
    best = only_table([run(MNIST, status="diverged"), run(MNIST, seed=1)])
    assert best.notes == [
        "Runs diverged at learning rate 1e-3. 1 of 2 seeds of this number diverged and counts with its best state."
    ]


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        ({"versions": {**VERSIONS, "torch": "2.11.0"}}, "torch: 2.11.0; most of this table: 2.13.0+cpu"),
        ({"versions": {**VERSIONS, "icecore": "0.0.9"}}, "icecore: 0.0.9; most of this table: 0.1.0"),
        ({"precision": "bf16"}, "precision: bf16; most of this table: fp32"),
        ({"device": "NVIDIA H100"}, "device: NVIDIA H100; most of this table: CPU, AVX512"),
        ({"task_options": {"val": 400, "size": 8}}, "task options: size=8; most of column mnist: the defaults"),
        (
            {"data": {"format": "idx", "counts": {"test": 10000}, "sha256": "ffff"}},
            "data: idx (test 10,000); sha256 ffff; most of column mnist: idx",
        ),
        ({"test_examples": 10000}, "scored on: 10,000 test examples; most of column mnist: 1,000 of 10,000"),
    ],
)
def test_runs_that_differ_are_noted(changed: dict[str, Any], note: str) -> None:
    rows = ("pretrained", "random", "statistics")
    runs = [
        run(CellKey("table2", row, "mnist", "cpu", "minilm"), **(changed if row == "random" else {})) for row in rows
    ]
    table = only_table(runs)
    assert note in notes_of(table, cell_of(table, "random", "mnist"))
    assert not cell_of(table, "pretrained", "mnist").notes
    assert len(table.warnings) == 1
    assert not only_table(runs[::2]).warnings


def test_runs_may_differ_in_threads() -> None:
    random_ = CellKey("table2", "random", "mnist", "cpu", "minilm")
    assert not only_table([run(MNIST), run(random_, device="CPU, 4 threads, AVX512")]).warnings


def test_equal_rows_of_two_tables_have_the_same_number() -> None:
    """A rate that a race stopped for one table may have been trained to its end for another."""
    key, other = (
        CellKey(s, r, "mnist", "cpu", "minilm") for s, r in (("table2", "random"), ("rebuttal", "frozen-random"))
    )
    best = [run(key, 3e-3, seed, 0.8, 0.7) for seed in (0, 1)]
    summary = replace(best[0].summary, status=BEHIND, steps_done=50, test_metric=None, test_metrics={"test": None})
    behind = replace(best[0], key=other, summary=summary)
    assert behind.run_id == best[0].run_id
    tables = build_tables([*best, behind, *(run(other, 3e-4, seed, 0.5, 0.4) for seed in (0, 1))])
    cells = [cell_of(table, row, "mnist") for table, row in zip(tables, ("random", "frozen-random"), strict=True)]
    assert [(cell.lr, cell_text(cell, "%")) for cell in cells] == [(3e-3, "70.0 ± 0.0")] * 2


def test_settings_without_effect_make_no_other_configuration() -> None:
    """Positions of MiniLM start from its own table, whatever `position_start` says."""

    def at(start: float, seed: int, test: float, backbone: str = "minilm") -> RunRecord:
        made = run(MNIST, seed=seed, test=test, seconds_share=start)
        return replace(made, config={**made.config, "position_start": start, "backbone": backbone})

    table = only_table([at(4.0, 0, 0.8), at(4.0, 1, 0.8), at(1.0, 1, 0.8)])
    cell = cell_of(table, "pretrained", "mnist")
    assert (table.notes, [each.summary.seed for each in cell.chosen]) == ([], [0, 1])
    other = only_table([at(start, 0, 0.8, "smollm2-135m") for start in (4.0, 1.0)])
    assert other.notes == ["Left out: 1 run of another configuration (position_start 4.0, not 1.0)."]


def test_runs_of_another_configuration_are_not_averaged_in() -> None:
    runs = [run(MNIST, test=0.2, precision="bf16"), run(MNIST, test=0.8), run(MNIST, seed=1, test=0.8)]
    table = only_table(runs)
    assert cell_text(cell_of(table, "pretrained", "mnist"), "%") == "80.0 ± 0.0"
    assert table.notes == ["Left out: 1 run of another configuration (precision bf16, not fp32)."]


def test_a_record_without_numbers_is_left_out_and_noted() -> None:
    table = only_table([RunRecord(MNIST, "", "", RunSummary(run_id="abc"))])
    assert cell_text(cell_of(table, "pretrained", "mnist"), "%") == "missing"
    assert "Left out: 1 run without a learning rate or metrics" in table.notes[0]


def test_columns_name_smaller_tasks_and_parts_of_the_test_set() -> None:
    key = CellKey("table2", "random", "listops", "cpu", "minilm")
    table = only_table([run(key, task_options={"train": 9, "shortest": 50, "longest": 200}), run(MNIST)])
    heads = {column.name: column.remarks for column in table.columns}
    assert heads["listops"] == ("shortest=50 longest=200", "1,000 of 10,000 test examples")
    assert heads["bit-xor"] == ()
    assert "200 steps of 8 examples" in next(c.facts for c in table.columns if c.name == "mnist")


def test_a_cell_can_have_train_and_test_accuracy() -> None:
    key = CellKey("table7", "pretrained", "cifar10-lra", "cpu", "minilm")
    cell = cell_of(only_table([run(key, val=0.4, test=0.39)]), "pretrained", "cifar10-lra")
    assert cell_text(cell, "%") == "40.0 / 39.0"
    assert published_text(cell, "%") == "38.5 / 38.6"


def test_attention_is_read_from_the_runs_that_have_it() -> None:
    key = CellKey("attention", "random", "bit-xor n=20", "cpu", "minilm")
    runs = [
        run(key, extra={"attention": {"n": 20, "best": 0.5, "first_bit_best": 0.3, "uniform": 0.05}}),
        run(key, seed=1),
    ]
    table = only_table(runs)
    assert cell_text(cell_of(table, "random", "bit-xor n=20"), "%") == "50.0 / 30.0 / 5.0"
    assert table.columns[1].remarks == ("1,000 of 10,000 test examples",)


def test_tables_of_the_paper_come_before_grids() -> None:
    grid = [run(CellKey("my grid", row, task)) for row in ("wide", "deep") for task in ("mnist", "bit-xor")]
    other = run(CellKey("table2", "random", "mnist", "full", "gpt2"))
    tables = build_tables([*grid, run(CellKey("table3", "lstm", "mnist", "cpu", "minilm")), run(MNIST), other])
    assert [table.slug for table in tables] == [
        "table2-cpu-minilm",
        "table2-full-gpt2",
        "table3-cpu-minilm",
        "my-grid",
    ]
    grid_table = tables[-1]
    assert [row.key for row in grid_table.rows] == ["wide", "deep"]
    assert [column.name for column in grid_table.columns] == ["mnist", "bit-xor"]
    assert published_text(cell_of(grid_table, "wide", "mnist"), "%") == ""


def test_runs_without_a_cell_have_a_table_of_their_own() -> None:
    table = only_table([run(CellKey(), task="mnist")])
    assert (table.rows[0].key, table.columns[0].name) == ("minilm, pretrained", "mnist")


def test_markdown_tables_are_rectangular_and_escape_names() -> None:
    runs = [run(CellKey("my | grid", "<b>& | `x`", task)) for task in ("mnist", "bit-xor")]
    text = render_markdown(build_tables([*runs, run(MNIST)]), ["table2.jsonl, line 3 was skipped"], {})
    assert "table2.jsonl, line 3 was skipped" in text
    assert "&lt;b&gt;&amp; \\| \\`x\\`" in text
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        lines = block.splitlines()
        assert len({len(line) for line in lines}) == 1
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "`icecore paper table2 --budget cpu --only mnist --rows pretrained`" in text


class Page(HTMLParser):
    """Collects ids, references and text, and checks that every element is closed."""

    VOID = frozenset({"meta", "img", "br", "path", "use", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "xlink:href", "src", "srcset", "data", "action"):
                (self.links if tag == "a" else self.sources).append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a table with all plots, a grid with HTML in its name, and an incomplete line."""
    root = tmp_path_factory.mktemp("results")
    records = []
    for row in ("pretrained", "random"):
        for column, n in (("bit-xor n=5", 5), ("bit-xor n=20", 20)):
            runs = sweep(CellKey("attention", row, column, "cpu", "minilm"), 0.8, seeds=1)
            extra = {"attention": {"n": n, "best": 0.5, "uniform": 1 / n}, "picture": "attention/map.png"}
            records += [*runs[:2], run(runs[2].key, 3e-3, 0, 0.8, 0.8, runs[2].validation, extra)]
    records += sweep(MNIST, 0.9, seeds=2)
    records += [run(CellKey("<b>& own", "<i>row", "mnist"))]
    append_records(root / "all.jsonl", records)
    with (root / "all.jsonl").open("a") as file:
        file.write('{"study": "table2", "ro')
    (root / "attention").mkdir()
    (root / "attention" / "map.png").write_bytes(b"\x89PNG\r\n")
    found, faults = read_records(root)
    write_report(found, faults, root / "report", root)
    return root


def test_the_page_is_well_formed_and_needs_no_other_file(folder: Path) -> None:
    page = Page((folder / "report" / "index.html").read_text())
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert all(source.startswith(("#", "data:")) for source in page.sources)
    assert not page.tags & {"script", "link", "iframe", "object", "b", "i"}
    inner = [link for link in [*page.links, *page.sources] if link.startswith("#")]
    assert {link[1:] for link in inner} <= set(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {
        "https://arxiv.org/abs/2103.05247",
        "https://arxiv.org/abs/2107.12460",
    }
    assert "url(http" not in (folder / "report" / "index.html").read_text()
    assert "<b>& own" in page.text
    assert "all.jsonl, line" in page.text
    assert "icecore paper table2 --budget cpu --only mnist --rows pretrained" in page.text
    assert "44,938 trained" in page.text


def test_pictures_are_in_the_page_and_in_files(folder: Path) -> None:
    files = {path.name for path in (folder / "report" / "plots").iterdir()}
    attention = {
        f"attention-cpu-minilm-{kind}.{end}" for kind in ("rates", "curves", "attention") for end in ("svg", "png")
    }
    assert attention | {"attention-cpu-minilm-map-1.png", "table2-cpu-minilm-beside.svg"} <= files
    assert not {name for name in files if name.startswith("b-own")}
    page = (folder / "report" / "index.html").read_text()
    assert page.count("data:image/png;base64,iVBORw0K") == 4
    markdown = (folder / "report" / "report.md").read_text()
    linked = re.findall(r"\]\((plots/[^)]+)\)", markdown)
    assert linked
    assert all((folder / "report" / name).is_file() for name in linked)
    assert "all.jsonl, line" in markdown


def test_a_cell_shows_the_picture_of_its_first_run_that_has_one(tmp_path: Path) -> None:
    (tmp_path / "second.png").write_bytes(b"second")
    (tmp_path / "third.png").write_bytes(b"third")
    names = ("gone.png", "second.png", "third.png")
    table = only_table([run(MNIST, seed=seed, extra={"picture": name}) for seed, name in enumerate(names)])
    maps = [plot for plot in plots.draw_plots(table, tmp_path) if plot.caption.startswith("Attention: ")]
    assert [plot.png for plot in maps] == [b"second"]


def test_a_picture_outside_the_results_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "results").mkdir()
    records = [run(MNIST, extra={"picture": "../secret.png"})]
    paths = write_report(records, [], tmp_path / "out", tmp_path / "results")
    assert not [path for path in paths if "map" in path.name]


def test_equal_records_give_equal_bytes(folder: Path) -> None:
    before = {path: path.read_bytes() for path in (folder / "report").rglob("*.*") if path.is_file()}
    records, faults = read_records(folder / "all.jsonl")
    again = write_report(records, faults, folder / "again", folder)
    assert {path.relative_to(folder / "again") for path in again} == {p.relative_to(folder / "report") for p in before}
    for path, content in before.items():
        assert (folder / "again" / path.relative_to(folder / "report")).read_bytes() == content, path


@pytest.mark.parametrize("module", ["matplotlib", "jinja2"])
def test_without_a_library_the_error_says_what_to_install(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{module}. Install it with: pip install 'icecore\[report\]'"):
        write_report([run(MNIST)], [], tmp_path, tmp_path)
