import re
from dataclasses import replace

import numpy as np
import pytest

from codec.bitstream import Header, Stream

HEADER = Header(
    model="tiny",
    fingerprint="0123456789abcdef",
    sample_rate=44_100,
    channels=2,
    length=66_150,
    num_quantizers=3,
    bits=10,
    num_frames=75,
    frames_per_chunk=100,
)


def test_duration_is_that_of_the_original():
    assert HEADER.duration == 1.5
    assert replace(HEADER, length=None).duration is None


def test_the_frame_rate_is_that_of_the_model():
    assert HEADER.frame_rate is None
    assert replace(HEADER, model_rate=24_000, hop_length=480).frame_rate == 50


def test_chunks_are_counted():
    header = replace(HEADER, frames_per_chunk=30)
    assert header.num_chunks == 3
    assert [header.frames_in(number) for number in range(5)] == [30, 30, 15, 0, 0]
    live = replace(header, num_frames=None)
    assert live.num_chunks is None
    assert live.frames_in(1_000) == 30
    assert header.codes_in(30) == 180


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sample_rate", 0, "sample_rate must be 1 to 1000000; got 0"),
        ("sample_rate", 1_000_001, "sample_rate must be 1 to 1000000; got 1000001"),
        ("channels", 0, "channels must be 1 to 65535; got 0"),
        ("channels", 1 << 16, "channels must be 1 to 65535; got 65536"),
        ("length", 0, "length must be 1 to 9223372036854775807; got 0"),
        ("num_quantizers", 0, "num_quantizers must be 1 to 65535; got 0"),
        ("bits", 33, "bits must be 1 to 32; got 33"),
        ("num_frames", 1 << 63, "num_frames must be 1 to 9223372036854775807; got 9223372036854775808"),
        ("model_rate", 0, "model_rate must be 1 to 1000000; got 0"),
        ("hop_length", 0, "hop_length must be 1 to 4294967295; got 0"),
        ("num_quantizers", 65_535, "a chunk must have at most 1048576 codes; got 9830250"),
        ("entropy", "0123", "entropy must be 16 lowercase hexadecimal digits; got '0123'"),
        ("tags", {"": "nothing"}, "key of a tag must be of 1 to 255 bytes of UTF-8 without control characters; got ''"),
        ("frames_per_chunk", 0, "frames_per_chunk must be 1 to 4294967295; got 0"),
        ("model", "", "model must be of 1 to 255 bytes of UTF-8 without control characters; got ''"),
        (
            "model",
            "red\x1b[31m",
            r"model must be of 1 to 255 bytes of UTF-8 without control characters; got 'red\x1b[31m'",
        ),
        (
            "model",
            "two\nlines",
            r"model must be of 1 to 255 bytes of UTF-8 without control characters; got 'two\nlines'",
        ),
        (
            "model",
            "é" * 128,
            "model must be of 1 to 255 bytes of UTF-8 without control characters; got '" + r"\xe9" * 128 + "'",
        ),
        ("fingerprint", "0123", "fingerprint must be 16 lowercase hexadecimal digits; got '0123'"),
        ("fingerprint", "0" * 15 + "G", "fingerprint must be 16 lowercase hexadecimal digits; got '000000000000000G'"),
    ],
)
def test_a_field_out_of_range_is_an_error(field, value, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        replace(HEADER, **{field: value})


def test_entropy_coded_chunks_have_fewer_codes():
    large = replace(HEADER, num_frames=10_923, frames_per_chunk=10_923)
    with pytest.raises(ValueError, match=r"^a chunk must have at most 65536 codes; got 65538$"):
        replace(large, entropy="0" * 16)
    assert replace(large, entropy="0" * 16, frames_per_chunk=10_922).codes_in(10_922) == 65_532


def test_codes_of_another_shape_are_an_error():
    Stream(HEADER, np.zeros((2, 3, 75), dtype=np.int64))
    message = "codes must have the shape (2, 3, 75) that the header says; got (3, 2, 75)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Stream(HEADER, np.zeros((3, 2, 75), dtype=np.int64))
