import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream import BitstreamError, Header, Stream, read_header, read_stream, write_stream

HEADER = Header("tiny", "0123456789abcdef", 16_000, 1, 100, num_quantizers=2, bits=10, num_frames=5)
FILE = write_stream(Stream(HEADER, np.arange(10).reshape(1, 2, 5)))


def test_a_header_is_read_without_its_chunks():
    assert read_header(FILE) == HEADER
    assert read_header(FILE[:60]) == HEADER


def test_memory_of_any_kind_is_read():
    for data in (FILE, bytearray(FILE), memoryview(FILE)):
        assert read_stream(data).header == HEADER


def test_another_kind_of_file_is_an_error():
    with pytest.raises(BitstreamError, match=r"^byte 0: not a file of codes: it must start with b'RVQC'; got b'RIFF'$"):
        read_stream(b"RIFF" + FILE[4:])


@pytest.mark.parametrize("number", [0, 2, 65_535])
def test_an_unknown_version_is_an_error_that_lists_the_known_ones(number):
    data = FILE[:4] + number.to_bytes(2, "little") + FILE[6:]
    for read in (read_stream, read_header):
        with pytest.raises(BitstreamError, match=rf"^byte 4: version must be one of 1; got {number}$"):
            read(data)


def test_an_empty_file_is_an_error():
    with pytest.raises(BitstreamError, match=r"^byte 0: truncated: magic number takes 4 bytes, of which 0 are there$"):
        read_stream(b"")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_bitstream_errors(data):
    for start in (b"", FILE[:4], FILE[:6], FILE[:52], FILE[:-20]):
        with pytest.raises(BitstreamError):
            read_stream(start + data)


@settings(deadline=None)
@given(st.data())
def test_random_changes_are_all_detected(data):
    damaged = bytearray(FILE)
    for position in data.draw(st.lists(st.integers(0, len(FILE) - 1), min_size=1, max_size=4, unique=True)):
        damaged[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BitstreamError):
        read_stream(bytes(damaged))


def test_files_are_read_and_written_without_torch():
    program = "import sys, codec.bitstream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2]).returncode == 0
