"""Results of others: what is in order is added once, and each fault has a sentence that says how to mend it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from commandline import Run
from icecore.core.errors import ConfigError, DataError, UserError
from icecore.experiments.results import RunRecord, append_records, read_records
from icecore.report.submission import SUBMITTED, add_submission, read_submitted
from icecore.training.run_summary import BEHIND, DIVERGED
from result_samples import MNIST_DATA, VERSIONS, cell, record

#: a body that the project has no results of
THEIRS: dict[str, Any] = {"backbone": "mpnet-base"}


def edited(**changes: Any) -> list[RunRecord]:
    """A cell of somebody else whose summaries are changed, as by hand."""
    return [replace(run, summary=replace(run.summary, **changes)) for run in cell("mine", settings=THEIRS)]


def write(path: Path, runs: Sequence[RunRecord]) -> Path:
    path.write_text("".join(run.to_json() + "\n" for run in runs))
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with results of the project."""
    folder = tmp_path / "results"
    folder.mkdir()
    append_records(folder / "table2.jsonl", cell())
    return folder


def faults_of(runs: Sequence[RunRecord], results: Path) -> str:
    with pytest.raises(DataError) as raised:
        add_submission(write(results.parent / "ann.jsonl", runs), results)
    assert not (results / SUBMITTED).exists()
    return str(raised.value)


def test_a_file_in_order_is_added_under_the_name_of_its_maker(results: Path, tmp_path: Path) -> None:
    runs = cell("mine", settings=THEIRS)
    said = add_submission(write(tmp_path / "table2.jsonl", runs), results, "ann-lee")
    target = results / "submitted" / "ann-lee.jsonl"
    assert said == (
        f"Added 3 runs of 1 cell by ann-lee to {target}. `icecore report {results}` shows them in the leaderboard."
    )
    assert read_submitted(results) == ({"ann-lee": runs}, [])
    own, _ = read_records(results)
    assert own == cell()  # the project's own tables are as before


def test_the_same_file_twice_is_added_once(results: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "ann.jsonl", cell("mine", settings=THEIRS))
    add_submission(file, results)
    target = results / SUBMITTED / "ann.jsonl"
    before = target.read_bytes()
    assert add_submission(file, results) == f"All of its runs are in {target} already. Nothing was added."
    assert target.read_bytes() == before


def test_a_file_in_its_place_is_only_checked(results: Path, tmp_path: Path) -> None:
    """This is what a continuous integration does with a pull request."""
    add_submission(write(tmp_path / "ann.jsonl", cell("mine", settings=THEIRS)), results)
    target = results / SUBMITTED / "ann.jsonl"
    before = target.read_bytes()
    assert add_submission(target, results) == f"{target} is in order: 3 runs of 1 cell by ann."
    assert target.read_bytes() == before
    write(target, edited(versions={}))
    with pytest.raises(DataError, match="the versions of icecore, python, torch and transformers are not in"):
        add_submission(target, results)


def test_a_longer_file_adds_what_is_new(results: Path, tmp_path: Path) -> None:
    first, second = cell("mine", settings=THEIRS), cell("other", settings={**THEIRS, "layers": 3})
    add_submission(write(tmp_path / "ann.jsonl", first), results)
    said = add_submission(write(tmp_path / "ann.jsonl", [*first, *second]), results)
    assert said.startswith("Added 3 runs of 2 cells by ann")
    assert read_submitted(results)[0] == {"ann": [*first, *second]}


def test_cells_without_runs_are_not_taken(results: Path, tmp_path: Path) -> None:
    missing = RunRecord(record("vision").key, "icecore paper", "2026-11-22", missing="no weights")
    add_submission(write(tmp_path / "ann.jsonl", [missing, *cell("mine", settings=THEIRS)]), results)
    assert len(read_submitted(results)[0]["ann"]) == 3


def test_the_whole_test_set_is_as_good_as_the_budgets_examples(results: Path, tmp_path: Path) -> None:
    whole = cell("mine", settings={**THEIRS, "test_examples": None})
    assert add_submission(write(tmp_path / "ann.jsonl", whole), results).startswith("Added 3 runs")


def test_runs_that_stopped_early_need_no_test(results: Path, tmp_path: Path) -> None:
    rest: dict[str, Any] = {"test_metric": None, "test_metrics": {"test": None}, "test_examples": 0}
    stopped = [
        record("mine", settings={**THEIRS, "lr": lr}, status=status, val_metric=val, **rest)
        for lr, status, val in ((3e-3, BEHIND, 0.2), (1e-2, DIVERGED, None))
    ]
    runs = [*cell("mine", settings=THEIRS), *stopped]
    assert add_submission(write(tmp_path / "ann.jsonl", runs), results).startswith("Added 5 runs")


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (
            edited(versions={**VERSIONS, "torch": ""}),
            "the versions of torch are not in the record. Submit the file as icecore wrote it",
        ),
        (edited(versions={**VERSIONS, "torch": "newest"}), "'newest' is not a version of torch"),
        (
            edited(versions={**VERSIONS, "icecore": "99.1.0"}),
            "made with icecore 99.1.0, which is not known here. Make the runs again with icecore",
        ),
        (
            edited(data={**MNIST_DATA, "sha256": "ffff"}),
            "the data are not those of our results of mnist: sha256 is ffff instead of 29abe478d272. Train on the same",
        ),
        (
            edited(data={"counts": {"test": 10000}}),
            "sha256 is missing instead of 29abe478d272",
        ),
        (edited(task_options={"size": 8}), "there are no results of mnist with size=8 here whose data"),
        (edited(test_examples=100), "scored on 100 test examples. Score all 10,000 or the 500 of the budget cpu"),
        (
            edited(test_metric=1.5, test_metrics={"test": 1.5}),
            "an accuracy of 1.5, but accuracies are shares from 0 to 1",
        ),
        (edited(val_metric=-0.5), "an accuracy of -0.5, but accuracies are shares from 0 to 1"),
        (edited(val_metric=None), "there is no val_metric. Submit the file"),
        (edited(test_metrics={"test": 0.1}), "the test_metric is not the first of the test_metrics"),
        (
            edited(best_step=150),
            "the best step 150 is not among the validations, so nothing shows that validation",
        ),
        (edited(lr=1e-2), "summary and configuration do not agree on lr"),
        (edited(seed=7), "summary and configuration do not agree on seed"),
        (edited(run_id="000000000000"), "so one of them was changed"),
        (
            [replace(run, config={}) for run in cell("mine", settings=THEIRS)],
            "there is no configuration in the record",
        ),
        (
            [replace(run, config={**run.config, "steps": 0}) for run in cell("mine", settings=THEIRS)],
            "the configuration is not one of icecore (steps: expected at least 1, found 0)",
        ),
        (
            cell("mine", settings={**THEIRS, "protocol": "paper"}),
            "the protocol paper chooses the best state on the test set. Train with --protocol fair or fast",
        ),
        (
            cell("mine", tests=(0.9, 0.9), settings=THEIRS),
            "mnist, mpnet-base, pretrained: 2 seeds (0, 1) at learning rate 1e-3, which validation chose. At least 3",
        ),
        (
            [record("mine", settings=THEIRS)] * 2,
            "more than one line has this run of this cell. Keep the last one",
        ),
        (cell(), "the results have this already, by icecore. The leaderboard lists a configuration once"),
        ([], "There is no finished run in it. Submit the file that `icecore paper` or `icecore grid` wrote"),
        (
            [
                *cell("mine", settings=THEIRS),
                *cell("mine", tests=(0.8, 0.8, 0.8), settings=THEIRS, study="table9"),
            ],
            "cells disagree on what the same run reached",
        ),
    ],
)
def test_each_fault_says_how_to_mend_it(runs: Sequence[RunRecord], message: str, results: Path) -> None:
    assert message in faults_of(runs, results)


def test_all_faults_are_named_and_equal_ones_once(results: Path) -> None:
    text = faults_of(edited(test_examples=100, best_step=150), results)
    assert text.startswith(f"{results.parent / 'ann.jsonl'} was not added to {results}: 2 faults.\n- Runs ")
    assert text.count("\n- ") == 2


def test_a_line_that_is_no_record_is_a_fault(results: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "ann.jsonl", cell("mine", settings=THEIRS))
    with file.open("a") as lines:
        lines.write('{"run_id": "a", "val_metric": NaN}\n')
    with pytest.raises(DataError, match=r"line 4 was skipped.*finite number.*Submit the file as"):
        add_submission(file, results)


def test_a_task_that_nobody_else_has_is_refused(results: Path) -> None:
    runs = [
        replace(run, summary=replace(run.summary, task="mine"), config={**run.config, "task": "mine"})
        for run in cell("mine", settings=THEIRS)
    ]
    assert "the task 'mine' is not one that `icecore tasks` lists" in faults_of(runs, results)


def test_runs_of_somebody_else_cannot_be_submitted_again(results: Path, tmp_path: Path) -> None:
    add_submission(write(tmp_path / "ann.jsonl", cell("mine", settings=THEIRS)), results)
    with pytest.raises(DataError, match="the results have this already, by ann"):
        add_submission(write(tmp_path / "bob.jsonl", cell("mine", settings=THEIRS)), results)
    with pytest.raises(DataError, match="submitted before with other numbers"):
        add_submission(write(tmp_path / "ann.jsonl", cell("mine", tests=(0.1, 0.1, 0.1), settings=THEIRS)), results)


@pytest.mark.parametrize(
    ("name", "by", "message"),
    [
        ("table2.jsonl", "", "does not say who made it. Add --by NAME"),
        ("ann.jsonl", "../ann", "cannot name who made the results"),
        ("ann.jsonl", "<b>", "cannot name who made the results"),
        ("ann.jsonl", "icecore", "cannot name who made the results"),
        ("an n.jsonl", "", "cannot name who made the results"),
        ("none.jsonl", "ann", "cannot be read: No such file or directory"),
    ],
)
def test_a_name_or_file_that_cannot_be_used(name: str, by: str, message: str, results: Path, tmp_path: Path) -> None:
    if not name.startswith("none"):
        write(tmp_path / name, cell("mine", settings=THEIRS))
    with pytest.raises(UserError, match=message):
        add_submission(tmp_path / name, results, by)


def test_results_must_be_a_folder(results: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        add_submission(write(tmp_path / "ann.jsonl", cell()), results / "table2.jsonl")


def test_odd_values_end_with_faults_and_no_traceback(results: Path, tmp_path: Path) -> None:
    """A file of a stranger may have anything in any place."""
    line = json.loads(cell("mine", settings=THEIRS)[0].to_json())
    values: Sequence[Any] = (None, "", "\x1b[2J", [], {}, [[]], {"a": {}}, 10**400, -1, True)
    for name in line:
        for value in values:
            file = tmp_path / "ann.jsonl"
            file.write_text(json.dumps({**line, name: value}))
            with pytest.raises(DataError, match="was not added"):
                add_submission(file, results)


def test_every_submitted_file_of_this_repository_is_in_order() -> None:
    results = Path(__file__).parents[2] / "results"
    for file in sorted((results / SUBMITTED).glob("*.jsonl")):
        assert "is in order" in add_submission(file, results)


def test_the_command_adds_and_the_next_report_shows(run: Run, results: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", cell("mine", settings=THEIRS))
    added = run("report", results, "--submit", file, "--by", "ann")
    assert added.code == 0, added.err
    assert "Added 3 runs of 1 cell by ann" in added.out
    assert not (results / "report").exists()
    assert run("report", results).code == 0
    page = (results / "report" / "index.html").read_text()
    board = page[page.index('id="leaderboard"') :]
    assert "mpnet-base, pretrained" in board
    assert "<td>ann</td>" in board
    assert "mpnet-base" not in page[page.index("<body>") : page.index('id="leaderboard"')]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (lambda file: ("--submit", file, "--out", "page"), "--submit adds results and writes no report"),
        (lambda file: ("--by", "ann"), "--by says who made the results that are submitted. Add --submit FILE"),
    ],
)
def test_options_that_do_not_go_together(
    words: Callable[[Path], Sequence[Any]], message: str, run: Run, results: Path, tmp_path: Path
) -> None:
    ended = run("report", results, *words(tmp_path / "mine.jsonl"))
    assert ended.code == 2
    assert message in ended.err
