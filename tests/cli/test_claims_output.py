"""icecore paper --claims: what it prints, writes and refuses, and that the guide has what it writes."""

import json
from pathlib import Path

import pytest

from commandline import Run
from icecore.report.claim_markdown import CLAIMS_BEGIN, CLAIMS_END

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with one table: language is ahead on MNIST."""
    folder = tmp_path / "results"
    folder.mkdir()
    lines = [
        {
            "study": "table2", "row": row, "column": "mnist", "budget": "cpu", "body": "minilm", "date": "2026-11-27",
            "run_id": f"{row}{seed}", "task": "mnist", "weights": row, "backbone": "minilm", "lr": 1e-3, "seed": seed,
            "status": "completed", "val_metric": level, "test_metric": level, "test_examples": 1000,
            "config": {"lr": 1e-3, "seed": seed, "body_seed": seed}, "versions": {"icecore": "0.2.0"},
        }
        for row, level in (("pretrained", 0.96), ("random", 0.61))
        for seed in (0, 1, 2)
    ]  # fmt: skip
    (folder / "table2.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_claims_are_printed(run: Run, results: Path) -> None:
    ended = run("paper", "--claims", "--out", str(results))
    assert ended.code == 0
    for words in (
        "language-beats-random: holds (decided on mnist alone)\n",
        "A frozen body that was pretrained on language is better than a random one. (Lu et al. 2021, Table 2; budget "
        "cpu, body minilm)",
        "96.0 / 61.0",
        "+35.0",
        "Effect: +35.0 points (95 % interval",
        "rebuttal-attention-can-be-trained: not run: would cost about",
        "attention-finds-the-bits: not run",
    ):
        assert words in ended.out


def test_claims_fit_a_terminal_of_80_columns(run: Run, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icecore.cli.console.PIPE_WIDTH", 80)
    table = [
        line for line in run("paper", "--claims", "--out", str(results)).out.splitlines() if line.startswith(" mnist")
    ]
    assert all(len(line) <= 80 for line in table)
    # the claim of the paper and that of the rebuttal; the records have no curves for the one about examples
    assert [" +35.0 " in line for line in table] == [True, True, False]


def test_without_results_the_message_says_how_to_make_some(run: Run, tmp_path: Path) -> None:
    ended = run("paper", "--claims", "--out", str(tmp_path / "nothing"))
    assert ended.code == 2
    assert (
        "nothing does not exist, so there are no results to decide claims from. `icecore paper table2 --budget cpu` "
        "makes some, and --out names another folder." in ended.err
    )
    (tmp_path / "empty").mkdir()
    assert "empty has no results" in run("paper", "--claims", "--out", str(tmp_path / "empty")).err


def test_options_that_do_not_belong_together_are_refused(run: Run) -> None:
    assert "Leave out table2." in run("paper", "table2", "--claims").err
    assert "Add --claims." in run("paper", "--write", "page.md").err


def test_claims_are_written_between_their_comments(run: Run, results: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{CLAIMS_BEGIN}\nold\n{CLAIMS_END}\n\nAfter\n")
    words = ("paper", "--claims", "--out", str(results), "--write", str(page))
    assert "was written anew" in run(*words).out
    text = page.read_text()
    assert text.startswith(f"# Before\n\n{CLAIMS_BEGIN}\n\nVerdicts on ")
    assert text.endswith(f"\n\n{CLAIMS_END}\n\nAfter\n")
    assert "old" not in text.split(CLAIMS_BEGIN)[1].split("\n")[:3]
    assert "| +35.0 |" in text
    assert "is up to date" in run(*words).out
    assert page.read_text() == text


def test_a_page_without_the_comments_is_not_changed(run: Run, results: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Mine\n")
    ended = run("paper", "--claims", "--out", str(results), "--write", str(page))
    assert ended.code == 2
    assert "page.md has no place for the claims. Add these two lines" in ended.err
    assert page.read_text() == "# Mine\n"
    assert "cannot be read" in run("paper", "--claims", "--out", str(results), "--write", "none.md").err


def test_the_guide_has_what_the_results_say(run: Run, tmp_path: Path) -> None:
    """If this fails, results have changed: `make claims` writes the guide anew."""
    guide = ROOT / "docs" / "reproducing.md"
    copy = tmp_path / "reproducing.md"
    copy.write_bytes(guide.read_bytes())
    assert run("paper", "--claims", "--out", str(ROOT / "results"), "--write", str(copy)).code == 0
    assert copy.read_text() == guide.read_text()
