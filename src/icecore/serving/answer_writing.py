"""Writes what was computed for a request as its answer."""

from typing import Any

import torch

from icecore.serving.batcher import QueuedRequest
from icecore.serving.explanations import explain_row
from icecore.serving.json_answers import to_json


def write_answer(job: QueuedRequest, top: int) -> bytes:
    """The answer to a request: a prediction or an error for each of its rows, in their order, and notes."""
    rows, program = job.rows, job.program
    problems: dict[int, list[dict[str, Any]]] = {}
    for problem in (*rows.problems, *job.problems):
        problems.setdefault(problem.row, []).append(problem.to_json())
    answered = [index for index, logits in enumerate(job.logits) if logits is not None]
    logits = torch.stack([each for each in job.logits if each is not None])
    entries: dict[int, dict[str, Any]] = {}
    for index, answer in zip(answered, program.codec.answers(logits, top), strict=True):
        place = int(rows.places[index])
        entries[place] = {"row": place, "name": rows.names[index], **answer}
        if job.explain:
            entries[place]["explanation"] = explain_row(program, job.attention[index])
    for place, found in problems.items():
        entries[place] = {"row": place, "errors": found}
    answer: dict[str, Any] = {
        "program": program.name,
        "version": program.version,
        "targets": program.codec.targets(),
        "predictions": [entries[place] for place in sorted(entries)],
        "notes": [{"topic": topic, "message": message} for topic, message in rows.notes],
    }
    if rows.targets is not None and (score := program.codec.score(logits, rows.targets[answered])):
        answer["score"] = {"metric": score[0], "value": score[1], "rows": len(answered)}
    return to_json(answer)
