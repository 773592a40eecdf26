import math

import numpy as np
import pytest
import soundfile
import torch

from codec.audio import AudioFileError, read_excerpt, resample


@pytest.fixture
def write(tmp_path):
    """Write samples, and give the path."""

    def write(samples, sample_rate=16_000, name="a.wav", subtype="FLOAT"):
        soundfile.write(tmp_path / name, samples, sample_rate, subtype=subtype)
        return tmp_path / name

    return write


def noise(length, channels=1):
    return np.random.default_rng(0).normal(scale=0.1, size=(length, channels)).astype(np.float32)


@pytest.mark.parametrize("length", [1, 1000, 54_399, 54_400])
@pytest.mark.parametrize("place", [0, 0.3, 0.9999999])
def test_an_excerpt_is_a_part_of_the_file(clips, length, place):
    whole, _ = soundfile.read(clips[0], dtype="float32")
    start = math.floor(place * (len(whole) - length + 1))
    excerpt = read_excerpt(clips[0], place, length, 16_000)
    assert excerpt.dtype == torch.float32
    assert torch.equal(excerpt, torch.from_numpy(whole[None, start : start + length]))


def test_every_place_of_a_file_is_as_likely(write):
    path = write(np.arange(10) / 16)
    starts = [round(16 * read_excerpt(path, place, 8, 16_000)[0, 0].item()) for place in np.arange(0, 1, 1 / 300)]
    assert np.bincount(starts).tolist() == [100, 100, 100]


@pytest.mark.parametrize("place", [0, 0.002, 0.37, 0.998, 0.99999])
@pytest.mark.parametrize(
    ("from_rate", "to_rate", "speed_percent"),
    [(24_000, 16_000, 100), (8_000, 16_000, 100), (44_100, 16_000, 100), (16_000, 16_000, 90), (24_000, 16_000, 125)],
)
def test_an_excerpt_of_another_rate_or_speed_is_a_part_of_the_whole_resampled(
    write, from_rate, to_rate, speed_percent, place
):
    samples = noise(20_000)
    excerpt = read_excerpt(write(samples, from_rate), place, 2000, to_rate, speed_percent)
    source, target = from_rate * speed_percent, to_rate * 100
    start = math.floor(place * (20_000 - math.ceil(2000 * source / target) + 1))
    # Outputs lie on a grid that starts at the first input: the whole loses what keeps its grid from the excerpt's.
    before = min(start, math.ceil(128 * max(1, source / target)))
    offset = (start - before) % (source // math.gcd(source, target))
    whole = resample(torch.from_numpy(samples[offset:, 0]), source, target)
    first = (start - before - offset) * target // source + round(before * target / source)
    assert (excerpt[0] - whole[first : first + 2000]).abs().max() < 2e-6
    assert excerpt.shape == (1, 2000)


def test_speed_raises_tempo_and_pitch(write):
    sine = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    spectrum = torch.fft.rfft(read_excerpt(write(sine), 0.5, 8000, 16_000, speed_percent=120)[0])
    assert spectrum.abs().argmax() * 2 == 1200


def test_channels_are_averaged(write):
    samples = noise(1000, channels=3)
    assert torch.allclose(read_excerpt(write(samples), 0, 1000, 16_000)[0], torch.from_numpy(samples.mean(1)))


@pytest.mark.parametrize(("from_rate", "filled"), [(16_000, 100), (32_000, 50)])
def test_a_short_file_is_followed_by_silence(write, from_rate, filled):
    excerpt = read_excerpt(write(np.full(100, 0.5), from_rate), 0.7, 250, 16_000)
    assert excerpt.shape == (1, 250)
    assert excerpt[0, :filled].min() > 0.2
    assert (excerpt[0, filled:] == 0).all()


def test_only_the_part_is_read(clips, tmp_path):
    whole = clips[0].read_bytes()
    (tmp_path / "half.flac").write_bytes(whole[: len(whole) // 2])
    assert torch.equal(
        read_excerpt(tmp_path / "half.flac", 0.1, 4000, 16_000), read_excerpt(clips[0], 0.1, 4000, 16_000)
    )
    with pytest.raises(AudioFileError, match=r"half\.flac: not readable as audio"):
        read_excerpt(tmp_path / "half.flac", 0.9, 4000, 16_000)


def test_what_cannot_be_read_is_an_error_that_names_the_file(write, tmp_path, clips):
    with pytest.raises(AudioFileError, match=r"missing\.wav: No such file"):
        read_excerpt(tmp_path / "missing.wav", 0, 10, 16_000)
    with pytest.raises(AudioFileError, match=r"a\.wav: holds no samples"):
        read_excerpt(write(np.zeros(0)), 0, 10, 16_000)
    with pytest.raises(AudioFileError, match=r"a\.wav: holds NaN or infinite samples"):
        read_excerpt(write(np.array([0.0, np.nan])), 0, 10, 16_000)
    mp3 = write(noise(50_000), name="a.mp3", subtype=None)
    mp3.write_bytes(mp3.read_bytes()[:2000])
    with pytest.raises(AudioFileError, match=r"a\.mp3: ends before sample \d+, where its header promises more"):
        read_excerpt(mp3, 0.99, 10, 16_000)
