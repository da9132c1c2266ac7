"""Threads that wait do not keep other processes from working, unless the user set how long they spin."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from icecore.core import spinning
from icecore.core.device import select_runtime
from icecore.core.spinning import LOOKS_UNTIL_IDLE, SHORT_SPIN_COUNT, SPIN_COUNT, Load, limit_spinning

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


needs_schedstat = pytest.mark.skipif(
    not spinning._can_watch(), reason="this system does not say how long threads wait for a core"
)


@needs_schedstat
@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": SPIN_COUNT}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_threads_spin_for_a_short_time_unless_the_user_set_another(
    monkeypatch: pytest.MonkeyPatch, setting: dict[str, str], expected: dict[str, str]
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what is set here is undone after the test
        monkeypatch.delenv(name)
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, "torch")
    limit_spinning()
    assert {name: os.environ[name] for name in VARIABLES if name in os.environ} == expected


@needs_schedstat
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import icecore; icecore.UserError", SPIN_COUNT),
        ("from icecore import UserError", SPIN_COUNT),
        ("import icecore", "None"),
        # libgomp has read its variables already
        ("import sys; sys.modules['torch'] = None; from icecore import UserError", "None"),
    ],
)
def test_python_sets_it_before_icecore_imports_torch(code: str, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    code += "; import os; print(os.environ.get('GOMP_SPINCOUNT'))"
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == expected


def test_threads_always_spin_shortly_where_nobody_can_tell_whether_the_machine_is_busy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(spinning, "_can_watch", lambda: False)
    monkeypatch.delitem(sys.modules, "torch")
    limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == SHORT_SPIN_COUNT


@pytest.mark.parametrize(
    ("content", "can_watch"), [("52107 8093 2\n", True), ("0 0 0\n", False), ("", False), (None, False)]
)
def test_the_load_is_watched_only_where_the_system_counts(tmp_path: Path, content: str | None, can_watch: bool) -> None:
    if content is not None:
        (tmp_path / "schedstat").write_text(content)
    assert spinning._can_watch(tmp_path / "schedstat") == can_watch


@needs_schedstat
@pytest.mark.parametrize(("count", "watches"), [(SPIN_COUNT, 1), ("7", 0), (None, 0)])
def test_a_runtime_watches_the_load_once_unless_the_user_set_how_long_threads_spin(
    monkeypatch: pytest.MonkeyPatch, count: str | None, watches: int
) -> None:
    started = []
    monkeypatch.setattr(spinning, "_watch", lambda: started.append(threading.current_thread().name))
    monkeypatch.setattr(spinning, "_watching", None)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if count is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", count)
    for _ in range(2):
        select_runtime("cpu", "fp32")
    for thread in threading.enumerate():
        if thread.name == "icecore-load":
            thread.join()
    assert started == watches * ["icecore-load"]


def test_a_machine_is_busy_until_threads_have_not_waited_for_some_looks() -> None:
    load = Load()
    assert not load.update(0.05)
    assert load.update(0.4)
    assert all(load.update(0.0) for _ in range(LOOKS_UNTIL_IDLE - 1))
    assert load.update(0.05)  # a wait, if a short one: the count begins anew
    assert all(load.update(0.0) for _ in range(LOOKS_UNTIL_IDLE - 1))
    assert not load.update(0.0)


@needs_schedstat
def test_a_thread_that_shares_its_core_waits_for_it() -> None:
    core, ending = min(os.sched_getaffinity(0)), threading.Event()
    code = f"import os; os.sched_setaffinity(0, [{core}])\nwhile True: pass"
    thread = threading.Thread(target=_compute_on, args=(core, ending), daemon=True)
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        try:
            thread.start()
            waited, deadline = 0.0, time.monotonic() + 30
            while waited < 0.2 and time.monotonic() < deadline:
                time.sleep(0.05)
                waited = spinning.waits()[str(thread.native_id)]
        finally:
            other.kill()
            ending.set()
    thread.join()
    assert waited >= 0.2


def _compute_on(core: int, ending: threading.Event) -> None:
    os.sched_setaffinity(0, [core])  # of this thread
    while not ending.is_set():
        sum(range(1000))


@needs_schedstat
@pytest.mark.skipif(torch.get_num_threads() < 2, reason="a single thread waits for nobody")
def test_open_pools_make_waiting_threads_give_up_at_once() -> None:
    code = """
    import time, torch
    from icecore.core.spinning import Pools

    def idle_seconds():
        torch.zeros(1 << 20).add_(1)  # on several threads, of which all but this one then wait for the next operation
        start = time.process_time()
        time.sleep(0.3)
        return time.process_time() - start

    pools = Pools()
    alone = idle_seconds()
    pools.open()
    opened = idle_seconds()
    pools.close()
    print(alone, opened, idle_seconds())
    """
    environment = os.environ | {"GOMP_SPINCOUNT": "INFINITE"}
    spins: list[tuple[float, float]] = []
    # on a busy machine, a thread may not get the core on which it would spin
    while not spins or (min(spins[-1]) < 0.1 and len(spins) < 5):
        ended = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=True
        )
        alone, opened, closed = map(float, ended.stdout.split())
        assert opened < 0.1
        spins.append((alone, closed))
    assert min(spins[-1]) > 0.1, spins
