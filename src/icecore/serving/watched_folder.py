"""Folders whose program files are served as they come, change and go, without a restart."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from icecore.core.errors import UserError
from icecore.core.text import reason
from icecore.serving.program_registry import ProgramRegistry, program_files, program_name

logger = logging.getLogger("icecore.serve")
#: seconds between two looks at the folders; files are written under another name and renamed, so none is half written
INTERVAL = 1.0

#: time of the last change, size and number of a file
_State = tuple[int, int, int]


class WatchedFolders:
    """Keeps a registry as the program files of some folders are.

    Each name belongs to one path: a second file of the same name is refused, and takes over when the first is gone.

    problems  why files are refused, by path
    named     program files that were named beside the folders, whose names no file of a folder gets
    """

    def __init__(self, registry: ProgramRegistry, folders: Sequence[Path], named: Sequence[Path] = ()) -> None:
        self.registry, self.folders = registry, list(dict.fromkeys(folders))
        self.problems: dict[Path, str] = {}
        self._owners: dict[str, Path] = {program_name(path): path for path in named}
        self._served: set[Path] = set()
        self._states: dict[Path, _State] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="icecore-folders", daemon=True)

    def start(self) -> None:
        """Serve what the folders have, and watch them. Raises DataError for a folder that does not exist."""
        for folder in self.folders:
            program_files(folder)
        self.check()
        if self.folders:
            self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def check(self) -> None:
        """Serve what is new or changed, and stop serving what is gone."""
        states = self._look()
        for path in self._states.keys() - states.keys():
            self._remove(path)
        for path, state in states.items():
            is_waiting = self._owners.get(program_name(path)) is None  # the file that had its name is gone
            if state != self._states.get(path) or is_waiting:
                self._states[path] = state  # also of a file that fails, which is tried again when it changes
                self._serve(path)

    def _serve(self, path: Path) -> None:
        """Serve a new or changed file, or note why it is refused."""
        owner = self._owners.setdefault(program_name(path), path)
        if owner != path:
            self._refuse(path, f"{owner} has this name already. Rename one of the files.")
            return
        try:
            served = self.registry.put_file(path)
        except UserError as error:  # what was served under this name goes on
            self._refuse(path, str(error))
        except Exception as error:  # one file that meets a fault must not keep those after it from being served
            logger.exception("%s could not be loaded", path)
            self._refuse(path, f"It could not be loaded ({reason(error)}). The log has the details.")
        else:
            self._served.add(path)
            self.problems.pop(path, None)
            logger.info("Serving %s, version %s.", served.name, served.version)

    def _refuse(self, path: Path, why: str) -> None:
        self.problems[path] = why
        logger.warning("%s is not served. %s", path.name, why)

    def _remove(self, path: Path) -> None:
        """Stop serving a file that is gone. What another file or a request serves under its name goes on."""
        name = program_name(path)
        del self._states[path]
        self.problems.pop(path, None)
        if self._owners.get(name) == path:
            del self._owners[name]
        if path in self._served:
            self._served.remove(path)
            if self.registry.get(name) is not None:
                self.registry.delete(name)
                logger.info("%s is gone: its program is no longer served.", path.name)

    def _look(self) -> dict[Path, _State]:
        states: dict[Path, _State] = {}
        for folder in self.folders:
            try:
                for path in program_files(folder):
                    found = path.stat()
                    states[path] = (found.st_mtime_ns, found.st_size, found.st_ino)
            except (OSError, UserError):  # it is being replaced, or the disk is away: what is served goes on
                states |= {path: state for path, state in self._states.items() if path.parent == folder}
        return states

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL):
            try:
                self.check()
            except Exception:  # the folders are watched on
                logger.exception("a look at the folders failed")
