"""Real data of every form that is served, in files as people have them."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOWNS = ("Ulm", "Köln", "北京")


@dataclass(frozen=True)
class Samples:
    """Program files, and the data that they were fitted to, by name."""

    folder: Path
    data: Mapping[str, Path]

    def program(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def rows(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file as texts."""
        with self.data[name].open(encoding="utf-8") as file:
            return list(csv.DictReader(file))


def write_table(path: Path, header: Sequence[str], rows: Any) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_data(folder: Path) -> dict[str, Path]:
    datasets = pytest.importorskip("sklearn.datasets")
    from PIL import Image

    wine, diabetes, digits = datasets.load_wine(), datasets.load_diabetes(), datasets.load_digits()
    labels = [f"cultivar {'ABC'[label]}" for label in wine.target]
    rows = [[*map(float, row), label] for row, label in zip(wine.data, labels, strict=True)]
    data = {"wine": write_table(folder / "wine.csv", [*wine.feature_names, "cultivar"], rows)}
    rows = [[*row, target] for row, target in zip(diabetes.data[:100], diabetes.target[:100], strict=True)]
    data["diabetes"] = write_table(folder / "diabetes.csv", [*diabetes.feature_names, "progression"], rows)
    rng = np.random.default_rng(0)
    people = [
        [round(float(rng.uniform(1, 2)), 3), TOWNS[i % 3] if i % 7 else "", f"19{50 + i % 50}-0{1 + i % 9}-1{i % 10}"]
        for i in range(80)
    ]
    data["people"] = write_table(
        folder / "people.csv", ["height", "town", "born", "tall"], [[*p, "yes" if p[0] > 1.5 else "no"] for p in people]
    )
    for number, (image, label) in enumerate(zip(digits.images[:60], digits.target[:60], strict=True)):
        if label < 3:
            (folder / "digits" / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 255 / 16).astype(np.uint8)).save(folder / "digits" / str(label) / f"{number}.png")
    data["digits"] = folder / "digits"
    lines = [
        f">p{i} label={('membrane', 'soluble')[i % 2]}\n{''.join(rng.choice(list('ACDEFGHIK'), rng.integers(5, 25)))}"
        for i in range(60)
    ]
    (folder / "proteins.fasta").write_text("\n".join(lines))
    data["proteins"] = folder / "proteins.fasta"
    waves = rng.normal(size=(60, 20, 1)).astype(np.float32)
    np.savez(folder / "waves.npz", X=waves, y=(waves[:, :, 0].mean(1) > 0).astype(int))
    data["waves"] = folder / "waves.npz"
    return data
