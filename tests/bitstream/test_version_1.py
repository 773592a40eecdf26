import re
from io import BytesIO
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.bitstream import BitstreamError, Header, Stream, StreamReader, read_stream
from codec.bitstream.cursor import append_checksum
from codec.bitstream.tags import is_safe

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


def test_the_golden_file_is_read(data):
    assert (data / "version_1.rvq").read_bytes() == GOLDEN
    assert StreamReader(BytesIO(GOLDEN)).version == 1
    stream = read_stream(GOLDEN)
    assert stream.header == GOLDEN_STREAM.header
    assert stream.codes.dtype == np.int64
    assert np.array_equal(stream.codes, GOLDEN_STREAM.codes)


@st.composite
def streams(draw):
    header = Header(
        model=draw(st.text(min_size=1, max_size=60).filter(lambda text: is_safe(text, 255))),
        fingerprint=draw(st.binary(min_size=8, max_size=8)).hex(),
        sample_rate=draw(st.integers(1, 1_000_000)),
        channels=draw(st.integers(1, 3)),
        length=draw(st.integers(1, 2**63 - 1)),
        num_quantizers=draw(st.integers(1, 12)),
        bits=draw(st.integers(1, 32)),
        num_frames=draw(st.integers(1, 40)),
        frames_per_chunk=draw(st.integers(1, 50) | st.just(2**32 - 1)),
    )
    shape = (header.channels, header.num_quantizers, header.num_frames)
    seed = draw(st.integers(0, 2**32 - 1))
    return Stream(header, np.random.default_rng(seed).integers(0, 1 << header.bits, shape))


@settings(deadline=None)
@given(stream=streams())
def test_every_stream_comes_back(stream, fuzz):
    again = read_stream(fuzz.write_version_1(stream))
    assert again.header == stream.header
    assert np.array_equal(again.codes, stream.codes)


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
        BitstreamError, match=rf"^byte {len(GOLDEN)}: the file must end with its last chunk; got more bytes$"
    ):
        read_stream(GOLDEN + b"ab")
    message = "byte 64: truncated: chunk 1 takes 10 bytes, of which 9 are there; the file is whole up to here"
    with pytest.raises(BitstreamError, match=f"^{message}$"):
        read_stream(GOLDEN[:-1])


def read_concealed(data):
    return [
        (chunk.first_frame, chunk.num_frames, None if chunk.codes is None else chunk.codes.tolist())
        for chunk in StreamReader(BytesIO(data), conceal=True).chunks()
    ]


def test_a_damaged_chunk_is_lost_alone():
    damaged = bytearray(GOLDEN)
    damaged[55] ^= 1
    assert read_concealed(damaged) == [(0, 2, None), (2, 1, GOLDEN_STREAM.codes[:, :, 2:].tolist())]


def test_a_damaged_byte_of_the_header_is_repaired():
    for position in range(53):
        damaged = bytearray(GOLDEN)
        damaged[position] ^= 0x81
        reader = StreamReader(BytesIO(damaged), conceal=True)
        assert reader.header == GOLDEN_STREAM.header
        assert np.array_equal(np.concatenate([chunk.codes for chunk in reader.chunks()], axis=2), GOLDEN_STREAM.codes)
        assert reader.problems[0].endswith(f"; byte {position} of it was repaired")


def test_what_is_cut_off_is_lost():
    for length in range(53, 74):
        first, *others = read_concealed(GOLDEN[:length])
        assert others == ([(2, 1, None)] if length >= 64 else [])
        assert first == ((0, 2, GOLDEN_STREAM.codes[:, :, :2].tolist()) if length >= 64 else (0, 3, None))


def test_reading_begins_at_any_frame():
    reader = StreamReader(BytesIO(GOLDEN))
    assert [chunk.first_frame for chunk in reader.chunks(1)] == [0, 2]
    assert [chunk.first_frame for chunk in reader.chunks(2)] == [2]
    assert list(reader.chunks(4)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"at_14": bytes(4)}, "byte 0: header is wrong: sample_rate must be 1 to 1000000; got 0"),
        ({"at_18": bytes(2)}, "byte 0: header is wrong: channels must be 1 to 65535; got 0"),
        ({"at_28": bytes(2)}, "byte 0: header is wrong: num_quantizers must be 1 to 65535; got 0"),
        ({"at_30": b"\xff"}, "byte 0: header is wrong: bits must be 1 to 32; got 255"),
        ({"at_39": bytes(4)}, "byte 0: header is wrong: frames_per_chunk must be 1 to 4294967295; got 0"),
        ({"at_45": b"\xff"}, "byte 0: header is wrong: 'utf-8' codec can't decode byte 0xff in position 1"),
        ({"at_48": b"\x1b"}, "byte 0: header is wrong: model must be of 1 to 255 bytes"),
        ({"at_39": b"\x01"}, "byte 53: chunk 0 is damaged: its checksum must be "),
        ({"at_18": b"\xff\xff", "at_28": b"\xff\xff"}, "byte 0: header is wrong: a chunk must have at most 1048576"),
    ],
)
def test_a_header_that_is_wrong_in_itself_is_an_error(changes, message):
    with pytest.raises(BitstreamError, match=f"^{re.escape(message)}"):
        read_stream(with_header(**changes))


@pytest.mark.parametrize("num_frames", [2**40, 2**63 - 1])
@pytest.mark.parametrize("frames_per_chunk", [1, 2, 100_000, 2**32 - 1])
def test_frames_that_a_header_only_claims_take_no_memory(num_frames, frames_per_chunk):
    data = with_header(at_31=num_frames.to_bytes(8, "little"), at_39=frames_per_chunk.to_bytes(4, "little"))
    with pytest.raises(
        BitstreamError, match=r"^byte \d+: (truncated: chunk|chunk 0 is damaged|header is wrong: a chunk)"
    ):
        read_stream(data)
    if frames_per_chunk == 2:
        whole, lost = StreamReader(BytesIO(data), conceal=True).chunks()
        assert (whole.num_frames, lost.num_frames) == (2, 2**20 + 2)


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
