"""The structure of the package: folders import downwards only, module names have one meaning, functions stay short."""

import ast
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "icecore"
MAX_FUNCTION_LINES = 50
#: names of modules that may occur in several folders
COMMON_NAMES = {"__init__", "__main__"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def lint_imports(config: Path, source: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter with the contracts in `config` on the packages in `source`."""
    arguments = ["--config", str(config), "--no-cache"]
    script = f"from importlinter.cli import lint_imports_command; lint_imports_command({arguments!r})"
    environment = {"PYTHONPATH": str(source), "PATH": ""}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=source)


def test_folders_import_downwards_only() -> None:
    result = lint_imports(ROOT / "pyproject.toml", ROOT / "src")
    assert result.returncode == 0, result.stdout


def test_an_import_upwards_is_noticed(tmp_path: Path) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    for folder in (name.strip() for layer in contracts["layers"] for name in layer.split("|")):
        (tmp_path / "icecore" / folder).mkdir(parents=True)
        (tmp_path / "icecore" / folder / "__init__.py").touch()
    (tmp_path / "icecore" / "__init__.py").touch()
    (tmp_path / "icecore" / "core" / "low.py").write_text("def f():\n    from icecore.training import loop\n")
    (tmp_path / "icecore" / "training" / "loop.py").touch()
    result = lint_imports(ROOT / "pyproject.toml", tmp_path)
    assert result.returncode == 1
    assert "icecore.core.low -> icecore.training.loop" in result.stdout


def test_no_two_modules_share_a_name() -> None:
    paths = defaultdict(list)
    for path in MODULES:
        paths[path.stem].append(str(path.relative_to(PACKAGE)))
    packages = {path.parent.name for path in MODULES if path.name == "__init__.py"}
    shared = {name: places for name, places in paths.items() if name not in COMMON_NAMES and len(places) > 1}
    assert not shared
    assert not packages & paths.keys()


def test_no_class_stands_for_two_things() -> None:
    places = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert not {name: paths for name, paths in places.items() if len(paths) > 1}


def test_no_constant_has_two_meanings() -> None:
    places = defaultdict(list)
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            for name in (name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)):
                if name.id.isupper() and not name.id.startswith("_"):
                    places[name.id].append(str(path.relative_to(PACKAGE)))
    assert not {name: paths for name, paths in places.items() if len(set(paths)) > 1}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_are_short_and_modules_say_what_they_are(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"
