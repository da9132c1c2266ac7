"""Small files and values that several tests of user data share."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from icecore.user_data import Plan

ROWS = 120


def describe(plan: Plan) -> str:
    """The lines of a plan as text."""
    return "\n".join(f"{topic}: {message}" for topic, message in plan.describe())


def write_csv(path: Path, rows: Iterable[Sequence[Any]], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    """Write rows, the header first."""
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def write_columns(path: Path, **columns: Sequence[Any]) -> Path:
    """Write a CSV of quoted cells; each column is repeated to `ROWS` rows."""
    rows = [",".join(columns)]
    rows += [",".join(f'"{cells[i % len(cells)]}"' for cells in columns.values()) for i in range(ROWS)]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def random_column() -> list[float]:
    """`ROWS` random numbers."""
    return np.random.default_rng(0).normal(size=ROWS).round(3).tolist()


def random_rows(count: int = 100, width: int = 3) -> np.ndarray:
    """Random numbers (count, width)."""
    return np.random.default_rng(0).normal(size=(count, width))


def people(count: int = 60) -> list[list[Any]]:
    """A table with a column of each kind, header first; the class says whether the height is above 1.5."""
    rng = np.random.default_rng(0)
    rows: list[list[Any]] = [["id", "height", "town", "born", "remark", "planet", "tall"]]
    for i in range(count):
        height = round(float(rng.uniform(1, 2)), 3)
        town, born = ("Ulm", "Köln", "北京")[i % 3], f"{1950 + i % 50}-0{1 + i % 9}-1{i % 10}"
        remark = " ".join(rng.choice(list("abcdefgh"), 12))
        rows.append([i + 100, height, town, born, remark, "Earth", "yes" if height > 1.5 else "no"])
    return rows


IMAGE_CLASSES = ("Äpfel", "梨")


def encode_image(mode: str = "RGB", size: tuple[int, int] = (20, 30), value: int = 100, form: str = "png") -> bytes:
    """An image file of one colour."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, (value, 255 - value, 7)).convert(mode).save(file, form)
    return file.getvalue()


def image_files(count: int = 12) -> dict[str, bytes]:
    """`count` images of each class by file name: the first class is dark, the second bright."""
    return {
        f"{name}/{i} ü.png": encode_image(value=20 + 150 * c + i, size=(16 + i, 20))
        for c, name in enumerate(IMAGE_CLASSES)
        for i in range(count)
    }


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files by relative name into a folder."""
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder
