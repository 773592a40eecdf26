import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import soundfile
import torch

from codec.audio import read_excerpt
from codec.corpora.clip import Clip
from codec.corpora.corpus import find_clips
from codec.train.crops import SAMPLINGS, Crops, NoAudioError


@pytest.fixture
def corpus(librispeech):
    return find_clips(librispeech / "train-clean-100").clips


@pytest.fixture
def levels(tmp_path):
    """Speaker 1 has two seconds, speaker 2 one second, speaker 3 a minute; each clip has a level of its own."""
    for name, level, seconds in (("1/a", 1, 0.5), ("1/b", 2, 1.5), ("2/a", 3, 1), ("3/a", 4, 60)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / f"{name}.flac", np.full(round(16_000 * seconds), level / 8), 16_000)
    return find_clips(tmp_path).clips


def count_levels(crops, count):
    counts = Counter(round(8 * crop.waveform.max().item()) for crop in islice(crops, count))
    return [counts[level] for level in (1, 2, 3, 4)]


def test_a_crop_is_a_part_of_a_clip(corpus):
    originals = [soundfile.read(clip.path, dtype="float32")[0] for clip in corpus]
    for waveform, skipped in islice(Crops(corpus, 16_000, 4000, seed=0), 20):
        assert (waveform.shape, waveform.dtype, skipped) == ((1, 4000), torch.float32, ())
        samples = waveform[0].numpy()
        assert any(
            np.array_equal(windows[start], samples)
            for original in originals
            for windows in [np.lib.stride_tricks.sliding_window_view(original, 4000)]
            for start in np.flatnonzero(windows[:, 0] == samples[0])
        )


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_crop_depends_on_the_seed_and_its_index_alone(corpus, sampling):
    first, second = (
        Crops(corpus, 16_000, 4000, seed=3, sampling=sampling, gain_db=(-6, 6), speed=(0.9, 1.1)) for _ in range(2)
    )
    expected = {index: first[index].waveform for index in (3, 50, 10**12)}
    # Asked for in another order, with another state of the generators of the process.
    torch.manual_seed(1)
    np.random.seed(1)
    assert all(torch.equal(second[index].waveform, expected[index]) for index in reversed(expected))


def test_other_seeds_and_indices_give_other_crops(corpus):
    crops = [Crops(corpus, 16_000, 4000, seed)[index].waveform for seed in (0, 1) for index in (0, 1, 2)]
    assert len({crop.numpy().tobytes() for crop in crops}) == 6


@pytest.mark.parametrize(
    ("sampling", "expected"),
    # Of 600 crops; the standard deviation of each count is at most 12.3.
    [("speaker", [50, 150, 200, 200]), ("duration", [5, 14, 9, 572]), ("uniform", [150] * 4)],
)
def test_clips_are_drawn_as_the_sampling_says(levels, sampling, expected):
    counts = count_levels(Crops(levels, 16_000, 100, seed=0, sampling=sampling), 600)
    assert np.abs(np.subtract(counts, expected)).max() < 40
    assert all(counts)


def test_clips_of_several_rates_become_crops_of_one(tmp_path):
    for rate in (8_000, 16_000, 44_100):
        sine = np.sin(2 * np.pi * 500 * np.arange(rate) / rate)
        soundfile.write(tmp_path / f"{rate}.wav", np.stack([sine, sine], axis=1), rate)
    for crop in islice(Crops(find_clips(tmp_path).clips, 16_000, 8_000, seed=0), 10):
        assert torch.fft.rfft(crop.waveform[0]).abs().argmax() * 2 == 500


def test_the_gain_is_within_its_range_and_nothing_is_clipped(levels):
    crops = Crops(levels[3:], 16_000, 10, seed=0, gain_db=(-9, 12))
    decibels = 20 * torch.stack([crop.waveform.max() / 0.5 for crop in islice(crops, 200)]).log10()
    assert -9 <= decibels.min() < -8
    assert 11 < decibels.max() <= 12


def test_the_speed_is_within_its_range_in_whole_per_cent(tmp_path):
    # A ramp: its slope is the speed.
    soundfile.write(tmp_path / "a.wav", np.linspace(-1, 1, 16_000), 16_000, subtype="FLOAT")
    crops = Crops([Clip(tmp_path / "a.wav", 1.0)], 16_000, 2000, seed=0, speed=(0.95, 1.1))
    slopes = [(crop.waveform[0, 1500] - crop.waveform[0, 500]) / 1000 for crop in islice(crops, 100)]
    percent = torch.stack(slopes) * 15_999 / 2 * 100
    assert (percent - percent.round()).abs().max() < 0.1
    assert {*percent.round().int().tolist()} == {*range(95, 111)}


def test_files_that_cannot_be_read_are_told_and_others_drawn(corpus, tmp_path):
    (tmp_path / "bad.flac").write_bytes(b"not audio")
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan), 16_000, subtype="FLOAT")
    reasons = {
        str(tmp_path / "missing.flac"): "No such file or directory",
        str(tmp_path / "bad.flac"): "not readable as audio (Format not recognised)",
        str(tmp_path / "nan.wav"): "holds NaN or infinite samples",
    }
    bad = [Clip(tmp_path / name, 1.0) for name in reasons]
    drawn = [Crops(bad + corpus[:1], 16_000, 4000, seed=0, sampling="uniform")[index] for index in range(30)]
    assert {path: reason for crop in drawn for path, reason in crop.skipped} == reasons
    # Three of four draws fail: three failures to a crop, with a standard deviation of 0.6 over 30 crops.
    assert 1 < sum(len(crop.skipped) for crop in drawn) / 30 < 5
    assert all(crop.waveform.abs().max() > 0 for crop in drawn)


def test_a_manifest_that_lies_about_lengths_gives_crops_of_what_is_there(clips):
    crops = Crops([Clip(clips[0], 1000.0)], 16_000, 54_400, seed=0)
    assert torch.equal(crops[0].waveform, read_excerpt(clips[0], 0, 54_400, 16_000))


def test_when_nothing_can_be_read_the_last_file_is_named(tmp_path):
    crops = Crops([Clip(tmp_path / "gone.wav", 1.0)], 16_000, 10, seed=0)
    message = f"audio must be readable; 100 files in a row were not, the last {tmp_path}/gone.wav: No such file"
    with pytest.raises(NoAudioError, match=rf"^{re.escape(message)}"):
        crops[0]


def test_wrong_arguments_are_refused(corpus):
    with pytest.raises(ValueError, match="clips must be one or more; got none"):
        Crops([], 16_000, 10, seed=0)
    with pytest.raises(ValueError, match="sample_rate and crop_length must be positive; got 16000 and 0"):
        Crops(corpus, 16_000, 0, seed=0)
    with pytest.raises(ValueError, match="sampling must be one of duration, speaker, uniform; got 'speakers'; did you"):
        Crops(corpus, 16_000, 10, seed=0, sampling="speakers")
    with pytest.raises(ValueError, match=r"gain_db must go from low to high; got \(6, -6\)"):
        Crops(corpus, 16_000, 10, seed=0, gain_db=(6, -6))
    for speed in ((1.1, 0.9), (0.0, 1.0)):
        with pytest.raises(
            ValueError, match=rf"speed must go from low to high, at least 0.01; got {re.escape(f'{speed}')}"
        ):
            Crops(corpus, 16_000, 10, seed=0, speed=speed)
    with pytest.raises(IndexError, match="index must not be negative; got -1"):
        Crops(corpus, 16_000, 10, seed=0)[-1]
