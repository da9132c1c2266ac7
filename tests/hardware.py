"""Skip markers for tests that need special hardware."""

import pytest

from icecore.core.device import has_exact_int8

needs_vnni = pytest.mark.skipif(
    not has_exact_int8(), reason="products of 8-bit integers overflow on CPUs without VNNI, so int8 is refused there"
)
