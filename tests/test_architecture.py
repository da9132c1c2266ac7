"""The tree is the architecture: every module has a layer, imports go down only, files stay small."""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "icecore"
LONGEST_FILE = 400

# From the bottom up. A module may import modules of rows below its own only.
LAYERS: Sequence[Sequence[str]] = (
    ("icecore", "icecore.errors", "icecore.words"),
    ("icecore.config", "icecore.runtime", "icecore.storage"),
    ("icecore.tasks.task", "icecore.tasks.files", "icecore.tasks.pickles"),
    ("icecore.backbones.kernels", "icecore.backbones.recurrence"),
    ("icecore.backbones.fast",),
    ("icecore.tasks.image_files", "icecore.tasks.protein_files", "icecore.tasks.expressions", "icecore.download"),
    ("icecore.backbones.backbone", "icecore.backbones.attention", "icecore.backbones.swap"),
    ("icecore.backbones.int8",),
    ("icecore.tasks.bits", "icecore.tasks.listops", "icecore.tasks.images", "icecore.tasks.proteins"),
    ("icecore.own.records",),
    ("icecore.own.images", "icecore.own.columns", "icecore.own.source", "icecore.own.targets"),
    ("icecore.own.codes", "icecore.own.tables"),
    ("icecore.own.texts", "icecore.own.rows", "icecore.own.stringcode", "icecore.own.tablecode"),
    ("icecore.own.arrays",),
    ("icecore.own.files",),
    ("icecore.own.encoder",),
    ("icecore.own",),
    ("icecore.backbones.huggingface", "icecore.backbones.lstm"),
    ("icecore.backbones.gguf",),
    ("icecore.backbones.weights",),
    ("icecore.tasks", "icecore.backbones"),
    ("icecore.model",),
    ("icecore.passes", "icecore.optim", "icecore.checkpoint"),
    ("icecore.distributed",),
    ("icecore.execution", "icecore.evaluation"),
    ("icecore.program", "icecore.features"),
    ("icecore.train", "icecore.engine", "icecore.card"),
    ("icecore.grid", "icecore.results", "icecore.estimate", "icecore.budgets", "icecore.hub"),
    ("icecore.attention", "icecore.progress"),
    ("icecore.cluster",),
    ("icecore.study", "icecore.baseline"),
    ("icecore.fit", "icecore.predict"),
    ("icecore.estimator",),
    ("icecore.paper", "icecore.gridfile"),
    ("icecore.report.cells",),
    ("icecore.report.tables",),
    ("icecore.report.text", "icecore.report.style"),
    ("icecore.report.plots",),
    ("icecore.report.page",),
    ("icecore.report",),
    ("icecore.demo",),
    ("icecore.commands", "icecore.commands.options"),
    ("icecore.commands.console",),
    ("icecore.commands.runs", "icecore.commands.own", "icecore.commands.studies", "icecore.commands.lists"),
    ("icecore.cli",),
    ("icecore.__main__",),
)


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package at `root`, by dotted name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = [root.name, *path.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: Mapping[str, Path]) -> set[str]:
    """Modules of the package that `path` imports anywhere, in functions and under TYPE_CHECKING too."""
    found: set[str] = set()
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import module` is an import of that module
            inner = {f"{source}.{alias.name}" for alias in node.names}
            found |= (inner & known.keys()) | ({source} if inner - known.keys() else set())
    return {other for other in found & known.keys() if other != name}


def faults(root: Path, layers: Sequence[Sequence[str]], longest: int = LONGEST_FILE) -> list[str]:
    """What breaks the rules, in words."""
    level = {name: number for number, row in enumerate(layers) for name in row}
    known = modules(root)
    found = [f"{name} is not in the table of layers" for name in known if name not in level]
    found += [f"{name} is in the table of layers but does not exist" for name in level if name not in known]
    for name, path in known.items():
        lines = len(path.read_text().splitlines())
        if lines > longest:
            found.append(f"{name} has {lines} lines, more than {longest}: cut it in two")
        for other in sorted(imports(name, path, known)):
            if name in level and other in level and level[other] >= level[name]:
                way = "sideways" if level[other] == level[name] else "up"
                found.append(f"{name} imports {way}: {other}")
    return found


def test_imports_go_down_only() -> None:
    found = faults(PACKAGE, LAYERS)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("where", "line", "fault"),
    [
        ("low.py", "from toy import high", "toy.low imports up: toy.high"),
        ("low.py", "from toy.high import thing", "toy.low imports up: toy.high"),
        ("low.py", "from .high import thing", "toy.low imports up: toy.high"),
        ("low.py", "import toy.side", "toy.low imports sideways: toy.side"),
        ("low.py", "def f():\n    from toy.part.inner import g", "toy.low imports up: toy.part.inner"),
        ("part/inner.py", "from . import outer", "toy.part.inner imports up: toy.part.outer"),
        ("part/inner.py", "from ..high import thing", "toy.part.inner imports up: toy.high"),
        ("extra.py", "", "toy.extra is not in the table of layers"),
        ("high.py", "\n" * 21, "toy.high has 21 lines, more than 20: cut it in two"),
        ("high.py", "from toy.low import x\nimport os\nfrom toy import NAME", None),
    ],
)
def test_the_check_itself_notices(tmp_path: Path, where: str, line: str, fault: str | None) -> None:
    layers = (("toy", "toy.part"), ("toy.low", "toy.side"), ("toy.part.inner",), ("toy.high", "toy.part.outer"))
    root = tmp_path / "toy"
    (root / "part").mkdir(parents=True)
    names = ("__init__", "low", "side", "high", "part/__init__", "part/inner", "part/outer")
    for name in names:
        (root / f"{name}.py").write_text("")
    (root / where).write_text(line)
    assert faults(root, layers, longest=20) == ([fault] if fault else [])


def test_a_module_that_is_gone_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    assert faults(tmp_path / "toy", [["toy.gone"]]) == ["toy.gone is in the table of layers but does not exist"]
