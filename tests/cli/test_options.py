from pathlib import Path

import pytest
import typer

from codec.cli.options import beside, check_existing, read_raw


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


def test_keeping_and_replacing_outputs_exclude_each_other():
    check_existing(overwrite=True, skip_existing=False)
    check_existing(overwrite=False, skip_existing=True)
    with pytest.raises(typer.BadParameter, match="--overwrite and --skip-existing exclude each other"):
        check_existing(overwrite=True, skip_existing=True)


def test_a_raw_format_is_read_or_wrong_usage():
    assert read_raw(None) is None
    assert read_raw("8000:2:s16") == (8000, 2, "s16")
    with pytest.raises(typer.BadParameter, match="raw format must be RATE:CHANNELS:ENCODING"):
        read_raw("8000")
