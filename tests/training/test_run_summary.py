"""Summaries: the JSON of version 0.1 is read and written unchanged, and gaps get defaults."""

import json

from icecore.training.run_summary import RunSummary, SweepSummary

VERSION_0_1 = (
    '{"task": "mnist", "task_options": {"val": 2000}, "backbone": "minilm", "weights": "pretrained", '
    '"train_roles": ["input", "norm", "output", "position"], "protocol": "fair", "lr": 0.002, "seed": 0, '
    '"steps": 3200, "steps_done": 3200, "status": "completed", "best_step": 3200, "batch_size": 8, '
    '"precision": "fp32", "train_metric": 0.955, "val_metric": 0.947, "test_metric": 0.9513, '
    '"test_metrics": {"test": 0.9513}, "test_examples": 10000, "metric_name": "accuracy", '
    '"trainable_parameters": 44938, "frozen_parameters": 10638336, "seconds": 820.726, "steps_per_second": 3.899, '
    '"seconds_share": 820.726, "packed_runs": 1, "device": "CPU, 2 threads, AVX512", '
    '"versions": {"icecore": "0.1.0"}, "data": {"format": "idx", "counts": {"train": 58000}}, '
    '"run_id": "58fec05b1014"}'
)


def test_a_run_summary_of_version_0_1_is_written_as_it_was_read() -> None:
    assert json.dumps(RunSummary.from_json(json.loads(VERSION_0_1)).to_json()) == VERSION_0_1


def test_fields_have_the_values_of_their_keys() -> None:
    summary = RunSummary.from_json(json.loads(VERSION_0_1))
    assert summary.train_roles == ("input", "norm", "output", "position")
    assert (summary.lr, summary.test_metric, summary.run_id) == (0.002, 0.9513, "58fec05b1014")


def test_missing_keys_get_defaults_and_unknown_keys_are_kept() -> None:
    summary = RunSummary.from_json({"lr": 0.1, "hardware": "two cores"})
    assert (summary.lr, summary.val_metric, summary.test_metrics, summary.status) == (0.1, None, {}, "")
    assert summary.to_json()["hardware"] == "two cores"
    assert RunSummary.from_json(summary.to_json()) == summary


def test_a_sweep_summary_keeps_its_keys_and_their_order() -> None:
    group = {
        "runs": [json.loads(VERSION_0_1)],
        "chosen_lr": 0.002,
        "val_mean": 0.947,
        "test_mean": 0.9513,
        "test_sem": None,
        "n_seeds": 1,
        "seconds": 820.726,
    }
    summary = SweepSummary.from_json(group)
    assert summary.runs[0].seed == 0
    assert json.dumps(summary.to_json()) == json.dumps(group)
