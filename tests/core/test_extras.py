"""Packages of an extra are asked for before work begins."""

import sys

import pytest

from icecore.core.errors import UserError
from icecore.core.extras import require_packages


def test_a_missing_package_is_named_with_its_extra() -> None:
    require_packages("Drawing", "plot", "json", "csv")
    expected = r"Drawing needs no_such_package\. Install it with: pip install 'icecore\[plot\]'"
    with pytest.raises(UserError, match=expected):
        require_packages("Drawing", "plot", "json", "no_such_package")


def test_all_missing_packages_are_named_as_one_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"The baseline needs scikit-learn and no_such_package\. Install them with"):
        require_packages("The baseline", "sklearn", "json", "sklearn", "no_such_package")
