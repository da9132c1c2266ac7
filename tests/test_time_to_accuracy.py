"""The benchmark time_to_accuracy: goals, both sides' data, watching, stored measurements, and ratios.

No test depends on a measured time.
"""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from commandline import Run
from icecore.tasks import TASKS, build_task
from icecore.tasks.bits import BitTask, BitXor
from icecore.tasks.entry import TaskRequest
from icecore.tasks.task import Batch

Script = Callable[[str], ModuleType]


@pytest.fixture
def goal(script: Script, bodies: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A goal that any accuracy reaches, on a tiny body."""
    goals = script("goals")
    monkeypatch.setattr(goals, "BACKBONE", bodies["bert"])
    recipe = {"batch_size": 16, "lr_factors": {"output": 0.3}, "train_roles": ("input", "output"), "steps": 8}
    sizes = {"eval_every": 64, "eval_examples": 24, "examples": 128}
    return goals.Goal(name="tiny", task="bit-xor", target=0.0, options={"n": 3}, recipe=recipe, **sizes)


# --- goals -------------------------------------------------------------------------------------------


def test_every_goal_is_a_possible_run_of_both_sides(script: Script):
    goals = script("goals")
    assert {(goal.task, goal.target) for goal in goals.GOALS.values()} == {
        ("bit-xor", 1.0),
        ("bit-memory", 0.97),
        ("mnist", 0.95),
        ("mnist", 0.97),
        ("cifar10", 0.40),
        ("listops", 0.40),
    }
    for name, goal in goals.GOALS.items():
        config, plain = goal.config(), goal.plain_settings(1e-3)
        assert goal.name == name
        assert (config.stop_at, config.eval_examples) == (plain["stop_at"], plain["eval_examples"])
        assert config.task_options == plain["task_options"]
        # equally many examples between validations
        assert config.eval_every * config.batch_size == plain["eval_every"] * plain["batch_size"] == goal.eval_every
        if not TASKS[goal.task].kind:  # not images, which need data
            assert goal.task == "listops" or goal.eval_examples <= build_task(
                goal.task, TaskRequest(goal.options)
            ).split_size("val")
    assert goals.PLAIN_BATCH == 16
    assert sorted(goals.PLAIN_RATES) == [3e-4, 1e-3, 3e-3]


def test_a_batch_size_must_divide_the_examples_between_validations(goal: Any):
    with pytest.raises(SystemExit, match="tiny: there are 64 examples between two validations, which batches of 24"):
        replace(goal, recipe={"batch_size": 24}).config()


# --- both sides --------------------------------------------------------------------------------------


def record_batches(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[torch.Tensor]]:
    """The tokens of the training steps and of the validation examples that a task hands out from now on."""
    seen: dict[str, list[torch.Tensor]] = {"train": [], "val": []}
    train_batch, batches = BitXor.train_batch, BitTask.batches

    def recorded_train_batch(self: BitXor, seeds: Sequence[int], step: int, batch_size: int) -> Batch:
        batch = train_batch(self, seeds, step, batch_size)
        # the first example of a step is also drawn to measure memory
        seen["train"] += [batch.tokens] if batch_size > 1 else []
        return batch

    def recorded_batches(self: BitXor, split: str, batch_size: int, limit: int | None = None) -> Iterator[Batch]:
        for batch in batches(self, split, batch_size, limit):
            if split == "val":
                seen["val"].append(batch.tokens)
            yield batch

    monkeypatch.setattr(BitXor, "train_batch", recorded_train_batch)
    monkeypatch.setattr(BitXor, "batches", recorded_batches)
    return seen


def test_both_sides_read_the_same_training_and_validation_examples(
    goal: Any, script: Script, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = goal.config(seed=3, precision="fp32", device="cpu")
    command = script("time_to_accuracy").ours_command(goal, config)
    with monkeypatch.context() as patch:
        ours = record_batches(patch)
        ended = run(*command[1:], "--device", "cpu", "--quiet", "--out", tmp_path / "ours")
    assert ended.code == 0, ended.err
    # the command trains the configuration that the measurement names
    assert (tmp_path / "ours" / config.run_id / "summary.json").exists()

    machine = {"device": "cpu", "data_dir": None, "events": str(tmp_path / "events.jsonl")}
    with monkeypatch.context() as patch:
        plain = record_batches(patch)
        script("plain_training").main(goal.plain_settings(1e-3, seed=3) | machine)
    assert len(plain["train"]) == len(ours["train"]) == 4
    assert all(map(torch.equal, plain["train"], ours["train"]))
    validated = torch.cat(plain["val"])
    assert len(validated) == 24
    assert torch.equal(validated, torch.cat(ours["val"])[:24])
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events] == [4]


def test_the_plain_side_gives_up_after_its_examples(goal: Any, script: Script, tmp_path: Path):
    machine = {"device": "cpu", "data_dir": None, "events": str(tmp_path / "events.jsonl")}
    script("plain_training").main(replace(goal, target=1.1).plain_settings(1e-3) | machine)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events] == [4, 8]


# --- watching ----------------------------------------------------------------------------------------


def write_metrics(out: Path, *metrics: float, then: str = "") -> list[str]:
    """A command that writes a validation for each of `metrics`, a training event between them, and does `then`."""
    lines = [{"event": "validation", "step": 10 * n, "metric": m} for n, m in enumerate(metrics, 1)]
    text = "".join(f'{{"event": "train", "loss": 1}}\n\n{json.dumps(line)}\n' for line in lines)
    program = f"import pathlib, sys, time; pathlib.Path({str(out / 'events.jsonl')!r}).write_text({text!r}); {then}"
    return [sys.executable, "-c", program]


def test_a_process_is_stopped_when_it_reaches_the_target(script: Script, tmp_path: Path):
    command = write_metrics(tmp_path, 0.2, 0.8, 0.9, then="time.sleep(600)")
    watched = script("watching").watch(command, tmp_path, 0.8, limit=500)
    assert (watched.step, watched.ended) == (20, False)
    assert [(step, metric) for _, step, metric in watched.validations] == [(10, 0.2), (20, 0.8), (30, 0.9)]


def test_a_process_is_stopped_at_the_limit(script: Script, tmp_path: Path):
    watched = script("watching").watch(write_metrics(tmp_path, 0.2, then="time.sleep(600)"), tmp_path, 0.8, limit=1e-9)
    assert (watched.step, watched.ended) == (None, False)
    assert watched.seconds >= 1e-9


def test_a_process_may_end_without_the_target(script: Script, tmp_path: Path):
    watched = script("watching").watch(write_metrics(tmp_path, 0.2), tmp_path, 0.8, limit=500)
    assert (watched.step, watched.ended) == (None, True)
    assert len(watched.validations) == 1


def test_a_failed_process_is_reported(script: Script, tmp_path: Path):
    with pytest.raises(SystemExit, match=r"failed:\n.*the reason"):
        script("watching").watch([sys.executable, "-c", "exit('the reason')"], tmp_path, 1.0, limit=500)


def test_events_are_read_as_they_grow(script: Script, tmp_path: Path):
    events = script("watching").Events(tmp_path)
    assert events.new() == []
    path = tmp_path / "run" / "events.jsonl"
    path.parent.mkdir()
    path.write_text('{"step": 1}\n{"st')
    assert events.new() == [{"step": 1}]
    assert events.new() == []
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert events.new() == [{"step": 2}]


# --- measurements ------------------------------------------------------------------------------------


@pytest.fixture
def measurement(script: Script) -> Callable[..., Any]:
    """Builds a measurement: `measurement("plain", 20.0, lr=1e-3)`; without `step` the target was not reached."""
    module, validation = script("measurements"), script("watching").Validation

    def build(side: str, seconds: float, step: int | None = 5, ended: bool = False, **settings: Any) -> Any:
        conditions = module.Conditions({"cpu": "A"}, {"icecore": "1", "torch": "2"}, "2026-01-02", "python x.py")
        given = {"batch_size": 16, "lr": 1e-3, "stop_at": 0.5, **settings}
        validations = (validation(seconds / 2, 4, 0.25), validation(seconds, 5, 0.5))
        return module.Measurement("g", side, given, "command", seconds, step, ended, validations, conditions)

    return build


def test_measurements_are_found_again_under_the_same_conditions_only(
    script: Script, measurement: Callable[..., Any], tmp_path: Path
):
    path = tmp_path / "new" / "measurements.jsonl"
    ours, plain = measurement("ours", 10.0), measurement("plain", 20.0)
    for each in (ours, plain):
        script("measurements").Measurements(path).add(each)
    stored = script("measurements").Measurements(path)
    assert stored.known == [ours, plain]
    assert json.loads(path.read_text().splitlines()[0])["conditions"]["command"] == "python x.py"
    same, settings = ours.conditions, ours.settings
    assert stored.find("ours", settings, replace(same, date="2027", command="y"), 1.0) == ours
    assert stored.find("ours", settings | {"lr": 3e-3}, same, 1.0) is None
    assert stored.find("ours", settings, replace(same, hardware={"cpu": "B"}), 1.0) is None
    newer_torch, newer_icecore = ({**same.versions, name: "9"} for name in ("torch", "icecore"))
    assert stored.find("plain", settings, replace(same, versions=newer_torch), 1.0) is None
    # the plain loop does not depend on icecore's version
    assert stored.find("ours", settings, replace(same, versions=newer_icecore), 1.0) is None
    assert stored.find("plain", settings, replace(same, versions=newer_icecore), 1.0) == plain


def test_a_measurement_in_vain_counts_for_as_long_as_it_was_watched(script: Script, measurement: Callable[..., Any]):
    stored, vain = script("measurements").Measurements(None), measurement("plain", 20.0, step=None)
    stored.add(vain)
    assert stored.find("plain", vain.settings, vain.conditions, 20.0) == vain
    assert stored.find("plain", vain.settings, vain.conditions, 21.0) is None
    ended = replace(vain, ended=True)
    stored.add(ended)
    assert stored.find("plain", vain.settings, vain.conditions, 21.0) == ended


def test_a_measurement_for_a_higher_target_serves_a_lower_one(script: Script, measurement: Callable[..., Any]):
    stored, high = script("measurements").Measurements(None), measurement("plain", 20.0)
    stored.add(high)

    def find(target: float, limit: float = 1.0) -> Any:
        return stored.find("plain", high.settings | {"stop_at": target}, high.conditions, limit)

    low = find(0.2)
    assert (low.seconds, low.step, low.examples, low.settings["stop_at"]) == (10.0, 4, 64, 0.2)
    assert [each.metric for each in low.validations] == [0.25]
    assert find(0.6) is None
    stored.known = [measurement("plain", 20.0, step=None, stop_at=0.9)]  # in vain
    assert (find(0.2).seconds, find(0.2).reached) == (10.0, True)
    assert (find(0.7, limit=20.0).seconds, find(0.7, limit=20.0).reached) == (20.0, False)
    assert find(0.7, limit=21.0) is None


def test_a_target_that_was_not_reached_stands_for_higher_ones(script: Script, measurement: Callable[..., Any]):
    stored, vain = script("measurements").Measurements(None), measurement("plain", 20.0, step=None, stop_at=0.6)
    stored.add(vain)
    higher = vain.settings | {"stop_at": 0.9}
    found = stored.find("plain", higher, vain.conditions, 20.0)
    assert (found.seconds, found.reached, found.settings) == (20.0, False, higher)
    assert stored.find("plain", higher, vain.conditions, 21.0) is None


def test_examples_and_best_accuracy_of_a_measurement(measurement: Callable[..., Any]):
    reached, vain = measurement("ours", 9.0, step=4), measurement("ours", 9.0, step=None)
    assert (reached.reached, reached.examples) == (True, 64)
    assert (vain.reached, vain.examples, vain.best) == (False, 80, 0.5)
    assert (replace(vain, validations=()).examples, replace(vain, validations=()).best) == (0, None)
    start = measurement("ours", 9.0, step=0, output_start="ridge", start_examples=500)
    assert (start.reached, start.examples) == (True, 500)


# --- ratios ------------------------------------------------------------------------------------------


def test_ratios_and_their_bounds(script: Script, measurement: Callable[..., Any]):
    ratios = script("ratios")

    def ratio(ours: float | None, *plain: float | None) -> Any:
        sides = [measurement("ours", *((ours,) if ours else (100.0, None)))]
        sides += [measurement("plain", *((each,) if each else (100.0, None))) for each in plain]
        return ratios.Comparison(None, sides[0], sides[1:]).ratio

    assert ratio(10.0, None, 30.0, 20.0) == ratios.Ratio(2.0)
    assert ratio(10.0, None, None) == ratios.Ratio(10.0, "more than")
    assert ratio(None, 25.0) == ratios.Ratio(0.25, "less than")
    assert ratio(None, None) is None
    assert [str(ratios.Ratio(2.0)), str(ratios.Ratio(2.0, "more than"))] == ["2.00", "more than 2.00"]


def test_a_bound_makes_the_geometric_mean_a_bound(script: Script):
    ratios = script("ratios")
    Ratio, mean = ratios.Ratio, ratios.geometric_mean
    assert mean([Ratio(2.0), Ratio(8.0)]).value == pytest.approx(4.0)
    assert mean([Ratio(2.0), Ratio(8.0)]).bound == ""
    assert mean([Ratio(2.0), Ratio(8.0, "more than")]).bound == "more than"
    assert mean([Ratio(2.0), Ratio(0.5, "less than")]).bound == "less than"
    assert mean([Ratio(2.0, "more than"), Ratio(0.5, "less than")]) is None
    assert mean([Ratio(2.0), None]) is None


# --- the script --------------------------------------------------------------------------------------


class FakeWatch:
    """Stands for `watch`: the seconds of each side, and a record of the runs and of their limits."""

    def __init__(self, script: Script, seconds: Mapping[str, float]) -> None:
        self.watching, self.seconds = script("watching"), seconds
        self.runs: list[tuple[str, float]] = []

    def __call__(self, command: Sequence[str], out: Path, target: float, limit: float) -> Any:
        side = "ours" if "icecore" in command else f"{json.loads(Path(command[-1]).read_text())['lr']:g}"
        self.runs.append((side, limit))
        seconds = self.seconds[side]
        arrived = seconds <= limit
        validation = self.watching.Validation(min(seconds, limit), 10, target if arrived else target / 2)
        return self.watching.Watched(min(seconds, limit), 10 if arrived else None, False, (validation,))


@pytest.fixture
def measure(
    script: Script,
    bodies: Mapping[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[FakeWatch, dict[str, Any], str]]:
    """Runs the script with simulated times. Returns the fake, the JSON line, and the table with the text above it."""
    monkeypatch.setattr(script("goals"), "BACKBONE", bodies["bert"])
    timing = script("time_to_accuracy")

    def run_script(words: str, **seconds: float) -> tuple[FakeWatch, dict[str, Any], str]:
        times = {"ours": 10.0, "0.001": 30.0, "0.0003": 50.0, "0.003": 20.0} | seconds
        fake = FakeWatch(script, times)
        monkeypatch.setattr(timing, "watch", fake)
        file = str(tmp_path / "measurements.jsonl")
        timing.main([*shlex.split(words), "--device", "cpu", "--measurements", file])
        *text, line = capsys.readouterr().out.splitlines()
        return fake, json.loads(line), "\n".join(text)

    return run_script


def test_a_rate_is_stopped_when_it_is_slower_than_the_best_so_far(measure: Callable[..., Any]):
    fake, line, text = measure("--goals bit-xor,bit-memory --cap 60")
    one_goal = [("ours", 60.0), ("0.001", 60.0), ("0.0003", 30.0), ("0.003", 30.0)]
    assert fake.runs == one_goal * 2
    assert line["ratio"] == pytest.approx(2.0)
    assert line["goals"]["bit-memory"]["plain"]["0.0003"] == {
        "seconds": 30.0,
        "reached": False,
        "examples": 160,
        "best": 0.485,
        "date": line["date"],
    }
    assert "| bit-xor, 100% | 10.0 | 20.0 | 0.003 | 2.00 | 80 | 160 |" in text
    assert "as the geometric mean over the goals (2): **2.00**." in text
    assert "bound" not in text


def test_the_short_part_is_bit_xor_at_one_rate_and_all_is_everything(measure: Callable[..., Any], script: Script):
    fake, line, text = measure("")
    assert [side for side, _ in fake.runs] == ["ours", "0.001"]
    assert list(line["goals"]) == ["bit-xor"]
    assert "plain is the constant rate 0.001" in text
    arguments = script("time_to_accuracy").read_arguments(["--all"])
    assert arguments.goals == list(script("goals").GOALS)


def test_finished_measurements_are_not_repeated(measure: Callable[..., Any], capsys: pytest.CaptureFixture[str]):
    words = "--goals bit-xor --cap 60"
    first = measure(words)
    again = measure(words)
    assert again[0].runs == []
    assert again[1]["goals"] == first[1]["goals"]
    assert [side for side, _ in measure(f"{words} --again ours")[0].runs] == ["ours"]
    assert [side for side, _ in measure(f"{words} --again plain")[0].runs] == ["0.001", "0.0003", "0.003"]
    assert len(measure(f"{words} --again")[0].runs) == 4
    assert len(measure(f"{words} --seed 1")[0].runs) == 4


def test_a_side_that_does_not_arrive_gives_a_bound(measure: Callable[..., Any]):
    never = {"0.001": 1e9, "0.0003": 1e9, "0.003": 1e9}
    _, line, text = measure("--goals bit-xor --cap 60", **never)
    assert (line["ratio"], line["bound"]) == (6.0, "more than")
    assert "| not in 60 s |" in text
    assert "| more than 6.00 |" in text
    assert "160 (at best 50.0%)" in text
    assert "**more than 6.00**. Where one side did not arrive, the ratio is a bound." in text
    _, line, text = measure("--goals bit-xor --cap 80 --again", ours=1e9, **never)
    assert (line["ratio"], line["goals"]["bit-xor"]["ratio"]) == (None, None)
    assert "There is no mean ratio, because a side did not arrive" in text


def test_unknown_goals_are_refused(script: Script, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        script("time_to_accuracy").read_arguments(["--goals", "bit-xor,mnist"])
    assert "--goals: there is no goal 'mnist'. Choose from bit-xor, bit-memory, mnist-95" in capsys.readouterr().err
