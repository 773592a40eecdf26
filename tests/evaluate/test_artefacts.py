"""Each kind of artefact is told by its own measure: defects made for it, put into real speech."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch import Tensor

from codec.evaluate.artefacts import (
    Artefacts,
    _log_kurtosis,
    artefacts,
    noise_floor,
    pre_echo,
    signal_level,
)

SAMPLE_RATE = 16_000


@pytest.fixture
def signal(speech: Tensor) -> np.ndarray:
    return speech.flatten().double().numpy()


def measure(original: np.ndarray, decoded: np.ndarray) -> Artefacts:
    return artefacts(original, decoded, SAMPLE_RATE)


def noise(seconds: float) -> np.ndarray:
    return np.random.standard_normal(round(seconds * SAMPLE_RATE))


def pulses(seconds: float, hertz: int = 100) -> np.ndarray:
    """A pulse train of power 1."""
    train = np.zeros(round(seconds * SAMPLE_RATE))
    train[:: SAMPLE_RATE // hertz] = math.sqrt(SAMPLE_RATE / hertz)
    return train


def low_passed(signal: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(signal)
    spectrum[len(spectrum) // 2 :] = 0  # from 4 kHz on
    return np.fft.irfft(spectrum, len(signal))


def gated(signal: np.ndarray, share: float) -> np.ndarray:
    """Drop a random share of the points of a spectrogram: half-overlapping windows whose squares add up to 1."""
    window = np.sin(np.pi * (np.arange(512) + 0.5) / 512)
    result = np.zeros_like(signal)
    for start in range(0, len(signal) - 512, 256):
        spectrum = np.fft.rfft(signal[start : start + 512] * window)
        kept = np.random.random(len(spectrum)) >= share
        result[start : start + 512] += np.fft.irfft(spectrum * kept) * window
    return result


def envelope(signal: np.ndarray) -> np.ndarray:
    """Mean amplitude of 20 ms around each sample."""
    return np.convolve(np.abs(signal), np.full(320, 1 / 320), "same")


def test_equal_signals_have_no_artefacts(clips: list[Path]) -> None:
    for clip in clips:
        signal, sample_rate = soundfile.read(clip)
        assert artefacts(signal, signal, sample_rate) == Artefacts(*[0.0] * len(Artefacts._fields))


def test_a_lower_level_is_told_in_decibels_and_is_no_other_artefact(signal: np.ndarray) -> None:
    found = measure(signal, signal / 2)
    assert (found.fricatives, found.low) == pytest.approx((-6.02, -6.02), abs=0.05)
    assert (found.metallic, found.voiced, found.unvoiced) == pytest.approx((0, 0, 0), abs=1e-6)


def test_a_low_pass_at_4_khz_loses_fricatives(signal: np.ndarray) -> None:
    found = measure(signal, low_passed(signal))
    assert found.fricatives < -20
    assert found.high < -8
    assert (found.low, found.mid) == pytest.approx((0, 0), abs=0.01)
    assert (found.metallic, found.pre_echo, found.voiced) == pytest.approx((0, 0, 0), abs=0.2)
    assert found.tone < 3


def test_a_gated_spectrum_is_metallic_and_the_more_the_more_is_gated(signal: np.ndarray) -> None:
    some, half, most = (measure(signal, gated(signal, share)) for share in (0.1, 0.5, 0.9))
    assert 0 < some.metallic < 0.1 < half.metallic < 0.3 < most.metallic
    assert half.tone < 3


def test_filtered_speech_is_not_metallic(signal: np.ndarray) -> None:
    assert measure(signal, np.diff(signal, prepend=0)).metallic == pytest.approx(0, abs=0.02)


def test_lines_at_multiples_of_a_frame_rate_are_steady_tones(signal: np.ndarray) -> None:
    time = np.arange(len(signal)) / SAMPLE_RATE
    lines = sum(np.cos(2 * np.pi * 400 * number * time + number**2) for number in range(1, 20))
    found = measure(signal, signal + 0.01 * envelope(signal) * lines)
    assert found.tone > 15
    assert (found.metallic, found.voiced, found.unvoiced) == pytest.approx((0, 0, 0), abs=0.2)


def test_noise_in_voices_is_hoarse_and_pulses_in_place_of_noise_buzz(signal: np.ndarray) -> None:
    hoarse = measure(signal, signal + 0.3 * envelope(signal) * noise(len(signal) / SAMPLE_RATE))
    assert hoarse.voiced < -2
    assert hoarse.unvoiced < 0.5
    quiet = envelope(signal)
    breathed, buzzed = (quiet * carrier[: len(signal)] for carrier in (noise(6), pulses(6)))
    assert measure(breathed, buzzed).unvoiced > 10


def test_harmonicity_is_the_ratio_of_pulses_to_noise() -> None:
    # r is the share of the pulses in the power, so that r / (1 - r) is their ratio: 10 dB, then 0.
    white = noise(5)
    voice = pulses(5) + white * 10**-0.5
    assert measure(voice, pulses(5) + white).voiced == pytest.approx(-10, abs=1)
    assert math.isnan(measure(voice, white).unvoiced)


def test_kurtosis_of_a_band_with_half_of_its_frequencies_is_twice_that_of_a_full_one() -> None:
    # E[P⁴] / E[P²]²: 1 of equal powers, 2 of half of them. Each frequency has the same mean over the two frames.
    half = np.array([[[1.0, 0.0, 1.0, 0.0]], [[0.0, 3.0, 0.0, 3.0]]])
    audible = np.ones((2, 1), dtype=bool)
    assert _log_kurtosis(np.ones((2, 1, 4)), audible) == pytest.approx([0, 0])
    assert _log_kurtosis(half, audible) == pytest.approx([math.log(2)] * 2)


@pytest.mark.parametrize("decibels", [20.0, 10.0])
def test_a_pre_echo_is_its_level_over_the_silence_before_an_onset(decibels: float) -> None:
    original = noise(1)
    original[:8000] *= 0.01
    smeared = original.copy()
    smeared[8000 - 320 : 8000] *= 10 ** (decibels / 20)
    assert pre_echo(original, smeared, SAMPLE_RATE) == pytest.approx(decibels, abs=0.1)
    assert math.isnan(pre_echo(noise(1), noise(1), SAMPLE_RATE))


def test_noise_smeared_over_blocks_of_speech_is_pre_echo(signal: np.ndarray) -> None:
    blocks = signal[: len(signal) // 640 * 640].reshape(-1, 640)
    level = 0.2 * np.sqrt(np.square(blocks).mean(axis=1, keepdims=True))
    found = measure(blocks.ravel(), (blocks + level * np.random.standard_normal(blocks.shape)).ravel())
    assert found.pre_echo > 2
    assert found.metallic < 0.05
    assert found.low == pytest.approx(0, abs=0.3)


def test_level_and_noise_floor_are_those_of_the_speech_and_of_the_pauses() -> None:
    recording = noise(4)
    recording[:16_000] *= 0.001
    recording[16_000:] *= 0.1
    # But for the one or two frames across the edge.
    assert signal_level(recording, SAMPLE_RATE) == pytest.approx(-20, abs=0.2)
    assert noise_floor(recording, SAMPLE_RATE) == pytest.approx(-60, abs=1)


@pytest.mark.parametrize("length", [0, 1, 100, 5000])
def test_a_silent_original_gives_nothing_to_judge(length: int) -> None:
    silence = np.zeros(length)
    found = measure(silence, silence + 0.1)
    assert all(math.isnan(value) for value in found)
    assert (signal_level(silence, SAMPLE_RATE), noise_floor(silence, SAMPLE_RATE)) == (-120, -120)


def test_a_silent_decoded_signal_has_lost_everything(signal: np.ndarray) -> None:
    found = measure(signal, np.zeros_like(signal))
    assert max(found.fricatives, found.low, found.mid, found.high, found.voiced, found.unvoiced) < -5
    assert math.isnan(found.metallic)


def test_at_a_low_sample_rate_there_are_no_fricatives_to_judge(signal: np.ndarray) -> None:
    found = artefacts(signal, signal / 2, 8000)
    assert math.isnan(found.fricatives)
    assert math.isnan(found.high)
    assert found.low == pytest.approx(-6, abs=0.5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ((3, 4), r"original and decoded must be \[time\], of the same length; got \(3,\) and \(4,\)$"),
        (((1, 3), (1, 3)), r"original and decoded must be \[time\], of the same length; got \(1, 3\) and \(1, 3\)$"),
    ],
)
@pytest.mark.parametrize("function", [artefacts, pre_echo])
def test_signals_that_cannot_be_compared_are_refused(function, shapes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(*map(np.zeros, shapes), SAMPLE_RATE)
