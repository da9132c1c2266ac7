"""The page of a fit: everything is on it, whatever the data, and texts from files stay texts."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commandline import Run
from icecore import user_data
from icecore.autofit.fit import fit
from icecore.autofit.fit_settings import FitSettings
from icecore.report.fit_page import render_fit_page
from icecore.user_data import DataSettings, TaskKind


def page(tmp_path: Path, bodies: Mapping[str, str], kind: TaskKind, controls: bool, labels: tuple[str, str]) -> str:
    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    y = x[:, 0] if kind == "regression" else np.array(labels)[(x[:, 0] > 0).astype(int)]
    plan = user_data.from_arrays(x, y, DataSettings(task=kind))
    settings = FitSettings(backbone=bodies["bert"], lrs=(1e-3, 3e-3), steps=10, controls=controls)
    result = fit(plan.task(), settings, tmp_path / "a.safetensors", {}, "cpu")
    return render_fit_page(result, [*plan.describe(), ("odd", "<b>&")], plan.encoder.target)


@pytest.mark.parametrize("controls", [False, True])
def test_a_classification(tmp_path: Path, bodies: Mapping[str, str], controls: bool) -> None:
    text = page(tmp_path, bodies, "classification", controls, ("yes", "<script>no"))
    for word in (
        "<h2>Models</h2>",
        "Where it is wrong",
        "true \\ predicted",
        "learning rate 0.003",
        "<polyline",
        "step 10",
    ):
        assert word in text
    assert "<h1>Use " in text if controls else "</span> on 18 test rows.</h1>" in text
    assert ("no body" in text) == controls
    assert "&lt;script&gt;no" in text
    assert "<script" not in text
    assert "&lt;b&gt;&amp;" in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_a_regression(tmp_path: Path, bodies: Mapping[str, str]) -> None:
    text = page(tmp_path, bodies, "regression", False, ("", ""))
    assert text.count("<circle") == 18
    assert "Predicted over true values" in text
    assert "R² on 18 test rows" in text


def test_the_command_writes_it(run: Run, tmp_path: Path, bodies: Mapping[str, str]) -> None:
    data, out = tmp_path / "t.csv", tmp_path / "page.html"
    data.write_text("a,b,kind\n" + "".join(f"{n % 7},{n % 3},{'xy'[n % 2]}\n" for n in range(60)))
    words = ("--backbone", bodies["bert"], "--steps", 2, "--lr", 1e-3, "--device", "cpu", "--quiet")
    ended = run("fit", data, "--out", tmp_path / "p.safetensors", "--report", out, *words)
    assert ended.code == 0, ended.err
    assert f"Wrote {out}." in ended.out
    assert out.read_text().startswith("<!DOCTYPE html>")
    refused = run("fit", data, "--out", tmp_path / "p.safetensors", "--report", data, *words)
    assert "is also an input file and would be overwritten" in refused.err


def test_a_metric_that_never_changes_has_an_axis_within_its_range(tmp_path: Path, bodies: Mapping[str, str]) -> None:
    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    plan = user_data.from_arrays(x, np.where(x[:, 0] > 0, "p", "q"))
    settings = FitSettings(backbone=bodies["bert"], lrs=(1e-3,), steps=2, controls=True)
    result = fit(plan.task(), settings, tmp_path / "a.safetensors", {}, "cpu")
    flat = replace(result, result=replace(result.result, curves={1e-3: [(0, 1.0), (2, 1.0)]}))
    text = render_fit_page(flat, plan.describe(), plan.encoder.target)
    assert ">100.0 %</text>" in text
    assert ">95.0 %</text>" in text
    assert '<span class="unbroken">--seeds</span> 0,1,2' in text
    # no minutes were given, so they cannot have been too few
    assert "undertrained" not in text
