"""Unpacking one folder of a tar archive, safely and completely or not at all."""

import os
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from icecore.core.archives import open_tar, tar_members
from icecore.core.errors import DataError, UserError
from icecore.core.storage import storage_errors
from icecore.core.text import reason

#: the advice if the disk refuses downloaded data
CHOOSE_FOLDER = "Free space there, or name another folder with --dest or ICECORE_CACHE."


def unpack(archive: Path, inside: str, target: Path) -> None:
    """Unpack the regular files below the folder `inside` of a tar archive into the folder `target`.

    Files go to a temporary folder, which is renamed when it is complete. A member that is a device, or whose path or
    link leads outside the archive, makes the whole archive unsafe. Raises DataError and StorageError.
    """
    with (
        storage_errors(target, CHOOSE_FOLDER),
        tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}.") as temporary,
    ):
        new = Path(temporary) / target.name
        new.mkdir()
        try:
            with open_tar(archive) as members:
                for member in tar_members(members, archive):
                    tarfile.data_filter(member, os.fspath(new))
                    parts = PurePosixPath(member.name).parts
                    if member.isfile() and inside in parts[:-1]:
                        name = "/".join(parts[parts.index(inside) + 1 :])
                        members.extract(member.replace(name=name, deep=False), new, filter="data")
        except tarfile.FilterError as error:
            raise DataError(f"{archive}: the archive is unsafe and was not unpacked ({reason(error)})") from error
        except (UserError, MemoryError):
            raise
        except Exception as error:  # damaged archives raise nearly anything
            if isinstance(error, OSError) and error.errno is not None:  # of the disk
                raise
            raise DataError(
                f"{archive}: expected a tar archive, found damaged data ({reason(error)}). Download it again."
            ) from error
        if not any(new.iterdir()):
            raise DataError(f"{archive}: expected files in a folder {inside}, found none. Download it again.")
        new.replace(target)
