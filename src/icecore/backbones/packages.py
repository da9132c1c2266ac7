"""Pretrained weights that a package index carries inside Python packages, whole or in parts."""

import hashlib
import importlib.util
import io
import shutil
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from icecore.core.errors import WeightsError
from icecore.core.storage import cache_dir, create_folder
from icecore.core.text import list_in_words

#: bytes that are copied at once
COPIED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Location:
    """Where pretrained weights are: a folder or a hub name, a GGUF file in it or None, and the source in words."""

    place: str
    file: str | None
    source: str


class WeightsPackage(Protocol):
    """One or more packages that hold the weights of a body."""

    @property
    def install(self) -> str:
        """The command that installs it."""
        ...

    def locate(self) -> Location | None:
        """Where its weights are, None if nothing of it is installed. Raises WeightsError if it is incomplete."""
        ...

    def open(self) -> Location | None:
        """As `locate`, after the weights were made readable. Raises WeightsError, and StorageError."""
        ...


@dataclass(frozen=True)
class Package:
    """Weights in `folder` of the module `module`, in a GGUF file if a `suffix` is given."""

    module: str
    folder: str
    install: str
    suffix: str | None = None

    def locate(self) -> Location | None:
        """Where the weights are, None if the package or the file is not here."""
        root = _folder_of(self.module)
        if root is None:
            return None
        source = f"package {self.module}"
        if self.suffix is None:
            return Location(str(root / self.folder), None, source)
        file = next(iter(sorted((root / self.folder).rglob(f"*{self.suffix}"))), None)
        return None if file is None else Location(str(file.parent), file.name, source)

    def open(self) -> Location | None:
        """As `locate`: there is nothing to unpack."""
        return self.locate()


@dataclass(frozen=True)
class SplitPackage:
    """A zip archive with a `save_pretrained` folder, in parts that are spread over several packages.

    name      what the packages are called together
    modules   of the parts, in order; each has its part under the path `part`, with the number of the part in it
    folder    the folder in the archive
    bytes, sha256  of the weights file in it
    """

    name: str
    modules: Sequence[str]
    part: str
    folder: str
    bytes: int
    sha256: str
    install: str

    def locate(self) -> Location | None:
        """The folder to which the archive is or will be unpacked. Raises WeightsError if some parts are missing."""
        location = Location(str(self._unpacked), None, f"packages {self.name}")
        if self._is_unpacked:
            return location
        paths = self._parts()
        missing = [str(number) for number, path in enumerate(paths, 1) if path is None]
        if len(missing) == len(paths):
            return None
        if missing:
            numbers = "number" if len(missing) == 1 else "numbers"
            raise WeightsError(
                f"{self.name} consists of {len(paths)} packages, of which {numbers} {list_in_words(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} missing. Run `{self._install_again}`."
            )
        return location

    def open(self) -> Location | None:
        """As `locate`, after unpacking the weights and their configuration into the cache folder, once.

        Raises WeightsError if a part is damaged, and StorageError if the cache folder cannot be written.
        """
        location = self.locate()
        if location is not None and not self._is_unpacked:
            if self._unpacked.is_dir():  # damaged or incomplete, and the packages have all of it
                shutil.rmtree(self._unpacked, ignore_errors=True)
            create_folder(self._unpacked, self._unpack)
        return location

    @property
    def _unpacked(self) -> Path:
        return cache_dir() / "packages" / f"{self.name}-{self.sha256[:16]}"

    @property
    def _is_unpacked(self) -> bool:
        """Whether the unpacked folder has its configuration, and weights of the right size."""
        weights = self._unpacked / "model.safetensors"
        has_config = (self._unpacked / "config.json").is_file()
        return has_config and weights.is_file() and weights.stat().st_size == self.bytes

    def _parts(self) -> list[Path | None]:
        """The file of each part, None where it is not here."""
        paths = [(_folder_of(module), self.part.format(number)) for number, module in enumerate(self.modules, 1)]
        files = [None if folder is None else folder / part for folder, part in paths]
        return [file if file is not None and file.is_file() else None for file in files]

    def _unpack(self, folder: Path) -> None:
        """Copy the weights and their configuration out of the archive. Raises WeightsError if a part is damaged."""
        parts = [path for path in self._parts() if path is not None]
        try:
            with io.BufferedReader(_JoinedFiles(parts)) as joined, zipfile.ZipFile(joined) as archive:
                with archive.open(f"{self.folder}/config.json") as config:
                    (folder / "config.json").write_bytes(config.read(COPIED_AT_ONCE))
                found = self._copy_weights(archive, folder / "model.safetensors")
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError) as error:
            raise self._damaged(str(error) or "a part ends too soon") from error
        if found != self.sha256:
            raise self._damaged("their checksum is not the expected one")

    def _copy_weights(self, archive: zipfile.ZipFile, path: Path) -> str:
        """Copy the weights file out of the archive. Returns its sha256."""
        name, checksum = f"{self.folder}/model.safetensors", hashlib.sha256()
        if archive.getinfo(name).file_size != self.bytes:
            raise self._damaged(f"the weights have {archive.getinfo(name).file_size:,} bytes instead of {self.bytes:,}")
        with archive.open(name) as source, path.open("wb") as target:
            while chunk := source.read(COPIED_AT_ONCE):
                checksum.update(chunk)
                target.write(chunk)
        return checksum.hexdigest()

    def _damaged(self, cause: str) -> WeightsError:
        return WeightsError(
            f"The packages {self.name} are damaged ({cause}). Install them again: `{self._install_again}`."
        )

    @property
    def _install_again(self) -> str:
        """The command that also replaces packages of which files are missing."""
        return f"{self.install} --force-reinstall"


class _JoinedFiles(io.RawIOBase):
    """Several files that are read as if they were one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self._files = [path.open("rb") for path in paths]
        self._sizes = [path.stat().st_size for path in paths]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: sum(self._sizes)}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        first = 0
        for file, size in zip(self._files, self._sizes, strict=True):
            if self._position < first + size:
                file.seek(self._position - first)
                count = file.readinto(buffer)
                self._position += count
                return count
            first += size
        return 0

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def _folder_of(module: str) -> Path | None:
    """The folder of an installed package, which is not imported; None if it is not installed."""
    spec = importlib.util.find_spec(module)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
