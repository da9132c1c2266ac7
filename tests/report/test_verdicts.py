"""Verdicts on claims: each decision from hand-made records, what is left out, and which results are chosen."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import huggingface_hub
import pytest

from icecore.experiments.results import CellKey, RunRecord
from icecore.paper.claims import CLAIMS, Claim
from icecore.paper.paper_tables import STUDIES
from icecore.report.claim_costs import cells_seconds
from icecore.report.effects import Decision
from icecore.report.example_counts import examples_to_level
from icecore.report.record_index import row_identity
from icecore.report.task_verdicts import TaskVerdict
from icecore.report.verdicts import Verdict, evaluate_claims
from icecore.training.run_summary import BEHIND, DIVERGED, RunSummary

BY_NAME: Mapping[str, Claim] = {claim.name: claim for claim in CLAIMS}
HOUR = 3600.0


def hours(places: Sequence[Any], budget: str, body: str) -> float | None:
    """The cost of cells if each takes an hour."""
    return HOUR * len(places) if places else None


def run(
    place: str, seed: int, test: float | None, budget: str = "cpu", body: str = "minilm", **changes: Any
) -> RunRecord:
    """The record of an invented run. `place` is "study row column", `test` its accuracy in %."""
    study, row, column = place.split(maxsplit=2)
    settings = STUDIES[study].rows[row].settings
    curve, extra = changes.pop("curve", ()), changes.pop("extra", {})
    body_seed, date = changes.pop("body_seed", seed), changes.pop("date", "2026-11-27")
    other_settings = changes.pop("config", {})
    score = None if test is None else test / 100
    summary = {
        "task": column.split()[0],
        "backbone": settings["backbone"].format(body=body, medium="smollm2-135m"),
        "weights": settings["weights"],
        "protocol": "fast",
        "lr": 1e-3,
        "seed": seed,
        "steps": 200,
        "batch_size": 8,
        "status": DIVERGED if test is None else "completed",
        "precision": "fp32",
        "train_metric": score,
        "val_metric": score,
        "test_metric": score,
        "test_examples": 2000,
        "versions": {"icecore": "0.2.0"},
        "data": {"format": "idx", "sha256": "29abe478d272"},
        **changes,
    }
    key = CellKey(study, row, column, budget, body)
    config = {"lr": summary["lr"], "seed": seed, "body_seed": body_seed, "eval_examples": 1000}
    config |= {name: summary[name] for name in ("protocol", "steps", "precision", "backbone", "weights")}
    config |= other_settings
    summary["run_id"] = hashlib.sha256(f"{key} {json.dumps([summary, config])}".encode()).hexdigest()[:12]
    return RunRecord(key, "", date, RunSummary(**summary), config, tuple(curve), (), extra)


def row(place: str, tests: Sequence[float | None], **changes: Any) -> list[RunRecord]:
    """Runs of one cell with seeds 0, 1, 2 and so on."""
    return [run(place, seed, test, **changes) for seed, test in enumerate(tests)]


def judge(name: str, *rows: Sequence[RunRecord]) -> Verdict:
    """The first verdict on a claim, where a missing cell costs an hour."""
    verdict, *_ = evaluate_claims([record for each in rows for record in each], [BY_NAME[name]], hours)
    return verdict


def task_of(verdict: Verdict, name: str) -> TaskVerdict:
    return next(task for task in verdict.tasks if task.name == name)


def language(pretrained: Sequence[float | None], other: Sequence[float | None], column: str = "mnist") -> Verdict:
    """Whether language beats a random body on one task."""
    return judge(
        "language-beats-random",
        row(f"table2 pretrained {column}", pretrained),
        row(f"table2 random {column}", other),
    )


def test_a_claim_that_holds() -> None:
    verdict = language([96.0, 96.4, 95.8], [91.0, 91.9, 91.3])
    task = task_of(verdict, "mnist")
    assert (task.decision, task.text, task.counts) == (Decision.HOLDS, "holds", True)
    assert task.effect is not None
    assert task.first == pytest.approx(96.0667, abs=1e-3)
    assert task.effect.value == pytest.approx(4.6667, abs=1e-3)
    assert 0 < task.effect.low < task.effect.value < task.effect.high
    assert task.published == pytest.approx(6.3)
    assert (verdict.decision, verdict.text) == (Decision.HOLDS, "holds (decided on mnist alone)")
    assert verdict.effect == task.effect
    assert (verdict.budget, verdict.body, verdict.is_main) == ("cpu", "minilm", True)
    assert verdict.details.startswith("holds on mnist; not run on bit-memory, bit-xor")
    assert verdict.seconds == 12 * HOUR


@pytest.mark.parametrize(
    ("pretrained", "other", "decision", "text"),
    [
        ([91.0, 91.1, 91.0], [91.0, 91.1, 91.2], Decision.UNSEEN, "too small to see: less than 1.7 points"),
        ([81.0, 81.1, 81.0], [91.0, 91.1, 91.2], Decision.FAILS, "does not hold: the opposite does"),
        ([90.0, 93.0, 96.0], [88.0, 91.0, 94.0], Decision.UNSEEN, "too small to see: less than 8."),
        (
            [11.0, 10.0, 9.5],
            [10.0, 10.5, 10.2],
            Decision.NOTHING_LEARNED,
            "nothing was learned: an answer without training (guessing) has 10.0 %",
        ),
        ([99.8, 99.9, 99.8], [99.6, 99.9, 99.5], Decision.CEILING, "too easy to tell: both are near 100 %"),
        ([100.0, 100.0, 100.0], [100.0] * 3, Decision.CEILING, "too easy to tell: both are near 100 %"),
        ([96.0], [91.0, 91.0, 91.0], Decision.TOO_FEW, "not enough seeds (1; at least 2 are needed)"),
        ([None, None], [91.0, 91.0], Decision.FAILS, "does not hold: it diverges at every rate"),
        ([91.0, 91.0], [None, None], Decision.LEFT_OUT, "not comparable: the row to compare with diverges"),
        ([96.0, 96.0, 96.0], [], Decision.NOT_RUN, "not run: would cost about 60 min"),
    ],
)
def test_each_decision_on_a_task(
    pretrained: Sequence[float | None], other: Sequence[float | None], decision: Decision, text: str
) -> None:
    task = task_of(language(pretrained, other), "mnist")
    assert task.decision is decision
    assert task.text.startswith(text)
    assert task.counts is decision.counts


def test_many_test_examples_and_equal_rows_show_that_there_is_no_difference() -> None:
    rows = [row(f"table2 {name} mnist", [91.0, 91.1, 91.0], test_examples=50_000) for name in ("pretrained", "random")]
    assert task_of(judge("language-beats-random", *rows), "mnist").text == "does not hold"


def test_two_rows_at_the_ceiling_are_as_good_as_each_other() -> None:
    rows = [row(f"table2 {name} bit-xor", [100.0, 100.0, 100.0]) for name in ("pretrained", "bit-memory")]
    verdict = judge("bit-memory-nearly-as-good", *rows)
    assert (verdict.decision, verdict.text) == (Decision.HOLDS, "holds (decided on bit-xor alone)")


def test_as_good_needs_an_interval_within_the_margin() -> None:
    def frozen(tests: Sequence[float]) -> TaskVerdict:
        rows = row("table1 frozen cifar10", tests), row("table1 full cifar10", [70.0, 70.2, 70.1])
        return task_of(judge("frozen-as-good-as-trained", *rows), "cifar10")

    assert frozen([71.0, 71.2, 71.3]).text == "holds"
    assert frozen([60.0, 60.2, 60.3]).text == "does not hold"
    assert frozen([69.0, 69.2, 69.3]).text.startswith("too small to see: less than 3.8 points")


def test_nearly_as_good_as_little_must_be_close() -> None:
    rows = [
        row("table2 bit-memory remote-homology", [9.8, 9.9], test_examples=800),
        row("table2 pretrained remote-homology", [8.2, 8.3], test_examples=800),
    ]
    task = task_of(judge("bit-memory-nearly-as-good", *rows), "remote-homology")
    assert task.effect is not None
    assert -5 < task.effect.low < -0.25 * 8.25 + 1
    assert task.margin == pytest.approx(0.25 * 8.25)
    assert task.decision is (Decision.HOLDS if task.effect.low > -task.margin else Decision.UNSEEN)


def test_random_bodies_are_drawn_anew_for_each_seed() -> None:
    one_body = row("table2 random mnist", [91.0, 91.9, 91.3], body_seed=0)
    verdict = judge("language-beats-random", row("table2 pretrained mnist", [96.0, 96.4], body_seed=0), one_body)
    assert verdict.decision is Decision.TOO_FEW
    assert verdict.text == "not enough random bodies (1; at least 2 are needed)"


def test_runs_of_another_version_are_left_out() -> None:
    pretrained = row("table2 pretrained mnist", [96.0, 96.1, 96.2])
    other = [
        *row("table2 random mnist", [91.0, 91.1]),
        run("table2 random mnist", 2, 20.0, versions={"icecore": "0.1.0"}),
    ]
    verdict = judge("language-beats-random", pretrained, other)
    task = task_of(verdict, "mnist")
    assert task.second == pytest.approx(91.05)
    assert task.decision is Decision.HOLDS
    assert verdict.notes == [
        "random, mnist: Left out: 1 run that cannot be compared with the rest (icecore 0.1.0, not 0.2.0)."
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"versions": {"icecore": "0.1.0"}}, "icecore 0.1.0, not 0.2.0"),
        ({"precision": "bf16"}, "precision bf16, not fp32"),
        ({"protocol": "fair"}, "protocol fair, not fast"),
        ({"data": {"format": "idx", "sha256": "0000"}}, "data idx; sha256 0000, not idx; sha256 29abe478d272"),
        ({"test_examples": 100}, "scored on 100 test examples, not 2,000 test examples"),
        ({"steps": 100}, "training examples 800, not 1,600"),
        ({"config": {"averaging": 0.2}}, "averaging 0.2, not 0.1"),
    ],
)
def test_rows_that_differ_have_no_verdict(changes: dict[str, Any], words: str) -> None:
    # the rest of the claim says which of the two is the odd one
    usual = {"config": {"averaging": 0.1}}
    rest = [r for name in ("pretrained", "random") for r in row(f"table2 {name} cifar10", [50.0, 50.5], **usual)]
    pretrained = row("table2 pretrained mnist", [96.0, 96.1], **usual)
    rows = pretrained, row("table2 random mnist", [91.0, 91.1], **usual | changes)
    verdict = judge("language-beats-random", rest, *rows)
    task = task_of(verdict, "mnist")
    assert (task.decision, task.counts) == (Decision.LEFT_OUT, False)
    assert verdict.notes == [f"random, mnist: Left out: 2 runs that cannot be compared with the rest ({words})."]
    assert verdict.text == "too small to see: less than 3.2 points (decided on cifar10 alone)"


@pytest.mark.parametrize(("body", "has_effect"), [("minilm", False), ("smollm2-135m", True)])
def test_only_settings_that_have_an_effect_must_agree(body: str, has_effect: bool) -> None:
    # MiniLM has positions of its own, from which every run starts
    starts = [
        {"config": {"position_start": start}, "body": body, "date": f"2026-11-2{start:.0f}"} for start in (1.0, 4.0)
    ]
    records = [
        *row("table2 pretrained mnist", [96.0, 96.1], **starts[1]),
        *row("table2 random mnist", [91.0, 91.1], **starts[0]),
    ]
    verdict, *_ = evaluate_claims(records, [BY_NAME["language-beats-random"]], hours)
    words = "random, mnist: Left out: 2 runs that cannot be compared with the rest (position_start 1.0, not 4.0)."
    assert verdict.notes == ([words] if has_effect else [])
    assert task_of(verdict, "mnist").decision is (Decision.LEFT_OUT if has_effect else Decision.HOLDS)


def test_a_setting_that_a_configuration_leaves_out_is_none() -> None:
    pretrained = row("table2 pretrained mnist", [96.0, 96.1], config={"averaging": 0.1})
    for other in ({}, {"averaging": 0.1, "output_refit": "ridge"}):
        verdict = judge("language-beats-random", pretrained, row("table2 random mnist", [91.0, 91.1], config=other))
        assert task_of(verdict, "mnist").decision is Decision.LEFT_OUT
        assert "null" in " ".join(verdict.notes)


def test_a_row_whose_finished_runs_are_left_out_is_not_compared_whatever_a_race_stopped() -> None:
    pretrained = row("table2 pretrained mnist", [96.0, 96.1])
    scored_less = row("table2 random mnist", [91.0, 91.1], test_examples=100)
    behind = [run("table2 random mnist", 0, None, lr=lr, status=BEHIND, test_examples=0) for lr in (3e-4, 1e-2)]
    verdict = judge("language-beats-random", pretrained, [*scored_less, *behind])
    assert task_of(verdict, "mnist").decision is Decision.LEFT_OUT
    assert "scored on 100 test examples, not 2,000 test examples" in verdict.notes[0]


def test_one_newer_run_of_another_configuration_does_not_replace_the_rest() -> None:
    usual = {"config": {"clip": 1.0}}
    pretrained = row("table2 pretrained mnist", [96.0, 96.1], **usual)
    other = [*row("table2 random mnist", [91.0, 91.1], **usual)]
    newer = run("table2 random mnist", 0, 50.0, config={"clip": 2.0}, date="2026-11-29")
    verdict = judge("language-beats-random", pretrained, [*other, newer])
    task = task_of(verdict, "mnist")
    assert (task.decision, task.second) == (Decision.HOLDS, pytest.approx(91.05))
    assert verdict.notes == [
        "random, mnist: Left out: 1 run that cannot be compared with the rest (clip 2.0, not 1.0)."
    ]


def test_of_two_complete_configurations_the_newer_one_counts() -> None:
    def both(name: str, old: float, new: float) -> list[RunRecord]:
        ages = ((old, 1.0, "2026-11-26"), (new, 2.0, "2026-11-27"))
        return [r for test, clip, day in ages for r in row(name, [test] * 2, config={"clip": clip}, date=day)]

    verdict = judge(
        "language-beats-random", both("table2 pretrained mnist", 50.0, 96.0), both("table2 random mnist", 60.0, 91.0)
    )
    assert (task_of(verdict, "mnist").first, task_of(verdict, "mnist").second) == (96.0, 91.0)


def test_runs_that_all_have_one_seed_are_no_seeds() -> None:
    same = [
        run("table2 pretrained mnist", 0, test, lr=1e-3, config={"body_seed": n}) for n, test in enumerate((96.0, 96.1))
    ]
    verdict = judge("language-beats-random", same, row("table2 random mnist", [91.0, 91.1]))
    assert verdict.text == "not enough seeds (1; at least 2 are needed)"


def test_settings_that_a_row_is_about_may_differ() -> None:
    frozen = row(
        "rebuttal frozen-pretrained mnist", [91.0, 91.1], config={"lr_scale": "relative", "train_roles": ["norm"]}
    )
    trained = row("rebuttal unfrozen-pretrained mnist", [96.0, 96.1], config={"lr_scale": "absolute"})
    verdict = judge("rebuttal-trained-beats-frozen", frozen, trained)
    assert (verdict.notes, task_of(verdict, "mnist (pretrained)").decision) == ([], Decision.HOLDS)


def test_a_race_is_left_to_the_tables() -> None:
    pretrained, other = row("table2 pretrained mnist", [96.0, 96.1]), row("table2 random mnist", [91.0, 91.1])
    behind = [run("table2 random mnist", 0, 10.0, lr=lr, status=BEHIND) for lr in (3e-4, 1e-2)]
    verdict = judge("language-beats-random", pretrained, [*other, *behind])
    assert (verdict.notes, task_of(verdict, "mnist").second) == ([], pytest.approx(91.05))


def test_a_task_that_differs_from_the_rest_is_marked_and_does_not_count() -> None:
    records = [
        record
        for column, version in (("mnist", "0.2.0"), ("cifar10", "0.2.0"), ("listops", "0.1.0"))
        for name, level in (("pretrained", 60.0), ("random", 50.0))
        for record in row(f"table2 {name} {column}", [level, level + 0.2], versions={"icecore": version})
    ]
    verdict = judge("language-beats-random", records)
    task = task_of(verdict, "listops")
    assert (task.decision, task.counts) == (Decision.HOLDS, False)
    assert "listops: Does not count: icecore 0.1.0, most of this claim 0.2.0." in verdict.notes
    assert "not comparable on listops" in verdict.details
    assert verdict.text == "holds on 2 of 2 tasks"


def test_the_newest_configuration_counts_also_if_older_runs_come_later() -> None:
    new = row("table2 pretrained mnist", [96.0, 96.1]) + row("table2 random mnist", [91.0, 91.1])
    old = [
        run(f"table9 {name} mnist", seed, level, protocol="fair", date="2026-11-22")
        for name, level in (("pretrained", 30.0), ("random", 20.0))
        for seed in (0, 1)
    ]
    task = task_of(judge("language-beats-random", new, old), "mnist")
    assert (task.first, task.second) == (pytest.approx(96.05), pytest.approx(91.05))


def test_equal_rows_of_other_tables_count_and_each_run_once() -> None:
    assert row_identity("table2", "random", "mnist") == row_identity("rebuttal", "frozen-random", "mnist")
    assert row_identity("table2", "random", "mnist") == row_identity("table21", "positions", "mnist")
    assert row_identity("table1", "full", "mnist") == row_identity("rebuttal", "unfrozen-random", "mnist")
    different = [("table21", "norms"), ("table2", "pretrained"), ("rebuttal", "unfrozen-random")]
    for study, name in different:
        assert row_identity(study, name, "mnist") != row_identity("table2", "random", "mnist")
    pretrained = row("table9 pretrained mnist", [96.0, 96.1])
    copies = [replace(record, key=replace(record.key, study="table6")) for record in pretrained]
    verdict = judge("language-beats-random", pretrained, copies, row("rebuttal frozen-random mnist", [91.0, 91.1]))
    task = task_of(verdict, "mnist")
    assert task.decision is Decision.HOLDS
    assert task.contrast is not None
    assert {sample.seeds for _, sample in task.contrast.terms.values()} == {2}


def test_a_race_in_another_table_does_not_replace_runs_that_were_trained_to_their_end() -> None:
    pretrained, random = row("table9 pretrained mnist", [96.0, 96.1]), row("table9 random mnist", [91.0, 91.1])
    raced = [
        replace(
            record,
            key=replace(record.key, study="table6"),
            summary=replace(record.summary, status=BEHIND, test_metric=None),
            date="2026-11-28",
        )
        for record in pretrained
    ]
    task = task_of(judge("language-beats-random", pretrained, raced, random), "mnist")
    assert task.decision is Decision.HOLDS
    assert task.first == pytest.approx(96.05)


def test_the_whole_claim() -> None:
    def whole(*levels: float) -> Verdict:
        columns = ("mnist", "cifar10", "cifar10-lra", "listops")
        records: list[RunRecord] = []
        for column, level in zip(columns, levels, strict=False):
            records += row(f"table2 pretrained {column}", [50 + level, 50.1 + level])
            records += row(f"table2 random {column}", [50.0, 50.1])
        return judge("language-beats-random", records)

    assert whole(10, 10, 10).text == "holds on 3 of 3 tasks"
    assert whole(10, 10, 1.5).text == "holds on 2 of 3 tasks"
    mixed = whole(10, 10, -10)
    assert (mixed.decision, mixed.text) == (
        Decision.DIFFERS,
        "differs between tasks: holds on 2 and does not hold on 1 of 3 tasks",
    )
    assert whole(-10, -10).text == "does not hold on 2 of 2 tasks"
    assert whole(10, 1.5).text == "holds on 1 of 2 tasks"
    assert whole(10, 1.5, 1.5).text == "too small to see on 2 of 3 tasks, holds on 1"
    assert whole(0.5, 0.5).text.startswith("too small to see: less than 2.7 points on average")
    # four tasks together show what none shows alone
    together = whole(2.5, 2.5, 2.5, 2.5)
    assert together.text == "holds on the average of 4 tasks, but is too small to see on each alone"
    assert together.effect is not None
    assert together.effect.value == pytest.approx(2.5)


def test_several_pairs_of_rows_are_told_apart() -> None:
    records = row("table3 random mnist", [90.0, 90.5]) + row("table3 lstm mnist", [60.0, 60.5])
    verdict = judge("random-lstm-is-far-worse", records, row("table3 lstm-star mnist", [88.0, 88.5]))
    assert task_of(verdict, "mnist (LSTM)").decision is Decision.HOLDS
    assert task_of(verdict, "mnist (LSTM*)").decision is Decision.FAILS
    assert verdict.text == "differs between tasks: holds on 1 and does not hold on 1 of 2 comparisons"


def test_examples_to_a_level_are_a_ratio() -> None:
    def learning(place: str, slowness: int) -> list[RunRecord]:
        curve = [(step, min(0.9, 0.1 + 0.8 * step / slowness)) for step in range(10, 401, 10)]
        shifted = [[(step + shift, value) for step, value in curve] for shift in (0, 2, 4)]
        return [run(place, seed, 90.0, curve=each) for seed, each in enumerate(shifted)]

    pretrained, other = learning("table6 pretrained mnist", 100), learning("table6 random mnist", 200)
    task = task_of(judge("pretraining-saves-examples", pretrained, other), "mnist")
    assert task.text == "holds"
    assert task.effect is not None
    # the level is 81 %, which is reached after 88.75 and 177.5 steps of 8, two later on average
    assert (task.first, task.second) == (pytest.approx(8 * 90.7, rel=1e-2), pytest.approx(8 * 179.5, rel=1e-2))
    assert task.effect.value == pytest.approx(1.98, abs=0.02)
    assert 1 < task.effect.low < task.effect.high < 2.2
    assert task.published == 4
    swapped = judge(
        "pretraining-saves-examples", learning("table6 pretrained mnist", 200), learning("table6 random mnist", 100)
    )
    assert task_of(swapped, "mnist").text == "does not hold: the opposite does"


def test_bounds_of_examples() -> None:
    record = run("table6 random mnist", 0, 50.0, curve=((10, 0.3), (20, 0.5)))
    assert examples_to_level(record, 0.4).examples == pytest.approx(8 * 15)
    assert examples_to_level(record, 0.2) == replace(examples_to_level(record, 0.25), examples=80)
    assert examples_to_level(record, 0.2).is_first
    assert examples_to_level(record, 0.6).is_last
    assert examples_to_level(record, 0.6).examples == 160


def test_a_level_that_needs_no_training_compares_nothing() -> None:
    records = [
        run(f"table6 {name} bit-memory", seed, 100 * level, curve=((10, 0.7), (20, level)))
        for name, level in (("pretrained", 0.99), ("random", 0.77))
        for seed in (0, 1)
    ]
    task = task_of(judge("pretraining-saves-examples", records), "bit-memory")
    assert task.decision is Decision.NOTHING_LEARNED


def test_attention_is_compared_with_uniform_attention() -> None:
    shares = {"best": 0.9, "first_bit_best": 0.8, "uniform": 0.2}
    records = [
        run("attention pretrained bit-xor n=5", seed, 99.0, extra={"attention": {**shares, "first_bit_best": share}})
        for seed, share in enumerate((0.8, 0.82))
    ]
    assert task_of(judge("attention-finds-the-bits", records), "bit-xor n=5").decision is Decision.HOLDS
    one = task_of(judge("attention-finds-the-bits", records[:1]), "bit-xor n=5")
    assert one.text == "not enough seeds (1; at least 2 are needed)"


def test_the_largest_budget_with_most_of_the_comparisons_counts() -> None:
    def rows(budget: str, columns: Sequence[str], level: float, body: str = "minilm") -> list[RunRecord]:
        return [
            record
            for column in columns
            for name, gap in (("pretrained", 10.0), ("random", 0.0))
            for record in row(f"table2 {name} {column}", [level + gap, level + gap + 1], budget=budget, body=body)
        ]

    columns = ("mnist", "cifar10", "listops")
    cpu, smoke = rows("cpu", columns, 40), rows("smoke", columns, 20)
    assert judge("language-beats-random", smoke).decision is Decision.NOT_RUN
    assert judge("language-beats-random", smoke, cpu).budget == "cpu"
    assert judge("language-beats-random", cpu, rows("full", columns[:1], 60, "gpt2")).budget == "cpu"
    full = judge("language-beats-random", cpu, rows("full", columns[:2], 60, "gpt2"))
    assert (full.budget, full.body) == ("full", "gpt2")
    paper = judge("language-beats-random", cpu, rows("cpu, paper protocol", columns, 60))
    assert paper.budget == "cpu"


def test_other_bodies_have_verdicts_of_their_own() -> None:
    cells = ("table2 pretrained mnist", [96.0, 96.1]), ("table2 random mnist", [91.0, 91.1])
    records = [record for place, tests in cells for record in row(place, tests)]
    records += [record for place, tests in cells for record in row(place, tests[::-1], body="smollm2-135m")]
    verdicts = evaluate_claims(records, [BY_NAME["language-beats-random"]], hours)
    assert [(verdict.body, verdict.is_main) for verdict in verdicts] == [("minilm", True), ("smollm2-135m", False)]


def test_without_records_every_claim_is_not_run_and_says_its_cost() -> None:
    verdicts = evaluate_claims([], cost=hours)
    assert [verdict.claim for verdict in verdicts] == list(CLAIMS)
    for verdict in verdicts:
        assert verdict.decision is Decision.NOT_RUN
        assert verdict.text.startswith("not run: would cost about")
        assert verdict.details == ""
        assert verdict.effect is None


def test_missing_weights_are_named_as_the_reason() -> None:
    key = CellKey("table2", "mpnet", "mnist", "cpu", "minilm")
    missing = RunRecord(key, "", "2026-11-27", missing="The weights of mpnet-base are not here.")
    verdict = judge("other-language-models", [missing], row("table2 pretrained mnist", [96.0, 96.1]))
    assert task_of(verdict, "mnist (MPNet)").text == "not run: weights or data are missing; would cost about 60 min"


def test_costs_are_the_same_everywhere_and_none_without_a_body() -> None:
    random = ("table2", "random", "bit-xor")
    seconds = cells_seconds([random], "cpu", "minilm")
    assert seconds is not None
    assert 10 < seconds < 3600
    assert cells_seconds([random, random], "cpu, fair protocol", "minilm") == seconds
    assert cells_seconds([("table2", "vision", "mnist")], "cpu", "minilm") is None
    assert cells_seconds([("table2", "vision", "mnist"), random], "cpu", "minilm") == seconds
    assert cells_seconds([], "cpu", "minilm") is None


def test_the_hub_is_not_asked_for_the_sizes_of_a_body_in_a_results_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    for name in ("model_info", "hf_hub_download", "list_repo_files"):
        monkeypatch.setattr(huggingface_hub.HfApi, name, lambda *words, **named: asked.append(words))
    assert cells_seconds([("table2", "random", "mnist")], "cpu", "someone/somebody") is not None
    assert not asked


def test_the_pretraining_of_a_body_costs_once() -> None:
    cells = [("table2", "dyck", column) for column in ("bit-xor", "mnist")]
    one, other, both = (cells_seconds(places, "cpu", "minilm") for places in (cells[:1], cells[1:], cells))
    plain = cells_seconds([("table2", "random", "bit-xor")], "cpu", "minilm")
    assert one is not None
    assert other is not None
    assert plain is not None
    assert both == pytest.approx(one + other - (one - plain))
    assert one > plain


def test_a_claim_without_a_body_at_its_budget_says_what_the_full_budget_would_cost() -> None:
    (verdict,) = evaluate_claims([], [BY_NAME["images-nearly-as-good"]])
    assert verdict.text.startswith("not run: would cost about")
    assert "but this budget lacks a body for the rest (about" in verdict.text
