"""Scores of a decoded signal against the original, each a function of two signals of one axis.

Where the original gives nothing to judge, because it is silent or too short for the measure, the score is nan, so that
an average can leave it out. A bad estimate never gives nan: silence in place of speech gets the lowest score.
"""

import warnings
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.audio import resample

Signal = Tensor | NDArray[np.floating]
Samples = NDArray[np.float64]

PESQ_SAMPLE_RATE = 16_000
# The reference code of P.862 writes past an array of 50 utterances without a check, and crashes on minutes of speech.
# An utterance and the pause after it take at least 0.2 s each, so signals up to this length cannot hold more.
PESQ_MAX_SECONDS = 19.5
PESQ_MIN_SECONDS = 0.25
PESQ_LOWEST = 1.0

MEL_BANDS = 80
MEL_WINDOW_SECONDS = 0.064
MEL_FLOOR = 1e-10  # power, -100 dB


def pesq_wb(reference: Signal, estimate: Signal, sample_rate: int) -> float:
    """Perceived quality, wideband PESQ: ITU-T P.862.2.

    Signals of another rate are resampled to 16 kHz, the only one the standard knows. Signals of more than 19.5 s are
    scored in equal parts, whose mean is returned; on 30 s of noisy speech the two differ by 0.003 on average.

    Args:
        reference: The original, [time].
        estimate: The signal to score, aligned with it, [time].
        sample_rate: Hz.

    Returns:
        Mean opinion score from 1.0 (also given to a silent estimate) to 4.64 (equal signals); nan if the reference has
        no speech activity or is shorter than a quarter of a second.

    Raises:
        ValueError: The signals differ in length, have more than one axis or are not finite.
        ImportError: The package pesq is not installed.
    """
    pesq = _require("pesq")
    reference, estimate = (_resample(signal, sample_rate, PESQ_SAMPLE_RATE) for signal in _check(reference, estimate))
    if not reference.any() or len(reference) < PESQ_MIN_SECONDS * PESQ_SAMPLE_RATE:
        return float("nan")
    parts = -(-len(reference) // int(PESQ_MAX_SECONDS * PESQ_SAMPLE_RATE))
    scores = [
        _score_pesq(pesq, *pair)
        for pair in zip(np.array_split(reference, parts), np.array_split(estimate, parts), strict=True)
    ]
    return mean_of_known(scores)


def stoi(reference: Signal, estimate: Signal, sample_rate: int) -> float:
    """Intelligibility, STOI: Taal et al. 2011, "An algorithm for intelligibility prediction of time-frequency weighted
    noisy speech".

    Args:
        reference: The original, [time].
        estimate: The signal to score, aligned with it, [time].
        sample_rate: Hz. The measure itself works at 10 kHz.

    Returns:
        A correlation of short-time envelopes, from about 0 to 1 (equal signals); nan if the reference is silent or
        has less than 0.4 s that is not.

    Raises:
        ValueError: The signals differ in length, have more than one axis or are not finite.
        ImportError: The package pystoi is not installed.
    """
    pystoi = _require("pystoi")
    reference, estimate = _check(reference, estimate)
    # pystoi scores a silent reference 0 and fails on less than one of its windows.
    if not reference.any() or len(reference) < 0.1 * sample_rate:
        return float("nan")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            return float(pystoi.stoi(reference, estimate, sample_rate))
        except RuntimeWarning:
            return float("nan")


def si_sdr(reference: Signal, estimate: Signal) -> float:
    """Scale-invariant signal-to-distortion ratio: Le Roux et al. 2019, "SDR - half-baked or well done?", eq. 5.

    Args:
        reference: The original, [time].
        estimate: The signal to score, aligned with it, [time].

    Returns:
        dB; inf if one signal is a multiple of the other, -inf if the estimate is silent or orthogonal to the reference;
        nan if the reference is silent.

    Raises:
        ValueError: The signals differ in length, have more than one axis or are not finite.
    """
    reference, estimate = _check(reference, estimate)
    energy = float(reference @ reference)
    if energy == 0:
        return float("nan")
    target = (float(reference @ estimate) / energy) * reference
    distortion = estimate - target
    target_energy, distortion_energy = float(target @ target), float(distortion @ distortion)
    if target_energy == 0:
        return float("-inf")
    if distortion_energy == 0:
        return float("inf")
    return float(10 * np.log10(target_energy / distortion_energy))


def mel_distance(reference: Signal, estimate: Signal, sample_rate: int) -> float:
    """Mean absolute difference of two mel spectrograms in dB.

    The spectrograms have 80 bands up to half the sample rate, windows of 64 ms every 16 ms, and a floor of -100 dB.

    Args:
        reference: The original, [time].
        estimate: The signal to score, aligned with it, [time].
        sample_rate: Hz.

    Returns:
        dB, 0 for equal signals; nan if the reference is silent or shorter than one window.

    Raises:
        ValueError: The signals differ in length, have more than one axis or are not finite.
    """
    reference, estimate = _check(reference, estimate)
    if not reference.any() or len(reference) < MEL_WINDOW_SECONDS * sample_rate:
        return float("nan")
    difference = _mel_decibels(reference, sample_rate) - _mel_decibels(estimate, sample_rate)
    return float(np.abs(difference).mean())


def mean_of_known(scores: Iterable[float]) -> float:
    """Average the scores that are not nan; nan if there are none."""
    known = [score for score in scores if not np.isnan(score)]
    return float(np.mean(known)) if known else float("nan")


def _score_pesq(pesq: ModuleType, reference: Samples, estimate: Samples) -> float:
    if not reference.any():
        return float("nan")
    # The package would divide by zero.
    if not estimate.any():
        return PESQ_LOWEST
    try:
        return float(pesq.pesq(PESQ_SAMPLE_RATE, reference, estimate, "wb"))
    except pesq.NoUtterancesError:
        if estimate is reference:
            return float("nan")
    # The reference has no utterances, or the estimate is so far off that its alignment leaves none to compare.
    return PESQ_LOWEST if _score_pesq(pesq, reference, reference) > PESQ_LOWEST else float("nan")


def _mel_decibels(signal: Samples, sample_rate: int) -> Samples:
    """[frames, bands]."""
    window_length = round(MEL_WINDOW_SECONDS * sample_rate)
    frames = np.lib.stride_tricks.sliding_window_view(signal, window_length)[:: window_length // 4]
    window = np.hanning(window_length + 1)[:-1]
    power = np.abs(np.fft.rfft(frames * window)) ** 2 / window.sum() ** 2
    return 10 * np.log10(np.maximum(power @ _mel_filters(window_length, sample_rate), MEL_FLOOR))


def _mel_filters(window_length: int, sample_rate: int) -> Samples:
    """Triangles that peak at 1, equally spaced on the mel scale (O'Shaughnessy 1987), [frequencies, bands]."""
    highest_mel = 2595 * np.log10(1 + sample_rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest_mel, MEL_BANDS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(window_length, 1 / sample_rate)[:, None]
    rising = (frequencies - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - frequencies) / (corners[2:] - corners[1:-1])
    return np.maximum(0, np.minimum(rising, falling))


def _check(reference: Signal, estimate: Signal) -> tuple[Samples, Samples]:
    first, second = _to_samples(reference), _to_samples(estimate)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"reference and estimate must have one axis and the same length; got {first.shape} and {second.shape}"
        )
    for name, samples in (("reference", first), ("estimate", second)):
        if not np.isfinite(samples).all():
            raise ValueError(f"{name} must be finite; got NaN or infinite samples")
    return first, second


def _to_samples(signal: Signal) -> Samples:
    if isinstance(signal, Tensor):
        signal = signal.detach().cpu().double().numpy()
    # A copy, for torch takes neither negative strides nor arrays that cannot be written to.
    return np.array(signal, dtype=np.float64, order="C")


def _resample(samples: Samples, from_rate: int, to_rate: int) -> Samples:
    return resample(torch.from_numpy(samples), from_rate, to_rate).numpy()


def _require(package: str) -> ModuleType:
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"{package} must be installed for this score: pip install 'rvq-codec[eval]'") from error
