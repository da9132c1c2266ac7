"""Fits to the time series data sets that aeon ships, beside the accuracies of other classifiers that it ships too.

Each data set has the archive's own test split. A cell is one fit of all seeds with the pretrained or the random body,
and a cell whose runs are in the results file is not trained again.
"""

import csv
import datetime
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from icecore import user_data
from icecore.autofit.fit import fit
from icecore.autofit.fit_result import FitResult
from icecore.autofit.fit_settings import FitSettings
from icecore.core.config import RunConfig
from icecore.core.device import package_versions, select_runtime
from icecore.core.errors import ConfigError, unknown_name
from icecore.core.text import duration
from icecore.experiments.results import CellKey, RunRecord, append_records, read_records
from icecore.training.callbacks import Callback
from icecore.training.run_summary import RunSummary
from icecore.user_data.user_task import UserTask

STUDY = "ucr"
#: the data sets in the package aeon, those with the shortest fits first. Covid3Month has numbers to predict
ARCHIVE_SETS = (
    "ItalyPowerDemand",
    "GunPoint",
    "BasicMotions",
    "JapaneseVowels",
    "Covid3Month",
    "PickupGestureWiimoteZ",
    "ArrowHead",
    "OSULeaf",
    "ACSF1",
)
#: the classifiers with published accuracies in the package aeon, and the files that hold them
PUBLISHED_FILES: Mapping[str, str] = {
    "HC2": "HC2_accuracy.csv",
    "InceptionTime": "InceptionTime_accuracy.csv",
    "FreshPRINCE": "FreshPRINCE_accuracy.csv",
    "WEASEL 2": "WEASEL-2.0_accuracy.csv",
}
#: ending of names of published accuracies on series that were brought to equal lengths
EQUAL_LENGTH = "_eq"


def aeon_folder() -> Path:
    """The folder of the package aeon, which is not imported. Raises ConfigError if it is not installed."""
    found = importlib.util.find_spec("aeon")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "The data sets of this benchmark are in the package aeon. Install it: pip install 'icecore[timeseries]'"
        )
    return Path(next(iter(found.submodule_search_locations)))


def select_sets(names: Sequence[str]) -> tuple[str, ...]:
    """The data sets with these names; all if there are none. Raises ConfigError for a name that is none."""
    for name in names:
        if name not in ARCHIVE_SETS:
            raise unknown_name("data set", name, ARCHIVE_SETS)
    return tuple(name for name in ARCHIVE_SETS if name in names) if names else ARCHIVE_SETS


def published_accuracies(name: str) -> dict[str, float]:
    """The published accuracy of each classifier on the archive's own split, for those that have one.

    The first number of a line is that of the archive's own split; the others are of resampled ones. Series of unequal
    lengths were brought to equal ones for all of these classifiers.
    """
    folder = aeon_folder() / "testing" / "example_results_files" / "classification" / "accuracy"
    accuracies: dict[str, float] = {}
    for classifier, file in PUBLISHED_FILES.items():
        if not (folder / file).is_file():  # other versions of aeon may have other files
            continue
        with (folder / file).open(newline="") as lines:
            by_name = {cells[0]: cells[1] for cells in csv.reader(lines) if len(cells) > 1}
        text = by_name.get(name) or by_name.get(name + EQUAL_LENGTH)
        if text:
            accuracies[classifier] = float(text)
    return accuracies


def archive_plan(name: str) -> user_data.Plan:
    """A data set with the archive's own test split. Classes are not balanced, because published accuracies are plain.

    Raises DataError if it cannot be read.
    """
    path = aeon_folder() / "datasets" / "data" / name / f"{name}_TRAIN.ts"
    return user_data.plan(path, balance=False)


def run_archive_benchmark(
    names: Sequence[str],
    all_settings: Sequence[FitSettings],
    file: Path,
    log: Callable[[str], object],
    device: str = "auto",
    callbacks: Sequence[Callback] = (),
) -> list[RunRecord]:
    """Fit each data set with each of the settings, and append the runs of each fit to a results file.

    all_settings  one for each body to compare; they differ in their weights
    log           is called with a line before each fit

    Programs are written beside the file, in the folder `ucr`. An interrupted fit is continued by the same call. Returns
    the records of all cells in order, those of earlier calls included. Raises ConfigError without aeon.
    """
    aeon_folder()
    folder = file.parent / STUDY
    folder.mkdir(parents=True, exist_ok=True)
    records: list[RunRecord] = []
    for name in names:
        missing = [s for s in all_settings if not finished_records(file, cell_key(name, s), s.seeds)]
        plan = archive_plan(name) if missing else None
        for settings in missing:
            assert plan is not None
            log(f"{name}, {settings.weights}: {duration(60 * settings.minutes)}")
            body = Path(settings.backbone).name
            out = folder / f"{name}-{body}-{settings.weights}.safetensors"
            task = plan.task()
            fitted = fit(task, settings, out, {"encoder": plan.encoder.to_json()}, device, callbacks)
            append_records(file, _seed_records(settings, name, task, fitted, device))
        for settings in all_settings:
            records += finished_records(file, cell_key(name, settings), settings.seeds)
    return records


def cell_key(name: str, settings: FitSettings) -> CellKey:
    """The cell of a data set and a body."""
    return CellKey(STUDY, settings.weights, name, f"{settings.minutes:g} min", settings.backbone)


def finished_records(file: Path, key: CellKey, seeds: Sequence[int]) -> list[RunRecord]:
    """The records of a cell in a results file, in the order of the seeds; none unless all seeds are there."""
    if not file.exists():
        return []
    by_seed = {record.summary.seed: record for record in read_records(file)[0] if record.key == key}
    return [by_seed[seed] for seed in seeds] if set(seeds) <= by_seed.keys() else []


def _seed_records(settings: FitSettings, name: str, task: UserTask, fitted: FitResult, device: str) -> list[RunRecord]:
    """A record for each seed of a fit, at the learning rate that validation chose for all of them."""
    asked = {name: value for name, value in asdict(settings).items() if name != "seeds"}
    command = f"icecore benchmark ucr --only {name} --minutes {settings.minutes:g}"
    command += f" --seeds {','.join(map(str, settings.seeds))} --body {settings.backbone} --weights {settings.weights}"
    result = fitted.result
    shared = RunSummary(
        task=name,
        metric_name=task.metric_name,
        test_examples=task.split_size("test"),
        trainable_parameters=sum(tensor.numel() for tensor in fitted.program.tensors.values()),
        seconds=round(result.seconds, 1),
        device=select_runtime(device, fitted.program.config.precision).describe(),
        versions={**package_versions(), "aeon": importlib.metadata.version("aeon")},
        data=dict(task.data),
    )
    metrics = result.scores_by_seed.mean(1).tolist()
    return [
        RunRecord(
            cell_key(name, settings),
            command,
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            _of_run(shared, replace(fitted.program.config, lr=result.seeds_lr, seed=seed), val_metric, metric),
            config={name: list(value) if isinstance(value, tuple) else value for name, value in asked.items()},
        )
        for seed, val_metric, metric in zip(result.seeds, result.seed_val_metrics, metrics, strict=True)
    ]


def _of_run(shared: RunSummary, config: RunConfig, val_metric: float, metric: float) -> RunSummary:
    """The summary of one seed, from what all seeds share."""
    return replace(
        shared,
        backbone=config.backbone,
        weights=config.weights,
        train_roles=config.train_roles,
        protocol=config.protocol,
        lr=config.lr,
        seed=config.seed,
        batch_size=config.batch_size,
        precision=config.precision,
        val_metric=val_metric,
        test_metric=metric,
        test_metrics={"test": metric},
        run_id=config.run_id,
    )
