"""Folders whose program files are served as they come, change and go, without a restart."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from icecore.core.errors import UserError
from icecore.serving.program_registry import PROGRAM_SUFFIX, ProgramRegistry, program_files

logger = logging.getLogger("icecore.serve")
#: seconds between two looks at the folders; files are written under another name and renamed, so none is half written
INTERVAL = 1.0

#: time of the last change, size and number of a file
_State = tuple[int, int, int]


class WatchedFolders:
    """Keeps a registry as the program files of some folders are. `problems` has the files that are refused, and why."""

    def __init__(self, registry: ProgramRegistry, folders: Sequence[Path]) -> None:
        self.registry, self.folders = registry, folders
        self.problems: dict[str, str] = {}
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
            name = path.name.removesuffix(PROGRAM_SUFFIX)
            self.problems.pop(path.name, None)
            if name in self.registry.programs:
                self.registry.delete(name)
                logger.info("%s is gone: its program is no longer served.", path.name)
        for path, state in states.items():
            if state == self._states.get(path):
                continue
            try:
                served = self.registry.put_file(path)
                self.problems.pop(path.name, None)
                logger.info("Serving %s, version %s.", served.name, served.version)
            except UserError as error:  # what was served under this name goes on
                self.problems[path.name] = str(error)
                logger.warning("%s is not served. %s", path.name, error)
        self._states = states

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
