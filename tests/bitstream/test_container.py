import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream import BitstreamError, Header, Stream, read_header, read_stream, write_stream

HEADER = Header(
    "tiny", "0123456789abcdef", 16_000, 1, 100, num_quantizers=2, bits=10, num_frames=5, frames_per_chunk=100
)
FILE = write_stream(Stream(HEADER, np.arange(10).reshape(1, 2, 5)))


def test_a_header_is_read_without_its_chunks():
    assert read_header(FILE) == HEADER
    assert read_header(FILE[:100]) == HEADER


def test_memory_of_any_kind_is_read():
    for data in (FILE, bytearray(FILE), memoryview(FILE)):
        assert read_stream(data).header == HEADER


def test_another_kind_of_file_is_an_error():
    with pytest.raises(BitstreamError, match=r"^byte 0: not a file of codes: it must start with b'RVQC'; got b'RIFF'$"):
        read_stream(b"RIFF" + FILE[4:])


@pytest.mark.parametrize("number", [0, 3, 65_535])
def test_an_unknown_version_is_an_error_that_lists_the_known_ones(number):
    data = FILE[:4] + number.to_bytes(2, "little") + FILE[6:]
    for read in (read_stream, read_header):
        with pytest.raises(BitstreamError, match=rf"^byte 4: version must be one of 1, 2; got {number}$"):
            read(data)


def test_an_empty_file_is_an_error():
    with pytest.raises(BitstreamError, match=r"^byte 0: truncated: magic number takes 4 bytes, of which 0 are there$"):
        read_stream(b"")


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_bitstream_errors(data):
    for start in (b"", FILE[:4], FILE[:6], FILE[:52], FILE[:90], FILE[:-20]):
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


@pytest.mark.parametrize("seconds", [0.02, 1, 9.99, 10, 10.02, 60, 3600])
@pytest.mark.parametrize("num_quantizers", [1, 3, 12])
def test_files_are_as_small_as_the_bitrate_promises(seconds, num_quantizers):
    num_frames = round(seconds * 50)
    header = Header("speech_16khz", "0" * 16, 16_000, 1, round(seconds * 16_000), num_quantizers, 10, num_frames, 100)
    data = write_stream(Stream(header, np.zeros((1, num_quantizers, num_frames), dtype=np.int64)))
    promised = num_quantizers * 10 * 50 * seconds / 8
    # Mark, size, number, frames and checksum of each chunk, and its place in the index.
    around = 13 * header.num_chunks
    assert promised <= len(data) <= promised + around + 250


def test_a_stream_of_unknown_length_is_written_only_while_it_comes():
    stream = Stream(replace(HEADER, length=None), np.arange(10).reshape(1, 2, 5))
    with pytest.raises(ValueError, match=r"^header must know the length of a whole stream; got None$"):
        write_stream(stream)


def test_a_code_out_of_range_is_not_written():
    with pytest.raises(ValueError, match="values of 10 bits must be 0 to 1023; got 0 to 1024"):
        write_stream(Stream(HEADER, np.array([[[0, 1, 2, 3, 1024]] * 2])))


def test_files_are_read_and_written_without_torch():
    program = "import sys, codec.bitstream; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2]).returncode == 0
