"""Packages of an extra are asked for before work begins."""

import pytest

from icecore.core.errors import UserError
from icecore.core.extras import require_packages


def test_a_missing_package_is_named_with_its_extra() -> None:
    require_packages("Drawing", "plot", "json", "csv")
    expected = r"Drawing needs no_such_package\. Install it with: pip install 'icecore\[plot\]'"
    with pytest.raises(UserError, match=expected):
        require_packages("Drawing", "plot", "json", "no_such_package")
