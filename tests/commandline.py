"""What a command of icecore ended with, as the tests of the command line see it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Ended:
    """Exit code, standard output, and standard error on one line."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]
