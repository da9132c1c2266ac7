"""Errors that a user can correct. Each message names what is wrong, what was expected, and what to do.

The command line prints a `UserError` without a traceback and exits with code 2.
"""

import difflib
from collections.abc import Iterable

#: characters of an unknown name that are shown and compared; the comparison takes time by the square of them
MAX_SHOWN_NAME = 100


class UserError(Exception):
    """A mistake in the request, the data or the environment, which the user can correct."""


class ConfigError(UserError):
    """A setting that does not exist, has a wrong value, or does not fit the other settings."""


class DataError(UserError):
    """Data files that are missing, damaged, or of another format than expected."""


class WeightsError(UserError):
    """Backbone weights that are missing, damaged, or of an unsupported kind."""


class StorageError(UserError):
    """A file or folder that cannot be written."""


class BusyError(UserError):
    """Another process is training the same run or fitting the same file."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in a table; it suggests the nearest known names.

    >>> str(unknown_name("task", "mnits", ["mnist", "listops"]))
    "Unknown task 'mnits'. Did you mean 'mnist'? Known: listops, mnist."
    """
    names = sorted(known)
    name = str(name)  # in a file, it may be anything
    similar = difflib.get_close_matches(name[:MAX_SHOWN_NAME], names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, similar))}?" if similar else ""
    shown = name if len(name) <= MAX_SHOWN_NAME else name[:MAX_SHOWN_NAME] + " ..."
    return ConfigError(f"Unknown {kind} {shown!r}.{hint} Known: {', '.join(names)}.")
