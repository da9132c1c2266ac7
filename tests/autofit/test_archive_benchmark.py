"""The archive benchmark: the published split, published accuracies, and finished cells that are not fitted again."""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commandline import Run
from icecore.autofit import archive_benchmark
from icecore.autofit.fit_settings import FitSettings
from icecore.core.errors import ConfigError
from icecore.experiments.results import read_records
from icecore.report.archive_table import archive_markdown, archive_table

#: stands for aeon, whose loaders are not installed everywhere
LOADER = """
from pathlib import Path
import numpy as np
def load_from_ts_file(path):
    lines = [line.rsplit(":", 1) for line in Path(path).read_text().split()]
    return np.array([[values.split(",")] for values, _ in lines], float), np.array([label for _, label in lines])
"""


@pytest.fixture
def package(stand_in_aeon: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package aeon with a data set whose classes are imbalanced, and published accuracies of two classifiers."""
    folder = stand_in_aeon
    data, results = folder / "datasets" / "data" / "GunPoint", folder / "testing" / "example_results_files"
    accuracies = results / "classification" / "accuracy"
    for each in (data, accuracies):
        each.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "datasets" / "__init__.py").write_text(LOADER)
    rng = np.random.default_rng(0)
    for split, rows in (("TRAIN", 30), ("TEST", 20)):
        lines = []
        for row in range(rows):
            wave = np.sin((1 + (row % 5 == 0)) * 0.5 * np.arange(20)) + rng.normal(0, 0.1, 20)
            lines.append(",".join(f"{value:.4f}" for value in wave) + f":{1 + (row % 5 == 0)}")
        (data / f"GunPoint_{split}.ts").write_text("\n".join(lines))
    (accuracies / "HC2_accuracy.csv").write_text("Resamples:,0,1\nACSF1,0.91,0.8\nGunPoint,1.0,0.99\n")
    (accuracies / "WEASEL-2.0_accuracy.csv").write_text("Resamples:,0,1\nPickupGestureWiimoteZ_eq,0.8,0.7\n")
    importlib.invalidate_caches()
    monkeypatch.setattr(archive_benchmark.importlib.metadata, "version", lambda name: "1.0")
    return folder


@pytest.fixture
def all_settings(bodies: Mapping[str, str]) -> list[FitSettings]:
    settings = FitSettings(backbone=bodies["bert"], lrs=(1e-2, 3e-2), steps=4, seeds=(0, 1), closed_form=False)
    return [settings, replace(settings, weights="random")]


def test_a_finished_cell_is_not_fitted_again(
    package: Path, all_settings: list[FitSettings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, lines = tmp_path / "out" / "ucr.jsonl", list[str]()
    first = archive_benchmark.run_archive_benchmark(["GunPoint"], all_settings[:1], file, lines.append, "cpu")
    both = archive_benchmark.run_archive_benchmark(["GunPoint"], all_settings, file, lines.append, "cpu")
    assert [line.partition(":")[0] for line in lines] == ["GunPoint, pretrained", "GunPoint, random"]
    assert [(run.key.row, run.summary.seed) for run in both] == [
        ("pretrained", 0),
        ("pretrained", 1),
        ("random", 0),
        ("random", 1),
    ]
    assert both[:2] == first
    monkeypatch.setattr(archive_benchmark, "fit", lambda *_: pytest.fail("it was fitted again"))
    assert archive_benchmark.run_archive_benchmark(["GunPoint"], all_settings, file, lines.append, "cpu") == both


def test_accuracies_are_plain_and_of_the_published_split(
    package: Path, all_settings: list[FitSettings], tmp_path: Path
) -> None:
    run = archive_benchmark.run_archive_benchmark(["GunPoint"], all_settings[:1], tmp_path / "ucr.jsonl", print)[0]
    # the balanced accuracy of imbalanced classes could not stand beside published accuracies
    assert (run.summary.metric_name, run.summary.test_examples) == ("accuracy", 20)
    assert run.summary.data["counts"]["train"] + run.summary.data["counts"]["val"] == 30
    assert run.summary.test_metric is not None
    assert run.summary.test_metric * 20 == pytest.approx(round(run.summary.test_metric * 20), abs=1e-6)


def test_other_minutes_and_more_seeds_are_other_cells(
    package: Path, all_settings: list[FitSettings], tmp_path: Path
) -> None:
    file = tmp_path / "ucr.jsonl"
    archive_benchmark.run_archive_benchmark(["GunPoint"], all_settings[:1], file, print, "cpu")
    key = archive_benchmark.cell_key("GunPoint", all_settings[0])
    assert len(archive_benchmark.finished_records(file, key, (1,))) == 1
    assert not archive_benchmark.finished_records(file, key, (0, 1, 2))
    longer = archive_benchmark.cell_key("GunPoint", replace(all_settings[0], minutes=9))
    assert not archive_benchmark.finished_records(file, longer, (0,))


def test_published_accuracies_are_those_of_the_first_split(package: Path) -> None:
    assert archive_benchmark.published_accuracies("GunPoint") == {"HC2": 1.0}
    assert archive_benchmark.published_accuracies("PickupGestureWiimoteZ") == {"WEASEL 2": 0.8}
    assert archive_benchmark.published_accuracies("Covid3Month") == {}


def test_the_table_has_means_over_seeds_beside_published_accuracies(
    package: Path, all_settings: list[FitSettings], tmp_path: Path
) -> None:
    file = tmp_path / "ucr.jsonl"
    runs = archive_benchmark.run_archive_benchmark(["GunPoint"], all_settings, file, print, "cpu")
    runs = [replace(run, summary=replace(run.summary, test_metric=0.5 + 0.1 * run.summary.seed)) for run in runs]
    published = {"GunPoint": {"HC2": 1.0}, "OSULeaf": {"InceptionTime": 0.9}}
    assert archive_table(runs, published) == [
        ["data set", "train/test", "pretrained", "random", "HC2"],
        ["GunPoint", "30/20", "55.0 ± 5.0", "55.0 ± 5.0", "100.0"],
    ]
    page = archive_markdown(runs, published)
    for part in ("| GunPoint | 30/20 | 55.0 ± 5.0 |", "aeon 1.0", "- device: CPU", "--seeds 0,1", runs[0].date):
        assert part in page
    assert len(read_records(file)[0]) == 4


def test_without_aeon_the_remedy_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(archive_benchmark.importlib.util, "find_spec", lambda name: None)
    ended = run("benchmark", "ucr", "--out", tmp_path / "results")
    assert ended.code == 2
    assert "pip install 'icecore[timeseries]'" in ended.err
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "Gunpoint"), "GunPoint"),
        (("--seeds", "0,0"), "names a seed twice"),
        (("--seeds", "a"), "expected whole numbers"),
        (("--weights", ","), "--weights is empty"),
        (("--minutes", "0"), "more than 0"),
    ],
)
def test_wrong_options_are_refused(run: Run, words: tuple[str, str], message: str) -> None:
    ended = run("benchmark", "ucr", *words)
    assert ended.code == 2
    assert message in ended.err


def test_names_are_checked_before_anything_is_fitted() -> None:
    with pytest.raises(ConfigError, match="ArrowHed"):
        archive_benchmark.select_sets(["ArrowHed"])
    assert archive_benchmark.select_sets(["OSULeaf", "GunPoint"]) == ("GunPoint", "OSULeaf")
