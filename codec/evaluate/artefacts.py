"""What is wrong with decoded speech: a number for each kind of artefact, from two signals of one axis.

Equal signals get 0 everywhere. Where the original has nothing to judge by, such as no onset to have an echo before, the
measure is nan, so that an average can leave it out. Thresholds are relative to the loudest frame of the original.
All is measured in the frames of `codec.evaluate.frames`, save for `pre_echo`.
"""

from typing import NamedTuple

import numpy as np
from einops import rearrange, reduce
from numpy.lib.stride_tricks import sliding_window_view

from codec.evaluate.frames import WINDOW_SECONDS, Frames, Mask, Values, analyse, analyse_both, to_power
from codec.evaluate.plots import Samples, check_alike

ACTIVE_RANGE = 40.0  # dB below the loudest frame: speech, from its vowels to its faint consonants
AUDIBLE_RANGE = 60.0  # dB below the loudest frame: what is fainter counts as silence
DIGITAL_SILENCE = -120.0  # dB
VOICED = 0.45  # least periodicity of a voice, Praat's default

FRICATIVE_CORNER = 4000.0  # Hz
FRICATIVE_SHARE = 0.5  # of the power of a frame

BAND_WIDTH = 1000.0  # Hz
LOWEST_LINE = 1000.0  # Hz: below, the harmonics of a steady voice are lines too
LINE_NEIGHBOURS = 4  # frequencies on each side of a line, 100 Hz: the window blurs it to one on each side

ONSET_FRAME_SECONDS = 0.005
FRAMES_BEFORE_ONSET = 4  # 20 ms: longer than masking reaches back in time
FRAMES_OF_ONSET = 2
ONSET_RISE = 15.0  # dB


class Artefacts(NamedTuple):
    """What a codec did to a clip; 0 if nothing.

    Attributes:
        fricatives: See `fricative_error`.
        low: `band_error` below 1 kHz.
        mid: `band_error` from 1 to 4 kHz.
        high: `band_error` from 4 to 8 kHz: where it is lower than the others, the sound is dull.
        metallic: See `musical_noise`.
        tone: See `steady_tone`.
        voiced: `harmonicity_change` of voices: below 0 they are hoarse, above 0 they buzz.
        unvoiced: `harmonicity_change` of noises: above 0 they buzz.
        pre_echo: See `pre_echo`.
    """

    fricatives: float
    low: float
    mid: float
    high: float
    metallic: float
    tone: float
    voiced: float
    unvoiced: float
    pre_echo: float


def artefacts(original: Samples, decoded: Samples, sample_rate: int) -> Artefacts:
    """Measure every kind of artefact.

    Args:
        original: [time].
        decoded: [time], aligned with it.
        sample_rate: Hz.

    Raises:
        ValueError: The signals differ in length or have more than one axis.
    """
    first, second = analyse_both(original, decoded, sample_rate)
    return Artefacts(
        fricatives=fricative_error(first, second),
        low=band_error(first, second, 0, 1000),
        mid=band_error(first, second, 1000, 4000),
        high=band_error(first, second, 4000, 8000),
        metallic=musical_noise(first, second),
        tone=steady_tone(first, second),
        voiced=harmonicity_change(first, second, voiced=True),
        unvoiced=harmonicity_change(first, second, voiced=False),
        pre_echo=pre_echo(original, decoded, sample_rate),
    )


def fricative_error(first: Frames, second: Frames) -> float:
    """Mean level error above 4 kHz, where at least half of the power of an active frame of the original lies there.

    Args: See `band_error`.

    Returns:
        dB; below 0, fricatives are lost. nan if there are none.
    """
    fricatives = first.band(FRICATIVE_CORNER) >= FRICATIVE_SHARE * first.level
    return _level_error(first, second, fricatives & first.within(ACTIVE_RANGE), FRICATIVE_CORNER)


def band_error(first: Frames, second: Frames, lowest: float, highest: float) -> float:
    """Mean level error of a band in the active frames of the original.

    Args:
        first: Of the original.
        second: Of the decoded signal.
        lowest: Of the band, Hz.
        highest: Hz, not in the band any more.

    Returns:
        dB; below 0, the band is too faint. nan if the original is silent, or knows no such frequencies.
    """
    return _level_error(first, second, first.within(ACTIVE_RANGE), lowest, highest)


def musical_noise(first: Frames, second: Frames) -> float:
    """Metallic sound: isolated peaks in the spectrum of noise.

    The log kurtosis ratio of Uemura et al. 2008, "Automatic optimization scheme of spectral subtraction based on
    musical noise assessment via higher-order statistics": ln of E[P⁴] / E[P²]² of the power P of noise, decoded over
    original. There the noise is steady. Here it is all that is audible in the frames of the original without a voice,
    so the ratio is taken in each band of 1 kHz of each frame, and the logarithms are averaged. Before, each frequency
    is divided by its mean over the frames: a filter makes no musical noise.

    Args: See `band_error`.

    Returns:
        0 for none; 0.2 if a random half of the points of a spectrogram is lost, 0.5 if nine in ten are. Below 0, noise
        was added, or is more even than noise is. nan if nothing of the kind is audible in both signals.
    """
    noise = (first.periodicity < VOICED) & first.within(AUDIBLE_RANGE)
    width = round(BAND_WIDTH * WINDOW_SECONDS)
    num_bands = (first.power.shape[1] - 1) // width
    before, after = (
        rearrange(frames.power[noise, 1 : 1 + num_bands * width], "t (band f) -> t band f", f=width)
        for frames in (first, second)
    )
    floor = first.below_loudest(AUDIBLE_RANGE)
    audible = (before.sum(axis=2) > floor) & (after.sum(axis=2) > floor)
    return _mean(_log_kurtosis(after, audible) - _log_kurtosis(before, audible))


def steady_tone(first: Frames, second: Frames) -> float:
    """Whistling, such as networks do at multiples of their frame rate: the tallest new line in the mean spectrum.

    The level of each frequency above 1 kHz is averaged in dB over the active frames of the original. What the decoded
    signal has over the original is compared with the median of the frequencies up to 100 Hz away.

    Args: See `band_error`.

    Returns:
        dB; less than 4 by chance, from 2 s on. nan if the original is silent, or knows no such frequencies.
    """
    active = first.within(ACTIVE_RANGE)
    high = first.frequencies >= LOWEST_LINE
    if not active.any() or not high.any():
        return float("nan")
    floor = first.below_loudest(AUDIBLE_RANGE) / len(first.frequencies)
    spectra = ((10 * np.log10(frames.power[active][:, high] + floor)).mean(axis=0) for frames in (second, first))
    excess = np.subtract(*spectra)
    around = sliding_window_view(np.pad(excess, LINE_NEIGHBOURS, "edge"), 2 * LINE_NEIGHBOURS + 1)
    return float((excess - np.median(around, axis=1)).max())


def harmonicity_change(first: Frames, second: Frames, *, voiced: bool) -> float:
    """Mean change of the harmonics-to-noise ratio in the active frames of the original.

    The ratio is `codec.evaluate.frames.Frames.harmonicity`.

    Args:
        first: Of the original.
        second: Of the decoded signal.
        voiced: Whether in the frames with a voice, or in the others.

    Returns:
        dB. Below 0, voices are hoarse; above 0, they buzz, or there is buzzing in place of noise. nan if there are no
        such frames.
    """
    frames = ((first.periodicity >= VOICED) == voiced) & first.within(ACTIVE_RANGE)
    return _mean((second.harmonicity - first.harmonicity)[frames])


def pre_echo(original: Samples, decoded: Samples, sample_rate: int) -> float:
    """Level that the decoded signal has over the original in the 20 ms before onsets.

    An onset is where the power of 10 ms is 15 dB or more over that of the 20 ms before.

    Args, errors: See `artefacts`.

    Returns:
        dB, the mean over the onsets; above 0, they are smeared, or noise was added everywhere, which `musical_noise`
        and `band_error` tell as well. nan if there are none.
    """
    check_alike(original, decoded)
    length = round(ONSET_FRAME_SECONDS * sample_rate)
    num_frames = len(original) // length
    if num_frames < FRAMES_BEFORE_ONSET + FRAMES_OF_ONSET:
        return float("nan")
    first, second = (
        reduce(np.square(signal[: num_frames * length], dtype=np.float64), "(t n) -> t", "mean", n=length)
        for signal in (original, decoded)
    )
    floor = first.max() * to_power(-AUDIBLE_RANGE)
    before, echo = (
        sliding_window_view(power, FRAMES_BEFORE_ONSET).mean(axis=1)[:-FRAMES_OF_ONSET] for power in (first, second)
    )
    after = sliding_window_view(first, FRAMES_OF_ONSET).mean(axis=1)[FRAMES_BEFORE_ONSET:]
    active = after > first.max() * to_power(-ACTIVE_RANGE)
    rise = np.divide(after, before + floor, where=active, out=np.zeros_like(after))
    steepest = sliding_window_view(np.pad(rise, FRAMES_BEFORE_ONSET), 2 * FRAMES_BEFORE_ONSET + 1).max(axis=1)
    onsets = (rise >= to_power(ONSET_RISE)) & (rise == steepest)
    return _mean(10 * np.log10((echo[onsets] + floor) / (before[onsets] + floor)))


def signal_level(signal: Samples, sample_rate: int) -> float:
    """Mean power of the active frames, dB; 0 is that of a square wave of full scale."""
    frames = analyse(signal, sample_rate)
    return _decibels(_mean(frames.level[frames.within(ACTIVE_RANGE)]))


def noise_floor(signal: Samples, sample_rate: int) -> float:
    """Level that a twentieth of the frames stays below, dB: that of the noise, if speech has its pauses."""
    return _decibels(float(np.quantile(analyse(signal, sample_rate).level, 0.05)))


def _level_error(first: Frames, second: Frames, mask: Mask, lowest: float, highest: float = np.inf) -> float:
    if lowest >= first.frequencies[-1]:
        return float("nan")
    floor = first.below_loudest(AUDIBLE_RANGE)
    levels = (frames.band(lowest, highest)[mask] + floor for frames in (second, first))
    return _mean(10 * np.log10(np.divide(*levels)))


def _log_kurtosis(power: Values, audible: Mask) -> Values:
    """ln of E[P⁴] / E[P²]² of the frequencies of each band that counts, made equal in their means over the frames.

    Args:
        power: Of noise, [frames, bands, frequencies].
        audible: Which bands of which frames count, [frames, bands]; the others are left out.
    """
    counted = np.where(audible[..., None], power, 0)
    # Every frame has the same say in the mean, the loud ones and the faint ones.
    flat = counted / np.where(audible, counted.mean(axis=2), 1)[..., None]
    means = flat.sum(axis=0)
    white = (flat / np.where(means > 0, means, 1))[audible]
    return np.log((white**4).mean(axis=1) / (white**2).mean(axis=1) ** 2)


def _mean(values: Values) -> float:
    return float(values.mean()) if values.size else float("nan")


def _decibels(power: float) -> float:
    """At least that of digital silence."""
    return float(10 * np.log10(np.fmax(power, to_power(DIGITAL_SILENCE))))
