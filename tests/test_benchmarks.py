"""The benchmark scripts with tiny sizes: the last line is JSON with its keys, and there is no ratio without agreement.

No test depends on a measured time.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from icecore.core import device as runtime

FOLDER = Path(__file__).parents[1] / "benchmarks"
#: keys of each script's line besides `benchmark`, `precision`, `hardware`, `versions` and `date`
KEYS = {
    "training_speed": {"ratio", "peak_fraction", "samples_per_second", "matmul_gflops"},
    "packed_runs": {"ratio", "runs", "ms_per_run_step"},
    "inference": {"ratio", "examples_per_second"},
    "feature_cache": {"ratio", "ratio_plain", "first_epoch_seconds"},
    "scaling": {"ms_per_run_step", "us_per_token", "falls_in_runs", "largest_rise_in_runs"},
}
#: these scripts start processes
PROCESSES = {
    "long_sequences": {"ratio", "memory", "lengths"},
    "prediction_memory": {"bytes_per_row", "growth", "peaks"},
    "time_to_accuracy": {"ratio", "bound", "goals"},
    "serving_http": {"throughput", "p50", "p99", "overload", "overload_growth_mib", "swaps", "bytes_held_per_program"},
    "data_parallel": {"ratio", "step_seconds", "overlapped_seconds", "exchange_seconds", "bytes_per_step", "expected"},
}


def check(name: str, keys: set[str], printed: str) -> None:
    line = json.loads(printed.splitlines()[-1])
    assert line["benchmark"] == name
    assert line["quick"] is True
    assert {"precision", "hardware", "versions", "date"} | keys <= line.keys()
    assert line["hardware"]["cpu"]
    assert line.get("ratio", 1.0) > 0


@pytest.mark.parametrize("name", KEYS)
def test_the_last_line_is_json_with_its_keys(name: str, script, capsys: pytest.CaptureFixture[str]):
    script(name).main(["--quick", "--device", "cpu"])
    check(name, KEYS[name], capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
def test_scripts_that_start_processes(
    name: str,
    script,
    bodies: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(script("goals"), "BACKBONE", bodies["bert"])  # of time_to_accuracy
    script(name).main(["--quick", "--device", "cpu"])
    check(name, PROCESSES[name], capsys.readouterr().out)


@pytest.mark.parametrize("name", ["training_speed", "packed_runs"])
def test_there_is_no_ratio_if_the_sides_differ(
    name: str, script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    loop = script("plain").PlainLoop
    train_step = loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *batch: train_step(*batch) * 1.01)
    with pytest.raises(SystemExit, match=r"There is no ratio, .* losses of the first steps: relative difference"):
        script(name).main(["--quick", "--device", "cpu", "--precision", "fp32"])
    assert "ratio" not in capsys.readouterr().out


def test_results_agree_within_the_tolerance_and_nan_never_does(script):
    measure: ModuleType = script("measure")
    good = torch.ones(3)
    assert measure.agree("x", good * (1 + 1e-5), good, "fp32") == pytest.approx(1e-5, rel=0.1)
    assert measure.agree("x", good * 1.01, good, "bf16") == pytest.approx(1e-2, rel=0.1)
    for wrong in (good * 1.01, good * float("nan")):
        with pytest.raises(SystemExit, match="x: relative difference"):
            measure.agree("x", wrong, good, "fp32")


def test_sides_take_turns_and_the_first_call_is_timed_separately(script, monkeypatch: pytest.MonkeyPatch):
    measure: ModuleType = script("measure")
    monkeypatch.setattr(measure, "SAMPLE", 0.0)  # no repetition within a sample
    clock = iter(range(1000))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(clock)))
    calls: list[str] = []

    def side(name: str, wait: int) -> Tensor:
        calls.append(name)
        for _ in range(wait * (10 if calls.count(name) == 1 else 1) - 1):
            next(clock)
        return torch.tensor([float(calls.count(name))])

    sides = {"a": lambda: side("a", 3), "b": lambda: side("b", 1)}
    timings = measure.in_turn(sides, runtime.select_runtime("cpu"), seconds=0.0, checked=4)
    assert calls == ["a", "b"] * 4
    assert (timings["a"].warmup, timings["a"].seconds, timings["a"].samples) == (30.0, 3.0, 3)
    assert (timings["b"].warmup, timings["b"].seconds) == (10.0, 1.0)
    assert timings["a"].results[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_results_are_stored_with_their_configuration(
    script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    measure: ModuleType = script("measure")
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["script", "--write"])
    bench = measure.Bench("toy", measure.options("", 1.0).parse_args(["--write", "--device", "cpu"]))
    bench.report({"ratio": 2.34567}, ["side", "ms"], [["ours", 1]], "One thing over another.")
    written = next((tmp_path / "results").iterdir())
    assert written.name.startswith("toy_")
    text = written.read_text()
    assert "| ours | 1 |" in text
    assert "`python benchmarks/toy.py --write`" in text
    stored = json.loads(text.partition("```json\n")[2].removesuffix("```\n"))
    assert stored == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert stored["ratio"] == 2.346
    with pytest.raises(SystemExit, match="--quick uses tiny sizes, so its results are not stored"):
        measure.Bench("toy", measure.options("", 1.0).parse_args(["--write", "--quick"]))


def test_the_picture_of_scaling(script, tmp_path: Path):
    pytest.importorskip("matplotlib")
    script("scaling").draw({1: 9.0, 2: 5.0}, {16: 2.0, 32: 1.0}, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


def test_make_runs_every_script():
    makefile = (FOLDER.parent / "Makefile").read_text()
    for name in (*KEYS, *PROCESSES):
        assert name in makefile
