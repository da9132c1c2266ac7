"""The public API: quick to import, complete, and usable as a user writes it. test_docs_site.py checks its pages."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import icecore
from user_script import fit_and_predict, pack_programs, train_and_open


def test_the_import_is_quick_and_does_not_import_torch() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import icecore; seconds = time.perf_counter() - start; "
        "assert 'torch' not in sys.modules; assert 'numpy' not in sys.modules; print(seconds)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 0.1


@pytest.mark.parametrize("name", [name for name in icecore.__all__ if name != "__version__"])
def test_every_public_name_has_a_docstring(name: str) -> None:
    value = getattr(icecore, name)
    assert name in dir(icecore)
    assert inspect.getdoc(value)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'icecore' has no attribute 'trian'"):
        icecore.trian  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_a_user_trains_and_opens_runs(tmp_path: Path) -> None:
    assert train_and_open(tmp_path) == [(4, 5, 2), (4, 5, 2)]


def test_a_user_packs_programs_on_one_body() -> None:
    losses = pack_programs()
    assert len(set(losses)) == 3
    assert all(0 < loss < 5 for loss in losses)


def test_a_user_fits_a_table_and_predicts_it(tmp_path: Path) -> None:
    table = tmp_path / "flowers.csv"
    rows = [f"{4 + i % 7},{'small' if i % 7 < 3 else 'large'}" for i in range(70)]
    table.write_text("\n".join(["petal_length,size", *rows]))
    assert fit_and_predict(table, tmp_path) == 70
