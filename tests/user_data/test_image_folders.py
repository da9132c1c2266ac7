"""Images in folders and archives: listed by class and split, decoded, damaged or not."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from icecore.core.errors import ConfigError, DataError
from icecore.user_data import DataEncoder, DataSettings, encode, image_decoding, plan
from icecore.user_data.encoders.image_encoder import ImageEncoder
from icecore.user_data.image_decoding import to_pixels
from icecore.user_data.readers.image_folders import list_images
from user_data_samples import IMAGE_CLASSES, describe, encode_image, image_files, write_files

Image = pytest.importorskip("PIL.Image")


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, raw in files.items():
                archive.writestr(name, raw)
        return path
    with tarfile.open(path, "w:xz" if path.suffix == ".xz" else "w") as archive:
        for name, raw in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return path


def test_a_folder_and_archives_of_it_give_the_same_rows(tmp_path: Path):
    folder = write_files(tmp_path / "obst", image_files())
    data_plan = plan(folder)
    assert data_plan.encoder.target.classes == (IMAGE_CLASSES,)
    assert (data_plan.encoder.spec.length, data_plan.encoder.spec.size) == (64, 4 * 4 * 3)
    assert "images of 32 x 32 pixels, colour, in patches of 4 x 4" in describe(data_plan)
    for name in ("a.zip", "a.tar", "a.tar.xz"):
        wrapped = {f"wrapped/in/{key}": raw for key, raw in image_files().items()} | {
            "__MACOSX/._x.png": b"",
            "notes.md": b"",
        }
        assert plan(pack(tmp_path / name, wrapped)).sha256() == data_plan.sha256()
    rows = encode(data_plan.encoder, folder, score=True)
    assert list(rows.names) == sorted(image_files())
    assert rows.targets is not None
    assert torch.equal(rows.targets[:, 0, 0], torch.tensor([float("梨" in name) for name in rows.names]))


def test_folders_named_train_and_test_are_the_splits(tmp_path: Path):
    files = {f"{split}/{key}": raw for split in ("train", "test") for key, raw in image_files(8).items()}
    data_plan = plan(write_files(tmp_path, files), DataSettings(val=0.25))
    assert [len(part) for part in data_plan.splits.values()] == [12, 4, 16]


def test_images_of_any_mode_become_upright_pixels_on_white():
    assert to_pixels(encode_image("RGB", (8, 8)), 8, 3)[0, 0].tolist() == [100, 155, 7]
    assert to_pixels(encode_image("L", (8, 8)), 4, 1).shape == (4, 4, 1)
    assert to_pixels(encode_image("P", (8, 8)), 4, 3).shape == (4, 4, 3)
    assert to_pixels(encode_image("CMYK", (8, 8), form="jpeg"), 4, 3).shape == (4, 4, 3)
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(file, "png")
    assert to_pixels(file.getvalue(), 8, 3).min() == 255
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(file, "png")
    assert (to_pixels(file.getvalue(), 8, 1) == 1000 >> 8).all()
    rotated = Image.new("RGB", (8, 4))
    rotated.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera upright: must be rotated by 90 degrees clockwise
    file = io.BytesIO()
    rotated.save(file, "png", exif=exif)
    assert to_pixels(file.getvalue(), 8, 3)[0, -1].min() == 255


@pytest.mark.parametrize(("side", "expected", "tokens"), [(8, 8, 16), (9, 16, 64), (28, 32, 64), (200, 64, 64)])
def test_the_side_is_chosen_by_the_size_of_the_images(tmp_path: Path, side: int, expected: int, tokens: int):
    files = {f"{c}/{i}.png": encode_image("L", (side, side + 2), 40 * i) for c in "ab" for i in range(4)}
    encoder = plan(write_files(tmp_path, files), DataSettings(val=0.25, test=0)).encoder.inputs
    assert isinstance(encoder, ImageEncoder)
    assert (encoder.side, encoder.channels, encoder.length) == (expected, 1, tokens)


def test_damaged_images_are_skipped_counted_and_named(tmp_path: Path):
    files = image_files()
    files["梨/bad.png"] = files["梨/1 ü.png"][:40]
    files["Äpfel/none.jpg"] = b""
    folder = write_files(tmp_path / "obst", files)
    data_plan = plan(folder)
    assert sum(len(part) for part in data_plan.splits.values()) == len(files) - 2
    assert "2 unreadable images:" in describe(data_plan)
    assert "梨/bad.png" in describe(data_plan)
    # inputs and targets still belong together after rows were skipped: the bright class has more red
    for part in data_plan.splits.values():
        assert torch.equal(part.inputs[:, 0, 0, 0] > 100, part.targets[:, 0, 0] == 1)
    with pytest.raises(DataError, match=r"is not a readable image .* leave out --strict"):
        plan(folder, DataSettings(strict=True))
    rows = encode(data_plan.encoder, folder)
    assert len(rows) == len(rows.names) == len(files) - 2
    assert "梨/bad.png" not in rows.names
    listed = sorted(files)
    assert [listed[number] for number in rows.row_numbers.tolist()] == list(rows.names)


def test_images_that_exceed_memory_are_mapped_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_files(tmp_path / "obst", image_files())
    in_memory = plan(folder)
    monkeypatch.setattr(image_decoding, "IMAGE_MEMORY_SHARE", 0)
    assert plan(folder).sha256() == in_memory.sha256()


def test_new_images_need_no_classes(tmp_path: Path):
    encoder = DataEncoder.from_json(plan(write_files(tmp_path / "obst", image_files())).encoder.to_json())
    flat = write_files(tmp_path / "new", {"x.png": encode_image(), "y.jpg": encode_image(form="jpeg")})
    rows = encode(encoder, flat)
    assert (list(rows.names), rows.targets) == (["x.png", "y.jpg"], None)
    one = encode(encoder, flat / "x.png")
    assert torch.equal(one.inputs, rows.inputs[:1])
    with pytest.raises(DataError, match=r"2 rows of target 'class' with classes that no training row has: kiwi"):
        encode(
            encoder,
            write_files(tmp_path / "kiwis", {"kiwi/a.png": encode_image(), "kiwi/b.png": encode_image()}),
            score=True,
        )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "is empty. It should hold one folder of images per class"),
        ({"a.png": encode_image(), "b.png": encode_image()}, "the image a.png is not in the folder of a class"),
        (
            {f"one/{i}.png": encode_image() for i in range(9)},
            "Target 'class' has only the class 'one' in the training rows",
        ),
        ({f"{c}/{i}.png": b"no" for c in "ab" for i in range(4)}, "none of the 8 images tried is readable"),
        ({"readme.doc": b"x"}, "has only files of unknown kinds: readme.doc. Set --kind"),
    ],
)
def test_errors_of_image_folders(tmp_path: Path, files: dict[str, bytes], message: str):
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=message):
        plan(write_files(tmp_path / "data", files))


def test_errors_of_paths_and_archives(tmp_path: Path):
    with pytest.raises(DataError, match="none does not exist"):
        plan(tmp_path / "none")
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(
        DataError, match=r"does not show what kind of data this is\. Set --kind table .* end in one of \.zip"
    ):
        plan(tmp_path / "a.xyz")
    (tmp_path / "a.zip").write_bytes(pack(tmp_path / "b.zip", image_files(2)).read_bytes()[:-30])
    with pytest.raises(DataError, match=r"a\.zip cannot be read"):
        plan(tmp_path / "a.zip")
    with pytest.raises(ConfigError, match="patch must divide the image side of 32 pixels, but is 5"):
        plan(write_files(tmp_path / "obst", image_files(4)), DataSettings(patch=5))


@pytest.mark.data
def test_cifar10_as_a_folder_of_images(real_data: Path, tmp_path: Path):
    files: dict[str, bytes] = {}
    with tarfile.open(real_data / "cifar10-jpeg.tar.xz") as archive:
        for place, member in zip(range(5200), archive, strict=False):  # sorted by class: the first one and some
            if place % 70 == 0 and (file := archive.extractfile(member)) is not None:
                files[member.name.partition("/")[2]] = file.read()
    write_files(tmp_path / "cifar", files)
    listing = list_images(tmp_path / "cifar")
    assert len(set(listing.classes)) == 2
    data_plan = plan(tmp_path / "cifar")
    batch = next(data_plan.task().batches("test", 4))
    assert batch.tokens.shape == (4, 64, 48)
