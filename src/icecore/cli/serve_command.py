"""The command that serves programs over HTTP."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icecore.cli.console import echo
from icecore.cli.option_values import read_hub_access
from icecore.cli.options import Device, Download, Host, Port, ReplicaCpus, ReplicaGpus, Replicas, ServeOnRay, TokenFile
from icecore.cli.setting_options import with_settings
from icecore.core.extras import require_packages
from icecore.core.settings import from_values
from icecore.core.text import pluralize
from icecore.serving.serve_settings import ServeSettings

if TYPE_CHECKING:
    from icecore.serving.program_registry import ProgramRegistry

#: what the server needs beside icecore itself
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


@with_settings(ServeSettings, "serve_values")
def serve(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PROGRAM... | FOLDER", help="Program files, or folders of them that are watched for changes."
        ),
    ],
    *,
    serve_values: dict[str, Any],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_file: TokenFile = None,
    download: Download = False,
    device: Device = "auto",
    ray: ServeOnRay = None,
    replicas: Replicas = "1",
    cpus: ReplicaCpus = 1.0,
    gpus: ReplicaGpus = 0.0,
) -> None:
    """Serve programs over HTTP, with a page to try them. Programs on one body share its passes."""
    require_packages("icecore serve", "serve", *NEEDED)
    from icecore.serving.access import read_token
    from icecore.serving.http_server import ServeOptions
    from icecore.serving.http_server import serve as run_server

    token = None if token_file is None else read_token(token_file)
    hub = read_hub_access(download, token=False)
    options = ServeOptions([path.expanduser().absolute() for path in paths], _settings(serve_values), device, hub)
    logging.basicConfig(format="%(message)s")
    if ray is not None:
        from icecore.serving.ray_deployment import RayPlacement, serve_on_ray

        placement = RayPlacement(ray, replicas, cpus, gpus)
        serve_on_ray(options, placement, host, port, token, lambda address: _print_address(address, token))
        return
    run_server(options, host, port, token, lambda address, registry: _print_ready(address, registry, token))


def _settings(values: dict[str, Any]) -> ServeSettings:
    return from_values(ServeSettings, values)


def _print_ready(address: str, registry: "ProgramRegistry", token: str | None) -> None:
    programs, bodies = len(registry.programs), len(registry.bodies)
    word = "body" if bodies == 1 else "bodies"
    echo(f"Serving {pluralize(programs, 'program')} on {bodies} {word}.")
    _print_address(address, token)


def _print_address(address: str, token: str | None) -> None:
    access = " Callers need the token." if token else ""
    echo(f"Open {address} in a browser; {address}/docs describes the API.{access} Ctrl-C stops the server.")
