"""The model card of a program: its header as Markdown, with the front matter that the hub reads.

A card says only what the header and the tensors say; what they do not say is left out. Places on the
trainer's machine are cut to their last name.
"""

import html
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from icecore.backbones.weights import NAMED, WEIGHTS
from icecore.core.config import INPUT, OUTPUT, PROTOCOLS, SINGLE_ROLES, RunConfig
from icecore.model.program import Program
from icecore.tasks import TASKS
from icecore.tasks.task import TaskSpec

#: classes, and values of other lists, beyond which a list is only begun
CLASSES, VALUES = 30, 8
#: the hub's name for what a program does, by kind of data and of target
PIPELINES: Mapping[tuple[str, str], str] = {
    ("images", "classification"): "image-classification",
    ("table", "classification"): "tabular-classification",
    ("table", "regression"): "tabular-regression",
}
#: kind of data of built-in tasks; a program of one's own data carries its kind
KINDS: Mapping[str, str] = dict.fromkeys(("mnist", "cifar10", "cifar10-lra"), "images")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
#: a place on some machine, as a whole text and within one
PLACE = re.compile(r"file:|~?[/\\]|[A-Za-z]:[/\\]")
INNER_PLACE = re.compile(r"(?<![\w/.:\\])(?:file:/*|~|[A-Za-z]:)?(?:[/\\][^/\\\s]+)*[/\\](?=[^/\\\s])")


@dataclass(frozen=True)
class About:
    """What a header's `extra` says, as far as it does; empty where it does not."""

    kind: str
    target: str
    metric: str
    classes: Mapping[str, Sequence[str]]
    inputs: Mapping[str, Any]
    data: Mapping[str, Any]
    result: Mapping[str, Any]
    controls: Mapping[str, Any]
    verdict: str

    @classmethod
    def of(cls, program: Program) -> "About":
        """Read the header of `program`; programs of other versions may lack any of it or hold it otherwise."""
        extra = program.extra
        data, encoder = _mapping(extra.get("data")), _mapping(extra.get("encoder"))
        target = _mapping(encoder.get("target"))
        classes = dict(zip(_sequence(target.get("names")), _sequence(target.get("classes")), strict=False))
        classes = {str(name): list(map(str, _sequence(labels))) for name, labels in classes.items()}
        if not classes and _sequence(data.get("classes")):
            classes = {"": list(map(str, data["classes"]))}
        controls, result = _mapping(extra.get("controls")), _mapping(extra.get("result"))
        return cls(
            kind=_text(encoder.get("form")) or KINDS.get(program.config.task, ""),
            target=_text(target.get("task")) or ("classification" if classes else ""),
            metric=_text(extra.get("metric_name")),
            classes=classes,
            inputs=_mapping(encoder.get("inputs")),
            data=data,
            result=result,
            controls={"this program": result, **controls} if controls and result else controls,
            verdict=_text(extra.get("verdict")),
        )


def card(program: Program, name: str) -> str:
    """The whole card of `program`, shared as `name`: a hub repository `owner/name`, or just a name."""
    return f"---\n{front_matter(program)}\n---\n\n{page(program, name)}"


def front_matter(program: Program) -> str:
    """The card's YAML, without the dashes around it."""
    from huggingface_hub import ModelCardData

    config, about = program.config, About.of(program)
    base = hub_model(config) if config.weights == "pretrained" else None
    relation = "finetune" if SINGLE_ROLES & set(config.train_roles) else "adapter"
    tags = ["icecore", "frozen-pretrained-transformer", config.task, about.kind, about.target]
    return ModelCardData(
        library_name="icecore",
        pipeline_tag=PIPELINES.get((about.kind, about.target)),
        tags=list(dict.fromkeys(filter(None, tags))),
        base_model=base,
        base_model_relation=relation if base else None,
        metrics=[about.metric.replace(" ", "_")] if about.metric else None,
    ).to_yaml(line_break="\n")


def page(program: Program, name: str) -> str:
    """The card's Markdown, without front matter."""
    config, about = program.config, About.of(program)
    task = {"task": config.task, **_sizes(program.spec)}
    task |= {f"option {name}": value for name, value in config.task_options.items()}
    # labels as they are: one that begins with a slash is no place
    classes = [
        f"\n- {_escape(f'classes of {name}' if name else 'classes')}: {_escape(_listing(labels, CLASSES))}"
        for name, labels in about.classes.items()
    ]
    counts = {f"{split} examples": count for split, count in _mapping(about.data.get("counts")).items()}
    made = {name: value for name, value in about.data.items() if name != "classes"}
    sections = {
        "Use": _use(config, name),
        "Task": _list(task) + "".join(classes),
        "Preprocessing": _list(about.inputs),
        "Body": _body(program),
        "Trained": _table(("part", "numbers", "trained"), _parts(program)) + "\n\n" + _list(_training(config)),
        "Metrics": _table(("split", about.metric or "metric"), _numbers(program.metrics)),
        "Controls": "\n\n".join(filter(None, [_escape(about.verdict), _controls(about.controls)])),
        "Data": _list(counts | made),
        "Made with": _list(program.versions),
        "Limits": "\n".join(f"- {line}" for line in _limits(program, about)),
    }
    parts = [f"# {_escape(name)}", _summary(program)]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(parts) + "\n"


def hub_model(config: RunConfig) -> str | None:
    """The hub's name of the body's model; None where it has none or the name is that of a folder here."""
    name = config.backbone
    if name in NAMED:
        return NAMED[name].hub
    return name if HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def _summary(program: Program) -> str:
    config = program.config
    size = sum(tensor.numel() for tensor in program.tensors.values())
    entry = TASKS.get(config.task)
    purpose = f" Its task: {_escape(entry.summary)}." if entry is not None else ""
    return (
        f"An icecore program: {size:,} numbers that let the body {_escape(_last(config.backbone))} do one task, after "
        "[Pretrained Transformers as Universal Computation Engines](https://arxiv.org/abs/2103.05247)." + purpose
    )


def _use(config: RunConfig, name: str) -> str:
    """Commands and lines that use the program, with the places that only its trainer has left open."""
    name = " ".join(name.split())
    shared = HUB_NAME.fullmatch(name) is not None
    file = name.rpartition("/")[2] + ".safetensors"
    commands = [f"icecore pull {name}"] if shared else []
    # what begins with a dash would be taken for an option
    commands.append(f"icecore predict {shlex.quote(f'./{file}' if file.startswith('-') else file)} DATA")
    own = {"backbone": hub_model(config) is None and re.search(r"[/\\]", config.backbone) is not None}
    own["weights"] = config.weights not in WEIGHTS
    places = {key: "PATH/TO/" + _last(getattr(config, key)) for key, is_own in own.items() if is_own}
    changed = "".join(f", {key}={place!r}" for key, place in places.items())
    standard = ["from dataclasses import replace"] * bool(places) + ["from pathlib import Path"] * (not shared)
    lines = [*standard, ""] if standard else []
    lines += [f"from icecore import grid{', hub' * shared}", "from icecore.program import Program, assemble", ""]
    lines += [f"program = Program.load({f'hub.pull({name!r})' if shared else f'Path({file!r})'})"]
    lines += [f"body = grid.load_body({f'replace(program.config{changed})' if places else 'program.config'})"]
    lines += ["model = assemble([program], body)  # a Batch of N examples -> logits (N, n, C)"]
    return "\n".join(["```sh", *commands, "```", "", "```python", *lines, "```"])


def _sizes(spec: TaskSpec) -> dict[str, Any]:
    size = f"of P = {spec.size} numbers" if spec.kind == "continuous" else f"out of a vocabulary of {spec.size}"
    places = "the mean of all positions" if spec.read_out == "mean" else f"the last {spec.read_positions} positions"
    where = "the last position" if (spec.read_out, spec.read_positions) == ("last", 1) else places
    return {"input": f"T = {spec.length} tokens at most, {size}", "output": f"C = {spec.outputs} numbers at {where}"}


def _body(program: Program) -> str:
    config, hub = program.config, hub_model(program.config)
    name = _escape(_last(config.backbone))
    drawn = f", seed {config.body_seed}" if config.weights in ("random", "statistics") else ""
    weights = config.weights if config.weights in WEIGHTS else f"the file {_last(config.weights)}"
    lines = [f"- body: {f'[{name}](https://huggingface.co/{hub})' if hub else name}"]
    lines += [_list({"weights": weights + drawn, "layers": config.layers, "precision in training": config.precision})]
    return "\n".join([*lines, f"- fingerprint of what is frozen: `{program.fingerprint}`"])


def _parts(program: Program) -> list[tuple[str, str, str]]:
    """Numbers by part of the model; positions and norms are kept, and counted, where they are not trained too."""
    roles = set(program.config.train_roles)
    inner = sorted(SINGLE_ROLES & roles)
    parts = {
        "input": ("input layer", {INPUT}),
        "positions": ("positions", {"position"}),
        "body": (" and ".join(filter(None, ["norms", ", ".join(inner)])) + " of the body", {"norm", *inner}),
        "output": ("output layer", {OUTPUT}),
    }
    counts = dict.fromkeys(parts, 0)
    for name, tensor in program.tensors.items():
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + tensor.numel()
    return [
        (title, f"{counts[part]:,}", "yes" if own & roles else "no")
        for part, (title, own) in parts.items()
        if counts[part]
    ]


def _training(config: RunConfig) -> dict[str, Any]:
    names = ("steps", "batch_size", "lr", "seed", "protocol", "schedule", "start")
    return {name.replace("_", " "): getattr(config, name) for name in names}


def _controls(controls: Mapping[str, Any]) -> str:
    """A row a control, a column for each thing that any of them says."""
    rows = {
        name: _shown(value if isinstance(value, Mapping) else {"metric": value}) for name, value in controls.items()
    }
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    return _table(
        ("", *(c.replace("_", " ") for c in columns)),
        [(name, *(row.get(c, "") for c in columns)) for name, row in rows.items()],
    )


def _limits(program: Program, about: About) -> Iterator[str]:
    config = program.config
    yield "It works on the body with the fingerprint above only; icecore refuses any other."
    if about.classes:
        yield "Every input gets one of the classes above, also one that belongs to none of them."
    if _numbers(program.metrics):
        yield f"The metrics are those of one run (seed {config.seed}){_over_seeds(about.result)}."
        if not about.controls:
            yield "No controls are recorded: the metrics alone do not say whether the body's weights helped."
    if config.test_examples is not None:
        yield f"It was scored on the first {config.test_examples:,} examples of a split only."
    faults = sorted(PROTOCOLS[config.protocol].faults)
    if faults:
        yield f"Its protocol keeps faults of the paper's code on purpose: {', '.join(faults)}."


def _over_seeds(result: Mapping[str, Any]) -> str:
    """What other seeds gave, where several were trained: the metrics' error bar."""
    mean, error = result.get("seeds_mean"), result.get("seeds_error")
    if not isinstance(mean, float) or not isinstance(error, float):
        return " and carry no error bar"
    seeds = _line(result.get("seeds"))
    return f", the best by validation; the mean over seeds {seeds} is {mean:.4f} ± {error:.4f} (standard error)"


def _numbers(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, f"{value:.4f}") for name, value in metrics.items() if type(value) in (int, float)]


def _shown(values: Mapping[str, Any]) -> dict[str, str]:
    """What of `values` is one line: numbers, texts, short lists."""
    shown = {_cut(str(name)): _line(value) for name, value in values.items()}
    return {name: text for name, text in shown.items() if text}


def _line(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        # columns and the like are known by their names
        items = [item.get("name") if isinstance(item, Mapping) else item for item in value]
        plain = not any(item is None or isinstance(item, (list, tuple)) for item in items)
        return _listing([_line(item) for item in items], VALUES) if plain else ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None or isinstance(value, Mapping) else _cut(str(value))


def _listing(values: Sequence[str], most: int) -> str:
    more = f" and {len(values) - most:,} more" if len(values) > most else ""
    return ", ".join(values[:most]) + more


def _cut(text: str) -> str:
    """A text without places on a machine: of each only its last name."""
    return _last(text) if PLACE.match(text) else INNER_PLACE.sub("", text)


def _last(place: str) -> str:
    """The last name of a path of any system."""
    return PureWindowsPath(place).name


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _mapping(value: Any) -> Mapping[str, Any]:
    """A mapping, or the JSON text of one; empty for all else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, Mapping) else {}


def _list(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {_escape(name)}: {_escape(text)}" for name, text in _shown(values).items())


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)


def _escape(text: str) -> str:
    """Text that means nothing to Markdown and stays on its line, in a table too."""
    return re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))", r"\\\1", html.escape(" ".join(text.split()), quote=False))
