"""Packages of an extra, checked before work begins that would be lost without them."""

import importlib.util
from collections.abc import Mapping

from icecore.core.errors import UserError
from icecore.core.text import list_in_words

#: names of packages that differ from those of their modules
PACKAGE_NAMES: Mapping[str, str] = {"sklearn": "scikit-learn", "prometheus_client": "prometheus-client"}


def require_packages(purpose: str, extra: str, *modules: str) -> None:
    """Raise UserError, with a remedy, if packages of an extra are not installed.

    purpose  what needs them, as the beginning of a sentence
    modules  the modules of the packages, which are not imported
    """
    if absent := [module for module in modules if importlib.util.find_spec(module) is None]:
        names = list_in_words([PACKAGE_NAMES.get(module, module) for module in absent])
        pronoun = "it" if len(absent) == 1 else "them"
        raise UserError(f"{purpose} needs {names}. Install {pronoun} with: pip install 'icecore[{extra}]'")
