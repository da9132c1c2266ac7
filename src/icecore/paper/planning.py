"""From a paper table to the cells that `run_study` trains: a budget's bodies, settings, learning rates and seeds."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from icecore.backbones import find_builder
from icecore.core.config import RunConfig, is_drawn
from icecore.core.errors import unknown_name
from icecore.core.protocols import DEFAULT_PROTOCOL, PROTOCOLS
from icecore.experiments import sweep
from icecore.experiments.pretraining import PROCEDURAL, pretraining_config
from icecore.experiments.results import CellKey
from icecore.experiments.study import CellPlan
from icecore.paper.attention_plot import measure_and_draw
from icecore.paper.budgets import BUDGETS, Budget, budget_label, races_by_default
from icecore.paper.paper_tables import STUDIES
from icecore.paper.table_structure import Study, StudyRow
from icecore.tasks import TASKS


@dataclass(frozen=True)
class TableRequest:
    """Which cells of a study to train, and how.

    only   columns or tasks to train; empty: all
    rows   rows to train; empty: all
    body   replaces the budget's body
    race   learning rates that fall behind stop early
    """

    budget: str = "smoke"
    protocol: str = DEFAULT_PROTOCOL
    only: Sequence[str] = ()
    rows: Sequence[str] = ()
    body: str | None = None
    precision: str = "auto"
    device: str = "auto"
    race: bool = False

    def command(self, study: str) -> str:
        """The command that trains these cells of a study."""
        words = ["icecore", "paper", study, "--budget", self.budget]
        words += ["--protocol", self.protocol] * (self.protocol != DEFAULT_PROTOCOL)
        words += ["--only", ",".join(self.only)] * bool(self.only)
        words += ["--rows", ",".join(self.rows)] * bool(self.rows)
        words += ["--body", self.body or ""] * bool(self.body)
        words += ["--precision", self.precision] * (self.precision != "auto")
        words += ["--race" if self.race else "--no-race"] * (self.race != races_by_default(self.budget))
        return shlex.join(words)


def select_studies(names: Sequence[str]) -> list[str]:
    """The names of studies without repetitions; "all" stands for every study. Raises ConfigError for unknown names."""
    for name in names:
        if name not in STUDIES and name != "all":
            raise unknown_name("table", name, [*STUDIES, "all"])
    return list(STUDIES) if "all" in names else list(dict.fromkeys(names))


def plan_table(name: str, request: TableRequest, out: Path) -> list[CellPlan]:
    """The cells of a study, column by column. Raises ConfigError for unknown names.

    out  folder of the results; bodies that are pretrained first are stored below it
    """
    study = STUDIES[select_studies([name])[0]]
    budget = BUDGETS.get(request.budget)
    if budget is None:
        raise unknown_name("budget", request.budget, BUDGETS)
    if request.protocol not in PROTOCOLS:
        raise unknown_name("protocol", request.protocol, PROTOCOLS)
    if request.body is not None:
        find_builder(request.body)  # so that a wrong name is no surprise after hours
        budget = replace(budget, bodies={**budget.bodies, "body": request.body})
    columns = [c for c in study.columns if not request.only or {c, study.task_of(c)} & set(request.only)]
    for column in request.only:
        if column not in {*TASKS, *study.columns}:
            raise unknown_name("task", column, {*TASKS, *study.columns})
    for row in request.rows:
        if row not in study.rows:
            raise unknown_name(f"row of {name}", row, study.rows)
    rows = {key: row for key, row in study.rows.items() if not request.rows or key in request.rows}
    rows = {key: row for key, row in rows.items() if row.settings and row.body_name(budget.bodies)}
    return [_plan_cell(study, column, key, budget, request, out) for column in columns for key in rows]


def _plan_cell(study: Study, column: str, row: str, budget: Budget, request: TableRequest, out: Path) -> CellPlan:
    settings = _cell_settings(study, column, study.rows[row], budget)
    common = {"protocol": request.protocol, "precision": request.precision, "device": request.device}
    if study.rows[row].trains_body and PROTOCOLS[request.protocol].lr_scale is not None:
        # steps relative to a random matrix are too small for it to leave its start (Adam's usual rates are absolute)
        settings.setdefault("lr_scale", "absolute")
    pretraining = None
    if settings["weights"] in PROCEDURAL:
        pretraining = _pretraining_of(settings["weights"], settings["backbone"], budget, common)
        settings["weights"] = str(out / "bodies" / f"{pretraining.run_id}.safetensors")
    config = sweep.make_config(study.task_of(column), **settings, **common)
    lrs: Sequence[float] = (config.lr,)
    if request.protocol != "paper":
        lrs = study.lrs or (budget.trained_lrs if study.rows[row].trains_body else budget.lrs)
    seeds = study.seeds or budget.seeds
    if pretraining is not None and pretraining.seed in seeds:
        # that seed draws the same input layer and examples that the body was pretrained with
        seeds = tuple(sorted({*seeds, max(seeds) + 1} - {pretraining.seed}))
    return CellPlan(
        CellKey(study.name, row, column, budget_label(request.budget, request.protocol), budget.bodies["body"]),
        sweep.Sweep(config, lrs, seeds, staged=True, body_draws=is_drawn(config.weights, config.backbone)),
        replace(request, only=(column,), rows=(row,)).command(study.name),
        pretraining,
        measure_and_draw if study.quantity == "attention" else None,
    )


def _cell_settings(study: Study, column: str, row: StudyRow, budget: Budget) -> dict[str, Any]:
    """Settings of a cell's runs: of the budget, the study, the column and the row; later ones replace earlier ones."""
    of_column = study.column_settings.get(column, {})
    settings = {**budget.settings_for(column), **study.settings, **of_column, **row.settings}
    return settings | {"backbone": row.body_name(budget.bodies)}


def _pretraining_of(task: str, backbone: str, budget: Budget, common: dict[str, Any]) -> RunConfig:
    """The run that trains all weights of a random body on a procedural task, by the protocol of `icecore pretrain`."""
    common = {name: value for name, value in common.items() if name != "protocol"}
    settings = budget.settings_for(task) | dict(budget.pretraining[task]) | common
    return pretraining_config(task, backbone=backbone, **settings)
