"""Writes what was computed for a request as its answer."""

from typing import Any

import torch

from icecore.serving.batcher import QueuedRequest
from icecore.serving.explanations import explain_row
from icecore.serving.json_answers import to_json


def write_answer(job: QueuedRequest, top: int) -> bytes:
    """The answer to a request: predictions or an error for each of its rows, in their order, and notes.

    Raises DataError if the rows cannot be answered.
    """
    rows, program = job.rows, job.program
    problems: dict[int, list[dict[str, Any]]] = {}
    for problem in (*rows.problems, *job.problems):
        problems.setdefault(problem.row, []).append(problem.to_json())
    answered = [index for index, logits in enumerate(job.logits) if logits is not None]
    logits = torch.stack([each for each in job.logits if each is not None])
    predicted = program.codec.predictions(rows, answered, logits, top)
    entries = predicted.entries
    if job.explain:
        for index, entry in zip(answered, entries, strict=True):
            entry["explanation"] = explain_row(program, job.attention[index])
    entries += [{"row": place, "errors": found} for place, found in problems.items()]
    answer: dict[str, Any] = {
        "program": program.name,
        "version": program.version,
        "targets": program.codec.targets(),
        "predictions": sorted(entries, key=lambda entry: entry["row"]),
        "notes": [{"topic": topic, "message": message} for topic, message in predicted.notes],
    }
    if rows.targets is not None and (score := program.codec.score(logits, rows.targets[answered])):
        answer["score"] = {"metric": score[0], "value": score[1], "rows": len(answered)}
    return to_json(answer)
