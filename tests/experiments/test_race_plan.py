"""Races in sweeps: which packs race, which runs are trained again, and that a sweep always has a rate to choose."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icecore.core.config import ROLES, RunConfig
from icecore.experiments import sweep
from icecore.experiments.executor import LocalExecutor
from icecore.experiments.race_plan import can_race, done_for, repeats_race, why_not_raced
from icecore.experiments.results import CellKey
from icecore.experiments.study import CellPlan, run_study, unfinished_cells
from icecore.experiments.sweep import Sweep, expand_sweep, run_sweep, summarize_runs
from icecore.tasks.bits import BitXor
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.loop import Pack
from icecore.training.run_summary import BEHIND, RunSummary, SweepSummary
from interruption import Killed, interrupt

Configure = Callable[..., RunConfig]


class Listener:
    """A callback that records notes and the runs of each pack."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.packs: list[list[tuple[float, int]]] = []
        self.steps: list[int] = []

    def waiting(self, run_id: str) -> None: ...

    def begin(self, configs: Any, step: int, info: Any) -> None:
        self.packs.append([(config.lr, config.seed) for config in configs])
        self.steps.append(step)

    def progress(self, step: int, losses: Any) -> None: ...

    def validated(self, step: int, metrics: Any) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def finished(self, summaries: Any) -> None: ...


@pytest.fixture(autouse=True)
def larger_rates_are_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations report the learning rate, so that it is known which rates stop when."""
    score = Pack._score

    def scores(pack: Pack, split: str, limit: int | None = None) -> tuple[list[float], list[float]]:
        rates = [member.config.lr for member in pack.rows]
        return (rates, [1.0] * len(rates)) if split == "val" else score(pack, split, limit)

    monkeypatch.setattr(Pack, "_score", scores)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def base(config: Configure) -> RunConfig:
    """A run of ten steps, whose race is decided at steps 2, 4 and 6."""
    return config(steps=10, eval_every=2, batch_size=2, eval_examples=4)


def train(configs: list[RunConfig], out: Path, race: bool = True) -> tuple[SweepSummary, Listener]:
    listener = Listener()
    return run_sweep(configs, ExecutionContext(out, device="cpu", race=race, callbacks=[listener])), listener


def steps(group: SweepSummary) -> dict[tuple[float, int], int]:
    return {(run.lr, run.seed): run.steps_done for run in group.runs}


# --- plans -------------------------------------------------------------------------------------------


def test_a_pack_races_if_each_rate_has_all_requested_seeds(base: RunConfig) -> None:
    whole = expand_sweep(base, (1e-3, 2e-3), (0, 1))
    assert can_race(whole, whole)
    assert not can_race(whole[:3], whole)  # a seed of the second rate is elsewhere
    assert not can_race(whole[:2], whole)  # no rival
    assert not can_race([whole[0], whole[2]], whole)  # the other seed may choose otherwise
    assert can_race([whole[0], whole[2]], [whole[0], whole[2], replace(base, steps=99, seed=5)])


def test_a_race_is_repeated_by_the_same_runs_and_more_rates_but_not_by_other_seeds(base: RunConfig) -> None:
    whole = expand_sweep(base, (1e-3, 2e-3), (0, 1))
    race = [config.run_id for config in whole]
    assert repeats_race(race, whole)
    assert repeats_race(race, expand_sweep(base, (1e-3, 2e-3, 3e-3), (0, 1)))
    assert not repeats_race(race, whole[:3])
    assert not repeats_race(race, expand_sweep(base, (1e-3, 2e-3), (0, 1, 2)))
    assert not repeats_race([], whole)
    summaries = {config.run_id: RunSummary(status=BEHIND, race=tuple(race)) for config in whole[:2]}
    summaries |= {config.run_id: RunSummary(status="completed") for config in whole[2:]}
    assert list(done_for(summaries, whole, race=True)) == race
    assert list(done_for(summaries, whole, race=False)) == race[2:]
    assert list(done_for(summaries, whole[:1], race=True)) == []
    assert list(done_for({}, whole, race=True)) == []


def test_why_a_pack_does_not_race_is_said_plainly(base: RunConfig) -> None:
    rates = expand_sweep(base, (1e-3, 2e-3))
    assert why_not_raced(rates, rates) is None
    assert why_not_raced(rates[:1], rates[:1]) is None  # nobody expects a race of one rate
    single = [replace(config, train_roles=ROLES) for config in rates]
    assert "train weights of the body itself cannot share a pack" in str(why_not_raced(single[:1], single))
    assert str(why_not_raced(rates[:1], rates)).startswith("A pack of 1 run does not race, because a race needs at")
    rare = [replace(config, eval_every=7) for config in rates]
    assert why_not_raced(rare, rare) is None
    rare = [replace(config, eval_every=10) for config in rates]
    message = "The race stops no learning rate, because no validation falls between a decision and the last step. Lower"
    assert why_not_raced(rare, rare) == f"{message} --eval-every (now 10; the runs have 10 steps)."


# --- requests ----------------------------------------------------------------------------------------


def test_the_same_race_again_is_free(base: RunConfig, tmp_path: Path) -> None:
    configs = expand_sweep(base, (1e-3, 2e-3, 3e-3), (0, 1))
    group, _ = train(configs, tmp_path)
    assert steps(group) == {(lr, s): n for lr, n in ((1e-3, 4), (2e-3, 6), (3e-3, 10)) for s in (0, 1)}
    assert (group.chosen_lr, group.n_seeds) == (3e-3, 2)
    assert group.test_mean is not None
    again, listener = train(configs, tmp_path)
    assert again == group
    assert listener.packs == []
    assert group.seconds == pytest.approx(sum(run.seconds_share for run in group.runs), abs=0.01)


def test_a_run_that_fell_behind_is_trained_to_its_end_for_any_other_request(base: RunConfig, tmp_path: Path) -> None:
    configs = expand_sweep(base, (1e-3, 2e-3, 3e-3))
    train(configs, tmp_path)
    (alone,) = train(configs[:1], tmp_path)[0].runs
    assert (alone.status, alone.steps_done, alone.race) == ("completed", 10, ())
    assert alone.test_metric is not None
    group, listener = train(configs, tmp_path, race=False)
    assert set(steps(group).values()) == {10}
    assert (listener.packs, listener.steps) == ([[(2e-3, 0)]], [0])
    # a whole sweep is also the answer to a race
    again, listener = train(configs, tmp_path)
    assert again == group
    assert listener.packs == []


def test_more_rates_are_trained_without_those_that_fell_behind(base: RunConfig, tmp_path: Path) -> None:
    train(expand_sweep(base, (1e-3, 3e-3)), tmp_path)
    group, listener = train(expand_sweep(base, (1e-3, 3e-3, 2e-3)), tmp_path)
    assert steps(group) == {(1e-3, 0): 6, (3e-3, 0): 10, (2e-3, 0): 10}
    assert listener.packs == [[(2e-3, 0)]]
    (note,) = listener.notes
    assert note.startswith("A pack of 1 run does not race")


def test_more_seeds_leave_no_rate_half_trained(base: RunConfig, tmp_path: Path) -> None:
    train(expand_sweep(base, (1e-3, 3e-3)), tmp_path)
    group, listener = train(expand_sweep(base, (1e-3, 3e-3), (0, 1)), tmp_path)
    assert set(steps(group).values()) == {10}
    assert group.n_seeds == 2
    assert len(listener.notes) == 1


def test_an_interrupted_race_that_goes_on_without_one(
    base: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = expand_sweep(base, (1e-3, 2e-3, 3e-3))
    with monkeypatch.context() as patch:
        interrupt(patch, Pack, "train_step", 5)
        with pytest.raises(Killed):
            train(configs, tmp_path)
    assert RunFolder(tmp_path, configs[0]).race() == [config.run_id for config in configs]
    group, listener = train(configs, tmp_path, race=False)
    assert set(steps(group).values()) == {10}
    assert {run.status for run in group.runs} == {"completed"}
    # only the run that fell behind starts over
    assert sorted(zip(listener.steps, listener.packs, strict=True)) == [(0, [(1e-3, 0)]), (4, [(2e-3, 0), (3e-3, 0)])]


def test_an_interrupted_sweep_that_goes_on_as_a_race(
    base: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = expand_sweep(base, (1e-3, 2e-3, 3e-3, 4e-3))
    with monkeypatch.context() as patch:
        interrupt(patch, Pack, "train_step", 3)
        with pytest.raises(Killed):
            train(configs, tmp_path, race=False)
    group, listener = train(configs, tmp_path)
    assert listener.steps == [2]
    assert list(steps(group).values()) == [4, 4, 6, 10]


@pytest.mark.parametrize(("room", "expected"), [(4, [2, 2, 1]), (5, [2, 2, 1]), (6, [3, 2])])
def test_packs_of_a_race_hold_whole_rates(
    base: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, expected: list[int]
) -> None:
    monkeypatch.setattr(sweep, "max_runs", lambda model, task, rows: room)
    configs = expand_sweep(base, (1e-3, 2e-3, 3e-3, 4e-3, 5e-3), (0, 1))
    group, listener = train(configs, tmp_path)
    assert [len({lr for lr, _ in pack}) for pack in listener.packs] == expected
    assert all(len(pack) == 2 * n for pack, n in zip(listener.packs, expected, strict=True))
    # each pack leaves its best rate, with both seeds
    best = {max(lr for lr, _ in pack) for pack in listener.packs}
    assert {run.lr for run in group.runs if run.status == "completed"} == best
    assert group.n_seeds == 2


def test_seeds_that_do_not_fit_into_one_pack_do_not_race(
    base: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "max_runs", lambda model, task, rows: 2)
    group, listener = train(expand_sweep(base, (1e-3, 2e-3), (0, 1, 2)), tmp_path)
    assert set(steps(group).values()) == {10}
    (note,) = listener.notes
    assert note.startswith("A pack of 2 runs does not race, because")


def test_a_group_that_fits_is_not_divided_for_a_race(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "max_runs", lambda model, task, rows: 9)
    configs = expand_sweep(base, (1e-3, 2e-3), (0, 1))
    context = ExecutionContext(device="cpu", race=True)
    assert [sweep.pack_size(configs[:n], BitXor(2), context) for n in (3, 4)] == [3, 4]


def test_runs_that_train_the_body_do_not_race(base: RunConfig, tmp_path: Path) -> None:
    configs = expand_sweep(replace(base, train_roles=ROLES, steps=3, eval_every=1), (1e-4, 2e-4))
    group, listener = train(configs, tmp_path)
    assert set(steps(group).values()) == {3}
    (note,) = listener.notes  # once, not for each run
    assert note.startswith("The learning rates do not race, because runs that train weights of the body itself")


def test_a_race_without_a_validation_before_the_end_says_so_once(base: RunConfig, tmp_path: Path) -> None:
    group, listener = train(expand_sweep(replace(base, eval_every=10), (1e-3, 2e-3)), tmp_path)
    assert set(steps(group).values()) == {10}
    (note,) = listener.notes
    assert note.startswith("The race stops no learning rate")


# --- summaries, stages and studies -------------------------------------------------------------------


def test_a_rate_that_fell_behind_is_never_chosen() -> None:
    def run(lr: float, val: float, status: str = "completed", seed: int = 0) -> RunSummary:
        return RunSummary(lr=lr, seed=seed, val_metric=val, test_metric=val, status=status, seconds_share=1.0)

    group = summarize_runs([run(0.1, 0.9, BEHIND), run(0.2, 0.5)])
    assert (group.chosen_lr, group.test_mean, group.seconds) == (0.2, 0.5, 2.0)
    # also if another seed of it reached its end
    group = summarize_runs([run(0.1, 0.9, "reached stop_at"), run(0.1, 0.9, BEHIND, seed=1), run(0.2, 0.5)])
    assert (group.chosen_lr, group.n_seeds) == (0.2, 1)
    assert summarize_runs([run(0.1, 0.9, BEHIND)]).chosen_lr is None


def test_a_staged_sweep_races_on_its_first_seed(base: RunConfig, tmp_path: Path) -> None:
    staged = Sweep(base, (1e-3, 2e-3, 3e-3), (0, 1, 2), staged=True)
    done: dict[str, RunSummary] = {}
    context = ExecutionContext(tmp_path, device="cpu", race=True)
    rounds = []
    while configs := staged.missing(done, race=True):
        rounds.append([(config.lr, config.seed) for config in configs])
        done |= {summary.run_id: summary for summary in sweep.train_runs(configs, context)}
    assert rounds == [[(1e-3, 0), (2e-3, 0), (3e-3, 0)], [(3e-3, 1), (3e-3, 2)]]
    assert len(staged.runs(done, race=True)) == 5
    assert [config.lr for config in staged.missing(done)] == [1e-3, 2e-3]  # a whole sweep needs them
    assert (staged.cost(race=False), staged.cost(race=True)) == (5, pytest.approx(0.75 + 0.7 + 0.4 + 2))
    whole = Sweep(base, (1e-3, 2e-3, 3e-3), (0, 1))
    assert (whole.cost(race=False), whole.cost(race=True)) == (6, pytest.approx(2 * 1.85))
    assert Sweep(replace(base, train_roles=ROLES), (1e-3, 2e-3), (0,)).cost(race=True) == 2


def test_a_study_that_raced_is_completed_without_a_race(base: RunConfig, tmp_path: Path) -> None:
    cells = [CellPlan(CellKey("s", "r", "c"), Sweep(base, (1e-3, 2e-3, 3e-3), (0, 1), staged=True), "command")]

    def study(race: bool) -> tuple[dict[tuple[float, int], int], int]:
        listener = Listener()
        context = ExecutionContext(tmp_path / "runs", device="cpu", race=race, callbacks=[listener])
        records = run_study(cells, tmp_path / "s.jsonl", context, print, LocalExecutor(context))
        return {(r.summary.lr, r.summary.seed): r.summary.steps_done for r in records}, len(listener.packs)

    raced = {(1e-3, 0): 4, (2e-3, 0): 6, (3e-3, 0): 10, (3e-3, 1): 10}
    assert study(race=True) == (raced, 2)
    assert study(race=True) == (raced, 0)
    assert unfinished_cells(cells, tmp_path, "cpu", race=True) == []
    ((_, seconds),) = unfinished_cells(cells, tmp_path, "cpu")
    assert seconds > 0
    whole = dict.fromkeys([(1e-3, 0), (2e-3, 0), (3e-3, 0), (3e-3, 1)], 10)
    assert study(race=False) == (whole, 1)
    assert study(race=False) == (whole, 0)
    assert study(race=True) == (whole, 0)


def test_cells_that_share_a_run_keep_their_own_races(base: RunConfig, tmp_path: Path) -> None:
    rates = {"one": (1e-3, 2e-3), "two": (1e-3, 3e-3)}
    cells = [CellPlan(CellKey("s", name, "c"), Sweep(base, lrs, (0,)), "command") for name, lrs in rates.items()]

    def packs() -> list[list[tuple[float, int]]]:
        listener = Listener()
        context = ExecutionContext(tmp_path / "runs", device="cpu", race=True, callbacks=[listener])
        run_study(cells, tmp_path / "s.jsonl", context, print, LocalExecutor(context))
        return listener.packs

    assert packs() == [[(1e-3, 0), (2e-3, 0)], [(1e-3, 0), (3e-3, 0)]]
    assert packs() == []
