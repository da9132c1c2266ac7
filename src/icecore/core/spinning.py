"""How long threads that wait for each other keep their core. Imports no torch, because it must be called before.

The threads of libgomp, which torch's CPU operations use on Linux, spin while they wait for each other. A long spin is
right for a process that has its cores to itself, because waking a thread can take longer than what it waited for, above
all on virtual machines. Beside another process it keeps that one from working, and both become several times slower.

libgomp reads the length of the spin only once. But it gives up at once while a process has more threads in libgomp's
pools than there are cores (`gomp_throttled_spin_count_var` in its source). So icecore watches how long its threads wait
for a core, and keeps further pools open, whose threads sleep, for as long as that is the case.
"""

import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

#: iterations that a thread of libgomp spins while it waits for the others, on a machine with nothing else to do
SPIN_COUNT = "10000"
#: the same where nobody can tell whether the machine is busy
SHORT_SPIN_COUNT = "1000"
#: seconds between two looks at the load
LOOK = 0.2
#: share of the time for which threads wait for a core. Above the first one the machine is busy, and it is not any more
#: after some looks below the second one.
BUSY, IDLE = 0.1, 0.03
LOOKS_UNTIL_IDLE = 10
#: torch gives each thread at least this many numbers (at::internal::GRAIN_SIZE)
GRAIN = 32768


def limit_spinning() -> None:
    """Let waiting threads spin shortly, or longer where `watch_load` can end it.

    A user's own setting of either variable wins. libgomp reads them once, so nothing is set if torch is there already.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT if _can_watch() else SHORT_SPIN_COUNT)


def watch_load() -> None:
    """Let waiting threads give way to other processes from now on, if `limit_spinning` set how long they spin.

    That may have been done by the process that started this one. A second call changes nothing.
    """
    global _watching
    if _watching != os.getpid() and os.environ.get("GOMP_SPINCOUNT") == SPIN_COUNT and _can_watch():
        _watching = os.getpid()
        threading.Thread(target=_watch, name="icecore-load", daemon=True).start()


#: the process that watches; a fork of it has a process id of its own, and no thread that watches
_watching: int | None = None


def _can_watch(statistics: Path = Path("/proc/self/schedstat")) -> bool:
    """Whether the system says how long threads have run and waited. Some have the file and write zeros."""
    try:
        return int(statistics.read_text().split()[0]) > 0
    except (OSError, ValueError, IndexError):
        return False


def waits() -> dict[str, float]:
    """Seconds for which each thread of this process, by its id, has waited for a core so far."""
    found = {}
    for folder in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has ended
            found[folder.name] = int((folder / "schedstat").read_text().split()[1]) / 1e9
    return found


@dataclass
class Load:
    """Whether other processes want the cores too."""

    busy: bool = False
    quiet_looks: int = 0

    def update(self, share: float) -> bool:
        """Whether the machine is busy, given the share of the time since the last look for which threads waited."""
        self.quiet_looks = self.quiet_looks + 1 if share < IDLE else 0
        if share > BUSY:
            self.busy = True
        elif self.quiet_looks >= LOOKS_UNTIL_IDLE:
            self.busy = False
        return self.busy


@dataclass
class Pools:
    """Pools of libgomp's threads that sleep, as many as make a waiting thread of the process give up at once."""

    closing: threading.Event = field(default_factory=threading.Event)
    owners: list[threading.Thread] = field(default_factory=list)

    def open(self) -> None:
        """Open the pools, unless they are open. libgomp gives each thread that computes one of its own."""
        if self.owners:
            return
        import torch

        threads, cores = torch.get_num_threads(), len(os.sched_getaffinity(0))
        if threads < 2:  # nothing waits
            return
        self.closing.clear()
        missing = max(cores - threads, 0) // (threads - 1) + 1
        opened = threading.Barrier(missing + 1)
        self.owners = [threading.Thread(target=self._own, args=(threads, opened), daemon=True) for _ in range(missing)]
        for owner in self.owners:
            owner.start()
        opened.wait()

    def close(self) -> None:
        """Let the pools go with the threads that own them."""
        self.closing.set()
        for owner in self.owners:
            owner.join()
        self.owners = []

    def _own(self, threads: int, opened: threading.Barrier) -> None:
        import torch

        torch.zeros(GRAIN * threads).add_(1)
        opened.wait()
        self.closing.wait()


def _watch() -> None:
    load, pools = Load(), Pools()
    waited, clock = waits(), time.monotonic()
    while True:
        time.sleep(LOOK)
        before, waited = waited, waits()
        start, clock = clock, time.monotonic()
        seconds = sum(each - before.get(thread, 0.0) for thread, each in waited.items())
        if not load.update(seconds / (clock - start)):
            pools.close()
        elif hasattr(sys.modules.get("torch"), "zeros"):  # it is there, and not still being imported
            pools.open()
