"""The page about adding a backbone: what it shows works as it is written, and only the page is needed."""

import re
from pathlib import Path

import pytest

from icecore.backbones.families import FAMILIES

PAGE = Path(__file__).parents[1] / "docs" / "adding_a_backbone.md"


def test_the_family_of_the_page_can_be_added_and_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.S | re.M)
    assert len(blocks) == 2
    known, names = dict(FAMILIES), {}
    try:
        for number, block in enumerate(blocks):
            exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
        assert len(FAMILIES) == len(known) + 1, "the page shows a family that is there already"
    finally:
        assert isinstance(FAMILIES, dict)
        for name in FAMILIES.keys() - known.keys():
            del FAMILIES[name]
    assert float(capsys.readouterr().out.split()[-1]) > 0.9
