from pathlib import Path

import pytest

from codec.cli.options import beside


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a/b.wav", "a/b.rvq"),
        ("b.flac", "b.rvq"),
        ("b.c.wav", "b.c.rvq"),
        ("b", "b.rvq"),
        (".", ".rvq"),
        ("/", "/.rvq"),
    ],
)
def test_the_default_output_is_beside_the_input(source, expected):
    assert beside(Path(source), ".rvq") == Path(expected)
