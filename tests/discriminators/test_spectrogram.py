import math

import numpy as np
import pytest
import torch

from codec.discriminators.spectrogram import Spectrogram


def slow_spectrogram(samples, window_length):
    """Frame by frame, [2, frames, bins]: 10 times the orthonormal transform of samples times a Hann window."""
    window = np.sin(np.pi * np.arange(window_length) / window_length) ** 2
    window *= 10 / np.sqrt((window**2).sum())
    padded = np.pad(samples, window_length // 2)
    starts = range(0, len(samples) + 1, window_length // 4)
    spectra = np.stack([np.fft.rfft(window * padded[start : start + window_length]) for start in starts])
    return np.stack([spectra.real, spectra.imag])


@pytest.mark.parametrize(("window_length", "time"), [(64, 1000), (128, 1000), (64, 1), (64, 16), (64, 17)])
def test_spectra_are_those_of_the_slow_reference(speech, window_length, time):
    waveform = torch.cat([speech[..., 16_000 : 16_000 + time], speech[..., 40_000 : 40_000 + time]])
    expected = np.stack([slow_spectrogram(samples, window_length) for samples in waveform[:, 0].double().numpy()])
    spectrogram = Spectrogram(window_length)(waveform)
    torch.testing.assert_close(spectrogram, torch.from_numpy(expected).float(), atol=1e-5, rtol=1e-4)


def test_a_spectrum_is_that_of_torch():
    samples = torch.randn(2, 500)
    window = torch.hann_window(64)
    expected = 10 * torch.stft(samples, 64, 16, window=window, return_complex=True, pad_mode="constant") / window.norm()
    real, imaginary = Spectrogram(64)(samples[:, None]).unbind(1)
    torch.testing.assert_close(real, expected.real.mT)
    torch.testing.assert_close(imaginary, expected.imag.mT)


def test_white_noise_has_ten_times_its_level():
    noise = 0.03 * torch.randn(1, 1, 64_000)
    inner = Spectrogram(256)(noise)[:, :, 4:-4, 1:-1]
    assert math.sqrt(inner.square().sum(1).mean()) == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_touch_the_precision(speech, dtype):
    waveform = speech[..., :4000].to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        spectrogram = Spectrogram(256)(waveform)
    assert torch.equal(spectrogram, Spectrogram(256)(waveform.float()))


def test_channels_are_innermost_in_memory():
    assert Spectrogram(64)(torch.randn(2, 1, 100)).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("window_length", [-64, 0, 2, 66])
def test_a_window_without_a_quarter_is_refused(window_length):
    with pytest.raises(ValueError, match=f"window_length must be a positive multiple of 4; got {window_length}"):
        Spectrogram(window_length)
