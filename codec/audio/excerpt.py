"""A part of a file at the rate that is wanted, without decoding the rest."""

from os import PathLike

import numpy as np
import soundfile
import torch
from einops import reduce
from torch import Tensor

from codec.audio.resample import fit_length, resample, resampled_length, resampling_margin
from codec.audio.sound import AudioFileError, check_finite, open_audio, stated_length


def read_excerpt(
    path: str | PathLike[str], place: float, length: int, sample_rate: int, speed_percent: int = 100
) -> Tensor:
    """Read a part of an audio file of any rate and channel count.

    The file's own length and rate decide what there is, whatever is known about it from elsewhere.

    Args:
        path: A file of any format that libsndfile knows.
        place: Where the part begins, in [0, 1): 0 is the start of the file, and just below 1 the last place after which
            `length` samples follow.
        length: Samples wanted, at `sample_rate`.
        sample_rate: Hz.
        speed_percent: How fast the file is played: 110 reads a tenth more audio into the same length, and raises its
            pitch with its tempo (speed perturbation: Ko et al., Audio Augmentation for Speech Recognition, 2015).

    Returns:
        The mean of the channels, followed by silence where the file is too short, [1, length], float32.

    Raises:
        AudioFileError: The file cannot be read, does not say how long it is, has no samples at that place, or NaN or
            infinite ones.
    """
    with open_audio(path) as sound:
        # Playing faster is resampling from a higher rate. In hundredths, so that both rates are integers.
        from_rate, to_rate = sound.samplerate * speed_percent, sample_rate * 100
        wanted = resampled_length(length, to_rate, from_rate)
        start = int(place * (max(0, stated_length(sound, path) - wanted) + 1))
        margin = resampling_margin(from_rate, to_rate)
        before = min(start, margin)
        samples = _read(sound, start - before, before + wanted + margin)
    if len(samples) <= before:
        raise AudioFileError(f"{path}: ends before sample {start}, where its header promises more")
    mono = torch.from_numpy(reduce(samples, "t c -> t", "mean"))
    check_finite(mono, path)
    waveform = resample(mono, from_rate, to_rate)
    return fit_length(waveform[round(before * to_rate / from_rate) :], length)[None]


def _read(sound: soundfile.SoundFile, start: int, length: int) -> np.ndarray:
    sound.seek(start)
    return sound.read(length, dtype="float32", always_2d=True)
