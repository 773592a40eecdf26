import struct

import pytest
import soundfile
import torch

from codec.audio import RawFormat, parse_raw

SUBTYPES = {"u8": "PCM_U8", "s16": "PCM_16", "s24": "PCM_24", "s32": "PCM_32", "f32": "FLOAT"}


def read_by_libsndfile(path, data, format):
    path.write_bytes(data)
    samples, _ = soundfile.read(
        path,
        dtype="float32",
        always_2d=True,
        format="RAW",
        subtype=SUBTYPES[format.encoding],
        samplerate=format.sample_rate,
        channels=format.channels,
        endian="LITTLE",
    )
    return torch.from_numpy(samples.T)


def test_a_format_is_rate_channels_and_encoding():
    format = parse_raw("44100:2:s24")
    assert format == RawFormat(44_100, 2, "s24")
    assert str(format) == "44100:2:s24"
    assert format.frame_bytes == 6


@pytest.mark.parametrize(
    "text", ["", "16000", "16000:1", "16000:1:s16:1", "16000:1:s17", "16e3:1:s16", "-1:1:s16", "²:1:s16"]
)
def test_text_that_is_no_format_is_an_error_that_lists_the_encodings(text):
    message = "raw format must be RATE:CHANNELS:ENCODING, such as 16000:1:s16, with one of the encodings u8, s16, s24, "
    with pytest.raises(ValueError, match=f"^{message}s32, f32; got '{text}'$"):
        parse_raw(text)


def test_a_format_that_no_audio_has_is_an_error():
    with pytest.raises(ValueError, match=r"^sample rate must be 1000 to 1000000 Hz; got 999$"):
        parse_raw("999:1:s16")
    with pytest.raises(ValueError, match=r"^channels must be 1 to 1024; got 0$"):
        parse_raw("16000:0:s16")


def test_channels_follow_each_other_little_endian():
    waveform = torch.tensor([[0.5, 0.0], [-1.0, 2**-15]])
    data = RawFormat(16_000, 2, "s16").encode(waveform)
    assert data == struct.pack("<4h", 16_384, -32_768, 0, 1)
    assert torch.equal(RawFormat(16_000, 2, "s16").decode(data), waveform)


@pytest.mark.parametrize(
    ("encoding", "numbers"),
    [
        ("u8", [0, 128, 129, 255]),
        ("s16", [-(2**15), 0, 1, 2**15 - 1]),
        ("s24", [-(2**23), 0, 1, 2**23 - 1]),
        ("s32", [-(2**31), 0, 1, 2**31 - 1]),
    ],
)
def test_samples_are_rounded_and_clipped_without_wrapping_around(encoding, numbers):
    width = int(encoding[1:]) // 8
    step = 2.0 ** (1 - 8 * width)
    waveform = torch.tensor([[-1.5, 0.4 * step, 0.6 * step, 1.0]], dtype=torch.float64)
    data = RawFormat(16_000, 1, encoding).encode(waveform)
    expected = [number.to_bytes(width, "little", signed=encoding != "u8") for number in numbers]
    assert data == b"".join(expected)


@pytest.mark.parametrize("encoding", SUBTYPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_become_the_samples_that_libsndfile_reads(tmp_path, encoding, channels):
    format = RawFormat(16_000, channels, encoding)
    data = format.encode(torch.rand(channels, 1000) * 2 - 1)
    waveform = format.decode(data)
    assert waveform.dtype == torch.float32
    assert waveform.is_contiguous()
    assert torch.equal(waveform, read_by_libsndfile(tmp_path / "a", data, format))
    assert format.encode(waveform) == data
    assert format.decode(b"").shape == (channels, 0)


def test_floats_pass_as_they_are():
    waveform = torch.tensor([[1e-30, -7.5, 1.0]])
    format = RawFormat(16_000, 1, "f32")
    assert torch.equal(format.decode(format.encode(waveform)), waveform)


def test_what_is_no_audio_of_the_format_is_an_error():
    format = RawFormat(16_000, 2, "s16")
    with pytest.raises(ValueError, match=r"waveform must be \[channels, time\]; got shape \(2,\)"):
        format.encode(torch.zeros(2))
    with pytest.raises(ValueError, match="waveform must have 2 channels; got 1"):
        format.encode(torch.zeros(1, 10))
    with pytest.raises(ValueError, match="waveform must be finite; got NaN or infinite samples"):
        format.encode(torch.full((2, 1), torch.inf))
