"""Who may call the server: one token for all callers, the names of this machine, and no pages of other sites."""

import hmac
import re
from pathlib import Path

from starlette.requests import Request

from icecore.core.errors import ConfigError
from icecore.serving.request_errors import RequestError

#: hosts that only this machine reaches
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
#: shortest token: shorter ones can be guessed
MIN_TOKEN = 8


def read_token(path: Path) -> str:
    """The token in a file, without white space around it. Raises ConfigError for none, or one that can be guessed."""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path} cannot be read ({error}).") from error
    if len(token) < MIN_TOKEN or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ConfigError(
            f"--token-file {path} must hold one line of at least {MIN_TOKEN} characters without spaces. "
            "`openssl rand -hex 32` makes one."
        )
    return token


def check_token(request: Request, token: str | None) -> None:
    """Raise RequestError (401) unless the request has the token, if there is one."""
    if token is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # constant-time comparison, so timing reveals nothing about the token
    is_right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode())
    if scheme.lower() != "bearer" or not is_right:
        message = "A token is needed. Send it in the header 'Authorization: Bearer TOKEN'."
        raise RequestError(401, "no_token", message, {"WWW-Authenticate": "Bearer"})


def check_may_change(is_local: bool, token: str | None, is_replicated: bool) -> None:
    """Raise RequestError (403 or 409) where programs may not be put or deleted over HTTP.

    is_local       the server listens on this machine only
    is_replicated  this process is one of several that must serve the same programs
    """
    if is_replicated:
        message = "This server has several replicas. Copy the program into the folder that they watch, or remove it."
        raise RequestError(409, "replicated", message)
    if not is_local and token is None:
        message = "Programs can be put and deleted only on a server with a token. Start it with --token-file FILE."
        raise RequestError(403, "needs_token", message)


def check_host(request: Request) -> None:
    """Raise RequestError (400) for a request to another name than this machine's.

    A page of the internet whose name resolves to this machine could otherwise use the server through a browser.
    """
    host = re.sub(r":\d*$", "", request.headers.get("host", "localhost"))
    if host.lower() not in LOOPBACK:
        raise RequestError(
            400, "wrong_host", "This server answers on localhost only. Start it with --host to change that."
        )


def check_origin(request: Request) -> None:
    """Raise RequestError (403) for a request that a page of another site sends through a browser.

    A page cannot read the answer, but without this check it could make the server compute and change programs.
    """
    origin = request.headers.get("origin")
    is_own = origin is None or origin.partition("://")[2].lower() == request.headers.get("host", "").lower()
    if not is_own or request.headers.get("sec-fetch-site") == "cross-site":
        message = "This server answers no pages of other sites. Start it with --host to change that."
        raise RequestError(403, "wrong_origin", message)
