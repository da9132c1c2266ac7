"""Packages of an extra, checked before work begins that would be lost without them."""

import importlib.util

from icecore.core.errors import UserError


def require_packages(purpose: str, extra: str, *packages: str) -> None:
    """Raise UserError, with a remedy, if one of these packages of an extra is not installed.

    purpose  what needs them, as the beginning of a sentence
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{purpose} needs {package}. Install it with: pip install 'icecore[{extra}]'")
