"""Past one machine: the same application as a deployment of Ray Serve, which keeps replicas alive and routes to them.

Every replica loads the programs and watches the folders, so the paths must be there on every node. Programs come and
go with the files of a watched folder, because a request reaches one replica only.
"""

import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from icecore.core.errors import ConfigError, UserError
from icecore.experiments.ray_executor import LOOPBACK_VARIABLE, connect
from icecore.model.program import Program
from icecore.serving.access import LOOPBACK
from icecore.serving.http_server import ServeOptions, load_programs_of, prepare_process
from icecore.serving.program_registry import program_files

DEPLOYMENT = "icecore"
#: requests that Ray sends to a replica before it waits for answers; the replica gathers their rows and refuses what is
#: too much for it
MAX_ONGOING = 512
#: requests of a replica at which Ray starts another one
TARGET_ONGOING = 64
#: seconds between two looks at whether a replica lives
HEALTH_PERIOD = 2.0


@dataclass(frozen=True)
class RayPlacement:
    """Where the replicas run.

    address   of the cluster, see `RayOptions`
    replicas  a number, or "least-most" to let Ray start and stop them by load
    cpus      processors of a replica, and as many threads
    gpus      GPUs of a replica, or a share of one
    """

    address: str
    replicas: str = "1"
    cpus: float = 1.0
    gpus: float = 0.0

    def scaling(self) -> dict[str, Any]:
        """The options of a deployment for the number of replicas. Raises ConfigError.

        >>> RayPlacement("local", "2").scaling(), RayPlacement("local", "1-4").scaling()["autoscaling_config"]
        ({'num_replicas': 2}, {'min_replicas': 1, 'max_replicas': 4, 'target_ongoing_requests': 64})
        """
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", self.replicas)
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= least <= most:
            raise ConfigError(f"--replicas: expected a number above 0 or a range such as 1-4, found {self.replicas!r}")
        if least == most:
            return {"num_replicas": least}
        scale = {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": TARGET_ONGOING}
        return {"autoscaling_config": scale}


def serve_on_ray(
    options: ServeOptions,
    placement: RayPlacement,
    host: str,
    port: int,
    token: str | None,
    ready: Callable[[str], object],
) -> None:
    """Deploy, and serve until SIGTERM or Ctrl-C. `ready` is called with the address when replicas answer.

    Raises UserError if Ray Serve is not installed, the cluster cannot be reached, or the programs cannot be served.
    """
    scaling = placement.scaling()
    for path in options.paths:  # report mistakes here, not in a replica's log
        for file in program_files(path):
            if file == path:
                Program.load(file)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with_loopback(placement.address)
    ray_serve = import_serve()
    import ray

    connect(placement.address)
    try:
        ray_serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        deploy(options, placement, scaling, token, is_local=host in LOOPBACK)
        ready(f"http://{host}:{port}")
        ended.wait()
    finally:
        ray_serve.shutdown()
        ray.shutdown()


def deploy(
    options: ServeOptions, placement: RayPlacement, scaling: dict[str, Any], token: str | None, is_local: bool
) -> None:
    """Put the application on the cluster that this process is connected to, and wait until it answers.

    Raises UserError if no replica can be started.
    """
    ray_serve = import_serve()

    def build() -> Any:
        """The application; called in each replica."""
        from icecore.serving.web_app import Access, create_app

        registry, folders = load_programs_of(options)
        prepare_process()
        return create_app(registry, Access(token, is_local, is_replicated=True), folders)

    deployment = ray_serve.deployment(
        ray_serve.ingress(build)(),
        name=DEPLOYMENT,
        max_ongoing_requests=MAX_ONGOING,
        health_check_period_s=HEALTH_PERIOD,
        ray_actor_options={"num_cpus": placement.cpus, "num_gpus": placement.gpus},
        **scaling,
    )
    try:
        ray_serve.run(deployment.bind(), name=DEPLOYMENT, route_prefix="/")
    except RuntimeError as error:
        raise UserError(f"--ray: the deployment failed. The logs of Ray Serve say why ({error}).") from error


def with_loopback(address: str) -> None:
    """Let a cluster that is started here listen on this machine only. Takes effect before Ray is imported."""
    if address == "local" or not (address or os.environ.get("RAY_ADDRESS")):
        os.environ.setdefault(LOOPBACK_VARIABLE, "0")


def import_serve() -> Any:
    """The module of Ray Serve. Raises UserError if it is not installed."""
    try:
        from ray import serve
    except ImportError as error:
        message = f"--ray needs Ray Serve ({error}). Install it with: pip install 'icecore[serve,ray]' 'ray[serve]'"
        raise UserError(message) from error
    return serve
