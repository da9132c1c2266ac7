"""The command that serves programs over HTTP."""

import importlib.util
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icecore.cli.console import echo
from icecore.cli.option_values import read_hub_access
from icecore.cli.options import RAY, Device, Download
from icecore.cli.setting_options import with_settings
from icecore.core.errors import ConfigError
from icecore.core.settings import from_values
from icecore.core.text import pluralize
from icecore.serving.serve_settings import ServeSettings

if TYPE_CHECKING:
    from icecore.serving.program_registry import ProgramRegistry

ADDRESS = "Address and access"
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
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine's.", rich_help_panel=ADDRESS)
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel=ADDRESS)
    ] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that every caller must send.", rich_help_panel=ADDRESS),
    ] = None,
    download: Download = False,
    device: Device = "auto",
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Deploy on Ray Serve: auto, HOST:PORT, ray://HOST:PORT, or local to start a cluster on this machine.",
            rich_help_panel=RAY,
        ),
    ] = None,
    replicas: Annotated[
        str,
        typer.Option(help="With --ray: number of replicas, or LEAST-MOST to let Ray choose.", rich_help_panel=RAY),
    ] = "1",
    cpus: Annotated[float, typer.Option(min=0, help="With --ray: processors of a replica.", rich_help_panel=RAY)] = 1,
    gpus: Annotated[
        float, typer.Option(min=0, help="With --ray: GPUs of a replica, for example 0.25.", rich_help_panel=RAY)
    ] = 0,
) -> None:
    """Serve programs over HTTP, with a page to try them. Programs on one body share its passes."""
    check_installed()
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


def check_installed() -> None:
    """Raise ConfigError if what the server needs is not installed."""
    if absent := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"icecore serve needs {', '.join(absent)}. Install what is missing with: pip install 'icecore[serve]'"
        )


def _print_ready(address: str, registry: "ProgramRegistry", token: str | None) -> None:
    programs, bodies = len(registry.programs), len(registry.bodies)
    word = "body" if bodies == 1 else "bodies"
    echo(f"Serving {pluralize(programs, 'program')} on {bodies} {word}.")
    _print_address(address, token)


def _print_address(address: str, token: str | None) -> None:
    access = " Callers need the token." if token else ""
    echo(f"Open {address} in a browser; {address}/docs describes the API.{access} Ctrl-C stops the server.")
