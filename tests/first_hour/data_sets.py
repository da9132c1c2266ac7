"""The data sets that a newcomer tries first, as files: tables, images, time series and strings.

Those of the UCR archive come from the package aeon if it is installed; it is not imported, only its files are read.
"""

import csv
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_table(
    path: Path, columns: Sequence[str], x: np.ndarray, y: Sequence[object], split: Sequence[str] = ()
) -> Path:
    """A CSV file with the target in the last column, after which a column `split` may follow."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow([*columns, "target", *(["split"] if split else [])])
        for number, (values, target) in enumerate(zip(x.tolist(), y, strict=True)):
            rows.writerow([*values, target, *([split[number]] if split else [])])
    return path


def table(folder: Path, name: str) -> Path:
    """A table of scikit-learn; classes are words, so that nobody takes them for numbers."""
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")()
    y = data.target.tolist() if name == "diabetes" else [str(data.target_names[code]) for code in data.target]
    return write_table(folder / f"{name}.csv", list(map(str, data.feature_names)), data.data, y)


def digits(folder: Path) -> Path:
    """A folder of images for each of ten digits, 8 x 8 pixels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    for number, (image, label) in enumerate(zip(data.images, data.target, strict=True)):
        path = folder / "digits" / str(label)
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).save(path / f"{number:04}.png")
    return folder / "digits"


def read_ts(path: Path) -> tuple[np.ndarray, list[str]]:
    """Series (N, T) and labels of a univariate .ts file without missing values."""
    lines = [line for line in path.read_text().splitlines() if line and line[0] not in "#@"]
    pairs = [line.rsplit(":", 1) for line in lines]
    return np.array([[float(x) for x in values.split(",")] for values, _ in pairs]), [label for _, label in pairs]


def ucr(folder: Path, name: str) -> Path | None:
    """A data set of the UCR archive with its own split, one column for each point in time; None without aeon."""
    found = importlib.util.find_spec("aeon")
    if found is None or found.submodule_search_locations is None:
        return None
    source = Path(next(iter(found.submodule_search_locations))) / "datasets" / "data" / name
    parts = {split: read_ts(source / f"{name}_{split.upper()}.ts") for split in ("train", "test")}
    x = np.concatenate([series for series, _ in parts.values()])
    y = [f"class {label}" for _, labels in parts.values() for label in labels]
    split = [split for split, (_, labels) in parts.items() for _ in labels]
    return write_table(folder / f"{name}.csv", [f"t{point}" for point in range(x.shape[1])], x, y, split)


def waves(folder: Path) -> Path:
    """Noisy sine waves of random phase: how often do they swing?"""
    random = np.random.default_rng(0)
    swings = random.integers(1, 4, 400)
    time = np.linspace(0, 2 * np.pi, 48)
    series = np.sin(swings[:, None] * time + random.uniform(0, 6, (400, 1))) + random.normal(0, 0.5, (400, 48))
    np.savez(folder / "waves.npz", X=series.astype("float32"), y=swings)
    return folder / "waves.npz"


def dna(folder: Path) -> Path:
    """Random DNA: is there a TATA box?"""
    random, bases = np.random.default_rng(0), np.array(list("ACGT"))
    with (folder / "dna.csv").open("w") as file:
        print("sequence,promoter", file=file)
        for number in range(600):
            letters = bases[random.integers(0, 4, random.integers(40, 60))]
            if number % 2:
                start = random.integers(0, len(letters) - 6)
                letters[start : start + 6] = list("TATAAA")
            print("".join(letters), ["no", "yes"][number % 2], sep=",", file=file)
    return folder / "dna.csv"


DATA_SETS: Mapping[str, Callable[[Path], Path | None]] = {
    "wine": lambda folder: table(folder, "wine"),
    "breast cancer": lambda folder: table(folder, "breast_cancer"),
    "diabetes": lambda folder: table(folder, "diabetes"),
    "digits": digits,
    "GunPoint": lambda folder: ucr(folder, "GunPoint"),
    "ItalyPowerDemand": lambda folder: ucr(folder, "ItalyPowerDemand"),
    "waves": waves,
    "DNA": dna,
}
