from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import DataLoader

from codec.train.data import Clip, SpeakerCrops, find_librispeech


def write_clip(root: Path, name: str, samples: np.ndarray, sample_rate: int = 16_000) -> Path:
    """Write "SPEAKER-CHAPTER-NUMBER" where LibriSpeech has it, in the split "train"."""
    path = root / "train" / Path(*name.split("-")[:2]) / f"{name}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, sample_rate)
    return path


@pytest.fixture
def corpus(librispeech):
    return find_librispeech(librispeech, "train-clean-100")


@pytest.fixture
def levels(tmp_path):
    """Speaker 1 has two seconds, speaker 2 one second, speaker 3 a minute; each clip has a level of its own."""
    for name, level, seconds in (("1-1-0000", 1, 0.5), ("1-2-0000", 2, 1.5), ("2-1-0000", 3, 1), ("3-1-0000", 4, 60)):
        write_clip(tmp_path, name, np.full(round(16_000 * seconds), level / 8))
    return find_librispeech(tmp_path, "train")


def count_levels(crops):
    return Counter(round(8 * crop.max().item()) for crop in crops)


def test_clips_are_found_with_speaker_length_and_rate_in_the_order_of_their_paths(librispeech):
    clips = find_librispeech(str(librispeech), "train-clean-100")
    assert [clip.path.stem for clip in clips] == [
        f"{name}-{number:04d}" for name in ("1963-142393", "3259-158083", "6181-216552") for number in (0, 1)
    ]
    assert clips[2] == Clip(clips[2].path, "3259", 16_000, 16_000)
    assert [clip.speaker for clip in find_librispeech(librispeech, "dev-clean")] == ["1963"]


def test_transcripts_and_other_files_are_passed_over(tmp_path):
    path = write_clip(tmp_path, "84-121123-0000", np.zeros(100))
    (path.parent / "84-121123.trans.txt").write_text("84-121123-0000 GO\n")
    (tmp_path / "train" / "SPEAKERS.flac").write_text("")
    assert [clip.path for clip in find_librispeech(tmp_path, "train")] == [path]


def test_a_split_that_is_not_there_is_refused(librispeech):
    with pytest.raises(ValueError, match=r"train-other must hold SPEAKER/CHAPTER/\*\.flac; found none"):
        find_librispeech(librispeech, "train-other")


def test_a_clip_that_cannot_be_read_is_named(tmp_path):
    path = write_clip(tmp_path, "1-1-0000", np.zeros(100))
    path.write_bytes(b"not audio")
    with pytest.raises(ValueError, match=r"1-1-0000\.flac must be audio that can be read; .*\w"):
        find_librispeech(tmp_path, "train")


def test_a_clip_of_two_channels_is_refused(tmp_path):
    write_clip(tmp_path, "1-1-0000", np.zeros((100, 2)))
    with pytest.raises(ValueError, match=r"1-1-0000\.flac must have one channel; got 2"):
        find_librispeech(tmp_path, "train")


def test_a_crop_is_a_part_of_a_clip(corpus):
    originals = [soundfile.read(clip.path, dtype="float32")[0] for clip in corpus]
    for crop in SpeakerCrops(corpus, 4000, 20, seed=0):
        assert crop.shape == (1, 4000)
        assert crop.dtype == torch.float32
        samples = crop[0].numpy()
        assert any(
            np.array_equal(windows[start], samples)
            for original in originals
            for windows in [np.lib.stride_tricks.sliding_window_view(original, 4000)]
            for start in np.flatnonzero(windows[:, 0] == samples[0])
        )


def test_a_dataset_has_as_many_crops_as_it_was_asked_for(corpus):
    assert len(SpeakerCrops(corpus, 4000, 7, seed=0)) == 7


def test_a_dataset_ends(corpus):
    assert len(list(SpeakerCrops(corpus, 4000, 3, seed=0))) == 3
    for index in (-1, 3):
        with pytest.raises(IndexError, match=rf"index must be in \[0, 3\); got {index}"):
            SpeakerCrops(corpus, 4000, 3, seed=0)[index]


def test_a_crop_depends_on_the_seed_and_its_index_alone(corpus):
    crops = SpeakerCrops(corpus, 4000, 100, seed=3, gain_db=(-6.0, 6.0))
    # Asked for in another order, of a longer dataset made anew, with another state of the generators of the process.
    torch.manual_seed(1)
    np.random.seed(1)
    others = SpeakerCrops(corpus, 4000, 10**9, seed=3, gain_db=(-6.0, 6.0))
    expected = {index: others[index] for index in (50, 3, 99)}
    assert all(torch.equal(crops[index], crop) for index, crop in expected.items())


def test_other_seeds_and_indices_give_other_crops(corpus):
    crops = [SpeakerCrops(corpus, 4000, 10, seed)[index] for seed in (0, 1) for index in (0, 1, 2)]
    assert len({crop.numpy().tobytes() for crop in crops}) == 6


@pytest.mark.slow
def test_processes_that_read_give_what_one_process_gives(corpus):
    crops = SpeakerCrops(corpus, 4000, 6, seed=0)
    loaded = DataLoader(crops, batch_size=2, num_workers=2, multiprocessing_context="spawn")
    assert torch.equal(torch.cat(list(loaded)), torch.stack([crops[index] for index in range(6)]))


def test_speakers_are_drawn_uniformly_however_long_they_speak(levels):
    counts = count_levels(SpeakerCrops(levels, 100, 300, seed=0))
    by_speaker = [counts[1] + counts[2], counts[3], counts[4]]
    # 100 each, with a standard deviation of 8.2.
    assert all(70 < count < 130 for count in by_speaker)


def test_clips_of_a_speaker_are_drawn_by_their_length(levels):
    crops = SpeakerCrops(levels[:2], 100, 200, seed=0)
    # 50 of half a second and 150 of one and a half, with a standard deviation of 6.1.
    assert 26 < count_levels(crops)[1] < 74


def test_every_place_of_a_clip_is_drawn(tmp_path):
    write_clip(tmp_path, "1-1-0000", np.arange(10) / 16)
    crops = SpeakerCrops(find_librispeech(tmp_path, "train"), 8, 100, seed=0)
    assert {round(16 * crop[0, 0].item()) for crop in crops} == {0, 1, 2}


def test_a_short_clip_is_followed_by_silence(tmp_path):
    write_clip(tmp_path, "1-1-0000", np.full(100, 0.5))
    (crop,) = SpeakerCrops(find_librispeech(tmp_path, "train"), 250, 1, seed=0)
    assert crop[0].tolist() == [0.5] * 100 + [0.0] * 150


def test_the_gain_is_within_its_range(levels):
    gains = torch.stack([crop.max() for crop in SpeakerCrops(levels[3:], 10, 200, seed=0, gain_db=(-9.0, 3.0))]) / 0.5
    decibels = 20 * gains.log10()
    assert -9 <= decibels.min() < -8.5
    assert 2.5 < decibels.max() <= 3


def test_clips_of_several_sample_rates_are_refused(tmp_path):
    write_clip(tmp_path, "1-1-0000", np.zeros(100))
    write_clip(tmp_path, "1-1-0001", np.zeros(100), sample_rate=8000)
    with pytest.raises(ValueError, match=r"of one sample rate; got 2 of rates \[8000, 16000\]"):
        SpeakerCrops(find_librispeech(tmp_path, "train"), 10, 1, seed=0)


def test_no_clips_are_refused():
    with pytest.raises(ValueError, match=r"clips must be one or more of one sample rate; got 0 of rates \[\]"):
        SpeakerCrops([], 10, 1, seed=0)
