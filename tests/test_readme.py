"""Every command and every code block of the README and the guides runs, on fewer steps where it trains."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from icecore.cli import main as cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: what makes a training command short without changing what it shows
SHORT = ["--steps", "2", "--eval-every", "1", "--eval-examples", "8", "--test-examples", "8", "--batch-size", "2"]
#: processes of this machine meet on loopback, with a thread each
ALONE = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
#: commands that install, push or fetch; `make` targets are checked apart
NOT_RUN = ("pip install", "hf download", "icecore data get")


def blocks(language: str) -> list[tuple[str, str]]:
    """(place, text) of every fenced block of `language`."""
    found = []
    for page in PAGES:
        for number, match in enumerate(re.finditer(rf"```{language}\n(.*?)```", page.read_text(), re.S)):
            found.append((f"{page.name}-{number}", match[1]))
    return found


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for _, text in blocks("sh") for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line))


def files() -> dict[str, str]:
    """Files that the pages show, by the name in their first line."""
    return {text.splitlines()[0].removeprefix("# "): text for _, text in blocks("toml")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all commands, so that later ones find the runs of earlier ones."""
    return tmp_path_factory.mktemp("readme")


@pytest.fixture(scope="module")
def own_data(place: Path) -> None:
    """The files that the guide to one's own data makes first."""
    (_, text), *_ = [block for block in blocks("python") if block[0].startswith("your_own_data")]
    with contextlib.chdir(place):
        exec(compile(text, "your_own_data", "exec"), {})


@pytest.mark.parametrize("line", commands())
def test_command(line: str, place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    if line.startswith(NOT_RUN):
        pytest.skip("needs the network")
    words = shlex.split(line)
    if "../shared/data" in words:
        words[words.index("../shared/data")] = str(request.getfixturevalue("real_data"))
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        return
    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:], "--quick"], cwd=ROOT, check=True, capture_output=True)
        return
    if words[0] == "sbatch":
        script = next(word for word in words if word.endswith(".sbatch"))
        subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
        words = ["icecore", *words[words.index(script) + 1 :], "--help"]
        words = words if words[1] in ("grid", "paper") else ["icecore", "train", *words[1:]]
    if words[0] == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:], *SHORT, "--quiet"]
        subprocess.run(command, cwd=place, env=ALONE, check=True, capture_output=True)
        return
    assert Path(words[0]).name == "icecore", f"what is {line!r}?"
    if words[1] == "train":
        words += [*SHORT, "--quiet"]
    if words[1:3] == ["paper", "table2"]:
        words += ["--budget", "smoke", "--only", "bit-xor", "--rows", "random,none", "--quiet"]
    own = {"DATA": "wine.csv", "NEW_DATA": "wine.csv"}
    words = [own.get(word, word) for word in words]
    if words[1] == "fit":
        words += ["--steps", "4", "--layers", "1", "--quiet"]
    if words[1] in ("fit", "predict", "info", "push", "pull") and "runs/RUN" not in words:
        request.getfixturevalue("own_data")
    if words[1] == "grid":
        words.append("--dry-run")
        (place / words[2]).write_text(files()[words[2]])
    monkeypatch.chdir(place)
    if "runs/RUN" in words:
        summaries = [json.loads(path.read_text()) for path in place.glob("runs/*/summary.json")]
        small = min((s["frozen_parameters"], s["run_id"]) for s in summaries if s["backbone"] == "minilm")
        words[words.index("runs/RUN")] = f"runs/{small[1]}"
    monkeypatch.setattr(sys, "argv", ["icecore", *words[1:]])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


@pytest.mark.parametrize(("where", "text"), blocks("python"))
def test_code(where: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    # a guide's blocks belong together: those before this one come first
    page, _, number = where.rpartition("-")
    pages = [(w.rpartition("-"), t) for w, t in blocks("python")]
    earlier = [t for (p, _, n), t in pages if p == page != "README.md" and int(n) < int(number)]
    scope: dict[str, object] = {}
    for block in (*earlier, text):
        exec(compile(block, where, "exec"), scope)


def test_the_tree_in_the_readme_is_the_tree():
    shown = re.search(r"```\n(icecore/\n.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert shown is not None
    named = set(re.findall(r"(\w+\.py)", shown[1]))
    there = {path.name for path in (ROOT / "icecore").rglob("*.py")} - {"__init__.py", "__main__.py"}
    assert named == there
