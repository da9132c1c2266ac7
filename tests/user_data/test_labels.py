"""Labels in a table beside the examples: images that a column names, and arrays whose rows it follows."""

from pathlib import Path

import numpy as np
import pytest

from icecore.core.errors import DataError
from icecore.user_data import DataSettings, Plan, encode, plan

Image = pytest.importorskip("PIL.Image")
N = 40


def images(folder: Path) -> Path:
    """`folder` with N grey images: those of odd numbers are bright."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(N):
        Image.new("L", (8, 8), 50 + i + 100 * (i % 2)).save(folder / f"{i} ä.png")
    return folder


def labels(path: Path, prefix: str = "", more: str = "") -> Path:
    rows = [f"{prefix}{i} ä.png,{['dark', 'bright'][i % 2]},{50 + i + 100 * (i % 2)}" for i in range(N)]
    path.write_text("\n".join(["file,label,mean", *rows]) + f"\n{more}", encoding="utf-8")
    return path


def said(found: Plan) -> str:
    return "\n".join(f"{what}: {text}" for what, text in found.describe())


def test_a_table_of_images_in_its_folder_or_one_in_it(tmp_path: Path):
    images(tmp_path / "b" / "pictures")
    here = labels(images(tmp_path / "a") / "labels.csv")
    below = labels(tmp_path / "b" / "labels.csv")
    full = labels(tmp_path / "full.csv", f"{tmp_path / 'a'}/")
    found = [plan(path) for path in (here, here.parent, below, below.parent, tmp_path / "b" / "pictures", full)]
    assert len({each.sha256() for each in found}) == 1
    assert found[0].encoder.form == found[0].encoder.settings.kind == "images"
    assert found[0].encoder.target.classes == (("bright", "dark"),)
    assert "left out: mean: the tokens are the images" in said(found[0])
    for i in range(N):
        place = tmp_path / "classes" / ["dark", "bright"][i % 2] / f"{i} ä.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((tmp_path / "a" / place.name).read_bytes())
    # a program of images in folders by class reads the table too
    by_class = plan(tmp_path / "classes")
    assert by_class.encoder.target.classes == found[0].encoder.target.classes
    assert encode(by_class.encoder, here).names == [f"{i} ä.png" for i in range(N)]
    rows = encode(found[0].encoder, here.parent, score=True)
    assert rows.names == [f"{i} ä.png" for i in range(N)]
    assert rows.targets is not None
    assert rows.targets[:, 0, 0].tolist() == [1 - i % 2 for i in range(N)]
    assert rows.inputs[:, 0, 0, 0].tolist() == [50 + i + 100 * (i % 2) for i in range(N)]


def test_numbers_can_be_predicted_of_images(tmp_path: Path):
    found = plan(labels(images(tmp_path) / "t.csv"), DataSettings(target=("mean",)))
    assert found.encoder.target.task == "regression"
    rows = encode(found.encoder, tmp_path / "3 ä.png")
    assert (rows.targets, len(rows)) == (None, 1)


def test_images_named_twice_absent_or_not_at_all(tmp_path: Path):
    path = labels(images(tmp_path) / "t.csv", more="0 ä.png,dark,50\nnone.png,dark,1\n,dark,1\n")
    found = plan(path)
    assert sum(map(len, found.splits.values())) == N + 1
    assert "skipped: 2 unreadable images" in said(found)
    assert "none.png (absent, empty or of no known format)" in said(found)
    rows = encode(found.encoder, path)
    assert rows.names[-1] == rows.names[0] == "0 ä.png"
    assert (rows.inputs[-1] == rows.inputs[0]).all()
    with pytest.raises(DataError, match="is not a readable image"):
        plan(path, DataSettings(strict=True))


def test_images_that_lie_elsewhere(tmp_path: Path):
    path = labels(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"column 'file' names images, say 0 ä\.png, .*--drop 'file'"):
        plan(path)
    for settings in (DataSettings(drop=("file",)), DataSettings(kind="table")):
        assert plan(path, settings).encoder.form == "table"


def test_labels_beside_an_array(tmp_path: Path):
    X = np.random.default_rng(0).normal(size=(N, 3))
    np.save(tmp_path / "X.npy", X)
    beside = tmp_path / "X.labels.csv"
    beside.write_text("kind,note\n" + "\n".join(f"{'pq'[i % 2]},{i}" for i in range(N)))
    found = plan(tmp_path / "X.npy", DataSettings(target=("kind",)))
    assert found.encoder.target.classes == (("p", "q"),)
    rows = encode(found.encoder, tmp_path, score=True)
    assert rows.targets is not None
    assert rows.targets[:, 0, 0].tolist() == [i % 2 for i in range(N)]
    beside.write_text("kind\np\nq\n")
    with pytest.raises(DataError, match=r"X\.labels\.csv: expected 40 rows, one each, found 2"):
        plan(tmp_path / "X.npy")


def test_arrays_that_are_damaged_or_unlike(tmp_path: Path):
    path = tmp_path / "a.npz"
    rows = {"x_train": np.zeros((9, 3)), "y_train": np.arange(9) % 2, "x_test": np.zeros((9, 4)), "y_test": np.zeros(9)}
    np.savez(path, **rows)
    with pytest.raises(DataError, match=r"alike in all splits, found shapes \(9, 3\), \(9, 4\)"):
        plan(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:300])
    with pytest.raises(DataError, match=r"cannot be read as an array .*fetch or copy it again"):
        plan(path)
    np.savez(path, X=np.float64(1), y=np.float64(2))
    with pytest.raises(DataError, match="expected arrays of rows"):
        plan(path)
