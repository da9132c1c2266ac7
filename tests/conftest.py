"""Fixtures shared by all tests: real data where it is, tiny bodies, a cache of its own."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real data (MNIST, CIFAR-10, homology); skips where there is none."""
    places = [os.environ.get("ICECORE_DATA"), ROOT / ".." / "shared" / "data"]
    for place in places:
        if place and Path(place).is_dir():
            return Path(place).resolve()
    pytest.skip("no real data: set ICECORE_DATA to a folder with mnist/, cifar10-jpeg.tar.xz, homology/")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, data folder or the network."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("ICECORE_CACHE", str(cache))
    monkeypatch.delenv("ICECORE_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Tests that draw from the global generator draw the same every time."""
    torch.manual_seed(0)
