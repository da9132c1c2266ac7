"""The commands: what they print and write, and that mistakes end with one message and exit code 2."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from commandline import Ended, Run


@pytest.fixture
def body(bodies: Mapping[str, str]) -> Path:
    """A tiny BERT saved as the library saves it."""
    return Path(bodies["bert"])


def train(run: Run, body: Path, out: Path, *words: object) -> Ended:
    small = ("--backbone", body, "--steps", 4, "--eval-every", 2, "--batch-size", 4, "--device", "cpu")
    return run("train", "bit-xor", *small, "--task-option", "n=2", "--out", out, *words)


def test_help_is_quick_because_torch_is_not_imported():
    command = [sys.executable, "-X", "importtime", "-m", "icecore", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "typer" in imported
    assert not {"torch", "transformers", "numpy"} & imported
    assert "Usage" in shown.stdout


def test_version(run: Run):
    assert run("--version").out.startswith("icecore 0.")


@pytest.mark.parametrize(("command", "words"), [("tasks", ["remote-homology", "64 x 48"]), ("backbones", ["gpt2-xl"])])
def test_lists(run: Run, command: str, words: list[str]):
    ended = run(command)
    assert ended.code == 0
    assert all(word in ended.out for word in words)


def test_backbones_names_the_extra_whole(run: Run):
    assert "icecore[minilm]" in run("backbones").out


def test_data_list(run: Run):
    assert "mnist" in run("data", "list").out


def test_train_then_eval_attend_info(run: Run, body: Path, tmp_path: Path):
    out = tmp_path / "runs"
    ended = train(run, body, out, "--lr", "1e-3,3e-3", "--seeds", "0,1")
    assert ended.code == 0, ended.err
    assert "Validation chose learning rate" in ended.out
    assert "step 2/4" in ended.err, "plain lines where there is no terminal"
    group = json.loads((out / "summary.json").read_text())
    # the next command writes another summary.json, and this copy stays
    (copy,) = out.glob("summary-bit-xor-bert-pretrained-*.json")
    assert json.loads(copy.read_text()) == group
    assert str(copy) in ended.out
    assert group["n_seeds"] == 2
    assert len(group["runs"]) == 4
    folder = out / group["runs"][0]["run_id"]

    assert f"test bit accuracy: {100 * group['runs'][0]['test_metric']:.1f} % (16 examples)" in run("eval", folder).out
    assert "Attention of the outputs to the two bits that they need" in run("attend", folder, "--examples", 4).out
    assert (folder / "attention.png").read_bytes()[:4] == b"\x89PNG"
    assert "Unknown split 'tset'. Did you mean 'test'?" in run("eval", folder, "--split", "tset").err
    refused = run("attend", folder, "--out", tmp_path / "att.xyz")
    assert "att.xyz: The name of a picture must end in one of .png, .svg" in refused.err
    shown = run("info", folder).out
    assert "fingerprint" in run("info", folder / "program.safetensors").out
    assert "bit-xor (n = 2)" in shown
    assert "None" not in shown
    listed = run("runs", out).out
    assert all(member["run_id"] in listed for member in group["runs"])
    assert "In all rows: task bit-xor" in listed
    assert "There is no folder" in run("runs", tmp_path / "nowhere").err


def test_a_finished_run_is_free(run: Run, body: Path, tmp_path: Path):
    train(run, body, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    assert train(run, body, tmp_path, "--quiet").code == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")} == before


def test_a_race_shows_which_rates_stopped(run: Run, body: Path, tmp_path: Path):
    words = ("--lr", "1e-4,1e-2", "--steps", 10, "--eval-every", 2)
    ended = train(run, body, tmp_path, *words, "--race")
    assert "Race at step 6 (3/5 of the steps): learning rate " in ended.err
    assert "behind in the race, step 6" in ended.out
    assert "completed" in ended.out
    assert "Validation chose learning rate" in ended.out
    (behind,) = [run for run in json.loads((tmp_path / "summary.json").read_text())["runs"] if run["steps_done"] == 6]
    assert "fell behind in a race" in run("eval", tmp_path / behind["run_id"], "--device", "cpu").err
    whole = train(run, body, tmp_path, *words)
    assert "Race" not in whole.err
    assert "behind in the race" not in whole.out


def test_quiet_prints_the_result_only(run: Run, body: Path, tmp_path: Path):
    ended = train(run, body, tmp_path, "--quiet")
    assert ended.err == ""
    assert "Test bit accuracy" in ended.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "mnits"], "Unknown task 'mnits'. Did you mean 'mnist'?"),
        (["train", "bit-xor", "--backbone", "gpt"], "Unknown backbone 'gpt'. Did you mean 'gpt2'"),
        (["train", "bit-xor", "--train-roles", "norms"], "Unknown role 'norms'. Did you mean 'norm'?"),
        (["train", "bit-xor", "--weights", "pretraind"], "neither one of pretrained, random, statistics"),
        (["train", "bit-xor", "--protocol", "fare"], "Unknown protocol 'fare'. Did you mean 'fair' or 'fast'?"),
        (["train", "bit-xor", "--device", "gpu"], "Unknown device 'gpu'"),
        (["train", "bit-xor", "--precision", "fp8"], "Unknown precision 'fp8'"),
        (["train", "bit-xor", "--lr", "fast"], "--lr: expected numbers separated by commas, found 'fast'"),
        (["train", "bit-xor", "--task-option", "m=3"], "Unknown option of bit-xor 'm'"),
        (["train", "bit-xor", "--task-option", "n"], "--task-option n: expected name=value"),
        (["train", "bit-xor", "--seeds", "0.5"], "--seeds: expected whole numbers separated by commas, found '0.5'"),
        (["train", "bit-xor", "--input-hidden", "wide"], "--input-hidden: expected whole numbers separated by commas"),
        (["train", "bit-xor", "--lr-factors", "norm=x"], "--lr-factors norm=x: expected a number after '='"),
        (["train", "bit-xor", "--lr-factors", "nrom=2"], "Unknown role 'nrom'. Did you mean 'norm'?"),
        (["train", "bit-xor", "--steps", "0"], "steps: expected at least 1, found 0"),
        (["train", "bit-xor", "--bakbone", "gpt2"], "--backbone"),
        (["trian", "bit-xor"], "train"),
        (["data", "get", "minst"], "Unknown data set 'minst'. Did you mean 'mnist'"),
        (["eval", "nowhere"], "nowhere is not a run folder"),
        (["info", "nowhere"], "nowhere is not a run folder"),
    ],
)
def test_mistakes_end_with_one_message(run: Run, tmp_path: Path, monkeypatch, words: list[str], message: str):
    monkeypatch.chdir(tmp_path)
    ended = run(*words)
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_missing_data_names_the_command_and_the_files(run: Run, body: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    ended = run("train", "mnist", "--backbone", body, "--data-dir", tmp_path / "empty", "--out", tmp_path / "out")
    assert ended.code == 2
    assert "icecore data get mnist" in ended.err
    assert "train-images-idx3-ubyte" in ended.err


def test_offline_hub_names_the_remedy(run: Run, tmp_path: Path):
    ended = run("train", "bit-xor", "--backbone", "gpt2", "--out", tmp_path)
    assert ended.code == 2
    assert "hf download openai-community/gpt2" in ended.err
    assert "--weights random needs no download" in ended.err


def test_an_unfinished_run_says_so(run: Run, body: Path, tmp_path: Path):
    train(run, body, tmp_path)
    folder = next(tmp_path.glob("*/summary.json")).parent
    (folder / "summary.json").unlink()
    assert "unfinished" in run("info", folder).out


def test_unwritable_out(run: Run, body: Path, tmp_path: Path):
    place = tmp_path / "file"
    place.write_text("not a folder")
    ended = train(run, body, place)
    assert ended.code == 2
    assert "cannot be written" in ended.err
    assert place.read_text() == "not a folder"
