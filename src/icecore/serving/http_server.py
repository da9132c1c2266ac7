"""Runs the application on this machine until it receives SIGTERM or Ctrl-C, then finishes accepted requests."""

import contextlib
import gc
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from icecore.backbones import HubAccess
from icecore.core.errors import ConfigError
from icecore.serving.access import LOOPBACK
from icecore.serving.program_registry import ProgramRegistry, program_name
from icecore.serving.serve_settings import ServeSettings
from icecore.serving.serving_metrics import ServingMetrics
from icecore.serving.watched_folder import WatchedFolders

#: connections that wait to be accepted
BACKLOG = 512
#: longest turn of a Python thread in seconds. A pass gives its turn away at each of its hundreds of operations, and
#: with the usual 5 ms it would wait as long for the thread that reads requests, each time.
TURN_SECONDS = 0.0005


@dataclass(frozen=True)
class ServeOptions:
    """What is served, and how: program files and folders, limits, device, and access to the hub."""

    paths: Sequence[Path]
    settings: ServeSettings
    device: str = "auto"
    hub: HubAccess = "off"


def load_programs_of(options: ServeOptions) -> tuple[ProgramRegistry, WatchedFolders]:
    """Load all programs, and watch the folders among the paths.

    Raises ConfigError for two files of one name that were named, and DataError or WeightsError for one that cannot be
    served. Such a file in a folder is reported and left out.
    """
    registry = ProgramRegistry(options.settings, ServingMetrics(), options.device, options.hub)
    named = [path for path in options.paths if not path.is_dir()]
    folders = WatchedFolders(registry, [path for path in options.paths if path.is_dir()], named)
    try:
        for path in named:
            if (name := program_name(path)) in registry.programs:
                raise ConfigError(f"{path}: there is a program {name!r} already. Rename one of the files.")
            registry.put_file(path)
        folders.start()
    except BaseException:  # also one that is no UserError must not leave the threads of bodies behind
        registry.close()
        raise
    return registry, folders


def prepare_process() -> None:
    """Make pauses short: short turns for threads, and no search for garbage among what is loaded already.

    Call it when the programs are loaded. A full search takes a tenth of a second, because torch has so many objects.
    """
    sys.setswitchinterval(TURN_SECONDS)
    gc.collect()
    gc.freeze()


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one. Raises ConfigError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({error}). Choose another port."
        ) from error
    return listener


def serve(
    options: ServeOptions, host: str, port: int, token: str | None, ready: Callable[[str, ProgramRegistry], object]
) -> None:
    """Serve until SIGTERM or Ctrl-C. `ready` is called with the address when requests are accepted."""
    import uvicorn

    from icecore.serving.web_app import Access, create_app

    listener = open_socket(host, port)
    with listener:
        registry, folders = load_programs_of(options)
        prepare_process()
        app = create_app(registry, Access(token, is_local=host in LOOPBACK), folders)
        name = f"[{host}]" if ":" in host else host
        ready(f"http://{name}:{listener.getsockname()[1]}", registry)
        logging.getLogger("icecore.serve").setLevel(logging.INFO)
        config = uvicorn.Config(app, log_level="warning", access_log=False, backlog=BACKLOG, server_header=False)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn passes it on when all is done
            uvicorn.Server(config).run(sockets=[listener])
