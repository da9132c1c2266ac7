"""The paper's tables and figures as values: rows, columns, what each shows, and the published numbers.

Tables 1 to 21 are Lu et al. 2021 (arXiv 2103.05247), `rebuttal` is Rothermel et al. 2021 (arXiv 2107.12460).
`icecore paper TABLE` trains a table at a budget; published.toml holds the published numbers.
"""

import functools
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from icecore.core.config import FPT_ROLES, INPUT, OUTPUT, PROTOCOLS, ROLES, SINGLE_ROLES
from icecore.core.errors import unknown_name
from icecore.experiments import sweep
from icecore.experiments.results import CellKey
from icecore.experiments.study import CellPlan
from icecore.paper.budgets import BUDGETS, Budget
from icecore.tasks import TASKS


@dataclass(frozen=True)
class StudyRow:
    """A row of a table: what it is in words, and the settings of its runs.

    A backbone in braces, "{body}", is the budget's body of that name; weights "bit-memory" are those of the
    body after it was trained on bit-memory from a random start.
    """

    label: str
    settings: Mapping[str, Any]

    def body_in(self, bodies: Mapping[str, str]) -> str | None:
        """The backbone's name, its placeholder filled from `bodies`; None where these have no such body."""
        try:
            return str(self.settings["backbone"]).format(**bodies)
        except KeyError:
            return None

    @property
    def trains_body(self) -> bool:
        """Whether attention or feed-forward weights are trained, which takes other learning rates."""
        return bool(SINGLE_ROLES & set(self.settings.get("train_roles", FPT_ROLES)))


@dataclass(frozen=True)
class Study:
    """A table or figure of the paper.

    shows     the question that it answers
    columns   tasks, or a task, a space and what else tells a column from others
    measure   what a cell shows: "test" metric, "steps" to converge, "fit" (train and test), or "attention"
    settings  of the runs of every row, where they differ from the budget's; by column, in `of_column`
    lrs       learning rates and
    seeds     seeds in place of the budget's
    """

    name: str
    title: str
    shows: str
    columns: Sequence[str]
    rows: Mapping[str, StudyRow]
    measure: str = "test"
    settings: Mapping[str, Any] = field(default_factory=dict)
    of_column: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    lrs: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()

    def task_of(self, column: str) -> str:
        """The task of a column: its name up to the first space."""
        return column.split()[0]

    @property
    def published(self) -> Mapping[str, Mapping[str, Any]]:
        """Published numbers by row and column: a number, or [mean, standard error]."""
        return published().get(self.name, {}).get("rows", {})

    @property
    def source(self) -> str:
        """Where the published numbers are from; empty where there are none."""
        return published()["source"].get(published().get(self.name, {}).get("source", ""), "")


@functools.cache
def published() -> Mapping[str, Any]:
    """The content of published.toml."""
    return tomllib.loads((resources.files("icecore.paper") / "published.toml").read_text())


ALL_TASKS = tuple(TASKS)
LM: Mapping[str, Any] = {"backbone": "{body}", "weights": "pretrained"}
NEW: Mapping[str, Any] = {"backbone": "{body}", "weights": "random"}

PRETRAINED = StudyRow("pretrained on language", LM)
RANDOM = StudyRow("random", NEW)
STATISTICS = StudyRow("random, with pretrained means and deviations", {"backbone": "{body}", "weights": "statistics"})
MEMORY = StudyRow("pretrained on bit-memory", {"backbone": "{body}", "weights": "bit-memory"})
VISION = StudyRow("pretrained on images (ViT)", {"backbone": "{vision}", "weights": "pretrained"})
NONE = StudyRow("no body: linear probe", {"backbone": "none", "weights": "random"})
LSTM = StudyRow("LSTM, 3 layers", {"backbone": "lstm", "weights": "random"})
LSTM_STAR = StudyRow("LSTM*, 12 layers, residual, positions", {"backbone": "lstm-star", "weights": "random"})
MATCHED = StudyRow("LSTM, matched in both counts", {"backbone": "lstm-matched:{body}", "weights": "random"})

WITH_FEEDFORWARD = (*FPT_ROLES, "feedforward")
WITH_ATTENTION = (*FPT_ROLES, "attention")
WITH_BOTH = (*FPT_ROLES, "attention", "feedforward")


def _trained(label: str, base: Mapping[str, Any], roles: Sequence[str] = ROLES) -> StudyRow:
    return StudyRow(label, {**base, "train_roles": tuple(roles)})


def _depths(roles: Sequence[str] = FPT_ROLES) -> dict[str, StudyRow]:
    return {
        f"layers-{n}-{name}": StudyRow(
            f"{n} layer{'s' * (n > 1)}, {name}", {**base, "layers": n, "train_roles": tuple(roles)}
        )
        for n in (1, 2, 6)
        for name, base in (("pretrained", LM), ("random", NEW))
    }


def _sets(base: Mapping[str, Any]) -> dict[str, StudyRow]:
    """Table 15: trained sets that grow by one."""
    grown = {
        "output": (OUTPUT,),
        "norms": (OUTPUT, "norm"),
        "input": (OUTPUT, "norm", INPUT),
        "positions": FPT_ROLES,
    }
    labels = ("output layer only", "+ norms", "+ input layer", "+ positions")
    return {name: _trained(label, base, roles) for label, (name, roles) in zip(labels, grown.items(), strict=True)}


def _unfrozen(base: Mapping[str, Any]) -> dict[str, StudyRow]:
    """Table 13: more of the body trained."""
    return {
        "frozen": StudyRow("frozen", base),
        "feedforward": _trained("+ feed-forward", base, WITH_FEEDFORWARD),
        "attention": _trained("+ attention", base, WITH_ATTENTION),
        "both": _trained("+ both", base, WITH_BOTH),
    }


_STUDIES = (
    Study(
        "table1",
        "Frozen transformer, trained transformer, trained LSTM",
        "Does a frozen language model keep up with models trained whole? (Published: GPT-2 large for CIFAR-10, "
        "other depths elsewhere.)",
        ALL_TASKS,
        {
            "frozen": StudyRow("frozen, pretrained on language", LM),
            "full": _trained("transformer, all trained from random", NEW),
            "lstm": _trained("LSTM, all trained from random", LSTM.settings),
        },
    ),
    Study(
        "table2",
        "What the body was pretrained on",
        "Is it language? Beside the paper's rows: statistics alone, no body, and a matched LSTM.",
        ALL_TASKS,
        {
            "pretrained": PRETRAINED,
            "random": RANDOM,
            "bit-memory": MEMORY,
            "vision": VISION,
            "statistics": STATISTICS,
            "none": NONE,
            "lstm-matched": MATCHED,
        },
    ),
    Study(
        "table3",
        "Random bodies",
        "Is it the transformer? All bodies are random and frozen. The matched LSTM has the transformer's frozen and "
        "trained counts.",
        ALL_TASKS,
        {"random": RANDOM, "lstm": LSTM, "lstm-star": LSTM_STAR, "lstm-matched": MATCHED},
    ),
    Study(
        "table6",
        "Steps to converge",
        "Does pretraining save steps? The first validation within one point of the run's best; what learns nothing is "
        "there at once, so read it beside the accuracies of Table 2.",
        ALL_TASKS,
        {"pretrained": PRETRAINED, "random": RANDOM},
        measure="steps",
    ),
    Study(
        "table7",
        "Underfitting: train and test accuracy on CIFAR-10 LRA",
        "A frozen body underfits, so its test accuracy is its training accuracy. (Linformer is not an icecore body.)",
        ("cifar10-lra",),
        {
            "pretrained": PRETRAINED,
            "full-3-layers": _trained("3 layers, all trained from random", {**NEW, "layers": 3}),
            "linformer": StudyRow("Linformer, 3 layers", {}),
        },
        measure="fit",
    ),
    Study(
        "table8",
        "Size of the body",
        "Do larger frozen bodies compute better?",
        ("cifar10",),
        {
            f"{size}-{name}": StudyRow(f"{size}, {name}", {"backbone": f"{{{body}}}", "weights": name})
            for size, body in (("base", "body"), ("medium", "medium"), ("large", "large"))
            for name in ("pretrained", "random")
        },
    ),
    Study(
        "table9",
        "Statistics of the weights alone",
        "Is it what was learned, or only the scale of the weights?",
        ALL_TASKS,
        {"pretrained": PRETRAINED, "statistics": STATISTICS, "random": RANDOM},
    ),
    Study(
        "table10",
        "Output layer only, on kept features",
        "How far does a fixed feature extractor get? The body runs once per example, then never again.",
        ("listops", "cifar10-lra"),
        {"output": _trained("output layer only", LM, (OUTPUT,)), "pretrained": PRETRAINED},
    ),
    Study("table11", "Depth", "How many layers are needed?", ALL_TASKS, _depths()),
    Study(
        "table12",
        "Depth, norms and output layer trained",
        "How many layers are needed where neither input nor positions are trained?",
        ("listops",),
        _depths((OUTPUT, "norm")),
    ),
    Study("table13", "Unfreezing more", "Does training more of the body help?", ("cifar10", "listops"), _unfrozen(LM)),
    Study(
        "table14",
        "Unfreezing more of a random body",
        "The same without pretraining.",
        ("cifar10", "listops"),
        _unfrozen(NEW),
    ),
    Study("table15", "Trained sets, added one by one", "What must be trained at all?", ALL_TASKS, _sets(LM)),
    Study("table21", "Trained sets of a random body", "The same without pretraining.", ALL_TASKS, _sets(NEW)),
    Study(
        "table16",
        "Norms trained or not",
        "How much is in the norms' gains and biases?",
        ("cifar10",),
        {
            f"{name}-{state}": _trained(f"{name}, norms {state}", base, roles)
            for name, base in (("pretrained", LM), ("random", NEW))
            for state, roles in (("fixed", (INPUT, OUTPUT, "position")), ("tuned", FPT_ROLES))
        },
    ),
    Study(
        "table17",
        "Other language models",
        "Is it GPT-2, or any language model?",
        ("cifar10", "listops"),
        {
            name: StudyRow(name, {"backbone": name, "weights": "pretrained"})
            for name in ("gpt2", "bert-base", "t5-base", "longformer-base", "minilm", "smollm2-135m")
        },
    ),
    Study(
        "attention",
        "Attention on the bits that an output needs (Section 3.5)",
        "On bit XOR, does output i look at bit i of both strings? Share of attention there, best head, and uniform.",
        ("bit-xor n=5", "bit-xor n=20", "bit-xor n=64", "bit-xor n=256"),
        {"pretrained": PRETRAINED, "random": RANDOM},
        measure="attention",
        # long strings are learned only where positions move much faster than the rest
        settings={"lr_factors": {"position": 10.0, "output": 0.3}, "schedule": "constant"},
        of_column={f"bit-xor n={n}": {"task_options": {"n": n}} for n in (5, 20, 64, 256)},
        lrs=(1e-3,),
        seeds=(0,),
    ),
    Study(
        "rebuttal",
        "Frozen or trained, pretrained or random, each at its own learning rate",
        "Which of the paper's claims survive a swept learning rate?",
        ("listops", "mnist", "cifar10", "cifar10-lra"),
        {
            "frozen-random": StudyRow("frozen, random", NEW),
            "frozen-pretrained": StudyRow("frozen, pretrained", LM),
            "unfrozen-random": _trained("trained, random", NEW),
            "unfrozen-pretrained": _trained("trained, pretrained", LM),
        },
    ),
)
STUDIES: Mapping[str, Study] = {study.name: study for study in _STUDIES}


@dataclass(frozen=True)
class TableRequest:
    """What of a study is asked for.

    only   columns or tasks to run; empty: all
    rows   rows to run; empty: all
    body   in place of the budget's body
    """

    budget: str = "smoke"
    protocol: str = "fair"
    only: Sequence[str] = ()
    rows: Sequence[str] = ()
    body: str | None = None
    precision: str = "auto"
    device: str = "auto"

    def command(self, study: str) -> str:
        """The command that makes this of a study."""
        words = ["icecore", "paper", study, "--budget", self.budget]
        words += ["--protocol", self.protocol] * (self.protocol != "fair")
        words += ["--only", ",".join(self.only)] * bool(self.only)
        words += ["--rows", ",".join(self.rows)] * bool(self.rows)
        words += ["--body", self.body or ""] * bool(self.body)
        words += ["--precision", self.precision] * (self.precision != "auto")
        return shlex.join(words)


def names(asked: Sequence[str]) -> list[str]:
    """The studies asked for, "all" for every one. Raises ConfigError for unknown names."""
    for name in asked:
        if name not in STUDIES and name != "all":
            raise unknown_name("table", name, [*STUDIES, "all"])
    return list(STUDIES) if "all" in asked else list(dict.fromkeys(asked))


def plan(name: str, request: TableRequest, out: Path) -> list[CellPlan]:
    """The cells of a study, column by column. Raises ConfigError for unknown names.

    out  where results go: the files of bodies pretrained on the way lie there
    """
    study = STUDIES[names([name])[0]]
    budget = BUDGETS.get(request.budget)
    if budget is None:
        raise unknown_name("budget", request.budget, BUDGETS)
    if request.protocol not in PROTOCOLS:
        raise unknown_name("protocol", request.protocol, PROTOCOLS)
    if request.body is not None:
        budget = replace(budget, bodies={**budget.bodies, "body": request.body})
    columns = [c for c in study.columns if not request.only or {c, study.task_of(c)} & set(request.only)]
    for wanted in request.only:
        if wanted not in {*TASKS, *study.columns}:
            raise unknown_name("task", wanted, {*TASKS, *study.columns})
    for wanted in request.rows:
        if wanted not in study.rows:
            raise unknown_name(f"row of {name}", wanted, study.rows)
    rows = {key: row for key, row in study.rows.items() if not request.rows or key in request.rows}
    rows = {key: row for key, row in rows.items() if row.settings and row.body_in(budget.bodies)}
    return [_cell(study, column, key, row, budget, request, out) for column in columns for key, row in rows.items()]


def _cell(
    study: Study, column: str, key: str, row: StudyRow, budget: Budget, request: TableRequest, out: Path
) -> CellPlan:
    task = study.task_of(column)
    settings = {**budget.of_column(column), **study.settings, **study.of_column.get(column, {}), **row.settings}
    body = settings["backbone"] = row.body_in(budget.bodies)
    common = {"protocol": request.protocol, "precision": request.precision, "device": request.device}
    pretraining = None
    if settings["weights"] == "bit-memory":
        pretraining = sweep.make_config(
            "bit-memory",
            backbone=body,
            weights="random",
            train_roles=ROLES,
            **(budget.of_column("bit-memory") | dict(budget.pretraining) | common),
        )
        settings["weights"] = str(out / "bodies" / f"{pretraining.run_id}.safetensors")
    config = sweep.make_config(task, **settings, **common)
    lrs = (config.lr,)
    if request.protocol == "fair":
        lrs = study.lrs or (budget.trained_lrs if row.trains_body else budget.lrs)
    label = request.budget if request.protocol == "fair" else f"{request.budget}, {request.protocol} protocol"
    spot = CellKey(study.name, key, column, label, budget.bodies["body"])
    once = replace(request, only=(column,), rows=(key,)).command(study.name)
    seeds = study.seeds or budget.seeds
    if pretraining is not None and pretraining.seed in seeds:
        # the same seed draws the very input layer and examples that the body has learned with
        seeds = tuple(sorted({*seeds, max(seeds) + 1} - {pretraining.seed}))
    lr_sweep = sweep.Sweep(config, lrs, seeds, staged=True)
    return CellPlan(spot, lr_sweep, once, pretraining, attend=study.measure == "attention")
