"""Programs whose header is valid JSON but odd: each is read or refused with a message, and none takes much memory."""

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fuzzing import cases, changed
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from icecore import user_data
from icecore.autofit import fit
from icecore.autofit import predict as predicting
from icecore.autofit.fit_settings import FitSettings
from icecore.autofit.predict import predict
from icecore.backbones import Backbone, HubAccess
from icecore.core.config import RunConfig
from icecore.core.errors import UserError
from icecore.model.program import Program
from icecore.sharing.model_card import card


@pytest.fixture(scope="module", params=["numbers", "table", "texts", "series"])
def fitted(
    request: pytest.FixtureRequest, bodies: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, object]:
    """A program of the user's own data, and rows for it."""
    source = np.random.default_rng(0)
    data: object = source.normal(size=(40, 3))
    y: object = source.integers(0, 2, 40)
    if request.param == "numbers":
        y = source.normal(size=(40, 2))
    elif request.param == "texts":
        data = ["".join(source.choice(list("ACGT"), 8)) for _ in range(40)]
    elif request.param == "series":
        data = source.normal(size=(40, 6, 2))
    folder = tmp_path_factory.mktemp("programs")
    plan = user_data.from_arrays(data, y)
    settings = FitSettings(backbone=bodies["bert"], lrs=(1e-2,), steps=2, batch_size=8)
    fit.fit(plan.task(), settings, folder / "good.safetensors", {"encoder": plan.encoder.to_json()}, "cpu")
    return folder / "good.safetensors", data


def written(path: Path, header: object, tensors: Mapping[str, torch.Tensor]) -> Path:
    text = json.dumps(header)
    bad = path.with_name("bad.safetensors")
    save_file(dict(tensors), bad, {"icecore": text, "sha256": hashlib.sha256(text.encode()).hexdigest()})
    return bad


@pytest.fixture(autouse=True)
def _bodies_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each body is built once, since building takes most of the time of a case."""
    original, known = predicting.build_body_of, dict[Any, Backbone]()

    def build(config: RunConfig, hub: HubAccess) -> Backbone:
        if config.body not in known:
            known[config.body] = original(config, hub)
        return known[config.body]

    monkeypatch.setattr(predicting, "build_body_of", build)


def test_odd_headers_end_in_an_answer_or_a_message(fitted: tuple[Path, object]) -> None:
    path, data = fitted
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["icecore"])
    longest = 0
    source, outcomes = random.Random(20), {"read": 0, "refused": 0}
    for case in range(cases(60)):
        odd = dict(header)
        if case % 2:
            encoder = changed(json.loads(header["extra"]["encoder"]), source)
            odd["extra"] = {**header["extra"], "encoder": json.dumps(encoder)}
        else:
            odd = changed(header, source)
        bad = written(path, odd, tensors)
        try:
            program = Program.load(bad)
            card(program, "someone/theirs")
            predict([bad], data, "cpu")
            outcomes["read"] += 1
        except UserError as error:
            outcomes["refused"] += 1
            longest = max(longest, len(str(error)))
        except Exception as error:
            raise AssertionError(f"case {case}: {odd}") from error
    assert min(outcomes.values()) > 0
    assert longest < 3000
