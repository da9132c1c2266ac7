"""paper, grid and report from the command line: what they say, make and refuse."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from commandline import Run
from icecore.cli import main as cli


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Results go to a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(bodies: Mapping[str, str]) -> list[str]:
    """A table of two rows on bit XOR with a tiny body."""
    return ["table2", "--only", "bit-xor", "--rows", "random,none", "--body", bodies["bert"], "--device", "cpu"]


def test_the_list_names_tables_and_budgets(run: Run) -> None:
    for shown in (run("paper", "--list"), run("paper")):
        assert shown.code == 0
        for word in ("table2", "table21", "attention", "rebuttal", "smoke", "cpu", "full"):
            assert word in shown.out


def test_a_table_without_a_matching_cell_says_so(run: Run) -> None:
    ended = run("paper", "table16", "--only", "bit-memory", "--dry-run")
    assert (ended.code, ended.out) == (0, "table16: No cell of this table matches the requested tasks and rows.\n")


def test_a_table_from_nothing_to_page(run: Run, small: list[str], tmp_path: Path) -> None:
    planned = run("paper", *small, "--dry-run")
    assert "table2, budget smoke: 2 cells; 6 runs to train, about" in planned.out
    assert "no body" not in planned.out
    assert planned.out.count("about") == 3
    assert not (tmp_path / "results").exists()
    ended = run("paper", *small, "--quiet")
    assert ended.code == 0
    for word in (
        "no body: linear probe",
        "Published numbers are in parentheses.",
        "(100)",
        "of the sweep, so a",
        "report",
    ):
        assert word in ended.out
    lines = [json.loads(line) for line in (tmp_path / "results" / "table2.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    assert {line["row"] for line in lines} == {"random", "none"}
    again = run("paper", *small, "--quiet")
    assert "2 cells, all finished" in again.out
    assert len((tmp_path / "results" / "table2.jsonl").read_text().splitlines()) == 6
    reported = run("report", "results")
    assert reported.code == 0
    page = tmp_path / "results" / "report" / "index.html"
    assert "no body: linear probe" in page.read_text()
    assert f"{Path('results/report/index.html')}" in reported.out


def test_a_broken_last_line_is_reported_and_the_rest_used(run: Run, small: list[str], tmp_path: Path) -> None:
    run("paper", *small, "--quiet")
    file = tmp_path / "results" / "table2.jsonl"
    file.write_bytes(file.read_bytes()[:-50])
    reported = run("report", "results", "--out", "page")
    assert reported.code == 0
    assert "table2.jsonl, line 6 was skipped" in reported.err
    assert "table2.jsonl, line 6 was skipped" in (tmp_path / "page" / "index.html").read_text()
    # the run folder has it still: the line comes back, nothing is trained
    repaired = run("paper", *small, "--quiet")
    assert repaired.code == 0
    assert "1 of them finished" in repaired.out
    assert "table2.jsonl, line 6 was skipped" in repaired.out


def test_missing_weights_name_the_remedy_and_the_rest_runs(run: Run, small: list[str], tmp_path: Path) -> None:
    words = [word.replace("random,none", "vision,none") for word in small]
    ended = run("paper", *words, "--quiet")
    assert ended.code == 0
    assert "missing¹" in ended.out
    assert "hf download google/vit-base-patch16-224-in21k" in ended.out
    assert "linear probe" in ended.out


def test_a_grid_from_file_to_page(run: Run, bodies: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        f"""
        task = "bit-xor"
        backbone = "{bodies["bert"]}"
        weights = ["pretrained", "random"]
        lr = [1e-3, 1e-2]
        steps = 4
        batch_size = 2
        task_options = {{ n = 2 }}
        """
    )
    assert "mine: 2 cells; 4 runs to train" in run("grid", "mine.toml", "--dry-run").out
    ended = run("grid", "mine.toml", "--quiet", "--device", "cpu")
    assert ended.code == 0
    assert "weights=pretrained" in ended.out
    assert run("report", "results").code == 0
    assert "weights=random" in (tmp_path / "results" / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("grid --ray x.toml", "grid --ray= x.toml"),
        ("grid x.toml --ray", "grid x.toml --ray="),
        ("grid --ray --quiet x.toml", "grid --ray= --quiet x.toml"),
        ("paper --ray all", "paper --ray= all"),
        ("grid --ray local x.toml", None),
        ("grid --ray auto x.toml", None),
        ("grid --ray 127.0.0.1:6379 x.toml", None),
        ("grid --ray head:6379 x.toml", None),
        ("grid --ray ray://head:10001 x.toml", None),
        ("grid --ray=local x.toml", None),
        ("train bit-xor", None),
    ],
)
def test_the_address_behind_ray_may_be_left_out(words: str, expected: str | None) -> None:
    assert " ".join(cli.insert_ray_address(words.split())) == (expected or words)


def test_an_interruption_says_how_to_go_on(run: Run, small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("icecore.experiments.study.run_study", interrupted)
    ended = run("paper", *small)
    assert ended.code == 130
    assert "Interrupted. The same command continues from the last saved state." in ended.err


@pytest.mark.parametrize("address", [[], ["local"]])
def test_without_ray_the_command_says_how_to_install_it(
    run: Run, small: list[str], monkeypatch: pytest.MonkeyPatch, address: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    ended = run("paper", *small, "--ray", *address)
    assert ended.code == 2
    assert "--ray needs the library Ray. Install it with: pip install 'icecore[ray]'" in ended.err
    assert not list(Path("results").rglob("*"))
    assert run("paper", *small, "--ray", "--dry-run").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["paper", "table99"], "Unknown table 'table99'"),
        (["paper", "table2", "--budget", "huge"], "Unknown budget 'huge'"),
        (["paper", "table2", "--only", "mnits"], "Did you mean 'mnist'"),
        (["grid", "none.toml"], "none.toml is not a readable TOML file"),
        (["report", "nowhere"], "nowhere does not exist"),
        (["paper", "table2", "--only", "bit-xor", "--cpus", "2"], "--cpus and --gpus say what each pack gets"),
        (["grid", "none.toml", "--ray", "--cpus", "0"], "--cpus"),
    ],
)
def test_mistakes_end_with_one_message(run: Run, words: list[str], message: str) -> None:
    ended = run(*words)
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err
