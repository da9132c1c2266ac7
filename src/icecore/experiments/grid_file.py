"""Grids of one's own: a TOML file in which any field of a run's configuration can be a list.

`icecore grid FILE.toml` trains every combination, packed; learning rates and seeds are a sweep of each
combination, of which validation chooses the rate. docs/reproducing.md has an example.
"""

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, UserError, unknown_name
from icecore.experiments import sweep
from icecore.experiments.results import CellKey
from icecore.experiments.study import CellPlan

#: fields whose one value is a list itself
LISTS = ("train_roles", "input_hidden", "output_hidden")
#: fields whose values are tables, each of their entries a value or a list of them
TABLES = ("task_options", "lr_factors")
#: keys of a file that are no settings of runs
OWN_KEYS = ("name", "tasks", "staged")


def read(path: Path, device: str = "auto") -> list[CellPlan]:
    """The cells of a grid file, task by task. Raises ConfigError naming the file and what is wrong in it.

    Keys: any setting of `grid.make_config`, a value or a list of them; `[tasks.NAME]` with settings for one
    task; `name` (default: the file's), `staged` (only the first seed tries every learning rate).
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file ({error})") from error
    try:
        return _cells(content, path, device)
    except UserError as error:
        raise ConfigError(f"{path}: {error}") from error


def _cells(content: Mapping[str, Any], path: Path, device: str) -> list[CellPlan]:
    common = {key: value for key, value in content.items() if key not in OWN_KEYS}
    special = content.get("tasks", {})
    tasks = _alternatives("task", common.pop("task", list(special)))
    if not tasks:
        raise ConfigError('which task? Give task = "mnist", or a list of tasks')
    for name in special:
        if name not in tasks:
            raise unknown_name("task", name, tasks)
    name, staged = str(content.get("name", path.stem)), bool(content.get("staged", False))
    cells = []
    for task in tasks:
        settings = {**common, **special.get(task, {})}
        lrs = _numbers("lr", settings.pop("lr", []), float)
        seeds = _numbers("seed", settings.pop("seed", 0), int)
        for choice, varied in _combinations(settings):
            config = sweep.make_config(task, device=device, **choice)
            spot = CellKey(name, _row(config, varied), _column(task, varied))
            lr_sweep = sweep.Sweep(config, lrs or [config.lr], seeds, staged)
            sweep.expand_sweep(config, lrs, seeds)  # refuses what no run can have, before the first one trains
            cells.append(CellPlan(spot, lr_sweep, f"icecore grid {path.name}"))
    return cells


def _alternatives(name: str, value: Any) -> list[Any]:
    """What a field may be: the members of a list, or the one value. Raises ConfigError for an empty list."""
    if not isinstance(value, list):
        return [value]
    if not value and name not in ("lr", "task"):
        raise ConfigError(f"{name}: an empty list leaves nothing to run")
    return value


def _numbers(name: str, value: Any, kind: type) -> list[Any]:
    try:
        return [kind(each) for each in _alternatives(name, value)]
    except (TypeError, ValueError):
        raise ConfigError(f"{name}: expected numbers, found {value!r}") from None


def _combinations(settings: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every choice of one value per field, and the part of it that differs between choices."""
    axes: dict[tuple[str, ...], list[Any]] = {}
    for name, value in settings.items():
        if name in TABLES:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{name}: expected a table, say {{ name = 3 }}, found {value!r}")
            axes |= {(name, key): _alternatives(f"{name}.{key}", inner) for key, inner in value.items()}
        else:
            axes[name,] = [_listed(name, each) for each in _alternatives(name, value)]
    found = []
    for values in itertools.product(*axes.values()):
        choice: dict[str, Any] = {}
        varied: dict[str, Any] = {}
        for key, value in zip(axes, values, strict=True):
            if len(key) == 1:
                choice[key[0]] = value
            else:
                choice.setdefault(key[0], {})[key[1]] = value
            if len(axes[key]) > 1:
                varied[".".join(key)] = value
        found.append((choice, varied))
    return found


def _listed(name: str, value: Any) -> Any:
    """A value of a field that is a list itself: "input,norm", 256 and [256] are all understood."""
    if name not in LISTS or value is None:
        return value
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _row(config: RunConfig, varied: Mapping[str, Any]) -> str:
    """What tells this row from the others; the body where there is only one."""
    parts = [f"{name}={_shown(value)}" for name, value in varied.items() if not _is_option(name)]
    return ", ".join(parts) or f"{config.backbone}, {config.weights}"


def _column(task: str, varied: Mapping[str, Any]) -> str:
    options = [f"{name.partition('.')[2]}={_shown(value)}" for name, value in varied.items() if _is_option(name)]
    return " ".join([task, *options])


def _is_option(name: str) -> bool:
    return name.startswith("task_options.")


def _shown(value: Any) -> str:
    return ("+".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
