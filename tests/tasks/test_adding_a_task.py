"""The tutorial docs/adding_a_task.md alone is enough to add a task: its code blocks are written and run here."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commandline import Run
from icecore.core.errors import ConfigError
from icecore.experiments import estimate, sweep
from icecore.experiments.estimate import Speed
from icecore.tasks import TASKS, register_task, registry

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_task.md"


def code_blocks() -> dict[str, str]:
    """The Python blocks of the page by title."""
    return dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The page's blocks, with its module written to a folder that Python imports from; undone afterwards."""
    blocks = code_blocks()
    (tmp_path / "parity.py").write_text(blocks["parity.py"])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield blocks
    registry._ENTRIES.pop("parity", None)
    sys.modules.pop("parity", None)


def test_the_task_of_the_page_can_be_trained_listed_and_estimated(
    page: dict[str, str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(page["register"], {})
    assert "whether a string of bits holds an odd number of ones" in " ".join(run("tasks").out.split())
    short, long = (
        estimate.seconds(sweep.make_config("parity", precision="fp32", task_options={"bits": bits}), 1, Speed(1e11))
        for bits in (16, 64)
    )
    assert short < long
    capsys.readouterr()
    exec(page["train"], {})
    assert 0 <= float(capsys.readouterr().out.splitlines()[-1]) <= 1


def test_a_name_that_exists_is_not_registered_again() -> None:
    with pytest.raises(ConfigError, match=r"A task named 'mnist' exists already\. Give the new task another name"):
        register_task(TASKS["mnist"])


@pytest.mark.parametrize("name", TASKS)
def test_the_spec_of_an_entry_is_that_of_the_task(name: str) -> None:
    entry = TASKS[name]
    if name in ("bit-memory", "bit-xor"):  # the others need data files
        assert entry.build(registry.TaskRequest(entry.options)).spec == entry.spec(entry.options)
    spec = entry.spec(entry.options)
    assert 1 <= entry.tokens(entry.options) <= spec.length
    assert entry.shape.startswith(str(spec.length) if entry.typical_length is None else f"up to {spec.length}")
