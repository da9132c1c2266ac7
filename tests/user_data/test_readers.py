"""Images, arrays and texts of one's own: what lies at a path, in any script, damaged or not."""

import io
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icecore.core.errors import ConfigError, DataError, UserError
from icecore.user_data import DataEncoder, DataSettings, encode, from_arrays, plan
from icecore.user_data.encoders.codes import ImageEncoder
from icecore.user_data.encoders.stringcode import END, UNKNOWN, TextEncoder
from icecore.user_data.readers import images as own_images
from icecore.user_data.readers.images import list_images, to_pixels

Image = pytest.importorskip("PIL.Image")
CLASSES = ("Äpfel", "梨")


def picture(mode: str = "RGB", size: tuple[int, int] = (20, 30), value: int = 100, form: str = "png") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (value, 255 - value, 7)).convert(mode).save(file, form)
    return file.getvalue()


def files(count: int = 12) -> dict[str, bytes]:
    """`count` images a class: the first class is dark, the second bright."""
    return {
        f"{name}/{i} ü.png": picture(value=20 + 150 * c + i, size=(16 + i, 20))
        for c, name in enumerate(CLASSES)
        for i in range(count)
    }


def put(folder: Path, held: dict[str, bytes]) -> Path:
    for name, raw in held.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder


def pack(path: Path, held: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, raw in held.items():
                archive.writestr(name, raw)
        return path
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w") as archive:
        for name, raw in held.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return path


def said(found: Any) -> str:
    return "\n".join(f"{what}: {text}" for what, text in found.describe())


# ------------------------------------------------------------------------------------------ images


def test_a_folder_and_archives_give_the_same(tmp_path: Path):
    folder = put(tmp_path / "obst", files())
    found = plan(folder)
    assert found.encoder.target.classes == (CLASSES,)
    assert (found.encoder.spec.length, found.encoder.spec.size) == (64, 4 * 4 * 3)
    assert "images of 32 x 32 pixels, colour, in patches of 4 x 4" in said(found)
    for name in ("a.zip", "a.tar", "a.tar.xz"):
        wrapped = {f"wrapped/in/{key}": raw for key, raw in files().items()} | {
            "__MACOSX/._x.png": b"",
            "notes.md": b"",
        }
        assert plan(pack(tmp_path / name, wrapped)).sha256() == found.sha256()
    rows = encode(found.encoder, folder, score=True)
    assert list(rows.names) == sorted(files())
    assert rows.targets is not None
    assert torch.equal(rows.targets[:, 0, 0], torch.tensor([float("梨" in name) for name in rows.names]))


def test_splits_that_the_data_have_are_kept(tmp_path: Path):
    held = {f"{split}/{key}": raw for split in ("train", "test") for key, raw in files(8).items()}
    found = plan(put(tmp_path, held), DataSettings(val=0.25))
    assert [len(part) for part in found.splits.values()] == [12, 4, 16]


def test_pixels_are_upright_on_white_and_of_one_mode():
    assert to_pixels(picture("RGB", (8, 8)), 8, 3)[0, 0].tolist() == [100, 155, 7]
    assert to_pixels(picture("L", (8, 8)), 4, 1).shape == (4, 4, 1)
    assert to_pixels(picture("P", (8, 8)), 4, 3).shape == (4, 4, 3)
    assert to_pixels(picture("CMYK", (8, 8), form="jpeg"), 4, 3).shape == (4, 4, 3)
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(file, "png")
    assert to_pixels(file.getvalue(), 8, 3).min() == 255
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(file, "png")
    assert (to_pixels(file.getvalue(), 8, 1) == 1000 >> 8).all()
    turned = Image.new("RGB", (8, 4))
    turned.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright: to be turned by 90 degrees clockwise
    file = io.BytesIO()
    turned.save(file, "png", exif=exif)
    assert to_pixels(file.getvalue(), 8, 3)[0, -1].min() == 255


@pytest.mark.parametrize(("side", "expected"), [(8, 8), (9, 16), (28, 32), (200, 64)])
def test_the_side_follows_the_images(tmp_path: Path, side: int, expected: int):
    held = {f"{c}/{i}.png": picture("L", (side, side + 2), 40 * i) for c in "ab" for i in range(4)}
    code = plan(put(tmp_path, held), DataSettings(val=0.25, test=0)).encoder.inputs
    assert isinstance(code, ImageEncoder)
    assert (code.side, code.channels, code.length) == (expected, 1, 64)


def test_damaged_images_are_named_skipped_and_counted(tmp_path: Path):
    held = files()
    held["梨/bad.png"] = held["梨/1 ü.png"][:40]
    held["Äpfel/none.jpg"] = b""
    folder = put(tmp_path / "obst", held)
    found = plan(folder)
    assert sum(len(part) for part in found.splits.values()) == len(held) - 2
    assert "2 unreadable images:" in said(found)
    assert "梨/bad.png" in said(found)
    # whatever was skipped, inputs and targets belong together: the bright class has more red
    for part in found.splits.values():
        assert torch.equal(part.inputs[:, 0, 0, 0] > 100, part.targets[:, 0, 0] == 1)
    with pytest.raises(DataError, match=r"is not a readable image .* leave --strict out"):
        plan(folder, DataSettings(strict=True))
    rows = encode(found.encoder, folder)
    assert len(rows) == len(rows.names) == len(held) - 2
    assert "梨/bad.png" not in rows.names


def test_images_beyond_memory_go_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = put(tmp_path / "obst", files())
    in_memory = plan(folder)
    monkeypatch.setattr(own_images, "MEMORY_SHARE", 0)
    assert plan(folder).sha256() == in_memory.sha256()


def test_images_to_predict(tmp_path: Path):
    encoder = DataEncoder.from_json(plan(put(tmp_path / "obst", files())).encoder.to_json())
    flat = put(tmp_path / "new", {"x.png": picture(), "y.jpg": picture(form="jpeg")})
    rows = encode(encoder, flat)
    assert (list(rows.names), rows.targets) == (["x.png", "y.jpg"], None)
    one = encode(encoder, flat / "x.png")
    assert torch.equal(one.inputs, rows.inputs[:1])
    with pytest.raises(DataError, match=r"2 rows of classes of 'class' that training rows lack: kiwi"):
        encode(encoder, put(tmp_path / "kiwis", {"kiwi/a.png": picture(), "kiwi/b.png": picture()}), score=True)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({}, "is empty; expected one folder of images a class"),
        ({"a.png": picture(), "b.png": picture()}, "a.png lies in no class's folder"),
        ({f"one/{i}.png": picture() for i in range(9)}, "has one class, 'one', in training"),
        ({f"{c}/{i}.png": b"no" for c in "ab" for i in range(4)}, "none of 8 images tried can be read"),
        ({"readme.doc": b"x"}, "holds readme.doc, none of a known kind"),
    ],
)
def test_folders_that_cannot_be_learned_from(tmp_path: Path, held: dict[str, bytes], message: str):
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=message):
        plan(put(tmp_path / "data", held))


def test_paths_that_hold_nothing(tmp_path: Path):
    with pytest.raises(DataError, match="no such file or folder"):
        plan(tmp_path / "none")
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(DataError, match=r"its name does not say what it is; expected one of \.zip"):
        plan(tmp_path / "a.xyz")
    (tmp_path / "a.zip").write_bytes(pack(tmp_path / "b.zip", files(2)).read_bytes()[:-30])
    with pytest.raises(DataError, match=r"a\.zip: cannot be read"):
        plan(tmp_path / "a.zip")
    with pytest.raises(ConfigError, match="patch: expected a divisor of the image side 32, found 5"):
        plan(put(tmp_path / "obst", files(4)), DataSettings(patch=5))


@pytest.mark.data
def test_cifar10_as_a_folder_of_images(real_data: Path, tmp_path: Path):
    held: dict[str, bytes] = {}
    with tarfile.open(real_data / "cifar10-jpeg.tar.xz") as archive:
        for place, member in zip(range(5200), archive, strict=False):  # sorted by class: the first one and some
            if place % 70 == 0 and (file := archive.extractfile(member)) is not None:
                held[member.name.partition("/")[2]] = file.read()
    put(tmp_path / "cifar", held)
    listing = list_images(tmp_path / "cifar")
    assert len(set(listing.classes)) == 2
    found = plan(tmp_path / "cifar")
    batch = next(found.task().batches("test", 4))
    assert batch.tokens.shape == (4, 64, 48)


# ------------------------------------------------------------------------------------------ arrays


def test_arrays_in_files_and_in_memory_are_the_same(tmp_path: Path):
    X = np.random.default_rng(0).normal(size=(40, 6, 2))
    y = np.arange(40) % 3
    np.savez(tmp_path / "a.npz", X=X, y=y)
    np.save(tmp_path / "b.npy", X)
    np.save(tmp_path / "b_y.npy", y)
    expected = from_arrays(X, y)
    assert plan(tmp_path / "a.npz").sha256() == plan(tmp_path / "b.npy").sha256() == expected.sha256()
    assert (expected.encoder.spec.length, expected.encoder.spec.size) == (6, 2)
    rows = encode(expected.encoder, X[:3])
    torch.testing.assert_close(rows.inputs, encode(expected.encoder, tmp_path / "a.npz", score=True).inputs[:3])


def test_arrays_by_split(tmp_path: Path):
    X, y = np.random.default_rng(0).normal(size=(50, 4)), np.arange(50) % 2
    np.savez(tmp_path / "a.npz", x_train=X[:40], y_train=y[:40], x_test=X[40:], y_test=y[40:])
    found = plan(tmp_path / "a.npz")
    assert [len(part) for part in found.splits.values()] == [34, 6, 10]


def test_sequences_of_any_length_are_padded_and_standardised():
    rng = np.random.default_rng(0)
    rows = [rng.normal(5, 3, (n, 2)) for n in rng.integers(3, 12, 60)]
    rows[0][1, 0] = np.nan
    found = from_arrays(rows, np.arange(60) % 2, DataSettings(patch=2, val=0.2, test=0.2))
    spec = found.encoder.spec
    assert (spec.length, spec.size) == (6, 2 * (2 + any(np.isnan(r).any() for r in rows) * found.encoder.inputs.flags))  # type: ignore[attr-defined]
    encoded = encode(found.encoder, rows)
    assert encoded.lengths is not None
    np.testing.assert_array_equal(encoded.lengths, [-(-len(r) // 2) for r in rows])
    width = spec.size // 2
    points = encoded.inputs.view(60, -1, width)
    code: Any = found.encoder.inputs
    torch.testing.assert_close(
        points[5, : len(rows[5]), :2], torch.tensor((rows[5] - code.mean) / code.std).float(), rtol=1e-4, atol=1e-5
    )
    assert not points[5, len(rows[5]) :].any()
    with pytest.raises(DataError, match="expected 2 values a point, found 3"):
        encode(found.encoder, [np.zeros((4, 3))])
    cut = encode(found.encoder, [np.zeros((40, 2))])
    assert "1 sequence to the first" in str(cut.notes)


def test_long_sequences_get_several_points_a_token():
    found = from_arrays(np.random.default_rng(0).normal(size=(20, 1000, 1)), np.arange(20) % 2)
    assert (found.encoder.spec.length, found.encoder.spec.size) == (250, 4)


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (np.zeros((4, 2)), [0, 1], "expected one for each of 4 rows, found an array of shape"),
        (np.zeros((4, 2, 2, 2)), [0, 1, 0, 1], r"expected \(N, columns\) or \(N, T, V\)"),
        (np.zeros((4, 2), complex), [0, 1, 0, 1], "expected real numbers, found complex128"),
        (np.ones((40, 2)), np.arange(40) % 2, "no column is left to learn from"),
        (np.eye(40), np.zeros(40, int), "has one class, '0', in training"),
        (np.eye(40), np.full(40, np.nan), "no row has a target"),
        ([np.zeros((3, 2)), np.zeros((3, 1))], [0, 1], "expected .T, V. with one V for all"),
    ],
)
def test_arrays_that_cannot_be_learned_from(X: Any, y: Any, message: str):
    with pytest.raises(DataError, match=message):
        from_arrays(X, y)


def test_array_files_that_cannot_be_read(tmp_path: Path):
    np.save(tmp_path / "lone.npy", np.eye(4))
    with pytest.raises(DataError, match="found inputs but no targets"):
        plan(tmp_path / "lone.npy")
    np.savez(tmp_path / "o.npz", X=np.array([[1], "a"], object))
    with pytest.raises(DataError, match="save it as numbers or fixed-length texts"):
        plan(tmp_path / "o.npz")
    np.savez(tmp_path / "z.npz", z=np.eye(3))
    with pytest.raises(DataError, match="found arrays z; expected X and y"):
        plan(tmp_path / "z.npz")


# ------------------------------------------------------------------------------------------ texts

DNA = [("ACGT" * (2 + i % 3) + "A" * (i % 4), "ab"[i % 2]) for i in range(40)]


def test_lines_fasta_and_lists_are_the_same(tmp_path: Path):
    (tmp_path / "a.txt").write_text("".join(f"{label}\t{text}\n" for text, label in DNA), encoding="utf-8")
    stated = "".join(f">s{i} label={label}\n{text[:5]}\n{text[5:]}\n" for i, (text, label) in enumerate(DNA))
    (tmp_path / "b.fasta").write_text(stated)
    barred = "".join(f">s{i}|{label}\n{text}*\n\n" for i, (text, label) in enumerate(DNA))
    (tmp_path / "c.fa").write_text(barred)
    beside = tmp_path / "d"
    put(beside, {"d.fasta": "".join(f">s{i} x y\n{text}\n" for i, (text, _) in enumerate(DNA)).encode()})
    (beside / "d.labels.csv").write_text("id,label\n" + "".join(f"s{i},{label}\n" for i, (_, label) in enumerate(DNA)))
    expected = from_arrays([text for text, _ in DNA], [label for _, label in DNA]).sha256()
    for path in (tmp_path / "a.txt", tmp_path / "b.fasta", tmp_path / "c.fa", beside / "d.fasta", beside):
        assert plan(path).sha256() == expected
    rows = encode(plan(tmp_path / "b.fasta").encoder, beside / "d.fasta", score=True)
    assert list(rows.names[:2]) == ["s0", "s1"]


def test_characters_there_and_back_in_any_script():
    texts = ["añ😀", "", "漢字a", "zz"] * 10
    found = from_arrays(texts, ["x", "y"] * 20, DataSettings(val=0.1, test=0.1))
    code = found.encoder.inputs
    assert isinstance(code, TextEncoder)
    rows = encode(found.encoder, [*texts[:4], "a?", "x" * 50])
    assert rows.lengths is not None
    back = [
        "".join(code.characters[token - 3] if token > 2 else {UNKNOWN: "?", END: "$"}[token] for token in row[:n])
        for row, n in zip(rows.inputs.tolist(), rows.lengths.tolist(), strict=True)
    ]
    assert back == ["añ😀$", "$", "漢字a$", "zz$", "a?$", "???$"]
    assert (code.length, found.encoder.spec.size) == (4, 3 + 6)
    assert ("unknown", "4 characters that training texts do not have") in rows.notes
    assert ("cut", "1 text to the first 3 characters (--length)") in rows.notes


def test_numeric_labels_of_texts_count_as_numbers(tmp_path: Path):
    rng = np.random.default_rng(0)
    (tmp_path / "a.txt").write_text("".join(f"{v:.3f}\t{'C' * int(9 * v + 1)}\n" for v in rng.random(50)))
    assert plan(tmp_path / "a.txt").encoder.target.task == "regression"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "no tab here\n", r"a\.txt line 1: expected label<TAB>string"),
        ("a.fasta", ">x\nAC\n", "no labels; write them as '>id label=x'"),
        ("a.fasta", "AC\n>x\n", r"line 1: expected a line starting with '>'"),
        ("a.fasta", "", "holds no records"),
    ],
)
def test_texts_that_cannot_be_learned_from(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        plan(tmp_path / name)


@pytest.mark.data
def test_real_proteins_as_fasta(real_data: Path, tmp_path: Path):
    lines = (real_data / "homology" / "train.tsv").read_text().splitlines()
    at = lines[0].split("\t").index
    rows = [line.split("\t") for line in lines[1:]]
    name, fold, sequence = at("id"), at("fold"), at("sequence")
    common = [found for found, _ in Counter(r[fold] for r in rows).most_common(3)]
    kept = [r for r in rows if r[fold] in common][::4]
    (tmp_path / "p.fasta").write_text("".join(f">{r[name]} label=f{r[fold]}\n{r[sequence]}\n" for r in kept))
    found = plan(tmp_path / "p.fasta", DataSettings(length=200))
    code: Any = found.encoder.inputs
    assert set(code.characters) <= set("ABCDEFGHIKLMNOPQRSTUVWXYZ")
    assert found.encoder.spec.length == 201
    assert len(found.encoder.target.classes[0]) == 3
