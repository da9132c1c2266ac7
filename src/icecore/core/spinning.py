"""How long threads that wait for each other keep their core. Imports no torch, because it must be called before."""

import os
import sys

#: iterations that a thread of libgomp spins while it waits for the others. More makes two processes on the same cores
#: several times slower, and none at all (a passive wait) makes one process slower (docs/performance.md).
SPIN_COUNT = "1000"


def limit_spinning() -> None:
    """Let waiting threads give way to other processes soon.

    A user's own setting of either variable wins. libgomp reads them once, so nothing is set if torch is there already.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
