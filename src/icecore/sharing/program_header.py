"""What the header of a program file says beyond its configuration: classes, preprocessing, results, controls.

Headers of other versions may lack any of it or store it differently, so everything is read with care.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icecore.model.program import Program
from icecore.tasks import TASKS


@dataclass(frozen=True)
class ProgramHeader:
    """The content of `Program.extra`; values that are missing are empty.

    data_kind      "images", "table", "sequences" or "strings"
    target_kind    "classification" or "regression"
    summary        what a built-in task is about
    classes        the classes of each target
    preprocessing  how inputs become tokens
    data           where the training data came from: format, counts, checksums
    result         what the program reached
    controls       what the program and its controls reached, by name
    has_encoder    whether the program reads your own data
    """

    data_kind: str
    target_kind: str
    summary: str
    metric_name: str
    classes: Mapping[str, Sequence[str]]
    preprocessing: Mapping[str, Any]
    data: Mapping[str, Any]
    result: Mapping[str, Any]
    controls: Mapping[str, Any]
    verdict: str
    has_encoder: bool

    @classmethod
    def read(cls, program: Program) -> "ProgramHeader":
        """The header of `program`."""
        extra, task = program.extra, program.config.task
        data, encoder = _mapping(extra.get("data")), _mapping(extra.get("encoder"))
        target = _mapping(encoder.get("target"))
        names = map(str, _sequence(target.get("names")))
        classes = dict(zip(names, _sequence(target.get("classes")), strict=False))
        classes = {str(name): [str(label) for label in _sequence(labels)] for name, labels in classes.items()}
        if not classes and _sequence(data.get("classes")):
            classes = {"": [str(label) for label in data["classes"]]}
        controls, result = _mapping(extra.get("controls")), _mapping(extra.get("result"))
        return cls(
            data_kind=_text(encoder.get("form")) or (TASKS[task].kind if task in TASKS else ""),
            target_kind=_text(target.get("task")) or ("classification" if classes else ""),
            summary=TASKS[task].summary if task in TASKS else "",
            metric_name=_text(extra.get("metric_name")),
            classes=classes,
            preprocessing=_mapping(encoder.get("inputs")),
            data=data,
            result=result,
            controls={"this program": result, **controls} if controls and result else controls,
            verdict=_text(extra.get("verdict")),
            has_encoder=bool(encoder),
        )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _mapping(value: Any) -> Mapping[str, Any]:
    """A mapping, or the JSON text of one; empty for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, Mapping) else {}
