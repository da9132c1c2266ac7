"""Grid files: TOML files in which every setting of a run can be a list of values.

`icecore grid FILE.toml` trains every combination, packed. Learning rates and seeds form a sweep of each combination,
from which validation chooses the rate. docs/reproducing.md has an example.
"""

import dataclasses
import itertools
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, UserError, unknown_name
from icecore.core.limits import read_small
from icecore.core.settings import type_hints
from icecore.core.text import shortened
from icecore.experiments import sweep
from icecore.experiments.results import CellKey
from icecore.experiments.study import CellPlan

SETTINGS = tuple(field.name for field in dataclasses.fields(RunConfig))
#: settings whose value is itself a list
LIST_SETTINGS = frozenset(name for name, hint in type_hints(RunConfig).items() if get_origin(hint) is tuple)
#: settings whose value is a table; each entry of the table can be a list of values
TABLE_SETTINGS = frozenset(name for name, hint in type_hints(RunConfig).items() if get_origin(hint) is Mapping)
#: keys of a grid file beside the settings of runs
FILE_KEYS = ("name", "tasks", "staged", "max_combinations")
#: combinations of the settings of one task, unless the file allows more
MAX_COMBINATIONS = 10_000
#: parts of a name with dots
MAX_KEY_PARTS = 100

Number = TypeVar("Number", int, float)


def read_grid(path: Path, device: str = "auto", race: bool = False) -> list[CellPlan]:
    """Read the cells of a grid file, task by task. The commands of the cells say whether learning rates `race`.

    Keys of the file: any setting of a run, with one value or a list of values; `[tasks.NAME]` with settings of one
    task; `name` of the grid (by default the file's name); `staged`, with which only the first seed tries every
    learning rate; `max_combinations`, if they may be more than 10,000. Raises ConfigError that names the file and what
    is wrong in it.
    """
    try:
        text = read_small(path)
        _check_keys(text)
        content = tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not a readable TOML file: {error}") from error
    try:
        return _plan_cells(content, path, device, race)
    except UserError as error:
        raise ConfigError(f"{path}: {error}") from error


def _check_keys(text: str) -> None:
    """Raise ValueError for a key of far too many parts, for which the reader's time grows with their square."""
    for line in text.splitlines():
        if any(part.count(".") > MAX_KEY_PARTS and "," not in part for part in line.split("=")):
            raise ValueError(f"it has a key of more than {MAX_KEY_PARTS} parts")


def _plan_cells(content: Mapping[str, Any], path: Path, device: str, race: bool) -> list[CellPlan]:
    task_settings = _task_tables(content)
    common = {key: value for key, value in content.items() if key not in FILE_KEYS}
    tasks = list(dict.fromkeys(map(str, _alternatives("task", common.pop("task", list(task_settings))))))
    if not tasks:
        raise ConfigError('The file names no task. Add a line such as task = "mnist", or a list of tasks.')
    for name in task_settings:
        if name not in tasks:
            raise unknown_name("task", name, tasks)
    grid_name, staged = _file_name(content.get("name", path.stem)), bool(content.get("staged", False))
    most = content.get("max_combinations", MAX_COMBINATIONS)
    if not isinstance(most, int) or most < 1:
        raise ConfigError(f"max_combinations: expected a whole number of at least 1, found {shortened(most)}")
    cells, command = [], f"icecore grid {path.name}" + " --race" * race
    for task in tasks:
        settings = {**common, **task_settings.get(task, {})}
        lrs = _numbers("lr", settings.pop("lr", []), float)
        seeds = _numbers("seed", settings.pop("seed", 0), int)
        for chosen, varied in _combinations(settings, len(set(lrs or [0])) * len(set(seeds)), most):
            config = sweep.make_config(task, device=device, **chosen)
            key = CellKey(grid_name, _row_name(config, varied), _column_name(task, varied))
            lr_sweep = sweep.Sweep(config, lrs or [config.lr], seeds, staged)
            sweep.expand_sweep(config, lrs, seeds)  # raises for impossible runs before the first one is trained
            cells.append(CellPlan(key, lr_sweep, command))
    return cells


def _file_name(name: Any) -> str:
    """The name of a grid, after which its results file is called. Raises ConfigError unless it names a file."""
    text = str(name)
    if not re.fullmatch(r"[^\W_.][\w .,+=()-]{0,99}", text):
        raise ConfigError(
            f"name: expected letters, digits, spaces and - _ . only, at most 100, because the results file has this "
            f"name; found {shortened(text)}"
        )
    return text


def _task_tables(content: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """The tables `[tasks.NAME]`. Raises ConfigError for unknown keys there and at the top of the file."""
    tables = content.get("tasks", {})
    if not isinstance(tables, Mapping) or not all(isinstance(table, Mapping) for table in tables.values()):
        raise ConfigError(f"tasks: expected tables such as [tasks.mnist], found {tables!r}")
    for key in content:
        if key not in (*SETTINGS, *FILE_KEYS):
            raise unknown_name("setting", key, (*SETTINGS, *FILE_KEYS))
    for key in itertools.chain.from_iterable(tables.values()):
        if key not in SETTINGS or key == "task":
            raise unknown_name("setting", key, set(SETTINGS) - {"task"})
    return tables


def _alternatives(name: str, value: Any) -> list[Any]:
    """The values of a setting: the members of a list, or the single value. Raises ConfigError for an empty list."""
    if not isinstance(value, list):
        return [value]
    if not value and name not in ("lr", "task"):
        raise ConfigError(f"{name}: an empty list leaves nothing to run. Remove it or add a value.")
    return value


def _numbers(name: str, value: Any, kind: type[Number]) -> list[Number]:
    try:
        return [kind(item) for item in _alternatives(name, value)]
    except (TypeError, ValueError):
        raise ConfigError(f"{name}: expected numbers, found {value!r}") from None


def _combinations(settings: Mapping[str, Any], runs: int, most: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every choice of one value per setting, each with the settings that differ between choices.

    runs  the learning rates and seeds of each choice, which count as combinations too
    """
    axes: dict[tuple[str, ...], list[Any]] = {}
    for name, value in settings.items():
        if name in TABLE_SETTINGS:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{name}: expected a table such as {{ name = 3 }}, found {value!r}")
            axes |= {(name, key): _alternatives(f"{name}.{key}", entry) for key, entry in value.items()}
        else:
            axes[name,] = [_as_tuple(name, item) for item in _alternatives(name, value)]
    count = runs * math.prod(map(len, axes.values()))
    if count > most:
        raise ConfigError(
            f"The lists multiply to {count:,} combinations, but at most {most:,} are allowed. Shorten a list, or add "
            f"max_combinations = {count} if you mean it."
        )
    combinations = []
    for values in itertools.product(*axes.values()):
        chosen: dict[str, Any] = {}
        varied: dict[str, Any] = {}
        for path, value in zip(axes, values, strict=True):
            if len(path) == 1:
                chosen[path[0]] = value
            else:
                chosen.setdefault(path[0], {})[path[1]] = value
            if len(axes[path]) > 1:
                varied[".".join(path)] = value
        combinations.append((chosen, varied))
    return combinations


def _as_tuple(name: str, value: Any) -> Any:
    """A tuple for settings that are lists themselves, which may be written "input,norm", 256 or [256]."""
    if name not in LIST_SETTINGS or value is None:
        return value
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _row_name(config: RunConfig, varied: Mapping[str, Any]) -> str:
    """The settings that distinguish a row from the others; the body if there is only one row."""
    parts = [f"{name}={_value_text(value)}" for name, value in varied.items() if not _is_task_option(name)]
    return ", ".join(parts) or f"{config.backbone}, {config.weights}"


def _column_name(task: str, varied: Mapping[str, Any]) -> str:
    """The task and those of its options that differ between columns."""
    options = {name.partition(".")[2]: value for name, value in varied.items() if _is_task_option(name)}
    return " ".join([task, *(f"{name}={_value_text(value)}" for name, value in options.items())])


def _is_task_option(name: str) -> bool:
    return name.startswith("task_options.")


def _value_text(value: Any) -> str:
    return ("+".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
