import re
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream import BitstreamError, Header, Stream, read_stream, write_stream
from codec.bitstream.cursor import append_checksum

# Written out by hand after the table in the module's docstring. Files like this one exist: it must stay readable, and
# no change may alter a byte of it.
GOLDEN_HEADER = bytes.fromhex(
    "52565143"  # RVQC
    "0100"  # version 1
    "0123456789abcdef"  # fingerprint
    "44ac0000"  # sample_rate 44100
    "0200"  # channels 2
    "d204000000000000"  # length 1234
    "0200"  # num_quantizers 2
    "03"  # bits 3
    "0300000000000000"  # num_frames 3
    "02000000"  # frames_per_chunk 2
    "05"  # bytes of the name
    "74c3af6e79"  # tïny
)
GOLDEN_CHUNKS = [
    # Frame 0: channel 0 has the codes 1, 2, channel 1 the codes 3, 4. Frame 1: 5, 6; 7, 0.
    bytes([2, 0, 0, 0, 0b11_010_001, 0b0_101_100_0, 0b000_111_11]),
    # Frame 2: 1, 1; 0, 7.
    bytes([1, 0, 0, 0, 0b00_001_001, 0b0000_111_0]),
]
GOLDEN = b"".join(map(append_checksum, [GOLDEN_HEADER, *GOLDEN_CHUNKS]))
GOLDEN_STREAM = Stream(
    Header(
        model="tïny",
        fingerprint="0123456789abcdef",
        sample_rate=44_100,
        channels=2,
        length=1234,
        num_quantizers=2,
        bits=3,
        num_frames=3,
        frames_per_chunk=2,
    ),
    np.array([[[1, 5, 1], [2, 6, 1]], [[3, 7, 0], [4, 0, 7]]]),
)


def with_header(**changes):
    """The golden file with some bytes of its header replaced, and a checksum that fits; keys are `at_<offset>`."""
    header = bytearray(GOLDEN_HEADER)
    for key, replacement in changes.items():
        offset = int(key.removeprefix("at_"))
        header[offset : offset + len(replacement)] = replacement
    return append_checksum(bytes(header)) + GOLDEN[len(GOLDEN_HEADER) + 4 :]


def test_the_golden_file_is_written():
    assert write_stream(GOLDEN_STREAM) == GOLDEN


def test_the_golden_file_is_read():
    stream = read_stream(GOLDEN)
    assert stream.header == GOLDEN_STREAM.header
    assert stream.codes.dtype == np.int64
    assert np.array_equal(stream.codes, GOLDEN_STREAM.codes)


@st.composite
def streams(draw):
    header = Header(
        model=draw(st.text(min_size=1, max_size=60).filter(str.isprintable)),
        fingerprint=draw(st.binary(min_size=8, max_size=8)).hex(),
        sample_rate=draw(st.integers(1, 1_000_000)),
        channels=draw(st.integers(1, 3)),
        length=draw(st.integers(1, 2**64 - 1)),
        num_quantizers=draw(st.integers(1, 12)),
        bits=draw(st.integers(1, 32)),
        num_frames=draw(st.integers(1, 40)),
        frames_per_chunk=draw(st.integers(1, 50) | st.just(2**32 - 1)),
    )
    shape = (header.channels, header.num_quantizers, header.num_frames)
    seed = draw(st.integers(0, 2**32 - 1))
    return Stream(header, np.random.default_rng(seed).integers(0, 1 << header.bits, shape))


@settings(deadline=None)
@given(streams())
def test_every_stream_comes_back(stream):
    again = read_stream(write_stream(stream))
    assert again.header == stream.header
    assert np.array_equal(again.codes, stream.codes)


@pytest.mark.parametrize("seconds", [0.02, 1, 9.99, 10, 10.02, 60, 3600])
@pytest.mark.parametrize("num_quantizers", range(1, 13))
def test_files_are_as_small_as_the_bitrate_promises(seconds, num_quantizers):
    num_frames = round(seconds * 50)
    header = Header("speech_16khz", "0" * 16, 16_000, 1, round(seconds * 16_000), num_quantizers, 10, num_frames)
    data = write_stream(Stream(header, np.zeros((1, num_quantizers, num_frames), dtype=np.int64)))
    promised = num_quantizers * 10 * 50 * seconds / 8
    assert promised <= len(data) <= 1.02 * promised + 200


def test_every_flipped_bit_is_detected():
    for bit in range(8 * len(GOLDEN)):
        damaged = bytearray(GOLDEN)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BitstreamError, match=r"^byte \d+: "):
            read_stream(bytes(damaged))


@pytest.mark.parametrize("position", range(len(GOLDEN)))
def test_every_changed_byte_is_detected(position):
    for difference in range(1, 256):
        damaged = bytearray(GOLDEN)
        damaged[position] ^= difference
        with pytest.raises(BitstreamError, match=r"^byte \d+: "):
            read_stream(bytes(damaged))


def test_truncation_at_every_length_is_detected():
    for length in range(len(GOLDEN)):
        with pytest.raises(BitstreamError, match=r"^byte \d+: truncated: "):
            read_stream(GOLDEN[:length])


def test_the_place_of_a_damage_is_named():
    second_chunk = len(GOLDEN_HEADER) + 4 + len(GOLDEN_CHUNKS[0]) + 4
    damaged = bytearray(GOLDEN)
    damaged[second_chunk + 5] ^= 1
    with pytest.raises(BitstreamError, match=rf"^byte {second_chunk}: chunk 1 is damaged: its checksum must be "):
        read_stream(bytes(damaged))
    with pytest.raises(
        BitstreamError, match=rf"^byte {len(GOLDEN)}: the file must end with its last chunk; got 2 bytes"
    ):
        read_stream(GOLDEN + b"ab")
    message = f"byte {len(GOLDEN) - 1}: truncated: all chunks take 21 bytes, of which 20 are there"
    with pytest.raises(BitstreamError, match=f"^{message}$"):
        read_stream(GOLDEN[:-1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"at_14": bytes(4)}, "byte 0: header is wrong: sample_rate must be 1 to 1000000; got 0"),
        ({"at_18": bytes(2)}, "byte 0: header is wrong: channels must be 1 to 65535; got 0"),
        ({"at_28": bytes(2)}, "byte 0: header is wrong: num_quantizers must be 1 to 65535; got 0"),
        ({"at_30": b"\xff"}, "byte 0: header is wrong: bits must be 1 to 32; got 255"),
        ({"at_39": bytes(4)}, "byte 0: header is wrong: frames_per_chunk must be 1 to 4294967295; got 0"),
        ({"at_45": b"\xff"}, "byte 0: header is wrong: 'utf-8' codec can't decode byte 0xff in position 1"),
        ({"at_48": b"\x1b"}, "byte 0: header is wrong: model must be printable"),
        ({"at_39": b"\x01"}, "byte 74: truncated: all chunks take 30 bytes, of which 21 are there"),
    ],
)
def test_a_header_that_is_wrong_in_itself_is_an_error(changes, message):
    with pytest.raises(BitstreamError, match=f"^{re.escape(message)}"):
        read_stream(with_header(**changes))


@pytest.mark.parametrize("num_frames", [2**40, 2**60, 2**64 - 1])
@pytest.mark.parametrize("frames_per_chunk", [1, 2**32 - 1])
def test_frames_that_a_header_only_claims_take_no_memory(num_frames, frames_per_chunk):
    data = with_header(at_31=num_frames.to_bytes(8, "little"), at_39=frames_per_chunk.to_bytes(4, "little"))
    with pytest.raises(BitstreamError, match=r"^byte 74: truncated: all chunks take \d+ bytes, of which 21 are there$"):
        read_stream(data)


def test_a_chunk_with_another_number_of_frames_is_an_error():
    chunk = bytes([3, *GOLDEN_CHUNKS[0][1:]])
    data = b"".join(map(append_checksum, [GOLDEN_HEADER, chunk, GOLDEN_CHUNKS[1]]))
    with pytest.raises(BitstreamError, match=r"^byte 53: chunk 0 must have 2 frames; got 3$"):
        read_stream(data)


def test_a_bit_set_after_the_last_code_is_an_error():
    chunk = bytes([*GOLDEN_CHUNKS[1][:-1], GOLDEN_CHUNKS[1][-1] | 0x80])
    data = b"".join(map(append_checksum, [GOLDEN_HEADER, GOLDEN_CHUNKS[0], chunk]))
    with pytest.raises(BitstreamError, match=r"^byte 64: chunk 1 is wrong: the bits after the last value must be zero"):
        read_stream(data)


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_bytes_with_a_fitting_header_checksum_raise_nothing_else(body):
    header = GOLDEN_HEADER[:6] + body
    data = header + crc32(header).to_bytes(4, "little")
    with pytest.raises(BitstreamError):
        read_stream(data)


def test_a_code_out_of_range_is_not_written():
    codes = GOLDEN_STREAM.codes.copy()
    codes[0, 0, 2] = 8
    with pytest.raises(ValueError, match="values of 3 bits must be 0 to 7; got 0 to 8"):
        write_stream(Stream(GOLDEN_STREAM.header, codes))
