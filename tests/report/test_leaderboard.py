"""The leaderboard: sweeps with enough seeds, ranked where they can be compared, under the name of who made them."""

from dataclasses import replace

import pytest

from icecore.core.config import FPT_ROLES, ROLES
from icecore.report.leaderboard import PROJECT, Board, build_leaderboard
from icecore.report.markdown import render_markdown
from icecore.training.run_summary import BEHIND
from result_samples import MNIST_DATA, cell

RANDOM = {"weights": "random"}


def only_board(boards: list[Board]) -> Board:
    (board,) = boards
    return board


def test_entries_are_ranked_by_the_test_metric() -> None:
    ours = [*cell("random", tests=(0.69, 0.70, 0.71), settings=RANDOM), *cell("pretrained")]
    board = only_board(build_leaderboard({PROJECT: ours}))
    assert (board.task, board.variant, board.metric_name) == ("mnist", "", "accuracy")
    first, second = board.entries
    assert (first.rank, first.body, first.maker) == (1, "minilm, pretrained", PROJECT)
    assert (second.rank, second.body) == (2, "minilm, random")
    assert first.metric.mean == pytest.approx(90)
    assert first.metric.sem == pytest.approx(1 / 3**0.5)
    assert (first.examples, first.parameters) == (1600, 44938)
    assert (first.budget, first.protocol, first.tested) == ("cpu", "fast", "500 of 10,000 test examples")


def test_entries_without_a_clear_difference_share_a_rank() -> None:
    runs = {
        PROJECT: cell(),
        "ann": cell(tests=(0.88, 0.90, 0.91), settings=RANDOM),
        "bob": cell(tests=(0.5, 0.5, 0.5), settings={"layers": 2}),
        "cyd": cell(tests=(0.5, 0.5, 0.5), settings={"layers": 3}),
        "dan": cell(tests=(0.4, 0.4, 0.4), settings={"layers": 4}),
    }
    board = only_board(build_leaderboard(runs))
    assert [(entry.rank, entry.maker) for entry in board.entries] == [
        (1, PROJECT),
        (1, "ann"),
        (3, "bob"),
        (3, "cyd"),
        (5, "dan"),
    ]
    assert board.entries[2].body == "minilm, pretrained, 2 layers"


def test_a_sweep_needs_three_seeds_and_a_run_counts_once() -> None:
    assert not build_leaderboard({PROJECT: cell(tests=(0.9, 0.9))})
    twice = [*cell(), *cell(study="table9")]
    assert len(only_board(build_leaderboard({PROJECT: twice})).entries) == 1
    without_configuration = [replace(run, config={}) for run in cell()]
    assert not build_leaderboard({PROJECT: without_configuration})


def test_a_run_that_was_trained_to_its_end_counts_before_where_a_race_stopped_it() -> None:
    first, *others = cell()
    stopped = replace(first, summary=replace(first.summary, status=BEHIND, test_metric=None))
    (entry,) = only_board(build_leaderboard({PROJECT: [stopped, first, *others]})).entries
    assert entry.metric.mean == pytest.approx(90)


def test_other_options_and_other_data_have_boards_of_their_own() -> None:
    other_data = {**MNIST_DATA, "sha256": "ffff00001111"}
    boards = build_leaderboard(
        {
            PROJECT: [*cell(), *cell("random", settings=RANDOM, data=other_data)],
            "ann": cell("none", "cifar10-lra", settings={"backbone": "none"}, task_options={"side": 16}),
        }
    )
    assert [(board.task, board.variant) for board in boards] == [
        ("mnist", "sha256 29abe478d272"),
        ("mnist", "sha256 ffff00001111"),
        ("cifar10-lra", "side=16"),
    ]
    assert boards[2].entries[0].body == "no body"


@pytest.mark.parametrize(
    ("roles", "text"),
    [
        (FPT_ROLES, ""),
        (ROLES, "all parameters trained"),
        (("output", "norm"), "only output and norm trained"),
        ((*FPT_ROLES, "attention"), "attention trained as well"),
    ],
)
def test_an_entry_says_what_was_trained(roles: tuple[str, ...], text: str) -> None:
    board = only_board(build_leaderboard({PROJECT: cell(settings={"train_roles": roles})}))
    assert board.entries[0].trained == text


def test_a_body_from_a_file_is_named_by_its_row_or_its_file() -> None:
    weights = {"weights": "results/bodies/0123.safetensors"}
    boards = build_leaderboard({PROJECT: cell("dyck", settings=weights), "ann": cell("mine", settings=weights)})
    assert {entry.body for entry in only_board(boards).entries} == {
        "minilm, pretrained on dyck",
        "minilm, 0123.safetensors",
    }


def test_the_markdown_file_has_it() -> None:
    boards = build_leaderboard({"<b>": cell(), PROJECT: cell("random", settings=RANDOM, tests=(0.1, 0.1, 0.1))})
    text = render_markdown([], [], {}, boards)
    assert "### mnist" in text
    assert "| minilm, pretrained | 1" in text
    assert "| &lt;b&gt;" in text
    assert "90.0 ± 0.6" in text
