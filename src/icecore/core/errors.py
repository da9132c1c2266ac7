"""Mistakes a user can mend: one message that names the thing and the remedy.

Everything raised as `UserError` is printed by the command line without a traceback, with exit code 2.
"""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the request, the data or the environment; the message names it and its remedy."""


class ConfigError(UserError):
    """A setting that does not exist or does not fit the others."""


class DataError(UserError):
    """Data files that are missing, damaged or not what they claim to be."""


class WeightsError(UserError):
    """Backbone weights that are missing, damaged, or of a kind that is not supported."""


class StorageError(UserError):
    """A folder or disk that cannot be written."""


class BusyError(UserError):
    """Runs that another process is training; they are left to it."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name outside a table, with the nearest names that do exist.

    >>> str(unknown("task", "mnits", ["mnist", "listops"]))
    "unknown task 'mnits'; did you mean 'mnist'? Known: listops, mnist"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else "."
    return ConfigError(f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}")
