"""Every command and every code block of the README and the guides runs, on fewer steps where it trains.

Commands run in this process, and each finds the files that it needs whatever ran before it.
"""

import ast
import contextlib
import dataclasses
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.run import parse_args as parse_torchrun

import icecore
from icecore.autofit import estimator_base
from icecore.autofit.fit_settings import FitSettings
from icecore.backbones.families import FAMILIES
from icecore.cli import main as cli
from icecore.serving.client import Client

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "icecore"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: what makes a training short without changing what it shows
FEW: dict[str, Any] = {"steps": 2, "eval_every": 1, "eval_examples": 8, "test_examples": 8, "batch_size": 2}
#: the same for fitting
FEW_FITS: dict[str, Any] = {"steps": 4, "layers": 1, "lrs": (3e-3,)}
#: commands that need the network or hours
NOT_RUN = ("pip install", "icecore data get", "ICECORE_FUZZ=")
#: tasks of which the files must be there
WITH_FILES = {"mnist", "cifar10", "cifar10-lra", "remote-homology"}


def blocks(page: Path, language: str) -> list[str]:
    """The text of every fenced block of `language` in `page`."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def commands() -> list[str]:
    """The distinct command lines of all pages."""
    lines = [
        line.partition("#")[0].strip() for page in PAGES for text in blocks(page, "sh") for line in text.splitlines()
    ]
    return list(dict.fromkeys(line for line in lines if line))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all commands, with the configuration files and results that the pages show."""
    folder = tmp_path_factory.mktemp("readme")
    for text in (text for page in PAGES for text in blocks(page, "toml")):
        name = text.splitlines()[0].removeprefix("# ")
        (folder / name).write_text(text)
    (folder / "results").mkdir()
    shutil.copy(ROOT / "results" / "attention.jsonl", folder / "results")
    return folder


@pytest.fixture(scope="module")
def trained_run(folder: Path) -> str:
    """The path of a short run of bit XOR, for `runs/RUN`."""
    summary = icecore.train("bit-xor", weights="random", layers=1, out=folder / "runs", **FEW)
    return f"runs/{summary.runs[0].run_id}"


@pytest.fixture(scope="module")
def user_data(folder: Path) -> None:
    """The files that the guide to your own data makes first, and a program fitted to one of them."""
    with contextlib.chdir(folder):
        run_code("your_own_data.md", blocks(ROOT / "docs" / "your_own_data.md", "python")[0], {})
        icecore.fit("wine.csv", out="wine.safetensors", **FEW_FITS)
        Path("shared").mkdir()
        for copy in ("wine2.safetensors", "program.safetensors", "shared/program.safetensors"):
            shutil.copy("wine.safetensors", copy)
        Path("programs").mkdir()
        shutil.copy("wine.safetensors", "programs/wine.safetensors")
        Path("token.txt").write_text("a-token-for-tests")


@pytest.fixture(scope="module")
def server_url(folder: Path, user_data: None) -> Iterator[str]:
    """The address of a server with the program wine."""
    pytest.importorskip("fastapi")
    from live_server import running

    with running([folder / "wine.safetensors"]) as live:
        yield live.url


def run_code(name: str, text: str, scope: dict[str, object]) -> None:
    """Run a block of Python in `scope`."""
    exec(compile(text, name, "exec"), scope)


def torchrun_to_icecore(words: list[str]) -> list[str]:
    """The icecore command that torchrun starts; sharding is left out, for it needs several processes."""
    arguments = parse_torchrun(words[1:])
    assert (arguments.module, arguments.training_script) == (True, "icecore")
    return ["icecore", *(word for word in arguments.training_script_args if word != "--shard")]


def sbatch_to_icecore(words: list[str]) -> list[str]:
    """The help of the icecore command that a Slurm script starts: its options are checked, and nothing runs."""
    script = next(word for word in words if word.endswith(".sbatch"))
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
    options = words[words.index(script) + 1 :]
    return ["icecore", *(options if options[0] in ("grid", "paper") else ["train", *options]), "--help"]


def shorten(words: list[str]) -> list[str]:
    """An icecore command with options that keep it short, and the example data in place of the user's."""
    words = [{"DATA": "wine.csv", "NEW_DATA": "wine.csv"}.get(word, word) for word in words]
    match words[1:]:
        case ["train" | "pretrain", *_]:
            options = [word for name, value in FEW.items() for word in (f"--{name.replace('_', '-')}", str(value))]
            layers = [] if {"--layers", "none"} & {*words} or "lstm" in " ".join(words) else ["--layers", "1"]
            return [*words, *options, *layers, "--quiet"]
        case ["fit", *_]:
            # controls need ten test rows for a verdict
            held_out = [] if "--controls" in words else ["--val", "0.05", "--test", "0.05"]
            return [*words, "--steps", "4", "--layers", "1", "--lr", "3e-3", "--quiet", *held_out]
        case ["paper", "table2", *_]:
            return [*words, "--budget", "smoke", "--only", "bit-xor", "--rows", "random,none", "--quiet"]
        case ["serve", *_]:
            # the last --port counts; Ray is tried in test_ray_deployment.py
            return [*words, *(["--help"] if "--ray" in words else ["--port", "0", "--device", "cpu"])]
        case ["grid", *_]:
            return [*words, "--dry-run"]
        case _:
            return words


@pytest.mark.parametrize("line", commands())
def test_command(line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if line.startswith(NOT_RUN):
        pytest.skip("needs the network or hours")
    words = shlex.split(line)
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        return
    if words[0] == "python" and words[1].startswith("tests/"):  # tests/faults runs these itself
        assert (ROOT / words[1]).is_file()
        return
    if words[0] == "python":  # test_benchmarks.py runs the script itself
        monkeypatch.syspath_prepend(str((ROOT / words[1]).parent))
        with pytest.raises(SystemExit, match="0"):
            importlib.import_module(Path(words[1]).stem).main([*words[2:], "--help"])
        return
    if words[0] in ("torchrun", "sbatch"):
        words = {"torchrun": torchrun_to_icecore, "sbatch": sbatch_to_icecore}[words[0]](words)
    assert words[0] == "icecore", f"{line!r} is neither an icecore command nor one that this test knows"
    if "--help" not in words:
        words = shorten(words)
        if WITH_FILES.intersection(words):
            monkeypatch.setenv("ICECORE_DATA", str(request.getfixturevalue("real_data")))
        if words[1] in ("fit", "predict", "info", "push", "pull", "serve"):
            request.getfixturevalue("user_data")
        if words[1] == "serve":
            # loaded and listening is enough
            uvicorn = pytest.importorskip("uvicorn")
            monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
        if "--url" in words:
            words[words.index("--url") + 1] = request.getfixturevalue("server_url")
        if "runs/RUN" in words:
            words[words.index("runs/RUN")] = request.getfixturevalue("trained_run")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


@pytest.fixture
def families() -> Iterator[None]:
    """The families of transformers bodies, without those that a page adds."""
    before = dict(FAMILIES)
    yield
    assert isinstance(FAMILIES, dict)
    for added in FAMILIES.keys() - before.keys():
        del FAMILIES[added]


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page trains through the public API or an estimator takes few steps."""
    estimate = estimator_base.fitting.fit

    def fit_few(task: Any, settings: FitSettings, *arguments: Any) -> Any:
        return estimate(task, dataclasses.replace(settings, **FEW_FITS), *arguments)

    monkeypatch.setattr(estimator_base.fitting, "fit", fit_few)
    for name, few in (("train", FEW), ("sweep", FEW), ("fit", FEW_FITS)):
        function = getattr(icecore, name)
        monkeypatch.setattr(icecore, name, partial(_call, function, few))


def _call(function: Callable[..., Any], few: Mapping[str, Any], *arguments: Any, **options: Any) -> Any:
    return function(*arguments, **{**options, **few})


@pytest.mark.usefixtures("families", "few_steps")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_code(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The blocks of a page run in order, in one scope."""
    if page.name == "serving.md":
        url = request.getfixturevalue("server_url")
        monkeypatch.setattr(icecore, "Client", lambda _, **options: Client(url, **options))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    for text in blocks(page, "python"):
        run_code(page.name, text, scope)


def first_sentence(path: Path) -> str:
    """The first sentence of the docstring of a module, in one line and without its full stop."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return re.split(r"\.(?:\s|$)", " ".join(text.split()), maxsplit=1)[0]


def test_the_readme_lists_the_folders_of_the_package() -> None:
    """Whole paths, each with the first sentence of the docstring of its `__init__.py`."""
    shown = re.search(r"```\nsrc/icecore/\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert shown is not None
    lines = dict(line.split(maxsplit=1) for line in shown[1].splitlines())
    folders = {f"{path.parent.relative_to(PACKAGE)}/": first_sentence(path) for path in PACKAGE.rglob("*/__init__.py")}
    assert lines == folders | {"api.py": first_sentence(PACKAGE / "api.py")}
