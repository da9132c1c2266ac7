"""The tables and figures of the paper, each as a value of the classes in table_structure.py.

Tables 1 to 21 are of Lu et al. 2021 (arXiv 2103.05247), `rebuttal` is of Rothermel et al. 2021 (arXiv 2107.12460).
`icecore paper TABLE` trains a table at a budget. The published numbers are in published.toml.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from icecore.core.config import FPT_ROLES, INPUT, LR_SCALES, OUTPUT, RIDGE, ROLES
from icecore.paper.table_structure import Study, StudyRow

#: the tasks of Lu et al. 2021
ALL_TASKS = ("bit-memory", "bit-xor", "listops", "mnist", "cifar10", "cifar10-lra", "remote-homology")
#: the tasks of Zhong and Andreas 2024
ALGORITHMS = ("modular-addition", "needle", "decimal-addition", "parenthesis-balancing")
PRETRAINED_SETTINGS: Mapping[str, Any] = {"backbone": "{body}", "weights": "pretrained"}
RANDOM_SETTINGS: Mapping[str, Any] = {"backbone": "{body}", "weights": "random"}

PRETRAINED = StudyRow("pretrained on language", PRETRAINED_SETTINGS)
RANDOM = StudyRow("random", RANDOM_SETTINGS)
STATISTICS = StudyRow("random, with pretrained means and deviations", {"backbone": "{body}", "weights": "statistics"})
BIT_MEMORY_BODY = StudyRow("pretrained on bit-memory", {"backbone": "{body}", "weights": "bit-memory"})
DYCK_BODY = StudyRow("pretrained on nested brackets (Dyck)", {"backbone": "{body}", "weights": "dyck"})
NCA_BODY = StudyRow("pretrained on cellular automata", {"backbone": "{body}", "weights": "nca"})
ANTIBODIES = StudyRow("pretrained on antibodies (AntiBERTy)", {"backbone": "antiberty", "weights": "pretrained"})
MPNET = StudyRow("pretrained on language (MPNet, 12 layers)", {"backbone": "mpnet-base", "weights": "pretrained"})
SMOLLM2 = StudyRow(
    "pretrained on text and code (SmolLM2, 30 layers)", {"backbone": "smollm2-135m", "weights": "pretrained"}
)
VISION = StudyRow("pretrained on images (ViT)", {"backbone": "{vision}", "weights": "pretrained"})
NO_BODY = StudyRow("no body: linear probe", {"backbone": "none", "weights": "random"})
LSTM = StudyRow("LSTM, 3 layers", {"backbone": "lstm", "weights": "random"})
LSTM_STAR = StudyRow("LSTM*, 12 layers, residual, positions", {"backbone": "lstm-star", "weights": "random"})
MATCHED = StudyRow("LSTM, matched in both counts", {"backbone": "lstm-matched:{body}", "weights": "random"})

WITH_FEEDFORWARD = (*FPT_ROLES, "feedforward")
WITH_ATTENTION = (*FPT_ROLES, "attention")
WITH_BOTH = (*FPT_ROLES, "attention", "feedforward")


#: the kinds of weights that starts and choices are compared on, so that none is tuned for one of them alone
_KINDS = (("pretrained", PRETRAINED_SETTINGS), ("random", RANDOM_SETTINGS), ("statistics", STATISTICS.settings))


def _trained_row(label: str, base: Mapping[str, Any], roles: Sequence[str] = ROLES) -> StudyRow:
    """A row in which parameters of these roles are trained."""
    return StudyRow(label, {**base, "train_roles": tuple(roles)})


def _depth_rows(roles: Sequence[str] = FPT_ROLES) -> dict[str, StudyRow]:
    """Tables 11 and 12: bodies of one, two and six layers."""
    return {
        f"layers-{n}-{name}": StudyRow(
            f"{n} layer{'s' * (n > 1)}, {name}", {**base, "layers": n, "train_roles": tuple(roles)}
        )
        for n in (1, 2, 6)
        for name, base in (("pretrained", PRETRAINED_SETTINGS), ("random", RANDOM_SETTINGS))
    }


def _set_rows(base: Mapping[str, Any]) -> dict[str, StudyRow]:
    """Tables 15 and 21: the trained set grows by one role in each row."""
    sets = {
        "output": (OUTPUT,),
        "norms": (OUTPUT, "norm"),
        "input": (OUTPUT, "norm", INPUT),
        "positions": FPT_ROLES,
    }
    labels = ("output layer only", "+ norms", "+ input layer", "+ positions")
    return {name: _trained_row(label, base, roles) for label, (name, roles) in zip(labels, sets.items(), strict=True)}


def _unfreezing_rows(base: Mapping[str, Any]) -> dict[str, StudyRow]:
    """Tables 13 and 14: more of the body is trained."""
    return {
        "frozen": StudyRow("frozen", base),
        "feedforward": _trained_row("+ feed-forward", base, WITH_FEEDFORWARD),
        "attention": _trained_row("+ attention", base, WITH_ATTENTION),
        "both": _trained_row("+ both", base, WITH_BOTH),
    }


def _scale_rows() -> dict[str, StudyRow]:
    """Study `scales`: steps of the norms absolute or relative to their scale."""
    return {
        f"{name}-{scale}": StudyRow(f"{name}, {scale} steps", {**base, "lr_scale": scale})
        for name, base in _KINDS
        for scale in LR_SCALES
    }


def _refit_rows() -> dict[str, StudyRow]:
    """Study `refit`: the output layer as it was trained, or in closed form on 1,000 training examples."""
    rows: dict[str, StudyRow] = {}
    for name, base in (*_KINDS, ("none", NO_BODY.settings)):
        rows[f"{name}-trained"] = StudyRow(f"{name}, output layer trained", base)
        refitted = {**base, "output_refit": RIDGE, "start_examples": 1000}
        rows[f"{name}-refitted"] = StudyRow(f"{name}, output layer in closed form", refitted)
    return rows


def _start_rows() -> dict[str, StudyRow]:
    """Study `starts`: input layer and positions at multiples of the spread of the body's token embeddings."""
    rows = {f"{name}-default": StudyRow(f"{name}, default start", base) for name, base in _KINDS}
    for factor in (0.25, 1.0, 4.0, 16.0):
        for name, base in _KINDS:
            settings = {**base, "input_start": factor, "position_start": factor}
            rows[f"{name}-{factor:g}"] = StudyRow(f"{name}, {factor:g} times the embeddings", settings)
    return rows


def _factor_rows() -> dict[str, StudyRow]:
    """Study `factors`: learning rates of the positions and the output layer, relative to the rest."""
    return {
        f"{name}-{position:g}-{output:g}": StudyRow(
            f"{name}, positions x {position:g}, output layer x {output:g}",
            {**base, "lr_factors": {"position": position, "output": output}},
        )
        for position, output in ((3.0, 0.3), (1.0, 1.0), (1.0, 0.3), (3.0, 1.0), (10.0, 0.3))
        for name, base in _KINDS
    }


def _choice_rows() -> dict[str, StudyRow]:
    """Study `choices`: what comes before and after the body."""
    choices: Mapping[str, tuple[str, Mapping[str, Any]]] = {
        "default": ("default", {}),
        "prefix": ("a learned vector before the tokens", {"prefix": "1"}),
        "bos": ("the body's first token before the tokens", {"prefix": "bos"}),
        "norm": ("a norm after the input layer", {"input_norm": "rms"}),
        "mean": ("mean read out", {"read_out": "mean"}),
        "last-mean": ("last and mean read out", {"read_out": "last+mean"}),
    }
    return {
        f"{name}-{key}": StudyRow(f"{name}, {label}", {**base, **settings})
        for key, (label, settings) in choices.items()
        for name, base in _KINDS
    }


_STUDIES = (
    Study(
        "table1",
        "Frozen transformer, trained transformer, trained LSTM",
        "Does a frozen language model keep up with models that are trained completely? (The published numbers are of "
        "GPT-2 large for CIFAR-10, and of other depths elsewhere.)",
        ALL_TASKS,
        {
            "frozen": StudyRow("frozen, pretrained on language", PRETRAINED_SETTINGS),
            "full": _trained_row("transformer, all trained from random", RANDOM_SETTINGS),
            "lstm": _trained_row("LSTM, all trained from random", LSTM.settings),
        },
    ),
    Study(
        "table2",
        "What the body was pretrained on",
        "Does it matter that the body was pretrained on language? The paper's rows are compared with the statistics of "
        "the weights alone, other pretraining, no body, and a matched LSTM.",
        ALL_TASKS,
        {
            "pretrained": PRETRAINED,
            "random": RANDOM,
            "bit-memory": BIT_MEMORY_BODY,
            "vision": VISION,
            "statistics": STATISTICS,
            "dyck": DYCK_BODY,
            "nca": NCA_BODY,
            "antibodies": ANTIBODIES,
            "mpnet": MPNET,
            "smollm2": SMOLLM2,
            "none": NO_BODY,
            "lstm-matched": MATCHED,
        },
    ),
    Study(
        "table3",
        "Random bodies",
        "Does it matter that the body is a transformer? All bodies are random and frozen. The matched LSTM has as many "
        "frozen and trained parameters as the transformer.",
        ALL_TASKS,
        {"random": RANDOM, "lstm": LSTM, "lstm-star": LSTM_STAR, "lstm-matched": MATCHED},
    ),
    Study(
        "table6",
        "Steps to converge",
        "Does pretraining save steps? A run has converged at its first validation within one point of its best. A run "
        "that learns nothing converges at once, so compare the accuracies of Table 2.",
        ALL_TASKS,
        {"pretrained": PRETRAINED, "random": RANDOM},
        quantity="steps",
    ),
    Study(
        "table7",
        "Underfitting: train and test accuracy on CIFAR-10 LRA",
        "Does a frozen body underfit, so that test and training accuracy are equal? (icecore has no Linformer.)",
        ("cifar10-lra",),
        {
            "pretrained": PRETRAINED,
            "full-3-layers": _trained_row("3 layers, all trained from random", {**RANDOM_SETTINGS, "layers": 3}),
            "linformer": StudyRow("Linformer, 3 layers", {}),
        },
        quantity="fit",
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
        "Does the content of the pretrained weights matter, or only their scale?",
        ALL_TASKS,
        {"pretrained": PRETRAINED, "statistics": STATISTICS, "random": RANDOM},
    ),
    Study(
        "table10",
        "Output layer only, on cached features",
        "How accurate is a fixed feature extractor? The body runs only once for each example.",
        ("listops", "cifar10-lra"),
        {"output": _trained_row("output layer only", PRETRAINED_SETTINGS, (OUTPUT,)), "pretrained": PRETRAINED},
    ),
    Study("table11", "Depth", "How many layers are needed?", ALL_TASKS, _depth_rows()),
    Study(
        "table12",
        "Depth, norms and output layer trained",
        "How many layers are needed if neither the input layer nor positions are trained?",
        ("listops",),
        _depth_rows((OUTPUT, "norm")),
    ),
    Study(
        "table13",
        "Unfreezing more",
        "Does training more of the body help?",
        ("cifar10", "listops"),
        _unfreezing_rows(PRETRAINED_SETTINGS),
    ),
    Study(
        "table14",
        "Unfreezing more of a random body",
        "Does training more of the body help without pretraining?",
        ("cifar10", "listops"),
        _unfreezing_rows(RANDOM_SETTINGS),
    ),
    Study(
        "table15",
        "Trained sets, added one by one",
        "Which parameters must be trained?",
        ALL_TASKS,
        _set_rows(PRETRAINED_SETTINGS),
    ),
    Study(
        "table21",
        "Trained sets of a random body",
        "Which parameters must be trained without pretraining?",
        ALL_TASKS,
        _set_rows(RANDOM_SETTINGS),
    ),
    Study(
        "table16",
        "Norms trained or not",
        "How much do the gains and biases of the norms contribute?",
        ("cifar10",),
        {
            f"{name}-{state}": _trained_row(f"{name}, norms {state}", base, roles)
            for name, base in (("pretrained", PRETRAINED_SETTINGS), ("random", RANDOM_SETTINGS))
            for state, roles in (("fixed", (INPUT, OUTPUT, "position")), ("tuned", FPT_ROLES))
        },
    ),
    Study(
        "table17",
        "Other language models",
        "Does this work with GPT-2 only, or with any language model?",
        ("cifar10", "listops"),
        {
            name: StudyRow(name, {"backbone": name, "weights": "pretrained"})
            for name in ("gpt2", "bert-base", "t5-base", "longformer-base", "minilm", "smollm2-135m")
        },
    ),
    Study(
        "attention",
        "Attention on the bits that an output needs (Section 3.5)",
        "On bit XOR, does output i attend to bit i of both strings? The cells show the best head's share of attention "
        "on these bits, and the share under uniform attention.",
        ("bit-xor n=5", "bit-xor n=20", "bit-xor n=64", "bit-xor n=256"),
        {"pretrained": PRETRAINED, "random": RANDOM},
        quantity="attention",
        # long strings are learned only if positions have a much higher learning rate than the rest
        settings={"lr_factors": {"position": 10.0, "output": 0.3}, "schedule": "constant"},
        column_settings={f"bit-xor n={n}": {"task_options": {"n": n}} for n in (5, 20, 64, 256)},
        lrs=(1e-3,),
        seeds=(0, 1),
    ),
    Study(
        "algorithms",
        "Algorithmic tasks",
        "What can a body compute whose attention and feed-forward layers were never trained? The published numbers are "
        "of random GPT-2 bodies of two layers, 1,024 wide, of which only the embeddings are trained.",
        ALGORITHMS,
        {
            "pretrained": PRETRAINED,
            "random": RANDOM,
            "statistics": STATISTICS,
            "none": NO_BODY,
            "full": _trained_row("transformer, all trained from random", RANDOM_SETTINGS),
        },
    ),
    Study(
        "scales",
        "Absolute or relative steps",
        "Do bodies compare otherwise if each trained tensor of the body moves relative to its own scale?",
        ("bit-xor", "mnist", "cifar10"),
        _scale_rows(),
        settings={"steps": 100, "eval_every": 25},
        column_settings={"bit-xor": {"steps": 600}},
    ),
    Study(
        "refit",
        "Output layer in closed form",
        "Does pretraining help only because an output layer is trained sooner on its features? Each validated state "
        "gets one that is solved on 1,000 training examples.",
        ("bit-xor", "mnist", "cifar10"),
        _refit_rows(),
    ),
    Study(
        "starts",
        "Where input layer and positions start",
        "Which size should what enters the body have at the start, relative to the body's own token embeddings? A body "
        "with a position table keeps its table.",
        ("bit-xor", "bit-memory", "mnist", "cifar10"),
        _start_rows(),
        settings={"steps": 100, "eval_every": 25},
        column_settings={
            "bit-xor": {"steps": 600},
            "bit-memory": {"steps": 400, "eval_every": 50},
        },
    ),
    Study(
        "factors",
        "Learning rates of the parts",
        "Do positions and output layer need learning rates of their own, and the same ones for every kind of weights? "
        "The first three rows are the default.",
        ("bit-xor", "mnist"),
        _factor_rows(),
        column_settings={"bit-xor": {"steps": 600}},
        lrs=(1e-3, 3e-3, 1e-2),
        seeds=(0, 1),
    ),
    Study(
        "choices",
        "What comes before and after the body",
        "Does a prefix, a norm after the input layer or another read-out help, and does it help all kinds of weights?",
        ("mnist", "cifar10"),
        _choice_rows(),
        settings={"steps": 100, "eval_every": 25},
    ),
    Study(
        "lengths",
        "ListOps at the lengths of Long Range Arena",
        "Does a frozen body compute with trees of up to 2,000 tokens? (The published numbers of other tables are of "
        "trees cut to 512 tokens.)",
        ("listops long",),
        {"pretrained": PRETRAINED, "random": RANDOM},
    ),
    Study(
        "rebuttal",
        "Frozen or trained, pretrained or random, each at its own learning rate",
        "Which claims of the paper hold if the learning rate is swept?",
        ("listops", "mnist", "cifar10", "cifar10-lra"),
        {
            "frozen-random": StudyRow("frozen, random", RANDOM_SETTINGS),
            "frozen-pretrained": StudyRow("frozen, pretrained", PRETRAINED_SETTINGS),
            "unfrozen-random": _trained_row("trained, random", RANDOM_SETTINGS),
            "unfrozen-pretrained": _trained_row("trained, pretrained", PRETRAINED_SETTINGS),
        },
    ),
)
STUDIES: Mapping[str, Study] = {study.name: study for study in _STUDIES}
