"""Frames of a signal, as `codec.evaluate.artefacts` judges them: 40 ms every 10 ms."""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from codec.evaluate.plots import Samples, check_alike

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]

WINDOW_SECONDS = 0.04  # three periods of the lowest voice, as its harmonicity needs
HOP_SECONDS = 0.01

LOWEST_VOICE, HIGHEST_VOICE = 75.0, 500.0  # Hz
LEAST_PERIODICITY, MOST_PERIODICITY = 0.1, 0.999  # a harmonicity of -9.5 and 30 dB


class Frames(NamedTuple):
    """A signal in short.

    Attributes:
        power: [frames, frequencies]; sums over the frequencies are mean squares of the samples.
        frequencies: Hz, [frequencies].
        periodicity: r in `harmonicity`, the highest normalized autocorrelation at the periods of a voice, [frames].
    """

    power: Values
    frequencies: Values
    periodicity: Values

    @property
    def level(self) -> Values:
        """Mean square of the samples, [frames]."""
        return self.power.sum(axis=1)

    @property
    def harmonicity(self) -> Values:
        """Harmonics-to-noise ratio, dB, [frames].

        That of Boersma 1993, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise
        ratio of a sampled sound": 10 log10(r / (1 - r)).
        """
        periodicity = np.clip(self.periodicity, LEAST_PERIODICITY, MOST_PERIODICITY)
        return 10 * np.log10(periodicity / (1 - periodicity))

    def band(self, lowest: float, highest: float = np.inf) -> Values:
        """Power from `lowest` to below `highest`, [frames]."""
        return self.power[:, (self.frequencies >= lowest) & (self.frequencies < highest)].sum(axis=1)

    def within(self, decibels: float) -> Mask:
        """Which frames are less than that below the loudest one; none of a silent signal."""
        return self.level > self.below_loudest(decibels)

    def below_loudest(self, decibels: float) -> float:
        """Power that far below the loudest frame."""
        return float(self.level.max() * to_power(-decibels))


def analyse(signal: Samples, sample_rate: int) -> Frames:
    """Cut a signal, [time], into frames; one that is shorter than a frame is followed by silence."""
    length = round(WINDOW_SECONDS * sample_rate)
    padded = np.pad(signal.astype(np.float64), (0, max(0, length - len(signal))))
    frames = sliding_window_view(padded, length)[:: round(HOP_SECONDS * sample_rate)]
    window = np.hanning(length + 1)[:-1]
    windowed = (frames - frames.mean(axis=1, keepdims=True)) * window
    power = np.abs(np.fft.rfft(windowed)) ** 2 / (length * (window @ window))
    power[:, 1 : (length + 1) // 2] *= 2  # what is at the negative frequencies
    frequencies = np.arange(power.shape[1], dtype=np.float64) * (sample_rate / length)
    return Frames(power, frequencies, _periodicity(windowed, window, sample_rate))


def analyse_both(original: Samples, decoded: Samples, sample_rate: int) -> tuple[Frames, Frames]:
    """Cut two signals into frames, [time] both.

    Raises:
        ValueError: They differ in length or have more than one axis.
    """
    check_alike(original, decoded)
    return analyse(original, sample_rate), analyse(decoded, sample_rate)


def to_power(decibels: float) -> float:
    """A ratio of powers."""
    return float(10 ** (decibels / 10))


def _periodicity(windowed: Values, window: Values, sample_rate: int) -> Values:
    """Highest autocorrelation over that of the window, both 1 at a lag of 0 (Boersma 1993), [frames]."""
    lags = slice(round(sample_rate / HIGHEST_VOICE), round(sample_rate / LOWEST_VOICE) + 1)
    own, of_window = _autocorrelation(windowed), _autocorrelation(window)
    energy = np.maximum(own[:, :1], np.finfo(np.float64).tiny)
    return (own[:, lags] / energy / (of_window[lags] / of_window[0])).max(axis=1)


def _autocorrelation(signals: Values) -> Values:
    """At the lags from 0 on; [..., time] to [..., lags]."""
    length = signals.shape[-1]
    return np.fft.irfft(np.abs(np.fft.rfft(signals, 2 * length)) ** 2)[..., :length]
