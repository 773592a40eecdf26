import io
import struct

import numpy as np
import pytest
import soundfile

from codec.audio.wav import read_wav_start, wav_header


def wav_bytes(samples=100, **options):
    file = io.BytesIO()
    soundfile.write(file, np.zeros((samples, 2)), 16_000, **{"format": "WAV", "subtype": "PCM_16"} | options)
    return file.getvalue()


def with_size(data, size):
    place = data.index(b"data") + 4
    return data[:place] + struct.pack("<I", size) + data[place + 4 :]


def read_start(data):
    return read_wav_start(io.BytesIO(data).read)


@pytest.mark.parametrize(
    ("format", "subtype"), [("WAV", "PCM_16"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("WAV", "FLOAT")]
)
def test_a_wav_file_is_read_up_to_its_samples(format, subtype):
    data = wav_bytes(format=format, subtype=subtype)
    size = 100 * 2 * (4 if subtype == "FLOAT" else 2)
    start = read_start(data)
    assert start.audio_bytes == size
    assert start.data == data[: data.index(b"data") + 8]
    assert not start.has_open_end


def test_chunks_before_the_samples_are_passed_over_with_their_padding():
    data = wav_bytes()
    odd = struct.pack("<4sI", b"odd ", 3) + b"dat\0"
    start = read_start(data[:12] + odd + data[12:])
    assert start.data == data[:12] + odd + data[12:44]


@pytest.mark.parametrize(
    ("size", "open_end"),
    [
        (0, True),
        (0xFFFFFFFF, True),
        (0x7FFFF000, True),
        (0x7FFFFF00, True),
        (0x7FFFFFFF, True),
        (0x7FFE0000, False),
        (0x80000001, False),
        (400, False),
    ],
)
def test_sizes_that_programs_write_into_pipes_stand_for_unknown_ones(size, open_end):
    assert read_start(with_size(wav_bytes(), size)).has_open_end == open_end


def test_what_is_no_wav_file_has_no_samples(clips):
    data = wav_bytes()
    huge = data[:12] + struct.pack("<4sI", b"LIST", 2**32 - 1)
    many = data[:12] + struct.pack("<4sI", b"none", 0) * 3_000_000
    for other in (b"", b"RIFF", b"RIFF\0\0\0\0AVI ", clips[0].read_bytes(), data[:40], huge, many):
        start = read_start(other)
        assert start.audio_bytes is None
        assert not start.has_open_end
        assert other.startswith(start.data)


@pytest.mark.parametrize("long", [False, True])
def test_a_header_says_rate_channels_and_length(long):
    header = wav_header(22_050, 3, 100, long=long)
    assert len(header) == (80 if long else 44)
    info = soundfile.info(io.BytesIO(header + bytes(600)))
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("WAV", "PCM_16", 22_050, 3)
    assert info.frames == 100
    assert struct.unpack_from("<I", header, 4)[0] == len(header) + 600 - 8
    assert read_start(header).audio_bytes == 600


def test_the_header_of_a_short_file_is_that_of_libsndfile():
    assert wav_header(16_000, 2, 100) == wav_bytes()[:44]


def test_a_header_of_unknown_length_has_the_customary_sizes():
    header = wav_header(16_000, 1, None)
    assert len(header) == 44
    assert header[4:8] == header[40:44] == b"\xff" * 4


def test_a_length_beyond_4_gib_makes_an_rf64_header(tmp_path):
    length = 3 << 30
    header = wav_header(16_000, 1, length)
    assert len(header) == 80 == len(wav_header(16_000, 1, None, long=True))
    assert read_start(header) == (header, 2 * length)
    with (tmp_path / "sparse").open("wb") as file:
        file.write(header)
        file.truncate(80 + 2 * length)
    info = soundfile.info(tmp_path / "sparse")
    assert (info.format, info.subtype, info.frames) == ("RF64", "PCM_16", length)
