"""MNIST and CIFAR-10: patches and augmentation by laws and scalar references, readers on small invented files."""

import gzip
import hashlib
import io
import lzma
import math
import pickle
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from icecore.core.errors import ConfigError, DataError
from icecore.experiments import sweep
from icecore.tasks import class_folders
from icecore.tasks.cifar10_files import CIFAR10_CLASSES, read_cifar10
from icecore.tasks.entry import TaskRequest
from icecore.tasks.image_operations import channel_statistics, shrink, to_grey, to_patches, warp
from icecore.tasks.image_set import ImageSet
from icecore.tasks.image_tasks import Cifar10, Cifar10LRA, Mnist, build_cifar10, build_cifar10_lra, build_mnist
from icecore.tasks.mnist_files import read_idx, read_mnist
from icecore.tasks.sampling import training_order
from icecore.tasks.stored_task import Examples

BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


@pytest.fixture(autouse=True)
def cache(own_cache: None, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for each test, because its contents are looked at."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ICECORE_CACHE", str(folder))
    return folder


def some_images(count: int, size: int = 32, colours: int = 3) -> Tensor:
    shape = (count, size, size, colours)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def request(root: Path, **options: object) -> TaskRequest:
    return TaskRequest(options, str(root))


# ------------------------------------------------------------------------------------------ made-up files


def write_mnist(folder: Path, gz: bool = True, joint: str = "-", train: int = 40, test: int = 10) -> Arrays:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    written: Arrays = {}
    for part, count in (("train", train), ("t10k", test)):
        pixels = rng.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = rng.integers(10, size=count, dtype=np.uint8)
        written["train" if part == "train" else "test"] = (pixels, labels)
        for kind, array in (("images", pixels), ("labels", labels)):
            raw = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
            name = f"{part}-{kind}{joint}idx{array.ndim}-ubyte"
            (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(raw, 1) if gz else raw)
    return written


def cifar_batches(count: int = 4) -> Arrays:
    """`count` images (N, 32, 32, 3) and labels for each of the six batches."""
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8), rng.integers(10, size=count))
        for name in BATCHES
    }


def planes(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)


def binary_files(batches: Arrays) -> dict[str, bytes]:
    return {
        f"{name}.bin": np.concatenate([labels[:, None].astype(np.uint8), planes(pixels)], 1).tobytes()
        for name, (pixels, labels) in batches.items()
    }


def python_2_pickle(data: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2's cPickle wrote the published ones: byte strings, numpy.core, integer flags."""

    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    raw = data.tobytes()
    dtype = (
        b"cnumpy\ndtype\n"
        + short(b"u1")
        + b"K\0K\1\x87R(K\3"
        + short(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    )
    shape = b"".join(b"M" + n.to_bytes(2, "little") for n in data.shape) + b"\x86"
    built = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + short(b"b") + b"\x87R"
    state = b"(K\1" + shape + dtype + b"\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb"
    return b"\x80\2}(" + short(b"labels") + b"](" + numbers + b"e" + short(b"data") + built + state + b"u."


def python_2_files(batches: Arrays) -> dict[str, bytes]:
    return {name: python_2_pickle(planes(x), y.tolist()) for name, (x, y) in batches.items()}


def python_3_files(batches: Arrays, protocol: int = 2) -> dict[str, bytes]:
    return {
        name: pickle.dumps({b"data": planes(x), b"labels": y.tolist(), b"batch_label": b"x"}, protocol)
        for name, (x, y) in batches.items()
    }


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, raw in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(raw)
    return folder


def pack(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, raw in files.items():
                archive.writestr(name, raw)
        return path
    packed = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, raw in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    path.write_bytes(packed(buffer.getvalue()))
    return path


def class_files(per_class: int = 2, form: str = "png", mode: str = "RGB", size: int = 32) -> dict[str, bytes]:
    """Images of one colour each: red says the class, green the number within it, blue the split."""
    image = pytest.importorskip("PIL.Image")
    files: dict[str, bytes] = {}
    for s, split in enumerate(("train", "test")):
        for c, name in enumerate(CIFAR10_CLASSES):
            for i in range(per_class):
                file = io.BytesIO()
                image.new("RGB", (size, size), (20 * c, 50 * i, 200 * s)).convert(mode).save(file, form)
                files[f"{split}/{name}/{i:04}.{form.replace('jpeg', 'jpg')}"] = file.getvalue()
    return files


# ------------------------------------------------------------------------------------------ tokens


def from_patches(tokens: Tensor, size: int, colours: int) -> Tensor:
    """Patches to images, by the documented order: patches row by row, within one row, column, channel."""
    N, T, _ = tokens.shape
    side = math.isqrt(T)
    out = torch.zeros(N, side * size, side * size, colours, dtype=tokens.dtype)
    for t in range(T):
        top, left = (t // side) * size, (t % side) * size
        out[:, top : top + size, left : left + size] = tokens[:, t].view(N, size, size, colours)
    return out


@pytest.mark.parametrize(("size", "colours"), [(4, 1), (4, 3), (1, 1), (8, 2)])
def test_patches_there_and_back_is_identity(size: int, colours: int):
    whole = some_images(3, colours=colours)
    tokens = to_patches(whole, size)
    assert tokens.shape == (3, (32 // size) ** 2, size * size * colours)
    torch.testing.assert_close(from_patches(tokens, size, colours), whole)


def test_a_patch_goes_by_row_column_channel():
    whole = some_images(1)
    # token 9 is the patch at patch row 1, column 1; its number 21 is pixel row 1, column 3, channel 0
    assert to_patches(whole, 4)[0, 9, (1 * 4 + 3) * 3] == whole[0, 4 + 1, 4 + 3, 0]


def test_statistics_agree_with_numpy():
    found = some_images(50)
    mean, std = channel_statistics(found)
    np.testing.assert_allclose(mean, found.numpy().mean((0, 1, 2), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(std, found.numpy().std((0, 1, 2), dtype=np.float64), rtol=1e-6)


def test_grey_is_itu_601_luma():
    found = some_images(2)
    exact = found.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    assert (to_grey(found)[..., 0] - exact).abs().max() <= 0.5 + 1e-9
    assert to_grey(torch.full((1, 1, 1, 3), 255, dtype=torch.uint8)).item() == 255


@pytest.mark.parametrize("side", [4, 8, 16, 32])
@pytest.mark.parametrize("colours", [1, 3])
def test_shrinking_is_a_rounded_mean_over_squares(side: int, colours: int):
    found = some_images(3, colours=colours)
    step = 32 // side
    small = shrink(found, side)
    assert (small.shape, small.dtype) == ((3, side, side, colours), torch.uint8)
    for row in range(side):
        for column in range(side):
            square = found[:, step * row : step * row + step, step * column : step * column + step].numpy()
            expected = np.floor(square.mean((1, 2), dtype=np.float64) + 0.5)  # halves go up
            np.testing.assert_array_equal(small[:, row, column], expected)
    assert shrink(torch.full((1, 32, 32, 1), 255, dtype=torch.uint8), side).unique().tolist() == [255]


@pytest.mark.parametrize("side", [4, 8, 16])
def test_shrinking_agrees_with_pillow(side: int):
    image = pytest.importorskip("PIL.Image")
    for whole in to_grey(some_images(3)):
        expected = np.asarray(image.fromarray(whole[..., 0].numpy()).reduce(32 // side))
        np.testing.assert_array_equal(shrink(whole[None], side)[0, ..., 0], expected)


# ------------------------------------------------------------------------------------------ augmentation


def warped(whole: Tensor, down: float = 0, right: float = 0, flip: bool = False, angle: float = 0) -> Tensor:
    N = len(whole)
    return warp(whole, torch.tensor([[down, right]] * N), torch.tensor([flip] * N), torch.tensor([angle] * N))


def augmented(whole: Tensor, draws: Tensor) -> Tensor:
    return Cifar10({"train": Examples(whole, torch.zeros(len(whole)))}, {}).augment(whole, draws)


def test_draws_of_one_half_change_nothing():
    whole = some_images(3)
    assert torch.equal(augmented(whole, torch.full((3, 4), 0.5)), whole.float())


def test_flip_is_a_mirror():
    whole = some_images(2)
    assert torch.equal(warped(whole, flip=True), whole.flip(2).float())


@pytest.mark.parametrize(("down", "right"), [(4, 0), (-4, 3), (1, -2), (0, -4)])
def test_shift_brings_in_zeros(down: int, right: int):
    whole = some_images(2)
    expected = torch.zeros_like(whole)
    for y in range(max(0, down), min(32, 32 + down)):
        for x in range(max(0, right), min(32, 32 + right)):
            expected[:, y, x] = whole[:, y - down, x - right]
    assert torch.equal(warped(whole, down, right), expected.float())


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns(quarters: int):
    whole = some_images(2)
    turned = warped(whole, angle=quarters * math.pi / 2)
    # the outermost pixels are sampled a rounding error from the border
    torch.testing.assert_close(turned, whole.rot90(quarters, (1, 2)).float(), atol=0.01, rtol=0)


def scalar_warp(image: np.ndarray, down: int, right: int, flip: bool, angle: float) -> np.ndarray:
    """One channel (S, S), pixel by pixel: turn the output back, mirror it, shift it, and interpolate."""
    S = len(image)
    out = np.zeros((S, S))
    centre = (S - 1) / 2
    for row in range(S):
        for column in range(S):
            x, y = column - centre, row - centre
            x, y = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
            x, y = (-x if flip else x) + centre - right, y + centre - down
            left, top = math.floor(x), math.floor(y)
            for j in (top, top + 1):
                for i in (left, left + 1):
                    if 0 <= i < S and 0 <= j < S:
                        out[row, column] += (1 - abs(x - i)) * (1 - abs(y - j)) * image[j, i]
    return out


def test_augmentation_agrees_with_a_scalar_loop():
    whole = some_images(4)
    draws = torch.tensor([[0.0, 0.99, 0.2, 0.9], [0.99, 0.3, 0.7, 0.1], [0.5, 0.5, 0.2, 0.0], [0.2, 0.7, 0.9, 0.6]])
    found = augmented(whole, draws)
    for image, out, (a, b, c, d) in zip(whole, found, draws.tolist(), strict=True):
        shift = [math.floor(9 * u) - 4 for u in (a, b)]
        expected = scalar_warp(image[..., 1].numpy(), shift[0], shift[1], c < 0.5, math.radians(40 * d - 20))
        np.testing.assert_allclose(out[..., 1], expected, atol=0.02)


@pytest.mark.parametrize("axis", [0, 1])
def test_the_crop_reaches_each_of_nine_shifts_as_often(axis: int):
    dot = torch.zeros(90, 32, 32, 3, dtype=torch.uint8)
    dot[:, 16, 16] = 255
    draws = torch.full((90, 4), 0.5)
    draws[:, axis] = torch.arange(90).add(0.5).div(90)
    place = augmented(dot, draws)[..., 0].sum(2 - axis).argmax(1)  # the row for axis 0, the column for 1
    assert place.unique(return_counts=True)[0].tolist() == [*range(12, 21)]
    assert place.bincount()[12:].tolist() == [10] * 9


# ------------------------------------------------------------------------------------------ tasks


def test_mnist_tokens_are_framed_patches(tmp_path: Path):
    written = write_mnist(tmp_path / "mnist")
    task = build_mnist(request(tmp_path))
    assert {name: task.split_size(name) for name in task.splits} == {"train": 36, "val": 4, "test": 10}
    batch = next(task.batches("test", 100))
    assert batch.tokens.shape == (10, task.spec.length, task.spec.size) == (10, 64, 16)
    assert batch.targets.tolist() == written["test"][1].tolist()
    raw = from_patches(batch.tokens, 4, 1)[..., 0] * task.std + task.mean
    framed = np.pad(written["test"][0], ((0, 0), (2, 2), (2, 2)))
    np.testing.assert_allclose(raw, framed, atol=1e-3)
    assert (task.data["mean"], task.data["std"]) == ([0.0], [1.0]), "ink in [0, 1], empty paper zero"


def test_a_tenth_is_held_out_of_a_small_source_in_a_configured_run_too(tmp_path: Path):
    write_mnist(tmp_path / "mnist")
    task = sweep.load_task(sweep.make_config("mnist", device="cpu", precision="fp32"), str(tmp_path))
    assert (task.split_size("train"), task.split_size("val")) == (36, 4)


def test_training_tokens_are_normalised(tmp_path: Path):
    put(tmp_path / "cifar-10-batches-bin", binary_files(cifar_batches()))
    for build in (build_cifar10, build_cifar10_lra):
        tokens = next(build(request(tmp_path)).batches("train", 100)).tokens
        assert tokens.mean() == pytest.approx(0, abs=1e-4)
        assert tokens.std() == pytest.approx(1, abs=1e-3)


def test_val_is_held_out_of_train(tmp_path: Path):
    put(tmp_path / "cifar-10-batches-bin", binary_files(cifar_batches()))
    task = build_cifar10(request(tmp_path, val=6))
    assert task.data["counts"] == {"train": 14, "val": 6, "test": 4}
    whole = read_cifar10([tmp_path]).train.images
    parts = [image.tobytes() for name in ("train", "val") for image in task.splits[name].inputs.numpy()]
    assert sorted(parts) == sorted(image.tobytes() for image in whole)
    again = build_cifar10_lra(request(tmp_path, val=6))
    assert torch.equal(again.splits["val"].targets, task.splits["val"].targets)


@pytest.mark.parametrize("val", [0, 20, -1])
def test_val_without_room_is_refused(tmp_path: Path, val: int):
    put(tmp_path / "cifar-10-batches-bin", binary_files(cifar_batches()))
    with pytest.raises(ConfigError, match=rf"option val of cifar10: expected 1 to 19 of 20 .*, found {val}"):
        build_cifar10(request(tmp_path, val=val))


def test_a_data_folder_that_does_not_exist_is_never_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ICECORE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"--data-dir .*absent: there is no such folder"):
        build_mnist(request(tmp_path / "absent"))


def test_unknown_options_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"Unknown option of mnist 'vall'\. Did you mean 'val'"):
        build_mnist(request(tmp_path, vall=3))


def test_training_rows_of_a_run_are_the_same_alone_and_packed(tmp_path: Path):
    put(tmp_path / "cifar-10-batches-bin", binary_files(cifar_batches()))
    task = build_cifar10(request(tmp_path))
    packed = task.train_batch([3, 4], step=5, batch_size=6)
    assert packed.tokens.shape == (12, 64, 48)
    for run, seed in enumerate((3, 4)):
        alone = task.train_batch([seed], step=5, batch_size=6)
        torch.testing.assert_close(alone.tokens, packed.tokens[6 * run : 6 * run + 6])
        assert torch.equal(alone.targets, packed.targets[6 * run : 6 * run + 6])
    assert not torch.equal(packed.tokens[:6], task.train_batch([3], step=6, batch_size=6).tokens)


def test_lra_is_grey_pixels_row_by_row_and_not_augmented(tmp_path: Path):
    put(tmp_path / "cifar-10-batches-bin", binary_files(cifar_batches()))
    task = build_cifar10_lra(request(tmp_path))
    assert isinstance(task, Cifar10LRA)
    batch = task.train_batch([0], step=0, batch_size=4)
    stored = task.splits["train"].inputs[training_order(task.split_size("train"), 0, 0, 4)]
    assert stored.shape == (4, 32, 32, 1)
    torch.testing.assert_close(batch.tokens, ((stored - task.mean) / task.std).view(4, 1024, 1))


def test_lra_of_another_side_is_the_same_images_averaged(tmp_path: Path):
    put(tmp_path / "cifar-10-batches-bin", binary_files(cifar_batches()))
    whole, usual, small = (build_cifar10_lra(request(tmp_path, **o)) for o in ({}, {"side": 32}, {"side": "16"}))
    assert (whole.spec, whole.data) == (usual.spec, usual.data)
    assert (whole.spec.length, small.spec.length, Cifar10LRA.spec.length) == (1024, 256, 1024)
    for split, stored in whole.splits.items():
        assert torch.equal(usual.splits[split].inputs, stored.inputs)
        expected = stored.inputs.double().unflatten(2, (16, 2)).unflatten(1, (16, 2)).mean((2, 4)).add(0.5).floor()
        assert torch.equal(small.splits[split].inputs.double(), expected)
        assert torch.equal(small.splits[split].targets, stored.targets)
    tokens = next(small.batches("train", 100)).tokens
    assert tokens.shape == (18, 256, 1)
    assert tokens.mean() == pytest.approx(0, abs=1e-4)
    assert tokens.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("side", [0, 2, 20, 64, -16])
def test_a_side_that_does_not_fit_is_refused(tmp_path: Path, side: int):
    with pytest.raises(ConfigError, match=rf"option side of cifar10-lra: expected one of 4, 8, 16, 32, found {side}"):
        build_cifar10_lra(request(tmp_path, side=side))


def test_only_lra_has_a_side(tmp_path: Path):
    with pytest.raises(ConfigError, match="option side of cifar10-lra: expected int, found 'small'"):
        build_cifar10_lra(request(tmp_path, side="small"))
    with pytest.raises(ConfigError, match="Unknown option of cifar10 'side'"):
        build_cifar10(request(tmp_path, side=16))


# ------------------------------------------------------------------------------------------ MNIST's files


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw", "."])
@pytest.mark.parametrize(("gz", "joint"), [(True, "-"), (False, "-"), (False, "."), (True, ".")])
def test_mnist_is_found_under_its_usual_names(tmp_path: Path, folder: str, gz: bool, joint: str):
    written = write_mnist(tmp_path / folder, gz, joint)
    found = read_mnist([tmp_path / "empty", tmp_path])
    np.testing.assert_array_equal(found.train.images[..., 0], written["train"][0])
    np.testing.assert_array_equal(found.test.labels, written["test"][1])
    assert found.origin["files"][0] == f"train-images{joint}idx3-ubyte" + ".gz" * gz


def damage(change: Callable[[bytes], bytes], name: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        (root / name).write_bytes(change((root / name).read_bytes()))

    return apply


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            damage(lambda b: b"\0\0\x0d\3" + b[4:], IMAGES),
            rf"{IMAGES}: expected .*number 00000803.*starting with 00000d03",
        ),
        (
            damage(lambda b: b"", LABELS),
            rf"{LABELS}: expected .*00000801.*found 0 bytes starting with nothing",
        ),
        (damage(lambda b: b[:-1], IMAGES), rf"{IMAGES}: expected 31376 bytes for shape \(40, 28, 28\), found 31375"),
        (damage(lambda b: b + b"x", LABELS), rf"{LABELS}: expected 48 bytes for shape \(40,\), found 49"),
        (damage(lambda b: b[:-1] + b"\x0b", LABELS), rf"{LABELS}: expected labels 0 to 9, found 11"),
        (
            damage(lambda b: b[:7] + b"\x27" + b[8:-1], LABELS),
            rf"{LABELS}: expected 40 integer labels, found .*\(39,\)",
        ),
        (damage(lambda b: b[:11] + b"\x0e" + b[12:15] + b"\x38" + b[16:], IMAGES), r"of \(28, 28\), found \(14, 56\)"),
        (damage(gzip.compress, IMAGES), None),
        (damage(lambda b: gzip.compress(b)[:-20], IMAGES), rf"{IMAGES}: .*Fetch or copy it again"),
        (lambda root: (root / LABELS).unlink(), rf"found {IMAGES}, but not {LABELS} or {LABELS}\.gz"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, spoil: Callable[[Path], None], message: str | None):
    write_mnist(tmp_path, gz=False)
    spoil(tmp_path)
    if message is None:  # gzip without the ending .gz is fine
        read_mnist([tmp_path])
        return
    with pytest.raises(DataError, match=message):
        read_mnist([tmp_path])


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (build_mnist, ["icecore data get mnist", "train-images-idx3-ubyte.gz"]),
        (
            build_cifar10,
            ["icecore data get cifar10", "cifar-10-python.tar.gz", "cifar-10-batches-bin", "cifar10-jpeg.tar.xz"],
        ),
        (build_cifar10_lra, ["icecore data get cifar10", "cifar10/train/<class>"]),
    ],
)
def test_missing_data_say_which_files_are_needed(tmp_path: Path, cache: Path, build: Callable, names: list[str]):
    (cache / "cifar10").mkdir()  # the folder of the cache does not count as data
    with pytest.raises(DataError) as caught:
        build(request(tmp_path))
    for name in (*names, str(tmp_path)):
        assert name in str(caught.value)


# ------------------------------------------------------------------------------------------ CIFAR-10's files


@pytest.mark.parametrize("make", [binary_files, python_2_files, python_3_files])
@pytest.mark.parametrize("place", ["folder", "archive", "archive under cifar10/"])
def test_published_batches_are_read_from_folder_and_archive(tmp_path: Path, make: Callable, place: str):
    batches = cifar_batches()
    form, short = ("binary", "bin") if make is binary_files else ("python", "py")
    folder = f"cifar-10-batches-{short}"
    if place == "folder":
        put(tmp_path / folder, make(batches))
    else:
        root = tmp_path / "cifar10" if "under" in place else tmp_path
        pack(root / f"cifar-10-{form}.tar.gz", {f"{folder}/{name}": raw for name, raw in make(batches).items()})
    found = read_cifar10([tmp_path])
    assert found.origin["format"] == form
    train = [batches[name] for name in BATCHES[:5]]
    np.testing.assert_array_equal(found.train.images, np.concatenate([x for x, _ in train]))
    np.testing.assert_array_equal(found.train.labels, np.concatenate([y for _, y in train]))
    np.testing.assert_array_equal(found.test.images, batches["test_batch"][0])
    assert found.classes == CIFAR10_CLASSES


def test_the_digest_depends_on_the_examples_and_not_on_the_format(tmp_path: Path):
    batches = cifar_batches()
    sets: list[ImageSet] = []
    for i, make in enumerate((binary_files, python_2_files)):
        name = ("cifar-10-batches-bin", "cifar-10-batches-py")[i]
        put(tmp_path / str(i) / name, make(batches))
        sets.append(read_cifar10([tmp_path / str(i)]))
    assert sets[0].sha256() == sets[1].sha256()
    sets[1].test.labels[0] += 1
    assert sets[0].sha256() != sets[1].sha256()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL))
def test_pickles_of_every_protocol_that_holds_arrays_in_band_are_read(tmp_path: Path, protocol: int):
    batches = cifar_batches()
    put(tmp_path / "cifar-10-batches-py", python_3_files(batches, protocol))
    np.testing.assert_array_equal(read_cifar10([tmp_path]).test.images, batches["test_batch"][0])


class Hostile:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    "payload",
    [
        pickle.dumps(Hostile(), 2),
        pickle.dumps({b"data": [Hostile()]}),
        b"cos\nsystem\n(S'true'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
    ],
)
def test_a_pickle_that_names_code_is_refused(tmp_path: Path, payload: bytes, capsys: pytest.CaptureFixture[str]):
    put(tmp_path / "cifar-10-batches-py", python_2_files(cifar_batches()) | {"data_batch_2": payload})
    with pytest.raises(DataError, match=r"data_batch_2: not a pickle of plain data \(it names [\w.]+, which"):
        read_cifar10([tmp_path])
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("data_batch_1", b"nonsense", "not a pickle of plain data"),
        ("data_batch_1", pickle.dumps([1]), "data_batch_1: expected a pickled dict, found list"),
        ("data_batch_1", pickle.dumps({"labels": [1]}), r"expected data of uint8 \(N, 3072\), found None"),
        ("test_batch", pickle.dumps({"data": np.zeros((2, 3), np.uint8)}, 4), r"test_batch: .* found uint8 \(2, 3\)"),
        (
            "test_batch",
            pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}, 4),
            "expected a list of labels, found None",
        ),
        ("test_batch", python_2_pickle(np.zeros((1, 3072), np.uint8), [10]), "labels 0 to 9, found 10"),
    ],
)
def test_a_damaged_python_batch_is_named(tmp_path: Path, name: str, raw: bytes, message: str):
    put(tmp_path / "cifar-10-batches-py", python_2_files(cifar_batches()) | {name: raw})
    with pytest.raises(DataError, match=message):
        read_cifar10([tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-1], r"data_batch_3\.bin: expected records of 3073 bytes, found 12291"),
        (lambda raw: b"", r"data_batch_3\.bin: expected records of 3073 bytes, found 0"),
        (lambda raw: b"\x0a" + raw[1:], r"data_batch_3\.bin: expected labels 0 to 9, found 10"),
        (None, r"cifar-10-batches-bin: expected .*, found no data_batch_3\.bin"),
    ],
)
def test_a_damaged_binary_batch_is_named(tmp_path: Path, change: Callable[[bytes], bytes] | None, message: str):
    files = binary_files(cifar_batches())
    raw = files.pop("data_batch_3.bin")
    put(tmp_path / "cifar-10-batches-bin", files | ({} if change is None else {"data_batch_3.bin": change(raw)}))
    with pytest.raises(DataError, match=message):
        read_cifar10([tmp_path])


@pytest.mark.parametrize("name", ["cifar-10-binary.tar.gz", "cifar10.tar", "cifar10.tar.xz", "cifar10.zip"])
@pytest.mark.parametrize("keep", [0.7, 0.0])
def test_an_archive_cut_short_is_named(tmp_path: Path, name: str, keep: float):
    path = pack(tmp_path / name, binary_files(cifar_batches()))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match=rf"{name} cannot be read .*copy it again"):
        read_cifar10([tmp_path])


# ------------------------------------------------------------------------------------------ images by class


@pytest.mark.parametrize("name", ["cifar10", "cifar10-jpeg.tar.xz", "cifar10.tar.gz", "cifar10.tar", "cifar10.zip"])
def test_images_by_class_are_read_from_any_container(tmp_path: Path, cache: Path, name: str):
    files = {f"./{key}" if "tar" in name else key: raw for key, raw in class_files().items()}
    files |= {"train/cat/.hidden.png": b"", "README.txt": b""}
    (put if name == "cifar10" else pack)(tmp_path / name, files)
    found = read_cifar10([tmp_path])
    assert found.classes == CIFAR10_CLASSES
    assert found.origin == {"format": "images", "files": [name]}
    for s, part in enumerate((found.train, found.test)):
        assert part.images.shape == (20, 32, 32, 3)
        np.testing.assert_array_equal(part.images[:, 5, 7, 0], 20 * part.labels)
        assert (part.images[..., 2] == 200 * s).all()
        assert sorted(part.labels.tolist()) == sorted([*range(10)] * 2)
        assert part.labels.tolist() != sorted(part.labels.tolist())  # a prefix is no single class
    assert [path.suffix for path in (cache / "cifar10").iterdir()] == [".npz"]


def test_jpeg_is_remarked_on(tmp_path: Path):
    pack(tmp_path / "cifar10-jpeg.tar.xz", class_files(form="jpeg"))
    task = build_cifar10(request(tmp_path, val=2))
    assert task.data["remark"] == "JPEG-recompressed"
    assert build_cifar10(request(tmp_path, val=2)).data == task.data  # also when it comes from the cache


def test_decoded_images_come_from_the_cache_until_the_source_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    files = class_files(1)
    put(tmp_path / "cifar10", files)
    first = read_cifar10([tmp_path])
    decoded: list[str] = []
    decode = class_folders._decode
    monkeypatch.setattr(class_folders, "_decode", lambda raw, name: decoded.append(name) or decode(raw, name))
    assert read_cifar10([tmp_path]).sha256() == first.sha256()
    assert not decoded

    for spoil in (lambda raw: raw[:-100], lambda raw: raw[:2000] + b"\xff" * 9 + raw[2009:], lambda raw: b""):
        (path,) = (cache / "cifar10").iterdir()
        path.write_bytes(spoil(path.read_bytes()))
        assert read_cifar10([tmp_path]).sha256() == first.sha256()
        assert len(decoded) == 20
        decoded.clear()

    put(tmp_path / "cifar10", {"test/cat/0001.png": files["train/dog/0000.png"]})
    assert len(read_cifar10([tmp_path]).test.labels) == 11
    assert len(decoded) == 21


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ICECORE_CACHE", str(tmp_path / "file"))
    pack(tmp_path / "cifar10.zip", class_files(1))
    with pytest.warns(UserWarning, match="decoded images cannot be cached .* decoded again next time"):
        assert len(read_cifar10([tmp_path]).train.labels) == 10


@pytest.mark.parametrize(
    ("member", "make", "message"),
    [
        ("train/dog/0000.png", lambda: b"nonsense", r"train/dog/0000\.png: not a readable JPEG or PNG image"),
        ("train/dog/0000.png", lambda: next(iter(class_files(1).values()))[:-30], "train/dog/0000.png: not a readable"),
        ("test/cat/0000.png", lambda: next(iter(class_files(1, mode="L").values())), "mode RGB, found 32x32 of mode L"),
        ("test/cat/0000.png", lambda: next(iter(class_files(1, size=28).values())), "found 28x28 of mode RGB"),
        (
            "train/cow/0000.png",
            lambda: next(iter(class_files(1).values())),
            r"in train/ found 11 classes \(airplane, .*cow",
        ),
        (
            "test/cow/0000.png",
            lambda: next(iter(class_files(1).values())),
            r"in test/ found 11 classes \(.*expected 10",
        ),
    ],
)
def test_an_image_that_does_not_fit_is_named(tmp_path: Path, member: str, make: Callable[[], bytes], message: str):
    pack(tmp_path / "cifar10.tar", class_files(1) | {member: make()})
    with pytest.raises(DataError, match=message):
        read_cifar10([tmp_path])


def test_images_without_pillow_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pack(tmp_path / "cifar10.tar", class_files(1))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install icecore\[images\]"):
        read_cifar10([tmp_path])


# ------------------------------------------------------------------------------------------ real data


@pytest.mark.data
def test_the_real_mnist(real_data: Path):
    path = next((p for p in (real_data / "mnist").glob("train-images*") if p.is_file()), None)
    if path is None:
        pytest.skip("no mnist/ in the data folder")
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert hashlib.md5(raw).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    assert read_idx(path, 3).shape == (60000, 28, 28)
    task = build_mnist(request(real_data))
    assert isinstance(task, Mnist)
    assert task.data["counts"] == {"train": 58000, "val": 2000, "test": 10000}
    mean, std = channel_statistics(task.splits["train"].inputs)
    assert (mean / 255).tolist() == pytest.approx([0.1307], abs=2e-4)
    assert (std / 255).tolist() == pytest.approx([0.3081], abs=2e-4)
    assert task.splits["test"].targets[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.mark.data
@pytest.mark.slow
def test_the_real_cifar10_as_jpeg(real_data: Path):
    path = real_data / "cifar10-jpeg.tar.xz"
    if not path.is_file():
        pytest.skip("no cifar10-jpeg.tar.xz in the data folder")
    pytest.importorskip("PIL")
    found = class_folders.read_class_folders(path)
    assert found.classes == CIFAR10_CLASSES
    assert found.origin["remark"] == "JPEG-recompressed"
    assert np.bincount(found.train.labels).tolist() == [5000] * 10
    assert np.bincount(found.test.labels).tolist() == [1000] * 10
    mean, std = channel_statistics(torch.from_numpy(found.train.images))
    # of the published images: 0.4914 0.4822 0.4465 and 0.2470 0.2435 0.2616
    assert (mean / 255).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-3)
    assert (std / 255).tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=4e-3)
