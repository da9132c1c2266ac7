"""Plans and encoders of user data: what decides them, JSON, settings, and a short training on a body."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from icecore.backbones import Backbone
from icecore.core.errors import ConfigError, DataError
from icecore.model.fpt import FPT
from icecore.training.evaluation import evaluate
from icecore.user_data import DataEncoder, DataSettings, encode, from_arrays
from user_data_samples import random_rows

datasets = pytest.importorskip("sklearn.datasets")


# encoders as version 0.1 wrote them
SETTINGS_OF_0_1 = (
    '"settings":{"column":null,"drop":[],"kind":"%s","length":null,"max_rows":null,"patch":null,"seed":0,"series":null,'
    '"size":null,"strict":false,"target":["y"],"task":"%s","test":0.15,"time":null,"val":0.15,"values":[]},'
)
CLASSES_OF_0_1 = (
    '"target":{"balanced":false,"classes":[["no","yes"]],"counts":[[3,4]],"mean":[],"names":["y"],"origins":["str"],'
    '"std":[],"task":"classification"},'
)
NUMBERS_OF_0_1 = (
    '"target":{"balanced":false,"classes":[],"counts":[],"mean":[1.5],"names":["y"],"origins":["float"],"std":[2.0],'
    '"task":"regression"},'
)
ENCODERS_OF_0_1 = {
    "table": '{"form":"table","format":1,"inputs":{"columns":[{"flag":true,"levels":[],"mean":[1.5],"name":"height",'
    '"std":[0.25],"type":"number"},{"flag":false,"levels":["Köln","Ulm"],"mean":[],"name":"town","std":[],"type":"text"}],'
    '"patch":1},'
    + SETTINGS_OF_0_1 % ("table", "classification")
    + CLASSES_OF_0_1
    + '"types":{"height":"number","town":"text","y":"text"}}',
    "sequences": '{"form":"sequences","format":1,"inputs":{"flags":false,"mean":[0.5],"patch":1,"points":6,'
    '"std":[2.0]},' + SETTINGS_OF_0_1 % ("series", "regression") + NUMBERS_OF_0_1 + '"types":{"y":"number"}}',
    "strings": '{"form":"strings","format":1,"inputs":{"characters":"ACGT","length":20},'
    + SETTINGS_OF_0_1 % ("strings", "classification")
    + CLASSES_OF_0_1
    + '"types":{"y":"text"}}',
    "images": '{"form":"images","format":1,"inputs":{"channels":1,"mean":[127.5],"patch":8,"side":16,"std":[32.25]},'
    + SETTINGS_OF_0_1 % ("images", "classification")
    + CLASSES_OF_0_1
    + '"types":{"y":"text"}}',
}


@pytest.mark.parametrize("form", ENCODERS_OF_0_1)
def test_encoders_of_version_0_1_can_be_read(form: str):
    encoder = DataEncoder.from_json(ENCODERS_OF_0_1[form])
    assert encoder.to_json() == ENCODERS_OF_0_1[form]
    sizes = {"table": (2, 5, 2), "sequences": (6, 1, 1), "strings": (20, 7, 2), "images": (4, 64, 2)}
    assert (encoder.spec.length, encoder.spec.size, encoder.spec.outputs) == sizes[form]


def test_new_rows_are_encoded_as_in_version_0_1(tmp_path: Path):
    table = tmp_path / "t.csv"
    table.write_text("town,height,y\nUlm,2.0,yes\nBonn,,no\n", encoding="utf-8")
    rows = encode(DataEncoder.from_json(ENCODERS_OF_0_1["table"]), table, score=True)
    assert rows.inputs[0].tolist() == [2.0, 2.0]
    assert rows.inputs[1].isnan().tolist() == [True, False]
    assert rows.inputs[1, 1] == 0
    assert rows.targets is not None
    assert rows.targets[:, 0, 0].tolist() == [1, 0]
    texts = encode(DataEncoder.from_json(ENCODERS_OF_0_1["strings"]), ["CAX"])
    assert texts.inputs[0, :5].tolist() == [4, 3, 1, 2, 0]


@pytest.mark.parametrize("name", ["wine", "breast_cancer", "diabetes", "digits"])
def test_real_tables_are_restored_by_their_encoder(name: str):
    data = getattr(datasets, f"load_{name}")()
    data_plan = from_arrays(data.data, data.target)
    lines = dict(data_plan.describe())
    assert lines["metric"] == ("r2" if name == "diabetes" else "accuracy")
    assert sum(len(part) for part in data_plan.splits.values()) == len(data.target)
    encoder = DataEncoder.from_json(data_plan.encoder.to_json())
    assert encoder == data_plan.encoder
    scored = encode(encoder, data.data, data.target, score=True)
    assert scored.targets is not None
    restored = encoder.target.predict(
        F.one_hot(scored.targets[:, 0, 0].long()) if name != "diabetes" else scored.targets[:, :1]
    )
    np.testing.assert_allclose(restored[0], data.target, rtol=1e-5)


def test_a_plan_depends_on_data_and_settings_alone():
    y = np.arange(100) % 2
    digest = from_arrays(random_rows(), y).sha256()
    assert from_arrays(random_rows().copy(), y.tolist()).sha256() == digest
    assert from_arrays(random_rows(), y, DataSettings(seed=1)).sha256() != digest
    changed = random_rows()
    changed[3, 1] += 1e-3
    assert from_arrays(changed, y).sha256() != digest
    assert from_arrays(random_rows(), y).task().data["sha256"] == digest


def test_scaling_is_fitted_on_training_rows_alone():
    X, y = random_rows(), np.arange(100) % 2
    data_plan = from_arrays(X, y)
    inputs = encode(data_plan.encoder, X).inputs
    test = [int((inputs == row).all(1).nonzero()[0]) for row in data_plan.splits["test"].inputs]
    X[test] += 100
    assert from_arrays(X, y).encoder.inputs == data_plan.encoder.inputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "has format 99, but this version of icecore reads formats up to 1"),
        ({"form": "smells"}, r"The text is not a data encoder \(KeyError: 'smells'\)"),
        ({"inputs": {}}, r"The text is not a data encoder \(TypeError: .*columns"),
    ],
)
def test_errors_of_encoder_json(change: dict[str, Any], message: str):
    values = json.loads(from_arrays(random_rows(), np.arange(100) % 2).encoder.to_json())
    with pytest.raises(DataError, match=message):
        DataEncoder.from_json(json.dumps(values | change))
    with pytest.raises(DataError, match=r"The text is not a data encoder \(JSONDecodeError"):
        DataEncoder.from_json("{")


def test_error_of_new_rows_of_another_form():
    encoder = from_arrays(random_rows(), np.arange(100) % 2).encoder
    with pytest.raises(DataError, match="expects rows of a table, as in training, but the data are texts"):
        encode(encoder, ["text"])


def test_errors_of_settings():
    with pytest.raises(ConfigError, match=r"kind: expected one of auto, images, .* found 'smell'"):
        DataSettings(kind="smell")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="patch: expected at least 1, found 0"):
        DataSettings(patch=0)


def test_the_plan_counts_the_training_rows_of_each_class() -> None:
    data_plan = from_arrays(np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2)
    a, b = data_plan.encoder.target.counts[0]
    assert dict(data_plan.describe())["classes"] == f"2 (training rows of each): 0 ({a}), 1 ({b})"


@pytest.mark.parametrize("form", ["table", "sequences", "strings"])
def test_a_body_learns_each_form_of_data(body: Callable[..., Backbone], form: str):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    inputs: dict[str, Any] = {
        "table": rng.normal(size=(120, 4)) + 3 * y[:, None],
        "sequences": [rng.normal(size=(n, 2)) + 3 * c for n, c in zip(rng.integers(3, 9, 120), y, strict=True)],
        "strings": ["".join(rng.choice(list("ab" if c else "cd"), rng.integers(1, 9))) for c in y],
    }
    task = from_arrays(inputs[form], y).task()
    model = FPT(task.spec, body("bert"), [0])
    adam = torch.optim.Adam(list(model.trained().values()), 1e-2)
    for step in range(30):
        batch = task.train_batch([0], step, 16)
        adam.zero_grad()
        task.loss(model(batch), batch.targets).mean().backward()
        adam.step()
    assert evaluate(model, task, "test").item() > 0.9
