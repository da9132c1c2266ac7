"""What repeats: copies of images, ids with several labels, and columns that count rows although cells are missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from icecore.core.errors import ConfigError
from icecore.user_data import DataSettings, Plan, from_arrays, plan
from user_data_samples import describe


def write_archive(folder: Path, labels: list[str]) -> Path:
    """A data set as the UCR archive has it: the label first, and a published split."""
    rng = np.random.default_rng(0)
    for split in ("TRAIN", "TEST"):
        rows = [[labels[i % len(labels)], *(f"{v:.3f}" for v in rng.normal(size=20))] for i in range(40)]
        (folder / f"Set_{split}.tsv").write_text("\n".join("\t".join(row) for row in rows))
    return folder / "Set_TRAIN.tsv"


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["1.0000000e+00", "2.0000000e+00"], ("1", "2")),
        (["1.0", "2.0"], ("1", "2")),
        (["1.0", "1"], ("1", "1.0")),
        (["1e3", "1000"], ("1000", "1e3")),
        (["01", "1"], ("01", "1")),
        (["12345678901234567", "12345678901234568"], ("12345678901234567", "12345678901234568")),
        (["1e400", "2"], ("1e400", "2")),
        (["-1", "1"], ("-1", "1")),
        (["a", "1"], ("1", "a")),
    ],
)
def test_labels_of_an_archive_are_never_merged(tmp_path: Path, labels: list[str], classes: tuple[str, ...]) -> None:
    data_plan = plan(write_archive(tmp_path, labels), DataSettings(task="classification"))
    assert sorted(data_plan.encoder.target.classes[0]) == sorted(classes)


def test_a_table_with_a_header_is_no_archive(tmp_path: Path) -> None:
    path = write_archive(tmp_path, ["1", "2"])
    for split in ("TRAIN", "TEST"):
        rows = (tmp_path / f"Set_{split}.tsv").read_text()
        (tmp_path / f"Set_{split}.tsv").write_text("\t".join(["label", *map(str, range(20))]) + "\n" + rows)
    assert plan(path).encoder.form == "table"


def test_series_of_an_archive_without_a_label_are_left_out(tmp_path: Path) -> None:
    data_plan = plan(write_archive(tmp_path, ["1", "2", "?"]))
    assert data_plan.encoder.target.classes == (("1", "2"),)
    assert "dropped: 26 rows without a target" in describe(data_plan)


def test_infinite_labels_are_words(tmp_path: Path) -> None:
    lines = [f"{('inf', 'infinity', '3')[i % 3]}\t{'ACGT'[i % 4] * (4 + i)}" for i in range(60)]
    (tmp_path / "t.txt").write_text("\n".join(lines))
    assert plan(tmp_path / "t.txt").encoder.target.classes == (("3", "inf", "infinity"),)


def test_ids_with_several_labels_count_as_unlabelled(tmp_path: Path) -> None:
    sequences = [f">s{i}\n{'ACDEFG'[i % 6] * (5 + i)}" for i in range(40)]
    (tmp_path / "s.fasta").write_text("\n".join(sequences))
    rows = [f"s{i},{'xy'[i % 2]}" for i in range(40)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *rows, rows[3], "s0,y", "s7,x"]))
    data_plan = plan(tmp_path / "s.fasta")
    assert "labels: s0, s7 with several labels in labels.csv, so they count as unlabelled" in describe(data_plan)
    assert sum(map(len, data_plan.splits.values())) == 38


@pytest.mark.parametrize("name", ["n", "PassengerId", "userID", "RowNumber"])
def test_a_counter_stays_one_if_a_cell_is_missing(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    numbers = np.arange(60) if name == "n" else rng.permutation(1000)[:60]
    lines = [f"{'' if i == 7 else number},{rng.normal():.3f},{'ab'[i >= 30]}" for i, number in enumerate(numbers)]
    (tmp_path / "t.csv").write_text("\n".join([f"{name},x,label", *lines]))
    data_plan = plan(tmp_path / "t.csv")
    assert f"dropped: {name}: a different number in every row, so it is an id (--keep takes it)" in describe(data_plan)
    kept = plan(tmp_path / "t.csv", DataSettings(keep=(name,)))
    assert kept.encoder.spec.length == 2


def test_numbers_of_which_many_are_missing_count_nothing(tmp_path: Path) -> None:
    lines = [f"{i if i % 3 else ''},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["n,label", *lines]))
    assert "dropped" not in describe(plan(tmp_path / "t.csv"))


def image_folders(folder: Path) -> Path:
    """Forty images of two classes, ten of which are copies of others, some in the other class."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (8, 8), np.uint8) for _ in range(30)]
    for i in range(40):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        image.fromarray(pixels[i % 30]).save(path)
    return folder


def image_table(folder: Path) -> Path:
    """A table that names thirty images, ten of them twice."""
    image_folders(folder)
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.png"), key=lambda p: int(p.stem))]
    lines = [f"{name},{'xy'[i % 2]}" for i, name in enumerate([*names[:30], *names[:10]])]
    (folder / "labels.csv").write_text("\n".join(["file,label", *lines]))
    return folder / "labels.csv"


def image_array(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
    return np.concatenate([pixels, pixels[:10]]), np.arange(40) % 2


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: plan(image_folders(folder)),
        lambda folder: plan(image_table(folder)),
        lambda folder: from_arrays(*image_array(folder), DataSettings(kind="images")),
    ],
    ids=["folders", "table", "array"],
)
def test_copies_of_images_share_a_split(tmp_path: Path, make: Callable[[Path], Plan]) -> None:
    data_plan = make(tmp_path)
    assert "copies: 10 rows with the inputs of another; copies share a split" in describe(data_plan)
    places: dict[bytes, set[str]] = {}
    for name, part in data_plan.splits.items():
        for row in part.inputs.numpy():
            places.setdefault(row.tobytes(), set()).add(name)
    assert all(len(names) == 1 for names in places.values())
    assert len(places) == 30


# ------------------------------------------------------------------------------- data frames, as files are read


def frame(**columns: object) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({**columns, "x": np.random.default_rng(0).normal(size=60)})


def test_columns_of_a_data_frame_that_count_its_rows_are_left_out() -> None:
    labels = ["a"] * 30 + ["b"] * 30
    data_plan = from_arrays(frame(n=np.arange(60)), labels)
    assert "dropped: n: a different number in every row, so it is an id (--keep takes it)" in describe(data_plan)
    assert from_arrays(frame(n=np.arange(60)), labels, DataSettings(keep=("n",))).encoder.spec.length == 2
    assert from_arrays(np.arange(120.0).reshape(60, 2), labels).encoder.spec.length == 2  # chosen by the caller


def test_the_split_of_a_data_frame_is_used() -> None:
    splits = ["train"] * 40 + ["val"] * 8 + ["test"] * 12
    data_plan = from_arrays(frame(split=splits), [0, 1] * 30)
    assert {name: len(part) for name, part in data_plan.splits.items()} == {"train": 40, "val": 8, "test": 12}
    assert data_plan.encoder.spec.length == 1
    with pytest.raises(ConfigError, match="Unknown split column 'folds'"):
        from_arrays(frame(split=splits), [0, 1] * 30, DataSettings(split="folds"))


@pytest.mark.parametrize("codes", [(2**63 + 5, 2**63 + 6), (10**30, 10**30 + 1)])
def test_whole_numbers_beyond_64_bits_are_labels_and_categories_of_their_own(codes: tuple[int, int]) -> None:
    labels = [codes[i % 2] for i in range(60)]
    as_labels = from_arrays(frame(), labels, DataSettings(task="classification")).encoder.target
    assert sorted(as_labels.classes[0]) == sorted(map(str, codes))
    encoder = from_arrays(frame(code=np.array(labels, object)), ["a", "b"] * 30).encoder
    columns = encoder.inputs.columns  # type: ignore[attr-defined]
    assert {column.name: column.levels for column in columns}["code"] == tuple(sorted(map(str, codes)))


# ------------------------------------------------------------------------------- names of published splits


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("TRAIN", "Test"), ("train", "TEST")])
def test_the_published_split_is_found_however_its_name_is_spelled(tmp_path: Path, train: str, test: str) -> None:
    path = write_archive(tmp_path, ["1", "2"])
    path.rename(tmp_path / f"Set_{train}.tsv")
    (tmp_path / "Set_TEST.tsv").rename(tmp_path / f"Set_{test}.tsv")
    assert len(plan(tmp_path / f"Set_{train}.tsv").splits["test"]) == 40
