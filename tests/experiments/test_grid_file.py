"""Grid files: every combination once, each in its row and column, and mistakes named with the file."""

from pathlib import Path

import pytest

from icecore.core.errors import ConfigError
from icecore.experiments.grid_file import read_grid
from icecore.experiments.study import CellPlan


def read(tmp_path: Path, text: str) -> list[CellPlan]:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return read_grid(path, "cpu")


def test_lists_multiply(tmp_path: Path) -> None:
    cells = read(
        tmp_path,
        """
        task = ["bit-xor", "mnist"]
        weights = ["pretrained", "random"]
        layers = [1, 2]
        lr = [1e-3, 3e-3]
        seed = [0, 1, 2]
        steps = 50
        [tasks.mnist]
        steps = 70
        [tasks.bit-xor]
        task_options = { n = [3, 5] }
        """,
    )
    assert len(cells) == 2 * 2 * 2 + 2 * 2
    assert {cell.key.study for cell in cells} == {"mine"}
    assert {cell.key.column for cell in cells} == {"bit-xor n=3", "bit-xor n=5", "mnist"}
    assert {cell.key.row for cell in cells} == {
        f"weights={weights}, layers={n}" for weights in ("pretrained", "random") for n in (1, 2)
    }
    assert {cell.sweep.config.steps for cell in cells if cell.key.column == "mnist"} == {70}
    assert {cell.sweep.config.steps for cell in cells if cell.key.column != "mnist"} == {50}
    for cell in cells:
        assert (tuple(cell.sweep.lrs), tuple(cell.sweep.seeds), len(cell.sweep)) == ((1e-3, 3e-3), (0, 1, 2), 6)
        assert f"layers={cell.sweep.config.layers}" in cell.key.row
        assert cell.key.column.endswith(str(cell.sweep.config.task_options.get("n", "mnist")))
        assert cell.command == "icecore grid mine.toml"
    assert len({cell.sweep.config.run_id for cell in cells}) == len(cells)


def test_one_value_of_everything_is_one_cell(tmp_path: Path) -> None:
    (cell,) = read(tmp_path, 'task = "bit-xor"\nname = "one"\nlr = 0.5\nweights = "random"')
    assert cell.key.study == "one"
    assert cell.key.row == "minilm, random"
    assert (list(cell.sweep.lrs), list(cell.sweep.seeds), cell.sweep.staged) == ([0.5], [0], False)


def test_the_default_rate_and_a_staged_sweep(tmp_path: Path) -> None:
    (cell,) = read(tmp_path, 'task = "mnist"\nseed = [3, 4]\nstaged = true\nprotocol = "paper"')
    assert list(cell.sweep.lrs) == [1e-3]
    assert cell.sweep.staged


@pytest.mark.parametrize(
    ("written", "roles"),
    [
        ('["input,output", "output"]', [("input", "output"), ("output",)]),
        ('"output"', [("output",)]),
        ('[["output", "norm"]]', [("norm", "output")]),
    ],
)
def test_fields_that_are_lists_themselves(tmp_path: Path, written: str, roles: list[tuple[str, ...]]) -> None:
    cells = read(tmp_path, f'task = "bit-xor"\ntrain_roles = {written}')
    assert [cell.sweep.config.train_roles for cell in cells] == roles


def test_hidden_widths(tmp_path: Path) -> None:
    cells = read(tmp_path, 'task = "bit-xor"\ninput_hidden = [[], 64, [64, 32]]')
    assert [cell.sweep.config.input_hidden for cell in cells] == [(), (64,), (64, 32)]
    assert [cell.key.row for cell in cells] == ["input_hidden=none", "input_hidden=64", "input_hidden=64+32"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task = ", "is not a readable TOML file"),
        ("steps = 3", "The file names no task"),
        ('task = "mnits"', "Did you mean 'mnist'"),
        ('task = "mnist"\nstep = 3', "Unknown setting 'step'. Did you mean 'steps'"),
        ('task = "mnist"\nstagd = true', "Unknown setting 'stagd'. Did you mean 'staged'"),
        ('task = "mnist"\n[tasks.mnist]\nstep = 3', "Unknown setting 'step'. Did you mean 'steps'"),
        ('task = "mnist"\n[tasks.mnist]\nstaged = true', "Unknown setting 'staged'"),
        ('task = "mnist"\n[tasks.mnist]\ntask = "mnist"', "Unknown setting 'task'"),
        ('task = "mnist"\ntasks = 3', r"tasks: expected tables such as \[tasks.mnist\], found 3"),
        ('task = "mnist"\nseed = []', "seed: an empty list"),
        ('task = "mnist"\nlayers = []', "layers: an empty list"),
        ('task = "bit-xor"\ntask_options = { n = [] }', "task_options.n: an empty list"),
        ('task = "bit-xor"\ntask_options = { m = 3 }', "Unknown option of bit-xor 'm'"),
        ('task = "bit-xor"\ntask_options = 3', "task_options: expected a table"),
        ('task = "bit-xor"\ntrain_roles = ["nrom"]', "Unknown role 'nrom'"),
        ('task = "bit-xor"\nlr = "fast"', "lr: expected numbers"),
        ('task = "bit-xor"\nlr = [0]', "lr: expected a positive number"),
        ('task = "bit-xor"\n[tasks.mnist]\nsteps = 3', "Unknown task 'mnist'"),
        ('task = "bit-xor"\nsteps = "many"', "steps: expected a whole number, found 'many'"),
        ('task = "bit-xor"\nbackbone = 3', "backbone: expected text, found 3"),
        ('task = "bit-xor"\nsteps = true', "steps: expected a whole number, found True"),
    ],
)
def test_mistakes_name_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        read(tmp_path, text)
    assert "mine.toml" in str(raised.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml is not a readable TOML file"):
        read_grid(tmp_path / "none.toml")


@pytest.mark.parametrize("name", ["/tmp/x", "../../x", "a/b", ".hidden", "..", "", "a\\\\b", "x" * 101, "a\u001b[2J"])
def test_a_grid_cannot_write_outside_of_the_results_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"mine\.toml: name: expected letters, digits"):
        read(tmp_path, f'task = "bit-xor"\nname = "{name}"'.replace("\u001b", "\\u001b"))


def test_a_grid_is_utf8_in_every_locale(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes('task = "bit-xor"\nname = "größe"'.encode())
    assert read_grid(tmp_path / "mine.toml", "cpu")[0].key.study == "größe"
