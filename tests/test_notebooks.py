"""Every cell of the notebooks runs, in order and on fewer steps, in this process: no Jupyter is needed to know that."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import icecore

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


def fit_briefly(fit: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """`icecore.fit` with one learning rate and few steps."""
    return fit(*arguments, **{**options, "steps": 4, "lrs": (3e-3,)})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(icecore, "fit", partial(fit_briefly, icecore.fit))
    scope: dict[str, object] = {}
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells):
        assert cell["outputs"] or "print" not in "".join(cell["source"]), f"cell {number} has no saved output"
        exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), scope)
