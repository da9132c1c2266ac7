"""A picture whose name or whose package is wrong is refused before anything is computed for it."""

import sys
from pathlib import Path

import pytest

from icecore.core.errors import ConfigError, UserError
from icecore.core.pictures import picture_format, require_drawing


@pytest.mark.parametrize(("name", "expected"), [("a", "png"), ("a.png", "png"), ("a.SVG", "svg"), ("a.b.pdf", "pdf")])
def test_the_ending_of_a_picture_is_its_format(name: str, expected: str) -> None:
    assert picture_format(Path(name)) == expected


def test_other_endings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"a\.jpg: The name of a picture must end in one of \.png, \.svg, \.pdf"):
        picture_format(Path("a.jpg"))


def test_drawing_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"Drawing needs matplotlib\. Install it with: pip install 'icecore\[plot\]'"):
        require_drawing()
