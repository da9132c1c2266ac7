"""The page of one fit: recommendation, models, plan, curves, and where predictions are wrong, in one HTML file.

It needs no other file, no network and no script. Its drawings are SVG elements of the template fit_page.html.j2.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from icecore.autofit.fit_result import FitResult, ModelResult
from icecore.core.text import metric_text
from icecore.user_data.targets import TargetEncoder

#: more classes make a table that cannot be read
MAX_CLASSES = 20
#: more points make a drawing that is slow to show
MAX_POINTS = 1000
#: what is drawn below and above a metric that never changed
FLAT_MARGIN = 0.05
#: options of the command line and numbers with their unit or error, which no line break may divide
UNBROKEN = re.compile(r"--[\w-]+(?: none)?|[\d.]+ %|[-+]?[\d.]+ ± [\d.]+")
#: width and height of a drawing
WIDTH, HEIGHT = 640, 260


@dataclass(frozen=True)
class ModelBar:
    """A model in the comparison. `share` of the bar's width, from 0 to 1."""

    name: str
    value: str
    share: float
    seconds: str
    steps: str


@dataclass(frozen=True)
class Line:
    """A curve of a drawing, with its label: `points` of an SVG polyline."""

    label: str
    points: str


@dataclass(frozen=True)
class Confusion:
    """Rows of each class of a target by what was predicted: counts (classes, classes), one row a true class."""

    target: str
    classes: Sequence[str]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Scatter:
    """Predictions of a numeric target over its true values, as places (x, y) in a square of side `HEIGHT`."""

    target: str
    places: Sequence[tuple[float, float]]
    lowest: str
    highest: str


def render_fit_page(result: FitResult, plan: Sequence[tuple[str, str]], target: TargetEncoder) -> str:
    """The whole page as HTML. `plan` has the lines of what was inferred about the data."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["unbroken"] = _unbroken
    template = environment.from_string(
        resources.files("icecore.report").joinpath("fit_page.html.j2").read_text("utf-8")
    )
    recommendation, _, explanation = result.verdict.partition("\n")
    curves, lowest, highest = _curves(result.result, result.metric_name)
    return template.render(
        metric=result.metric_name.replace("r2", "R²"),
        rows=len(result.result.scores),
        split=result.split,
        recommendation=recommendation,
        explanation=explanation,
        score=metric_text(result.result.metric, result.metric_name),
        bars=_bars((result.result, *result.controls), result.metric_name),
        curves=curves,
        lowest=lowest,
        highest=highest,
        steps=result.result.steps or 0,
        best_step=result.result.best_step or 0,
        confusions=_confusions(result, target),
        scatters=_scatters(result, target),
        plan=plan,
        width=WIDTH,
        height=HEIGHT,
    )


def _unbroken(text: str) -> Markup:
    """The text as HTML, with options and numbers that stay on one line."""
    return Markup(UNBROKEN.sub(r'<span class="unbroken">\g<0></span>', str(escape(text))))


def _bars(models: Sequence[ModelResult], metric_name: str) -> list[ModelBar]:
    return [
        ModelBar(
            model.name,
            metric_text(model.mean_metric, metric_name),
            min(1.0, max(0.0, model.mean_metric)),
            f"{max(1, round(model.seconds))} s",
            "" if model.steps is None else f"{model.best_step or 0:,} of {model.steps:,}",
        )
        for model in models
    ]


def _curves(model: ModelResult, metric_name: str) -> tuple[list[Line], str, str]:
    """Validation metric over steps for each learning rate, and the values at the lower and the upper edge."""
    values = [value for curve in model.curves.values() for _, value in curve]
    if not values:
        return [], "", ""
    # R² has no lower end: what is far below is drawn at the edge
    low, high = max(min(values), max(values) - 1), max(values)
    low, high = (low, high) if high > low else (low - FLAT_MARGIN, high + FLAT_MARGIN)
    if metric_name != "r2":
        low, high = max(low, 0.0), min(high, 1.0)
    last = max(1, max(step for curve in model.curves.values() for step, _ in curve))

    def place(step: int, value: float) -> str:
        return f"{WIDTH * step / last:.1f},{HEIGHT * min(1.0, (high - value) / (high - low)):.1f}"

    lines = [
        Line(f"learning rate {rate:g}", " ".join(place(step, value) for step, value in curve))
        for rate, curve in model.curves.items()
    ]
    lowest, highest = (metric_text(value, metric_name).removeprefix("R² ") for value in (low, high))
    return lines, lowest, highest


def _confusions(result: FitResult, target: TargetEncoder) -> list[Confusion]:
    """A confusion matrix for each target with few enough classes."""
    model = result.result
    if target.task != "classification" or model.logits is None or model.targets is None:
        return []
    matrices: list[Confusion] = []
    for number, (name, labels) in enumerate(zip(target.names, target.classes, strict=True)):
        if len(labels) <= MAX_CLASSES:
            true, predicted = model.targets[:, 0, number].long(), target.class_indices(model.logits)[number].cpu()
            counts = torch.bincount(true * len(labels) + predicted, minlength=len(labels) ** 2)
            matrices.append(Confusion(name, labels, counts.view(len(labels), -1).tolist()))
    return matrices


def _scatters(result: FitResult, target: TargetEncoder) -> list[Scatter]:
    """Predicted over true values for each numeric target."""
    model = result.result
    if target.task != "regression" or model.logits is None or model.targets is None:
        return []
    drawings: list[Scatter] = []
    predicted = model.logits.flatten(1).double()[:MAX_POINTS]
    for number, (name, mean, std) in enumerate(zip(target.names, target.mean, target.std, strict=True)):
        true, guess = model.targets[:MAX_POINTS, 0, number].double(), predicted[:, number]
        low, high = float(torch.cat([true, guess]).min()), float(torch.cat([true, guess]).max())
        width = high - low or 1.0
        places = [
            (HEIGHT * (x - low) / width, HEIGHT * (high - y) / width)
            for x, y in zip(true.tolist(), guess.tolist(), strict=True)
        ]
        drawings.append(Scatter(name, places, f"{low * std + mean:.4g}", f"{high * std + mean:.4g}"))
    return drawings
