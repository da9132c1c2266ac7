"""Races of learning rates: which rates stop when, that the others do not change, and that a killed race continues."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from icecore.core.config import LOSS, RunConfig
from icecore.core.errors import ConfigError
from icecore.experiments.sweep import expand_sweep, open_run, run_sweep, summarize_runs
from icecore.model.program import Program
from icecore.training import loop
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.loop import Pack
from icecore.training.progress import LineDisplay
from icecore.training.racing import RUNGS, decide_rung, has_rung, race_cost, rung_at
from icecore.training.run_progress import RunProgress
from icecore.training.run_summary import BEHIND, RunSummary
from interruption import Killed, interrupt

Configure = Callable[..., RunConfig]
#: the learning rates of the tests, and the step at which each stops if larger ones are better
RATES = (1e-4, 2e-4, 3e-4, 4e-4, 5e-4)
STOPS = (2, 2, 6, 12, 20)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def configs(config: Configure) -> list[RunConfig]:
    """Five rates whose rungs are decided at steps 2, 6 and 12 of 20."""
    return expand_sweep(config(steps=20, eval_every=2, batch_size=2, eval_examples=4), RATES)


def scripted(monkeypatch: pytest.MonkeyPatch, metric: Callable[[RunConfig, int], float] = lambda c, s: c.lr) -> None:
    """Make validations report `metric` of configuration and step; larger rates are better by default."""
    score = Pack._score

    def scores(pack: Pack, split: str, limit: int | None = None) -> tuple[list[float], list[float]]:
        if split != "val" or any(m.progress.final is not None for m in pack.members):
            return score(pack, split, limit)
        return [metric(m.config, pack.step) for m in pack.active], [1.0] * len(pack.active)

    monkeypatch.setattr(Pack, "_score", scores)


def raced(configs: list[RunConfig], out: Path, **settings: Any) -> list[RunSummary]:
    return list(run_sweep(configs, ExecutionContext(out, device="cpu", race=True, **settings)).runs)


def load_program(out: Path, config: RunConfig) -> Program:
    return Program.load(RunFolder(out, config).program_path)


def essence(out: Path, config: RunConfig) -> dict[str, Any]:
    summary = RunFolder(out, config).summary()
    assert summary is not None
    circumstances = ("seconds", "seconds_share", "steps_per_second", "packed_runs")
    return {name: value for name, value in summary.to_json().items() if name not in circumstances}


# --- rungs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "eval_every", "kept"),
    [
        (300, 15, {30: 3, 75: 2, 180: 1}),
        (300, 200, {200: 1}),  # all rungs at one validation: the strictest applies
        (100, 30, {30: 2, 60: 1}),
        (20, 2, {2: 3, 6: 2, 12: 1}),
        (7, 1, {1: 3, 2: 2, 5: 1}),
        (100, 70, {70: 1}),
        (100, 100, {}),  # a race that is decided at the last step would stop nothing
        (100, 400, {}),
        (1, 1, {}),
    ],
)
def test_a_rung_is_decided_at_the_first_validation_after_its_share(
    config: Configure, steps: int, eval_every: int, kept: Mapping[int, int]
) -> None:
    one = config(steps=steps, eval_every=eval_every)
    rungs = {step: rung_at(one, step) for step in range(1, steps + 1)}
    assert {step: rung.keep for step, rung in rungs.items() if rung} == kept
    assert has_rung(one, 5) == bool(kept)
    assert not has_rung(one, 1)


def test_two_rates_race_only_where_one_is_kept(config: Configure) -> None:
    assert has_rung(config(steps=100, eval_every=60), 2)
    assert not has_rung(config(steps=100, eval_every=80 + 20), 2)
    assert not has_rung(config(steps=100, eval_every=61), 1)


def test_the_cost_is_what_the_rungs_leave() -> None:
    assert [rung.keep for rung in RUNGS] == [3, 2, 1]
    assert race_cost(1) == 1
    assert race_cost(5) == pytest.approx(5 * 0.1 + 3 * 0.15 + 2 * 0.35 + 0.4)


def decided(keep: int, runs: list[tuple[float, RunProgress]]) -> tuple[list[float], list[float]] | None:
    rung = next(rung for rung in RUNGS if rung.keep == keep)
    decision = decide_rung(8, rung, runs)
    return decision and ([rate.lr for rate in decision.ahead], [rate.lr for rate in decision.behind])


def best(metric: float | None, step: int = 4, stopped: str | None = None) -> RunProgress:
    return RunProgress(best_metric=metric, best_step=step, stopped=stopped)


def test_rates_are_compared_by_the_mean_over_seeds() -> None:
    runs = [(0.1, best(0.9)), (0.1, best(0.1)), (0.2, best(0.6)), (0.2, best(0.6))]
    assert decided(1, runs) == ([0.2], [0.1])


def test_of_equal_rates_the_one_that_got_there_first_goes_on_then_the_smaller_one() -> None:
    assert decided(1, [(0.1, best(1.0, 8)), (0.2, best(1.0, 4)), (0.3, best(1.0, 4))]) == ([0.2], [0.3, 0.1])


def test_a_rate_with_a_diverged_seed_is_behind_all_others() -> None:
    runs = [(0.1, best(0.9)), (0.1, best(0.9, stopped="diverged")), (0.2, best(0.1)), (0.2, best(0.2))]
    assert decided(1, runs) == ([0.2], [0.1])
    runs += [(0.3, best(None)), (0.3, best(None, stopped="diverged"))]
    assert decided(2, runs) == ([0.2, 0.1], [0.3])


def test_rates_that_diverged_altogether_are_no_longer_in_the_race() -> None:
    gone = best(None, 0, "diverged")
    assert decided(1, [(0.1, gone), (0.2, gone)]) is None
    assert decided(2, [(0.1, best(0.5)), (0.2, best(0.4)), (0.3, gone)]) is None


def test_runs_that_stopped_by_themselves_keep_their_rate_in_the_race() -> None:
    ended = best(0.9, stopped="no improvement")
    assert decided(1, [(0.1, ended), (0.2, best(0.5))]) == ([0.1], [0.2])
    # a rate that is behind with one seed left stops with it, and one without any has nothing to stop
    assert decided(1, [(0.1, ended), (0.1, best(0.1)), (0.2, best(0.6)), (0.2, best(0.6))]) == ([0.2], [0.1])
    assert decided(1, [(0.1, ended), (0.2, best(1.0))]) is None


def test_rates_that_are_behind_already_do_not_count() -> None:
    assert decided(1, [(0.1, best(0.9, stopped=BEHIND)), (0.2, best(0.5)), (0.3, best(0.4))]) == ([0.2], [0.3])


def test_a_negative_metric_is_better_than_none() -> None:
    assert decided(1, [(0.1, best(-3.0)), (0.2, best(-2.0)), (0.3, best(None))]) == ([0.2], [0.1, 0.3])


def test_the_decision_is_one_plain_sentence() -> None:
    runs = [(lr, best(lr)) for lr in (0.1, 0.2, 0.3, 0.4)]
    for rung, text in zip(RUNGS, ("", ", 0.2 and 0.1 stop.", ", 0.3, 0.2 and 0.1 stop."), strict=True):
        decision = decide_rung(1200, rung, runs)
        assert decision is not None
        if rung.keep == 3:
            text = "learning rates 0.4, 0.3 and 0.2 go on, 0.1 stops."
            assert decision.describe() == f"Race at step 1,200 (1/10 of the steps): {text}"
        assert decision.describe().endswith(text)
    assert "(3/5 of the steps): learning rate 0.4 goes on, " in decide_rung(8, RUNGS[2], runs).describe()  # type: ignore[union-attr]


# --- the pack ----------------------------------------------------------------------------------------


def test_rates_stop_at_their_rung_and_say_why(
    configs: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted(monkeypatch)
    scored: list[list[str]] = []

    def score_final(pack: Pack, original: Callable[[Pack], None] = Pack._score_final) -> None:
        original(pack)
        scored.append([member.config.run_id for member in pack.rows])

    monkeypatch.setattr(Pack, "_score_final", score_final)
    summaries = raced(configs, tmp_path, callbacks=[LineDisplay()])
    assert [s.status for s in summaries] == [BEHIND] * 4 + ["completed"]
    assert tuple(s.steps_done for s in summaries) == STOPS
    assert sum(s.steps_done for s in summaries) / 20 == pytest.approx(2.1)  # 2.05, at the validations after the rungs
    assert scored == [[configs[4].run_id]]  # runs that are behind cost no final scores
    for each, summary in zip(configs[:4], summaries, strict=False):
        assert (summary.val_metric, summary.train_metric, summary.test_metric) == (each.lr, None, None)
        assert (summary.test_metrics, summary.test_examples) == ({"test": None}, 0)
        assert summary.race == tuple(c.run_id for c in configs)
        assert not RunFolder(tmp_path, each).program_path.exists()
    events = [e for e in RunFolder(tmp_path, configs[2]).events() if e["event"] == "behind"]
    expected = {"step": 6, "rung": "1/4", "keep": 2, "metric": 3e-4, "ahead": {"0.0005": 5e-4, "0.0004": 4e-4}}
    assert events == [{"event": "behind", **expected}]
    assert not [e for e in RunFolder(tmp_path, configs[4]).events() if e["event"] == "behind"]
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Race")]
    assert lines == [
        "Race at step 2 (1/10 of the steps): learning rates 0.0005, 0.0004 and 0.0003 go on, 0.0002 and 0.0001 stop.",
        "Race at step 6 (1/4 of the steps): learning rates 0.0005 and 0.0004 go on, 0.0003 stops.",
        "Race at step 12 (3/5 of the steps): learning rate 0.0005 goes on, 0.0004 stops.",
    ]
    with pytest.raises(ConfigError, match=r"has no program, because its learning rate 0\.0003 fell behind in a race"):
        open_run(tmp_path / configs[2].run_id)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_winner_equals_the_same_run_without_a_race(config: Configure, tmp_path: Path, dropout: float) -> None:
    changes = {"steps": 20, "eval_every": 2, "dropout": dropout}
    configs = expand_sweep(config(**changes), (1e-4, 3e-2, 1e30), (0, 1))
    summaries = raced(configs, tmp_path / "race")
    assert [s.status for s in summaries[4:]] == ["diverged"] * 2
    winners = [c for c, s in zip(configs, summaries, strict=True) if s.status == "completed"]
    assert len({c.lr for c in winners}) == 1
    assert {c.seed for c in winners} == {0, 1}
    run_sweep(configs, ExecutionContext(tmp_path / "whole", device="cpu"))
    for each in winners:
        run_sweep([each], ExecutionContext(tmp_path / "alone", device="cpu"))
        a, b, c = (load_program(tmp_path / out, each) for out in ("race", "whole", "alone"))
        assert a.metrics == pytest.approx(b.metrics)
        assert a.metrics == pytest.approx(c.metrics)
        for name in a.tensors:
            torch.testing.assert_close(a.tensors[name], b.tensors[name], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(a.tensors[name], c.tensors[name], rtol=1e-3, atol=1e-4)


def test_all_seeds_of_a_rate_stop_together(config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, lambda config, step: 0.9 if (config.lr, config.seed) == (1e-4, 0) else 0.5 + config.lr)
    configs = expand_sweep(config(steps=10, eval_every=2), (1e-4, 2e-4, 3e-4, 4e-4), (0, 1))
    stops = {(s.lr, s.seed): s.steps_done for s in raced(configs, tmp_path)}
    # the mean of 1e-4 is the best, although its other seed is the worst run of all
    expected = {1e-4: 10, 2e-4: 2, 3e-4: 4, 4e-4: 6}
    assert stops == {(lr, seed): step for lr, step in expected.items() for seed in (0, 1)}


def test_a_sweep_in_which_all_diverge_is_no_race(config: Configure, tmp_path: Path) -> None:
    configs = expand_sweep(config(steps=10, eval_every=1), (1e30, 1e31, 1e32, 1e33))
    summaries = raced(configs, tmp_path)
    assert [s.status for s in summaries] == ["diverged"] * 4
    assert summarize_runs(summaries).chosen_lr is None


def test_a_rate_that_has_stopped_by_itself_wins_and_ends_the_pack(
    config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, lambda config, step: 0.99 if config.lr == 1e-4 else 0.5)
    configs = expand_sweep(config(steps=20, eval_every=2, stop_at=0.95), (1e-4, 2e-4))
    summaries = raced(configs, tmp_path)
    assert [(s.status, s.steps_done) for s in summaries] == [("reached stop_at", 2), (BEHIND, 12)]
    assert summaries[0].test_metric is not None
    assert summarize_runs(summaries).chosen_lr == 1e-4


def test_a_metric_of_the_test_split_is_not_called_validation(
    config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = expand_sweep(config(steps=10, eval_every=2, protocol="paper"), (1e-4, 1e-2))
    (behind,) = [s for s in raced(configs, tmp_path) if s.status == BEHIND]
    assert (behind.val_metric, behind.test_metric) == (None, None)


# --- resuming ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unbroken")


#: 5 states at step 2, 3 at steps 4 and 6, 2 at steps 8 to 12, then 1 at each, and 5 after the final scoring
STATES = 5 + 2 * 3 + 3 * 2 + 4 + 5


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        *((RunFolder, "save_state", call) for call in range(STATES)),
        *((Pack, "train_step", call) for call in (3, 7, 13)),
        *((RunFolder, "drop_states", call) for call in (3, 9, 17)),
        *((loop, "write_json", call) for call in range(5)),  # summaries
        (Program, "save", 0),
    ],
)
def test_a_killed_race_continues_to_the_bit(
    configs: list[RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unbroken: Path,
    owner: Any,
    name: str,
    call: int,
) -> None:
    scripted(monkeypatch)
    if not (unbroken / "summary.json").exists():
        raced(configs, unbroken)
    with monkeypatch.context() as patch:
        interrupt(patch, owner, name, call)
        with pytest.raises(Killed):
            raced(configs, tmp_path)
    raced(configs, tmp_path)
    for each in configs:
        assert essence(unbroken, each) == essence(tmp_path, each)
    one, other = (load_program(out, configs[4]).tensors for out in (unbroken, tmp_path))
    assert all(torch.equal(one[tensor], other[tensor]) for tensor in one)
    assert not [p for p in tmp_path.rglob("*") if p.suffix == ".tmp" or p.parent.name == "checkpoint"]


def test_a_killed_race_has_as_many_states_as_the_test_above_counts(
    configs: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch)
    save, calls = RunFolder.save_state, []
    monkeypatch.setattr(RunFolder, "save_state", lambda *args: (calls.append(args), save(*args)))
    raced(configs, tmp_path)
    assert len(calls) == STATES


def test_a_score_that_is_not_finite_is_never_the_best() -> None:
    progress = RunProgress()
    assert not progress.improves(math.nan, 1.0, None)
    assert progress.improves(0.1, 1.0, None)


def test_of_equal_metrics_a_loss_that_is_not_finite_is_never_the_best() -> None:
    progress = RunProgress(best_metric=0.5, best_loss=1.0)
    assert not progress.improves(0.5, math.nan, LOSS)
    assert not progress.improves(0.5, math.inf, LOSS)
    assert not progress.improves(0.4, 0.5, LOSS)
    assert progress.improves(0.5, 0.9, LOSS)
    assert not progress.improves(0.5, 0.9, None)
    assert RunProgress(best_metric=0.5, best_loss=math.nan).improves(0.5, 1.0, LOSS)
