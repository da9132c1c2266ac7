"""Which files a reader opens for a path, so that no output is written over one of them."""

from pathlib import Path

from icecore.core.errors import ConfigError
from icecore.user_data.data_archives import iterate_files
from icecore.user_data.image_decoding import is_image
from icecore.user_data.readers.labels import label_table_names
from icecore.user_data.readers.named_arrays import split_files, target_file_names
from icecore.user_data.readers.series_archives import published_test_name
from icecore.user_data.readers.source_files import has_ending
from icecore.user_data.readers.source_kinds import READERS
from icecore.user_data.readers.table_files import TABLE_SUFFIXES


def check_not_input(out: Path, *inputs: Path) -> None:
    """Raise ConfigError if `out` is read with one of the inputs, or would be when they are read again."""
    for path in inputs:
        if _is_read(out, path):
            raise ConfigError(
                f"--out {out} is also an input file and would be overwritten, or would be read with "
                f"{path} the next time. Choose another file."
            )


def _is_read(out: Path, path: Path) -> bool:
    if not path.exists():
        return False
    if out.exists() and out.samefile(path):
        return not out.is_dir()
    folder = path if path.is_dir() else path.parent
    is_beside = out.resolve().parent in (folder.resolve(), path.resolve().parent)
    if is_beside and out.name.lower() in map(str.lower, _names_beside(path)):
        return True
    if has_ending(path.name, TABLE_SUFFIXES) and out.exists() and is_image(out.name):
        return path.resolve().parent in out.resolve().parents  # the table may name it
    if not path.is_dir():
        return False
    if out.exists() and not out.is_dir():
        return any(out.samefile(file) for file in iterate_files(path, skip_unreadable=True))
    endings = tuple(ending for reader in READERS.values() for ending in reader.endings)
    return path.resolve() in out.resolve().parents and has_ending(out.name, endings)


def _names_beside(path: Path) -> set[str]:
    """Names of files that are read with a file, if they are there: labels, targets, and other splits."""
    names = {*label_table_names(path), *target_file_names(path)}
    if (name := published_test_name(path)) is not None:
        names.add(name)
    if path.suffix.lower() == ".npy":
        names |= {file.name for file in split_files(path)}
    return names
