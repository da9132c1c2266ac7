"""The pages for people: single files that load nothing else, and headers that let them load nothing else."""

import base64
import functools
import hashlib
import re
from importlib import resources

from starlette.responses import Response

#: where a style or a script is put into a page
_PART = re.compile(r"\{\{([\w.]+)\}\}")
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def response(name: str) -> Response:
    """One of the pages as an answer."""
    content, policy = _page(name)
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Response(content, media_type="text/html", headers=headers)


def _read(name: str) -> str:
    return resources.files("icecore.serving").joinpath("pages", name).read_text("utf-8")


@functools.cache
def _page(name: str) -> tuple[bytes, str]:
    """A page, and the policy that lets only its own scripts and styles run, which their hashes name."""
    text = _PART.sub(lambda found: _read(found[1]), _read(name))
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in _INLINE.findall(text):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    policy = [
        "default-src 'none'",
        f"script-src {' '.join(hashes['script'])}",
        f"style-src {' '.join(hashes['style'])}",
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return text.encode(), "; ".join(policy)
