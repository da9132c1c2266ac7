"""Rows of tables as tokens: columns in slots, categories, dates, new rows, texts in one column."""

import math
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from icecore.core.errors import ConfigError, DataError, UserError
from icecore.user_data import DataEncoder, DataSettings, encode, from_arrays, plan
from icecore.user_data.encoders.column_encoder import date_parts
from icecore.user_data.encoders.table_encoder import MAX_DEVIATIONS, TableEncoder
from user_data_samples import describe, people, write_csv


def test_parts_of_a_date_agree_with_datetime():
    moments = ["1969-12-31T23:59:59+00:00", "2024-02-29T12:00:00+00:00", "2000-01-01T00:00:01+00:00"]
    parts = date_parts(np.array([datetime.fromisoformat(m).timestamp() for m in moments] + [math.nan]))
    for text, (days, month, weekday, second) in zip(moments, parts, strict=False):
        moment = datetime.fromisoformat(text)
        assert days == pytest.approx(moment.timestamp() / 86400)
        of_day = moment.hour * 3600 + moment.minute * 60 + moment.second
        assert (month, weekday, second) == (moment.month, moment.weekday(), of_day)
    assert np.isnan(parts[3]).all()


def test_each_type_of_column_is_encoded_or_dropped_with_a_reason(tmp_path: Path):
    data_plan = plan(write_csv(tmp_path / "people.csv", people()))
    encoder = data_plan.encoder.inputs
    assert isinstance(encoder, TableEncoder)
    assert [(c.name, c.type) for c in encoder.columns] == [("height", "number"), ("town", "text"), ("born", "date")]
    assert encoder.columns[1].levels == ("Köln", "Ulm", "北京")
    text = describe(data_plan)
    assert "dropped: id: a different number in every row, so it is an id" in text
    assert "dropped: remark: 42 different texts, too many for categories" in text
    assert "dropped: planet: constant" in text
    assert "target: 'tall', the last column" in text
    assert data_plan.encoder.target.classes == (("no", "yes"),)


def test_tokens_hold_each_column_in_slots_of_its_own():
    X = np.random.default_rng(0).normal(3, 5, (40, 5))
    X[::7, 2] = math.nan
    data_plan = from_arrays(X, np.arange(40) % 2)
    task = data_plan.task()
    batch = next(task.batches("train", 100))
    rows = data_plan.splits["train"].inputs
    assert batch.tokens.shape == (len(rows), 5, 6)  # one column has a flag
    slots = [[0], [1], [2, 3], [4], [5]]
    for token, slots_of_column in enumerate(slots):
        others = [slot for slot in range(6) if slot not in slots_of_column]
        assert not batch.tokens[:, token, others].any()
        expected = rows[:, token].nan_to_num(0)
        torch.testing.assert_close(batch.tokens[:, token, slots_of_column[0]], expected)
    assert torch.equal(batch.tokens[:, 2, 3], rows[:, 2].isnan().float())
    assert rows[:, 0].mean().abs() < 1e-6
    assert rows[:, 0].std(correction=0) == pytest.approx(1, rel=1e-5)


def test_many_columns_share_tokens_and_slots():
    X = np.random.default_rng(0).normal(size=(20, 1000))
    data_plan = from_arrays(X, np.arange(20) % 2)
    spec = data_plan.encoder.spec
    assert (spec.length, spec.size) == (63, 16)
    batch = next(data_plan.task().batches("train", 20))
    torch.testing.assert_close(batch.tokens.flatten(1)[:, :1000], data_plan.splits["train"].inputs)


def test_extreme_numbers_are_clipped():
    X = np.random.default_rng(0).normal(size=(30, 2))
    encoder = from_arrays(X, np.arange(30) % 2).encoder
    rows = encode(encoder, np.array([[1e30, -np.inf]]))
    assert next(rows.task(encoder).batches("test", 1)).tokens.abs().amax() == MAX_DEVIATIONS


def test_numbers_beyond_float32_are_clipped(tmp_path: Path):
    rows = [["a", "y"], *([i, i % 2] for i in range(40)), ["1e39", 1], ["-1e300", 0]]
    path = write_csv(tmp_path / "t.csv", rows)
    X = np.array([[float(a)] for a, _ in rows[1:]])
    for data_plan in (plan(path), from_arrays(X, [y for _, y in rows[1:]])):
        task = data_plan.task()
        tokens = torch.cat([batch.tokens for split in ("train", "val", "test") for batch in task.batches(split, 100)])
        assert tokens.isfinite().all()
        assert {tokens.min().item(), tokens.max().item()} == {-MAX_DEVIATIONS, MAX_DEVIATIONS}
        assert 0.5 < task.splits["train"].inputs.nan_to_num(0, 0, 0).std() < 2
    with pytest.raises(DataError, match="Target 'y' has values that are too large to square"):
        from_arrays(np.arange(40)[:, None], np.arange(40) * 1e200)


def test_missing_numbers_are_flagged_only_if_training_had_some() -> None:
    X = np.random.default_rng(0).normal(size=(40, 2))
    X[::5, 0] = np.nan
    encoder = from_arrays(X, np.arange(40) % 2).encoder
    notes = encode(encoder, np.array([[np.nan, np.nan], [1.0, np.nan]])).notes
    assert notes == [
        ("empty", "no values in 1 row (0)"),
        ("filled", "missing numbers with the mean, and flagged: x0 (1)"),
        ("filled", "missing numbers with the mean, not flagged, because none were missing in training: x1 (2)"),
    ]


def test_new_rows_of_a_table(tmp_path: Path):
    rows = people()
    encoder = DataEncoder.from_json(plan(write_csv(tmp_path / "people.csv", rows)).encoder.to_json())
    order = [2, 1, 3, 0]
    new = [[row[i] for i in order] for row in rows[:9]]  # other order, fewer columns, no target
    new[1][0] = "Atlantis"
    new[2][1] = ""
    encoded = encode(encoder, write_csv(tmp_path / "new.csv", new))
    assert (len(encoded), encoded.targets) == (8, None)
    assert "1 cell of 'town' with a category that has no slot" in str(encoded.notes)
    assert "height (1)" in str(encoded.notes)
    again = encode(encoder, tmp_path / "people.csv", score=True)
    torch.testing.assert_close(encoded.inputs[2:], again.inputs[2:8])
    with pytest.raises(DataError, match=r"lacks 1 column of the training data: height\. Add it"):
        encode(encoder, write_csv(tmp_path / "less.csv", [row[2:] for row in rows]))
    with pytest.raises(DataError, match=r"new\.csv: there is no target column tall to score"):
        encode(encoder, tmp_path / "new.csv", score=True)
    rows[5][-1] = "perhaps"
    with pytest.raises(DataError, match="1 row of target 'tall' with classes that no training row has: perhaps"):
        encode(encoder, write_csv(tmp_path / "odd.csv", rows), score=True)
    assert "perhaps" in str(encode(encoder, tmp_path / "odd.csv").notes)


def test_new_rows_are_not_sampled_and_keep_their_numbers(tmp_path: Path):
    data_plan = plan(write_csv(tmp_path / "people.csv", people()), DataSettings(max_rows=30))
    assert sum(len(part) for part in data_plan.splits.values()) == 30
    lines = (tmp_path / "people.csv").read_text(encoding="utf-8").splitlines()
    lines[3] = "cut,short"
    (tmp_path / "cut.csv").write_text("\n".join(lines), encoding="utf-8")
    rows = encode(data_plan.encoder, tmp_path / "cut.csv")
    assert list(rows.names) == [str(i) for i in range(60) if i != 2]
    assert rows.row_numbers.tolist() == [i for i in range(60) if i != 2]
    assert "1 damaged row: cut.csv line 4" in str(rows.notes)


def test_one_column_of_sequences(tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = [[i, "".join(rng.choice(list("ACGT"), rng.integers(5, 20))), i % 2] for i in range(40)]
    path = write_csv(tmp_path / "dna.csv", [["id", "dna", "label"], *rows])
    data_plan = plan(path)
    assert data_plan.encoder.inputs.describe() == "texts of up to 19 characters from an alphabet of 4, one per token"
    assert data_plan.encoder.settings.column == "dna"
    named = plan(path, DataSettings(column="dna"))
    assert named.sha256() == data_plan.sha256()
    assert len(encode(data_plan.encoder, write_csv(tmp_path / "new.csv", [["dna"], ["ACGT"], ["NNN"]]))) == 2
    with pytest.raises(ConfigError, match=r"Unknown sequence column 'rna'\. Did you mean 'dna'"):
        plan(path, DataSettings(column="rna"))


def test_of_several_usual_names_the_most_likely_is_the_target(tmp_path: Path):
    rows = [["x", "y", "label"], *([i, i / 7, "pq"[i % 2]] for i in range(40))]
    assert plan(write_csv(tmp_path / "t.csv", rows)).encoder.target.names == ("label",)


def test_errors_of_unknown_columns(tmp_path: Path):
    path = write_csv(tmp_path / "people.csv", people())
    with pytest.raises(UserError, match=r"Unknown target column 'tal'\. Did you mean 'tall'"):
        plan(path, DataSettings(target=("tal",)))
    with pytest.raises(UserError, match=r"Unknown column 'hight'\. Did you mean 'height'"):
        plan(path, DataSettings(drop=("hight",)))
