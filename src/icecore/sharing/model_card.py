"""The model card of a program: its header as Markdown, with the front matter that the hub reads.

What the card looks like is in model_card.md.j2; here are the values that the template gets. A card states only what
the header and the tensors state, and names no folder of the trainer's machine.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from icecore.backbones.named_models import NAMED
from icecore.backbones.weights import WEIGHTS
from icecore.core.config import DRAWN_WEIGHTS, INPUT, OUTPUT, SINGLE_ROLES, RunConfig
from icecore.core.protocols import PROTOCOLS
from icecore.core.read_outs import READ_OUTS, parts_of
from icecore.core.text import join_names, list_in_words, printable
from icecore.model.program import Program
from icecore.sharing.card_text import escape, file_name, format_value, format_values
from icecore.sharing.program_header import ProgramHeader
from icecore.tasks.task import TaskSpec
from icecore.training.run_summary import LARGEST_NUMBER

#: number of classes of a target that are listed
MAX_LISTED_CLASSES = 30
#: the hub's name for what a program does, by kind of data and of target
PIPELINES: Mapping[tuple[str, str], str] = {
    ("images", "classification"): "image-classification",
    ("table", "classification"): "tabular-classification",
    ("table", "regression"): "tabular-regression",
}
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class BodySource:
    """How someone else loads the body of a program; `name` and `weights` are placeholders for the trainer's files."""

    name: str
    weights: str
    layers: int | None
    seed: int | None
    is_placeholder: bool


def card(program: Program, name: str) -> str:
    """The whole card of `program`, shared as `name`: a hub repository `owner/name`, or just a name."""
    return printable(f"---\n{front_matter(program)}\n---\n\n{page(program, name)}")


def front_matter(program: Program) -> str:
    """The YAML of the card, without the dashes around it."""
    from huggingface_hub import ModelCardData

    config, header = program.config, ProgramHeader.read(program)
    base = hub_model(config) if config.weights == "pretrained" else None
    relation = "finetune" if SINGLE_ROLES & set(config.train_roles) else "adapter"
    tags = ["icecore", "frozen-pretrained-transformer", config.task, header.data_kind, header.target_kind]
    return ModelCardData(
        library_name="icecore",
        pipeline_tag=PIPELINES.get((header.data_kind, header.target_kind)),
        tags=list(dict.fromkeys(filter(None, tags))),
        base_model=base,
        base_model_relation=relation if base else None,
        metrics=[header.metric_name.replace(" ", "_")] if header.metric_name else None,
    ).to_yaml(line_break="\n")


def page(program: Program, name: str) -> str:
    """The Markdown of the card, without front matter."""
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    environment.filters |= {"escape_markdown": escape, "file_name": file_name, "python": _python_literal}
    source = resources.files("icecore.sharing").joinpath("model_card.md.j2").read_text("utf-8")
    return environment.from_string(source).render(_template_values(program, " ".join(name.split())))


def hub_model(config: RunConfig) -> str | None:
    """The name of the body's model on the hub; None if it is not there, or if the name is that of a local folder."""
    name = config.backbone
    if name in NAMED:
        return NAMED[name].hub
    return name if HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def _template_values(program: Program, name: str) -> dict[str, Any]:
    config, header = program.config, ProgramHeader.read(program)
    file = name.rpartition("/")[2] + ".safetensors"
    body_source, changes_body = _body_source(config), bool(SINGLE_ROLES & set(config.train_roles))
    counts = header.data.get("counts")
    counts = counts if isinstance(counts, Mapping) else {}
    data = {f"{split} examples": count for split, count in counts.items()} | dict(header.data)
    data.pop("classes", None)
    options = {f"option {option}": value for option, value in config.task_options.items()}
    return {
        "name": name,
        "config": config,
        "header": header,
        "program": program,
        "size": sum(tensor.numel() for tensor in program.tensors.values()),
        "is_on_hub": HUB_NAME.fullmatch(name) is not None,
        "file": file,
        # a name that begins with a dash would be taken for an option
        "file_argument": shlex.quote(f"./{file}" if file.startswith("-") else file),
        "body_source": body_source,
        "changes_body": changes_body,
        "is_predictable": header.has_encoder and not body_source.is_placeholder and not changes_body,
        "hub_model": hub_model(config),
        "task": format_values({"task": config.task, **_describe_sizes(program.spec), **options}),
        # labels are shown as they are: one that begins with a slash is not a path
        "classes": {key: join_names(labels, MAX_LISTED_CLASSES) for key, labels in header.classes.items()},
        "preprocessing": format_values(header.preprocessing),
        "body": format_values(_describe_body(config)),
        "parts": _count_parts(program),
        "training": format_values(_describe_training(config)),
        "metrics": _describe_metrics(program.metrics),
        "controls": _tabulate_controls(header.controls),
        "data": format_values(data),
        "versions": format_values(program.versions),
        "limits": list(_describe_limits(program, header)),
    }


def _python_literal(text: str) -> str:
    """A text as Python code, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _body_source(config: RunConfig) -> BodySource:
    name, weights = config.backbone, config.weights
    local_body = hub_model(config) is None and re.search(r"[/\\]", name) is not None
    local_weights = weights not in WEIGHTS
    return BodySource(
        name="PATH/TO/" + file_name(name) if local_body else name,
        weights="PATH/TO/" + file_name(weights) if local_weights else weights,
        layers=config.layers,
        seed=config.body_seed if weights in DRAWN_WEIGHTS else None,
        is_placeholder=local_body or local_weights,
    )


def _describe_sizes(spec: TaskSpec) -> dict[str, str]:
    tokens = f"of P = {spec.size} numbers" if spec.kind == "continuous" else f"from a vocabulary of {spec.size}"
    if spec.read_positions > 1:
        positions = f"each of the last {spec.read_positions} positions"
    else:
        positions = list_in_words([_name_read_out(kind) for kind in spec.read_outs])
    return {
        "input": f"at most T = {spec.length} tokens {tokens}",
        "output": f"C = {spec.outputs} numbers, read from {positions}",
    }


def _name_read_out(kind: str) -> str:
    if kind == "mean":
        return "the mean of all positions"
    if kind in READ_OUTS:
        return f"the {kind} position"
    return f"the means of {parts_of(kind)} equal parts of the sequence"


def _describe_body(config: RunConfig) -> dict[str, Any]:
    weights = config.weights if config.weights in WEIGHTS else f"the file {file_name(config.weights)}"
    seed = f", seed {config.body_seed}" if config.weights in DRAWN_WEIGHTS else ""
    return {"weights": weights + seed, "layers": config.layers, "precision in training": config.precision}


def _describe_training(config: RunConfig) -> dict[str, Any]:
    names = ("steps", "batch_size", "lr", "seed", "protocol", "schedule", "start")
    return {name.replace("_", " "): getattr(config, name) for name in names}


def _count_parts(program: Program) -> list[tuple[str, str, str]]:
    """Title, number of values, and "yes" or "no" (trained) of each part of the model that the program holds."""
    roles = set(program.config.train_roles)
    body_roles = sorted(SINGLE_ROLES & roles)
    norms = " and ".join(filter(None, ["norms", ", ".join(body_roles)]))
    parts = {
        "input": ("input layer", {INPUT}),
        "positions": ("positions", {"position"}),
        "body": (f"{norms} of the body", {"norm", *body_roles}),
        "output": ("output layer", {OUTPUT}),
    }
    counts: dict[str, int] = {}
    for name, tensor in program.tensors.items():
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + tensor.numel()
    return [
        (title, f"{counts[part]:,}", "yes" if part_roles & roles else "no")
        for part, (title, part_roles) in parts.items()
        if counts.get(part)
    ]


def _tabulate_controls(controls: Mapping[str, Any]) -> list[list[str]]:
    """A heading, then a row for each control, with a column for each value that any of them has."""
    if not controls:
        return []
    rows = {
        name: format_values(value if isinstance(value, Mapping) else {"metric": value})
        for name, value in controls.items()
    }
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    heading = ["", *(column.replace("_", " ") for column in columns)]
    return [heading, *([name, *(row.get(column, "") for column in columns)] for name, row in rows.items())]


def _describe_limits(program: Program, header: ProgramHeader) -> Iterator[str]:
    config = program.config
    yield "It works only on the body with the fingerprint above; icecore refuses any other."
    if header.classes:
        yield "Every input gets one of the classes above, even if it belongs to none of them."
    if _describe_metrics(program.metrics):
        yield f"The metrics are those of one run (seed {config.seed}){_describe_seeds(header.result)}."
        if not header.controls:
            yield "No controls are recorded, so the metrics do not show whether the weights of the body helped."
    if config.test_examples is not None:
        yield f"It was scored on only the first {config.test_examples:,} examples of a split."
    faults = sorted(PROTOCOLS[config.protocol].faults)
    if faults:
        yield f"Its protocol keeps faults of the paper's code on purpose: {', '.join(faults)}."


def _describe_seeds(result: Mapping[str, Any]) -> str:
    """The mean over seeds with its standard error, if several were trained."""
    mean, error = result.get("seeds_mean"), result.get("seeds_error")
    if not isinstance(mean, float) or not isinstance(error, float):
        return " and have no error bar"
    seeds = format_value(result.get("seeds"))
    return f", the best by validation; the mean over seeds {seeds} is {mean:.4f} ± {error:.4f} (standard error)"


def _describe_metrics(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, f"{value:.4f}") for name, value in metrics.items() if _is_number(value)]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= LARGEST_NUMBER
