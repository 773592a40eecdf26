"""Names that are imported when they are asked for."""

import math

import pytest

from codec.lazy import import_from


def test_a_name_comes_from_its_module():
    get = import_from("shapes", {"pi": "math"})
    assert get("pi") is math.pi


def test_a_name_that_is_not_offered_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'shapes' has no attribute 'tau'"):
        import_from("shapes", {"pi": "math"})("tau")
