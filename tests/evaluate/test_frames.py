"""Frames are told by their power at each frequency, and by how much they are like a voice."""

import numpy as np
import pytest
from torch import Tensor

from codec.evaluate.frames import Frames, analyse, analyse_both

SAMPLE_RATE = 16_000


@pytest.fixture
def signal(speech: Tensor) -> np.ndarray:
    return speech.flatten().double().numpy()


def test_periodicity_is_the_highest_normalized_autocorrelation_at_the_periods_of_a_voice(signal: np.ndarray) -> None:
    start = 40_000
    frame = signal[start : start + 640]
    window = np.sin(np.pi * np.arange(640) / 640) ** 2
    windowed = (frame - frame.mean()) * window

    def correlate(one: np.ndarray, lag: int) -> float:
        return sum(one[: len(one) - lag] * one[lag:]) / sum(one * one)

    expected = max(correlate(windowed, lag) / correlate(window, lag) for lag in range(32, 214))
    assert analyse(signal, SAMPLE_RATE).periodicity[start // 160] == pytest.approx(expected)


def test_power_is_the_mean_square_under_the_window() -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    frames = analyse(0.1 * np.cos(2 * np.pi * 1000 * time), SAMPLE_RATE)
    np.testing.assert_allclose(frames.level, 0.1**2 / 2, rtol=1e-3)
    assert frames.frequencies[frames.power.argmax(axis=1)] == pytest.approx(1000)


def test_harmonicity_is_the_ratio_of_a_voice_to_its_noise_within_bounds() -> None:
    # 10 log10(r / (1 - r)), of r between 0.1 and 0.999.
    frames = Frames(np.ones((5, 1)), np.zeros(1), np.array([-1.0, 0.1, 0.5, 10 / 11, 2.0]))
    assert frames.harmonicity == pytest.approx([-9.54, -9.54, 0, 10, 30], abs=0.01)


def test_a_band_and_a_range_of_levels_by_hand() -> None:
    frames = Frames(np.array([[1.0, 2.0, 97.0], [0.0, 0.5, 0.5]]), np.array([0.0, 1000.0, 2000.0]), np.zeros(2))
    assert frames.level.tolist() == [100, 1]
    assert frames.band(1000).tolist() == [99, 1]
    assert frames.band(0, 2000).tolist() == [3, 0.5]
    assert frames.below_loudest(20) == pytest.approx(1)
    assert frames.within(19).tolist() == [True, False]
    assert frames.within(21).tolist() == [True, True]


@pytest.mark.parametrize(("length", "count"), [(0, 1), (100, 1), (640, 1), (799, 1), (800, 2), (16_000, 97)])
def test_there_is_a_frame_every_10_ms_that_lies_in_the_signal_or_one(length: int, count: int) -> None:
    assert analyse(np.zeros(length), SAMPLE_RATE).power.shape == (count, 321)


def test_two_signals_have_the_frames_of_each_alone(signal: np.ndarray) -> None:
    pair = signal[:8000], signal[8000:16_000].astype(np.float32)
    for both, alone in zip(analyse_both(*pair, SAMPLE_RATE), pair, strict=True):
        for mine, other in zip(both, analyse(alone, SAMPLE_RATE), strict=True):
            np.testing.assert_array_equal(mine, other)


def test_signals_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[time\], of the same length; got \(3,\) and \(4,\)$"):
        analyse_both(np.zeros(3), np.zeros(4), SAMPLE_RATE)
