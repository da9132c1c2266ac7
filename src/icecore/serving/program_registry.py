"""The programs that are served, by name, and the bodies that they share. Programs come and go while others answer."""

import re
import threading
from collections.abc import Mapping
from pathlib import Path

import torch

from icecore.backbones import HubAccess, build_body_of
from icecore.core.config import SINGLE_ROLES
from icecore.core.device import select_runtime
from icecore.core.errors import ConfigError, DataError, WeightsError
from icecore.core.storage import storage_errors
from icecore.core.text import shortened
from icecore.inference.engine import Engine
from icecore.model.program import Program
from icecore.serving.batcher import Batcher, usual_workers
from icecore.serving.request_errors import unknown_program
from icecore.serving.serve_settings import ServeSettings
from icecore.serving.served_program import ServedBody, ServedProgram
from icecore.serving.serving_metrics import ServingMetrics
from icecore.sharing.card_text import file_name

PROGRAM_SUFFIX = ".safetensors"
#: a name is a name and no path, and needs no escaping in a URL
_NAME = re.compile(r"[\w][\w. +=@-]{0,99}")


class ProgramRegistry:
    """Programs by name. Every change is checked first and then made in one step; a request keeps what it found.

    hub  whether bodies of program files of the operator's may be fetched
    """

    def __init__(
        self, settings: ServeSettings, metrics: ServingMetrics, device: str = "auto", hub: HubAccess = "off"
    ) -> None:
        self.settings, self.metrics, self.device = settings, metrics, device
        self.hub: HubAccess = hub
        #: before a worker has its share of them, which new threads take over
        self.cores = torch.get_num_threads()
        self.bodies: list[ServedBody] = []
        #: counts the changes, so that what is made of all programs is made again
        self.generation = 0
        self._programs: dict[str, ServedProgram] = {}
        #: for one change of the programs, and for the building of one body, which may take half a minute
        self._lock, self._building = threading.Lock(), threading.Lock()
        metrics.programs.set_function(lambda: len(self._programs))

    @property
    def programs(self) -> Mapping[str, ServedProgram]:
        """All programs by name."""
        return dict(self._programs)  # a copy, since programs come and go in other threads

    def get(self, name: str) -> ServedProgram | None:
        """The program of this name, if there is one."""
        return self._programs.get(name)

    def find(self, name: str) -> ServedProgram:
        """The program of this name. Raises RequestError (404) with the nearest names."""
        program = self.get(name)
        if program is None:
            raise unknown_program(name, list(self._programs))
        return program

    def put(self, name: str, raw: bytes, may_load_body: bool = False) -> ServedProgram:
        """Serve the program of a file's bytes under a name, in place of one that has it already.

        may_load_body  load the body if it is not served yet

        Raises ConfigError for a name that cannot be one, DataError for a damaged file, WeightsError with both
        fingerprints for a program of another body.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"The name {shortened(name)} cannot be that of a program. Use up to 100 letters, digits and ._+=@- "
                "with a letter or digit first."
            )
        try:
            program = Program.from_bytes(raw, name)
            body = self._body_of(program, name, may_load_body)
            served = ServedProgram.make(name, raw, program, body)
        except Exception:
            self.metrics.changes.labels("refused").inc()
            raise
        with self._lock:
            self._programs[name] = served
            self.generation += 1
        self.metrics.changes.labels("put").inc()
        return served

    def put_file(self, path: Path) -> ServedProgram:
        """Serve a program file of the operator's under the name of the file. Raises what `put` raises."""
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}). Check the name and the permissions.") from error
        return self.put(program_name(path), raw, may_load_body=True)

    def delete(self, name: str) -> ServedProgram:
        """Stop serving a program; requests that have it already are answered. Raises RequestError (404)."""
        with self._lock:
            served = self.find(name)
            del self._programs[name]
            self.generation += 1
        self.metrics.changes.labels("deleted").inc()
        return served

    def close(self) -> None:
        """Finish what waits for the bodies."""
        for body in self.bodies:
            body.batcher.close()

    def _body_of(self, program: Program, name: str, may_load: bool) -> ServedBody:
        """The body with the program's fingerprint. Raises WeightsError, ConfigError."""
        roles = program.config.train_roles
        if single := sorted(SINGLE_ROLES.intersection(roles)):
            raise ConfigError(
                f"Program {name!r} trained {', '.join(single)}, so its body differs from every other and cannot be "
                "served with other programs. Use it alone, with icecore.load_run."
            )
        precision = select_runtime(self.device, program.config.precision).precision
        if (found := self._loaded_body(program, precision)) is not None:
            return found
        if may_load:
            with self._building:
                # another thread may have built it meanwhile
                return self._loaded_body(program, precision) or self._load_body(program)
        config = program.config
        wanted = (
            f"fingerprint {program.fingerprint} (backbone {config.backbone}, weights {config.weights}, {precision})"
        )
        served = [
            f"fingerprint {body.engine.backbone.fingerprint(roles)} ({body.name}, weights {body.weights}, "
            f"{body.precision})"
            for body in self.bodies
        ]
        raise WeightsError(
            f"Program {name!r} was trained on another body: {wanted}. This server has "
            f"{'; '.join(served) or 'no body'}. Start the server with a program of that body."
        )

    def _loaded_body(self, program: Program, precision: str) -> ServedBody | None:
        """The body with the program's fingerprint and this precision: another precision gives other answers."""
        roles, bodies = program.config.train_roles, [body for body in self.bodies if body.precision == precision]
        return next((b for b in bodies if b.engine.backbone.fingerprint(roles) == program.fingerprint), None)

    def _load_body(self, program: Program) -> ServedBody:
        config, settings = program.config, self.settings
        runtime = select_runtime(self.device, config.precision)
        backbone = build_body_of(config, self.hub).to(runtime.device)
        engine = Engine(backbone, runtime.precision)
        engine.load(program, "new")  # before the body is kept: raises if it is not the program's
        taken = [body.name for body in self.bodies]
        name = file_name(backbone.info.name)
        label = name if name not in taken else f"{name}-{len(taken) + 1}"
        batcher = self.make_batcher(engine, label)
        if settings.compile:
            batcher.call_as_worker(lambda: engine.compile_kernels(program))
        self.metrics.watch_queue(label, lambda: batcher.waiting)
        body = ServedBody(label, str(backbone.info.weights), runtime.precision, engine, batcher)
        self.bodies.append(body)
        return body

    def make_batcher(self, engine: Engine, label: str) -> Batcher:
        """The queue and the workers of a body, whose passes are counted under `label`."""
        settings, is_cpu = self.settings, engine.device.type == "cpu"
        return Batcher(
            engine,
            settings.wait_ms,
            settings.max_rows,
            settings.max_queue,
            self.metrics.observer(label),
            settings.workers or usual_workers(engine.device, self.cores),
            self.cores if is_cpu else None,
        )


def program_name(path: Path) -> str:
    """The name under which a program file is served."""
    return path.name.removesuffix(PROGRAM_SUFFIX)


def program_files(path: Path) -> list[Path]:
    """The program files of a folder in order of name, or the file itself. Raises DataError for a missing path."""
    if not path.exists():
        raise DataError(f"There is no program file or folder {path}.")
    if not path.is_dir():
        return [path]
    with storage_errors(path, "Choose a folder that can be read."):
        return sorted(file for file in path.glob(f"*{PROGRAM_SUFFIX}") if not file.name.startswith("."))
