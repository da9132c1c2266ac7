"""Labels in a table beside the examples: images that a column names, and arrays with one label row each."""

from pathlib import Path

import numpy as np
import pytest

from icecore.core.errors import DataError
from icecore.user_data import DataSettings, encode, plan
from user_data_samples import describe

Image = pytest.importorskip("PIL.Image")
N = 40


def write_images(folder: Path) -> Path:
    """Write N grey images into `folder`; those with odd numbers are bright."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(N):
        Image.new("L", (8, 8), 50 + i + 100 * (i % 2)).save(folder / f"{i} ä.png")
    return folder


def write_labels(path: Path, prefix: str = "", more: str = "") -> Path:
    """Write a table that names these images with a class and their brightness."""
    rows = [f"{prefix}{i} ä.png,{['dark', 'bright'][i % 2]},{50 + i + 100 * (i % 2)}" for i in range(N)]
    path.write_text("\n".join(["file,label,mean", *rows]) + f"\n{more}", encoding="utf-8")
    return path


def test_a_table_names_images_in_its_folder_or_one_inside_it(tmp_path: Path):
    write_images(tmp_path / "b" / "pictures")
    inside = write_labels(write_images(tmp_path / "a") / "labels.csv")
    above = write_labels(tmp_path / "b" / "labels.csv")
    full = write_labels(tmp_path / "full.csv", f"{tmp_path / 'a'}/")
    plans = [plan(path) for path in (inside, inside.parent, above, above.parent, tmp_path / "b" / "pictures", full)]
    assert len({each.sha256() for each in plans}) == 1
    first = plans[0]
    assert first.encoder.form == first.encoder.settings.kind == "images"
    assert first.encoder.target.classes == (("bright", "dark"),)
    assert "left out: mean: the inputs are the images" in describe(first)
    for i in range(N):
        path = tmp_path / "classes" / ["dark", "bright"][i % 2] / f"{i} ä.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((tmp_path / "a" / path.name).read_bytes())
    # a program that learned from folders of images by class reads the table too
    by_class = plan(tmp_path / "classes")
    assert by_class.encoder.target.classes == first.encoder.target.classes
    assert encode(by_class.encoder, inside).names == [f"{i} ä.png" for i in range(N)]
    rows = encode(first.encoder, inside.parent, score=True)
    assert rows.names == [f"{i} ä.png" for i in range(N)]
    assert rows.targets is not None
    assert rows.targets[:, 0, 0].tolist() == [1 - i % 2 for i in range(N)]
    assert rows.inputs[:, 0, 0, 0].tolist() == [50 + i + 100 * (i % 2) for i in range(N)]


def test_numbers_can_be_predicted_from_write_images(tmp_path: Path):
    data_plan = plan(write_labels(write_images(tmp_path) / "t.csv"), DataSettings(target=("mean",)))
    assert data_plan.encoder.target.task == "regression"
    rows = encode(data_plan.encoder, tmp_path / "3 ä.png")
    assert (rows.targets, len(rows)) == (None, 1)


def test_numbers_of_rows_count_damaged_lines_and_images(tmp_path: Path):
    path = write_labels(write_images(tmp_path) / "labels.csv")
    encoder = plan(path).encoder
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[3] = "2 ä.png"
    path.write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "5 ä.png").write_bytes(b"no image")
    rows = encode(encoder, path)
    assert list(rows.names) == [f"{i} ä.png" for i in range(N) if i not in (2, 5)]
    assert rows.row_numbers.tolist() == [i for i in range(N) if i not in (2, 5)]


def test_images_may_be_named_twice_be_missing_or_unnamed(tmp_path: Path):
    path = write_labels(write_images(tmp_path) / "t.csv", more="0 ä.png,dark,50\nnone.png,dark,1\n,dark,1\n")
    data_plan = plan(path)
    assert sum(map(len, data_plan.splits.values())) == N + 1
    assert "skipped: 2 unreadable images" in describe(data_plan)
    assert "none.png (missing, empty or not in a known image format)" in describe(data_plan)
    rows = encode(data_plan.encoder, path)
    assert rows.names[-1] == rows.names[0] == "0 ä.png"
    assert (rows.inputs[-1] == rows.inputs[0]).all()
    with pytest.raises(DataError, match="is not a readable image"):
        plan(path, DataSettings(strict=True))


def test_images_that_are_not_beside_their_table(tmp_path: Path):
    path = write_labels(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"column 'file' names images such as 0 ä\.png, .*--drop 'file'"):
        plan(path)
    for settings in (DataSettings(drop=("file",)), DataSettings(kind="table")):
        assert plan(path, settings).encoder.form == "table"


def test_labels_beside_an_array(tmp_path: Path):
    X = np.random.default_rng(0).normal(size=(N, 3))
    np.save(tmp_path / "X.npy", X)
    beside = tmp_path / "X.labels.csv"
    beside.write_text("kind,note\n" + "\n".join(f"{'pq'[i % 2]},{i}" for i in range(N)))
    data_plan = plan(tmp_path / "X.npy", DataSettings(target=("kind",)))
    assert data_plan.encoder.target.classes == (("p", "q"),)
    rows = encode(data_plan.encoder, tmp_path, score=True)
    assert rows.targets is not None
    assert rows.targets[:, 0, 0].tolist() == [i % 2 for i in range(N)]
    beside.write_text("kind\np\nq\n")
    with pytest.raises(DataError, match=r"X\.labels\.csv must have 40 rows, one for each row of the array, but has 2"):
        plan(tmp_path / "X.npy")
