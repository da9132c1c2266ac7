"""Sweeps: lists become runs, runs become packs, packs become one summary; names and defaults are checked."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from icecore.core.config import RunConfig
from icecore.core.errors import ConfigError, StorageError
from icecore.core.protocols import PROTOCOLS
from icecore.experiments import sweep
from icecore.experiments.sweep import (
    expand_sweep,
    make_config,
    open_run,
    packs,
    read_run_config,
    run_sweep,
    summarize_runs,
)
from icecore.model.program import Program
from icecore.tasks import TASKS
from icecore.tasks.bits import BitXor
from icecore.training import loop as train
from icecore.training import micro_batches as passes
from icecore.training.checkpoint import RunFolder
from icecore.training.context import ExecutionContext
from icecore.training.evaluation import evaluate, predict
from icecore.training.run_summary import DIVERGED, RunSummary

Configure = Callable[..., RunConfig]


# --- configurations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_defaults_are_the_protocols_and_the_tasks(name: str, protocol: str) -> None:
    config = make_config(name, device="cpu", precision="fp32", protocol=protocol)
    entry = TASKS[name]
    defaults = entry.paper if protocol == "paper" else entry.defaults
    assert (config.steps, config.batch_size, config.lr) == (defaults.steps, defaults.batch_size, defaults.lr)
    assert config.eval_every == defaults.eval_every
    expected = {"paper": (0.1, "constant", 0.0), "fair": (0.0, "cosine", 0.05), "fast": (0.0, "cosine", 0.01)}
    assert (config.dropout, config.schedule, config.warmup) == expected[protocol]
    shortcuts = (config.lr_scale, config.averaging, config.position_start)
    assert shortcuts == (("relative", 0.1, 1.0) if protocol == "fast" else (None, None, None))
    assert config.faults == PROTOCOLS[protocol].faults
    assert dict(config.task_options) == dict(entry.options)


def test_settings_win_over_defaults_and_none_is_not_given() -> None:
    config = make_config("bit-xor", precision="fp32", lr=0.5, steps=7, dropout=0.3, layers=None, schedule=None)
    assert (config.lr, config.steps, config.dropout, config.layers, config.schedule) == (0.5, 7, 0.3, None, "cosine")
    assert config.eval_every == 7  # a short run is validated at its end


def test_the_papers_learning_rate_of_lstms() -> None:
    assert make_config("mnist", protocol="paper", backbone="lstm-star").lr == 3e-4
    assert make_config("mnist", protocol="paper").lr == 1e-3
    assert make_config("mnist", protocol="paper", backbone="lstm", lr=0.1).lr == 0.1


def test_options_have_one_form() -> None:
    same = [make_config("bit-xor", precision="fp32", task_options=options) for options in ({"n": "5"}, {"n": 5}, {})]
    assert len({config.run_id for config in same}) == 1


def test_the_id_does_not_know_where_it_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = make_config("bit-xor", device="cpu", precision="fp32")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.chdir(tmp_path)
    assert make_config("bit-xor", device="cuda", precision="fp32").run_id == here.run_id


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bit-xr", {}, "Unknown task 'bit-xr'. Did you mean 'bit-xor'"),
        ("bit-xor", {"protocol": "papr"}, "Unknown protocol 'papr'. Did you mean 'paper'?"),
        ("bit-xor", {"batchsize": 3}, "Unknown setting 'batchsize'. Did you mean 'batch_size'"),
        ("bit-xor", {"task_options": {"m": 3}}, "Unknown option of bit-xor 'm'"),
        ("bit-xor", {"task_options": {"n": "x"}}, "option n of bit-xor: expected int, found 'x'"),
        ("bit-xor", {"train_roles": ("positon",)}, "Unknown role 'positon'. Did you mean 'position'?"),
        ("bit-xor", {"precision": "fp8"}, "Unknown precision 'fp8'"),
        ("bit-xor", {"device": "gpu"}, "Unknown device 'gpu'"),
    ],
)
def test_unknown_names_come_with_the_nearest(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(name, **settings)


# --- packs -------------------------------------------------------------------------------------------


def test_expand_is_the_product_without_repeats(config: Configure) -> None:
    base = config()
    found = expand_sweep(base, [1e-3, 3e-3, 1e-3], [0, 1, 0])
    assert [(c.lr, c.seed) for c in found] == [(1e-3, 0), (1e-3, 1), (3e-3, 0), (3e-3, 1)]
    assert all(replace(c, lr=base.lr, seed=base.seed) == base for c in found)
    assert expand_sweep(base) == [base]


def test_packs_hold_runs_that_differ_in_learning_rate_and_seed(config: Configure) -> None:
    small, large = expand_sweep(config(), [1e-3, 1e-2], [0, 1]), expand_sweep(config(batch_size=9), [1e-3])
    assert packs([small[0], large[0], *small[1:]]) == [small, large]
    whole = expand_sweep(config(train_roles=("attention",)), [1e-3, 1e-2])
    assert packs(whole) == [[c] for c in whole]


def test_runs_that_were_begun_together_stay_together(config: Configure) -> None:
    a, b, c, d = expand_sweep(config(), seeds=range(4))
    begun = [a.run_id, b.run_id]
    # b was killed before it could record its pack, c and d are new
    assert packs([a, b, c, d], [begun, [], [], []]) == [[a, b], [c, d]]


def test_a_new_seed_does_not_cost_an_interrupted_run_its_steps(
    config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = config(), config(seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(train.Pack, "finish", lambda pack: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_sweep([old], ExecutionContext(tmp_path))
    run_sweep([old, new], ExecutionContext(tmp_path))
    starts = [e["step"] for e in RunFolder(tmp_path, old).events() if e["event"] == "start"]
    assert starts == [0, 12]


def test_more_runs_than_memory_holds_are_cut_and_an_interrupted_sweep_is_cut_the_same(
    config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "max_runs", lambda model, task, rows: 2)
    monkeypatch.setattr(passes, "total_memory", lambda device: 2**16)  # so little that batches are cut too
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    configs = expand_sweep(config(), seeds=range(5))
    run_sweep(configs, ExecutionContext(tmp_path / "unbroken"))
    save, calls = RunFolder.save_state, []

    def killed(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 12:  # in the second pack, between the states of its two runs
            raise KeyboardInterrupt
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_state", killed)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(configs, ExecutionContext(tmp_path / "broken"))
    assert [RunFolder(tmp_path / "broken", c).summary() is None for c in configs] == [False, False, True, True, True]
    run_sweep(configs, ExecutionContext(tmp_path / "broken"))
    ids = [c.run_id for c in configs]
    expected = [ids[:2], ids[:2], ids[2:4], ids[2:4], ids[4:]]
    for place in ("unbroken", "broken"):
        assert [RunFolder(tmp_path / place, c).pack() for c in configs] == expected
    for each in configs:
        one, other = (Program.load(RunFolder(tmp_path / place, each).program_path) for place in ("unbroken", "broken"))
        assert all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


@pytest.mark.parametrize(("micro_batch", "rows"), [(None, 1), (3, 3), (100, 4)])
def test_a_pack_is_as_large_as_memory_holds_with_the_rows_asked_for(
    config: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_batch: int | None, rows: int
) -> None:
    asked = []
    monkeypatch.setattr(sweep, "max_runs", lambda model, task, rows: asked.append((model.runs, rows)) or 3)
    configs = expand_sweep(config(batch_size=4), seeds=range(5))
    context = ExecutionContext(tmp_path, device="cpu", micro_batch=micro_batch)
    assert [sweep.pack_size(configs[:n], BitXor(2), context) for n in (5, 2, 1)] == [3, 2, 1]
    assert asked == [(2, rows)] * 2  # a single run needs no trial


# --- summaries ---------------------------------------------------------------------------------------


def run(lr: float, seed: int, val: float | None, test: float | None = None, best_step: int = 0) -> RunSummary:
    return RunSummary(lr=lr, seed=seed, val_metric=val, test_metric=test, seconds_share=1.5, best_step=best_step)


def test_validation_chooses_and_test_is_reported_over_seeds() -> None:
    # lr 0.1 has the best single run and the best test metric, but not the best mean on validation
    runs = [run(0.1, 0, 0.9, 1.0), run(0.1, 1, 0.3, 1.0), run(0.2, 0, 0.7, 0.5), run(0.2, 1, 0.8, 0.6)]
    group = summarize_runs(runs)
    assert group.runs == tuple(runs)
    assert group.chosen_lr == 0.2
    assert group.val_mean == pytest.approx(0.75)
    assert group.test_mean == pytest.approx(0.55)
    assert group.test_sem == pytest.approx(math.sqrt(0.005 / 2))  # sample variance over n
    assert (group.n_seeds, group.seconds) == (2, 6.0)


def test_of_equal_learning_rates_the_one_that_got_there_first_is_chosen() -> None:
    steps = {1e-3: (90, 70), 3e-3: (50, 60), 1e-2: (60, 50)}
    runs = [run(lr, seed, 1.0, 1.0, at) for lr, both in steps.items() for seed, at in enumerate(both)]
    assert summarize_runs(runs).chosen_lr == 3e-3
    assert summarize_runs([*runs, *(run(0.1, seed, 0.9, 0.9, 1) for seed in (0, 1))]).chosen_lr == 3e-3


def test_a_learning_rate_with_a_diverged_seed_is_not_chosen() -> None:
    group = summarize_runs([run(0.1, 0, 0.9, 0.9), run(0.1, 1, None), run(0.2, 0, 0.5, 0.4), run(0.2, 1, 0.5, 0.4)])
    assert (group.chosen_lr, group.n_seeds) == (0.2, 2)


def test_a_learning_rate_with_a_seed_that_diverged_after_it_had_learned_is_not_chosen() -> None:
    late = replace(run(0.1, 1, 0.8, 0.8), status=DIVERGED)
    group = summarize_runs([run(0.1, 0, 0.9, 0.9), late, run(0.2, 0, 0.5, 0.4), run(0.2, 1, 0.5, 0.4)])
    assert (group.chosen_lr, group.n_seeds) == (0.2, 2)
    assert summarize_runs([late]).chosen_lr == 0.1


def test_where_every_learning_rate_lost_a_seed_the_rest_counts() -> None:
    group = summarize_runs([run(0.1, 0, 0.9, 0.8), run(0.1, 1, None)])
    assert (group.chosen_lr, group.test_mean, group.test_sem, group.n_seeds) == (0.1, 0.8, None, 1)


def test_nothing_but_diverged_runs() -> None:
    group = summarize_runs([run(0.1, 0, None)])
    assert (group.chosen_lr, group.val_mean, group.test_mean, group.test_sem) == (None,) * 4
    assert group.n_seeds == 0


# --- running -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, bodies: dict[str, str]) -> tuple[Path, list[RunConfig]]:
    """A sweep of two learning rates and two seeds, trained once."""
    out = tmp_path_factory.mktemp("out")
    settings = {"steps": 6, "batch_size": 4, "task_options": {"n": 2}}
    base = make_config("bit-xor", precision="fp32", backbone=bodies["gpt2"], **settings)
    configs = expand_sweep(base, [1e-2, 1e-3], [0, 1])
    run_sweep(configs, ExecutionContext(out))
    return out, configs


def test_the_group_summary_has_the_keys_of_the_contract(finished: tuple[Path, list[RunConfig]]) -> None:
    """The contract of the design; more keys are allowed."""
    out, configs = finished
    group = json.loads((out / "summary.json").read_text())
    assert {"runs", "chosen_lr", "val_mean", "test_mean", "test_sem", "n_seeds", "seconds"} <= group.keys()
    assert [s["run_id"] for s in group["runs"]] == [c.run_id for c in configs]
    assert (group["n_seeds"], group["chosen_lr"] in (1e-2, 1e-3)) == (2, True)
    wall = max(s["seconds"] for s in group["runs"])
    assert group["seconds"] == pytest.approx(wall, abs=0.01)  # one pack: its time counts once


def test_each_run_owns_its_folder(finished: tuple[Path, list[RunConfig]]) -> None:
    out, configs = finished
    for config in configs:
        names = {p.name for p in (out / config.run_id).iterdir()}
        assert names >= {"config.json", "events.jsonl", "program.safetensors", "summary.json"}
        assert read_run_config(out / config.run_id) == config


def test_an_opened_run_scores_as_its_summary_says(finished: tuple[Path, list[RunConfig]]) -> None:
    out, configs = finished
    model, task = open_run(out / configs[2].run_id, device="cpu")
    summary = json.loads((out / configs[2].run_id / "summary.json").read_text())
    assert float(evaluate(model, task, "test")[0]) == pytest.approx(summary["test_metric"])


def test_an_opened_run_of_the_paper_protocol_is_scored_with_its_faults(bodies: dict[str, str], tmp_path: Path) -> None:
    trees = {"train": 8, "val": 8, "test": 60, "shortest": 3, "longest": 40}
    small = {"steps": 2, "batch_size": 2, "eval_every": 2, "eval_examples": 4, "task_options": trees}
    config = make_config("listops", protocol="paper", backbone=bodies["bert"], precision="fp32", **small)
    (summary,) = run_sweep([config], ExecutionContext(tmp_path, device="cpu")).runs
    model, task = open_run(tmp_path / config.run_id, device="cpu")
    assert task.unmasked
    assert float(evaluate(model, task, "test")[0]) == pytest.approx(summary.test_metric)
    seen = predict(model, task, "test")
    task.unmasked = False
    assert not torch.allclose(predict(model, task, "test")[0], seen[0])


def test_the_same_run_twice_in_one_request_is_one_run(finished: tuple[Path, list[RunConfig]], tmp_path: Path) -> None:
    _, configs = finished
    group = run_sweep([configs[0], configs[0]], ExecutionContext(tmp_path))
    assert len(group.runs) == 1


def test_starting_over_runs_again(finished: tuple[Path, list[RunConfig]], tmp_path: Path) -> None:
    _, configs = finished
    first = run_sweep(configs[:1], ExecutionContext(tmp_path)).runs[0]
    path = RunFolder(tmp_path, configs[0]).summary_path
    path.write_text(json.dumps(replace(first, test_metric=7.0).to_json()))
    assert run_sweep(configs[:1], ExecutionContext(tmp_path)).runs[0].test_metric == 7.0
    assert run_sweep(configs[:1], ExecutionContext(tmp_path, resume=False)).runs[0].test_metric == first.test_metric


def test_a_sweep_with_a_diverged_seed_is_summed_up(finished: tuple[Path, list[RunConfig]], tmp_path: Path) -> None:
    _, configs = finished
    group = run_sweep(expand_sweep(configs[0], [1e-2, 1e30], [0]), ExecutionContext(tmp_path))
    assert [s.status for s in group.runs] == ["completed", "diverged"]
    assert group.chosen_lr == 1e-2
    diverged = tmp_path / group.runs[1].run_id
    with pytest.raises(ConfigError, match=r"has no program: it is not finished .*, or it diverged"):
        open_run(diverged)


def test_folders_that_are_no_runs(finished: tuple[Path, list[RunConfig]], tmp_path: Path) -> None:
    out, configs = finished
    message = r"is not a run folder, because it has no config.json\. It contains the runs .*" + configs[0].run_id
    with pytest.raises(ConfigError, match=message):
        read_run_config(out)
    with pytest.raises(ConfigError, match=r"is not a run folder, because it has no config.json\.$"):
        read_run_config(tmp_path / "absent")


def test_an_output_folder_that_cannot_be_made(config: Configure, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        run_sweep([config()], ExecutionContext(tmp_path / "file"))


def test_listops_trains_and_is_scored_on_the_whole_test_set(bodies: dict[str, str], tmp_path: Path) -> None:
    options = {"train": 20, "val": 6, "test": 7, "length": 24}
    base = make_config(
        "listops",
        precision="fp32",
        backbone=bodies["bert"],
        weights="random",
        steps=3,
        batch_size=2,
        task_options=options,
    )
    group = run_sweep(expand_sweep(base, seeds=[0, 1]), ExecutionContext(tmp_path))
    for each in group.runs:
        assert each.test_metric is not None
        assert each.test_metric * 7 == pytest.approx(round(each.test_metric * 7))
    assert sweep.load_task(base, None).split_size("test") == 7
