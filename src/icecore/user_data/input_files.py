"""Which files a reader opens for a path, so that no output is written over one of them."""

from pathlib import Path

from icecore.core.errors import ConfigError
from icecore.user_data.data_archives import iterate_files
from icecore.user_data.readers.arrays import target_file_names
from icecore.user_data.readers.labels import label_table_names
from icecore.user_data.readers.source_files import has_ending
from icecore.user_data.readers.source_kinds import READERS


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
    beside = {*label_table_names(path), *target_file_names(path)}
    if out.resolve().parent in (folder.resolve(), path.resolve().parent) and out.name in beside:
        return True
    if not path.is_dir():
        return False
    if out.exists() and not out.is_dir():
        return any(out.samefile(file) for file in iterate_files(path, skip_unreadable=True))
    endings = tuple(ending for reader in READERS.values() for ending in reader.endings)
    return path.resolve() in out.resolve().parents and has_ending(out.name, endings)
