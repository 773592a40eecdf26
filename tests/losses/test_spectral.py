import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from codec.losses import TERMS, SpectralLoss, waveform_loss

SAMPLE_RATE = 16_000
ALL_TERMS = tuple(TERMS)


def noise(*shape: int, rms: float = 0.1, seed: int = 1) -> Tensor:
    return rms * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def loss() -> SpectralLoss:
    return SpectralLoss(SAMPLE_RATE, (512, 256), (40, 20), power=0.5, terms=ALL_TERMS)


def mel_filters(window_length, bands):
    """Slaney's triangles: centres evenly spaced to 1 kHz, and in ratios of 6.4^(1/27) above; [bins, bands]."""

    def to_hertz(mel):
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    highest = 15 + 27 * math.log(SAMPLE_RATE / 2 / 1000) / math.log(6.4)
    corners = [to_hertz(highest * step / (bands + 1)) for step in range(bands + 2)]
    filters = np.zeros((window_length // 2 + 1, bands))
    for band in range(bands):
        low, centre, high = corners[band : band + 3]
        for index in range(len(filters)):
            hertz = index * SAMPLE_RATE / window_length
            filters[index, band] = max(0.0, min((hertz - low) / (centre - low), (high - hertz) / (high - centre)))
    return filters / filters.sum(0)


def slow_spectra(samples, window_length):
    """Orthonormal short-time spectra of one signal, frame by frame."""
    window = np.sin(np.pi * np.arange(window_length) / window_length) ** 2
    window /= np.sqrt((window**2).sum())
    padded = np.pad(samples, window_length // 2)
    starts = range(0, len(padded) - window_length + 1, window_length // 4)
    return np.stack([np.fft.rfft(window * padded[start : start + window_length]) for start in starts])


def slow_losses(estimate, target, window_length, bands, power):
    """Every term for one signal against another."""

    def heights(magnitudes):
        return np.log(np.maximum(magnitudes / 1e-4, 1))

    def compressed(spectra):
        parts = np.stack([spectra.real, spectra.imag])
        return parts * (np.abs(spectra) ** 2 + 3e-4**2) ** ((power - 1) / 2)

    def relative_l1(x, y):
        return np.abs(x - y).sum() / np.abs(y).sum()

    spectra = [slow_spectra(signal.flatten().double().numpy(), window_length) for signal in (estimate, target)]
    magnitudes = [np.abs(each) for each in spectra]
    filters = mel_filters(window_length, bands)
    return {
        "log_mel": relative_l1(*(heights(each @ filters) for each in magnitudes)),
        "stft": relative_l1(*map(compressed, spectra)),
        "magnitude": np.linalg.norm(magnitudes[0] - magnitudes[1]) / np.linalg.norm(magnitudes[1]),
        "log_magnitude": relative_l1(*map(heights, magnitudes)),
    }


def test_every_term_is_that_of_the_slow_reference(speech, loss):
    target = speech[..., 16_000:17_000]
    estimate = target + noise(1, 1, 1000, rms=0.02)
    expected = [slow_losses(estimate, target, *sizes, 0.5) for sizes in ((512, 40), (256, 20))]
    result = loss(estimate, target)
    assert result.keys() == TERMS.keys()
    for name, value in result.items():
        assert value.item() == pytest.approx(np.mean([values[name] for values in expected]), rel=1e-3)


def test_waveform_loss_is_the_mean_of_the_examples_ratios():
    target = torch.tensor([[[1.0, -1.0]], [[4.0, 2.0]]])
    estimate = torch.tensor([[[1.0, 0.0]], [[4.0, 5.0]]])
    assert waveform_loss(estimate, target).item() == pytest.approx((1 / 2 + 3 / 6) / 2)


def test_the_loss_of_a_batch_is_the_mean_of_its_parts_however_it_is_cut(speech, loss):
    levels = torch.tensor([1.0, 0.1, 1e-3, 0.0]).view(4, 1, 1)
    target = levels * speech[..., 16_000:32_000].reshape(4, 2, 2000)
    estimate = target + 0.1 * levels * noise(4, 2, 2000) + noise(4, 2, 2000, rms=1e-4, seed=2)
    losses = {**loss(estimate, target), "waveform": waveform_loss(estimate, target)}
    for size in (1, 2):
        pairs = list(zip(estimate.split(size), target.split(size), strict=True))
        parts = [{**loss(*pair), "waveform": waveform_loss(*pair)} for pair in pairs]
        for name, value in losses.items():
            torch.testing.assert_close(value, torch.stack([part[name] for part in parts]).mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [0.1, 1.0, 1e2])
def test_waveform_loss_does_not_depend_on_the_level(speech, scale):
    estimate = speech + noise(*speech.shape, rms=0.01)
    assert waveform_loss(scale * estimate, scale * speech).item() == pytest.approx(
        waveform_loss(estimate, speech).item(), rel=1e-4
    )


def test_a_silent_example_counts_for_little_in_a_batch(loss):
    target = torch.cat([noise(1, 1, 4000), torch.zeros(1, 1, 4000)])
    estimate = target + noise(2, 1, 4000, rms=1e-4, seed=2)
    losses = {**loss(estimate, target), "waveform": waveform_loss(estimate, target)}
    assert all(value < 0.12 for value in losses.values()), losses
    # Of the same noise at the level of the floor, it loses about as much as if it were compared with that noise.
    floor = noise(1, 1, 4000, rms=2e-3, seed=3)
    losses = {**loss(floor, target[1:]), "waveform": waveform_loss(floor, target[1:])}
    for name in ("stft", "magnitude", "waveform"):
        assert 0.75 < losses[name] < 1.25, name
    assert 2.5 < losses["log_mel"] < 3
    assert 2.5 < losses["log_magnitude"] < 3


def test_equal_signals_have_no_loss(speech, loss):
    assert waveform_loss(speech, speech) == 0
    assert loss(speech, speech) == dict.fromkeys(TERMS, 0)


def test_silence_in_place_of_a_signal_loses_all_of_it(speech, loss):
    silence = torch.zeros_like(speech)
    assert waveform_loss(silence, speech) == 1
    for value in loss(silence, speech).values():
        assert value.item() == pytest.approx(1, abs=1e-4)


def test_a_factor_on_a_loud_signal_has_the_loss_of_the_formulas(loss):
    target = noise(1, 1, 8000)
    doubled, halved = loss(2 * target, target), loss(target / 2, target)
    # log 2 in every band; |2 X|^0.5 - |X|^0.5 in every bin.
    assert doubled["stft"].item() == pytest.approx(math.sqrt(2) - 1, rel=1e-3)
    assert halved["stft"].item() == pytest.approx(1 - math.sqrt(0.5), rel=1e-3)
    assert doubled["magnitude"].item() == pytest.approx(1, rel=1e-3)
    assert halved["magnitude"].item() == pytest.approx(0.5, rel=1e-3)
    # Noise of RMS 0.1 has magnitudes near 0.1, some 60 dB above the floor; their mean log is a little lower.
    for name in ("log_mel", "log_magnitude"):
        assert doubled[name].item() == pytest.approx(halved[name].item(), rel=1e-3)
        height = math.log(2) / doubled[name].item()
        assert math.log(0.1 / 1e-4) - 0.5 < height < math.log(0.1 / 1e-4)


def test_a_power_of_one_compares_the_spectra_as_they_are():
    target = noise(1, 1, 8000)
    result = SpectralLoss(SAMPLE_RATE, (256,), (20,), power=1.0)(3 * target, target)
    assert result["stft"].item() == pytest.approx(2, rel=1e-5)


@pytest.mark.parametrize("name", TERMS)
def test_more_noise_is_a_larger_loss(speech, loss, name):
    target = speech[..., 16_000:32_000]
    values = [loss(target + noise(*target.shape, rms=rms), target)[name] for rms in (1e-4, 1e-3, 1e-2, 1e-1)]
    assert values == sorted(values)
    assert values[-1] > 2 * values[0] > 0


def test_a_phase_error_is_seen_by_the_complex_spectrum_alone(speech, loss):
    target = speech[..., 16_000:32_000]
    inverted = loss(-target, target)
    assert inverted["stft"].item() == pytest.approx(2, rel=1e-5)
    assert [inverted[name] for name in TERMS if name != "stft"] == [0, 0, 0]
    delayed = loss(torch.roll(target, 8, dims=-1), target)
    assert delayed["log_mel"] < 0.05
    assert delayed["magnitude"] < 0.25
    assert delayed["stft"] > 0.5


SIGNALS = {
    "silence": torch.zeros(2, 1, 2000),
    "noise": noise(2, 1, 2000),
    "faint": noise(2, 1, 2000, rms=1e-6),
    "click": torch.nn.functional.one_hot(torch.tensor(1000), 2000).float().expand(2, 1, 2000),
}


@pytest.mark.parametrize("estimate", SIGNALS)
@pytest.mark.parametrize("target", SIGNALS)
def test_loss_and_gradient_are_finite_and_small_enough_to_learn_from(loss, estimate, target):
    estimate = SIGNALS[estimate].clone().requires_grad_()
    target = SIGNALS[target]
    values = [*loss(estimate, target).values(), waveform_loss(estimate, target)]
    assert all(value.isfinite() for value in values)
    for value in values:
        (gradient,) = torch.autograd.grad(value, estimate, retain_graph=True)
        assert gradient.isfinite().all()
        # A sum of squares beyond the range of float32 would make the clipped gradient nan.
        assert gradient.norm() < 1e6


def test_gradients_lead_to_the_target(loss):
    target = noise(1, 1, 1000)
    estimate = noise(1, 1, 1000, seed=2).requires_grad_()
    optimizer = torch.optim.Adam([estimate], lr=1e-2)
    start = {name: value.item() for name, value in loss(estimate, target).items()}
    for _ in range(60):
        optimizer.zero_grad()
        (sum(loss(estimate, target).values()) + waveform_loss(estimate, target)).backward()
        optimizer.step()
    for name, value in loss(estimate, target).items():
        assert value.item() < 0.5 * start[name]


def test_the_maths_is_in_float32_under_autocast(speech, loss):
    target = speech[..., 16_000:20_000]
    estimate = (target + noise(*target.shape, rms=0.01)).bfloat16()
    expected = {**loss(estimate.float(), target), "waveform": waveform_loss(estimate.float(), target)}
    with torch.autocast("cpu", torch.bfloat16):
        result = {**loss(estimate, target), "waveform": waveform_loss(estimate, target)}
    assert all(value.dtype == torch.float32 for value in result.values())
    assert result == expected


def test_an_example_is_compared_as_a_whole_whatever_its_channels(speech, loss):
    target = speech[..., 16_000:18_000]
    estimate = target + noise(1, 1, 2000, rms=0.01)
    mono, stereo = loss(estimate, target), loss(estimate.expand(1, 2, 2000), target.expand(1, 2, 2000))
    half_silent = torch.cat([noise(1, 1, 2000), torch.zeros(1, 1, 2000)], dim=1)
    missed = loss(torch.zeros_like(half_silent), half_silent)
    for name in TERMS:
        assert stereo[name].item() == pytest.approx(mono[name].item(), rel=1e-5)
        # Channel by channel it would be half of it.
        assert missed[name].item() == pytest.approx(1, rel=1e-3)


def test_the_losses_of_resolutions_are_averaged():
    target = noise(1, 1, 4000)
    estimate = noise(1, 1, 4000, seed=2)
    single = [
        SpectralLoss(SAMPLE_RATE, (n,), (m,), terms=ALL_TERMS)(estimate, target) for n, m in ((512, 40), (256, 20))
    ]
    both = SpectralLoss(SAMPLE_RATE, (512, 256), (40, 20), terms=ALL_TERMS)(estimate, target)
    for name, value in both.items():
        assert value.item() == pytest.approx(sum(result[name].item() for result in single) / 2, rel=1e-5)


def test_a_term_does_not_depend_on_the_others(loss):
    estimate, target = noise(2, 1, 2000), noise(2, 1, 2000, seed=2)
    for name, value in loss(estimate, target).items():
        alone = SpectralLoss(SAMPLE_RATE, (512, 256), (40, 20), 0.5, terms=(name,))
        assert alone(estimate, target) == {name: value}


def test_mel_bands_are_wanted_by_the_terms_that_use_them_alone():
    without = SpectralLoss(SAMPLE_RATE, (256,), (), terms=("stft", "magnitude", "log_magnitude"))
    assert without.filters_256.numel() == 0
    assert SpectralLoss(SAMPLE_RATE, (256,), (20,), terms=("log_mel",)).filters_256.shape == (129, 20)


def test_a_signal_shorter_than_the_windows_is_compared(loss):
    for name, value in loss(noise(1, 1, 50), noise(1, 1, 50, seed=2)).items():
        assert 0.05 < value < 2, name


def test_the_module_holds_no_state(loss):
    assert loss.state_dict() == {}
    assert list(loss.parameters()) == []


def test_as_many_bands_as_windows_must_be_given():
    with pytest.raises(ValueError, match=r"num_mels must have one entry a window length; got \(40,\) for \(512, 256\)"):
        SpectralLoss(SAMPLE_RATE, (512, 256), (40,))


def test_a_window_too_short_for_its_bands_is_refused():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "At least one mel filterbank has all zero values")
        with pytest.raises(
            ValueError, match="num_mels must leave each band a bin; got 120 for a window of 256 samples"
        ):
            SpectralLoss(SAMPLE_RATE, (256,), (120,))


def test_an_unknown_term_is_refused():
    with pytest.raises(ValueError, match="spectral term must be one of log_magnitude, log_mel, magnitude, stft; got "):
        SpectralLoss(SAMPLE_RATE, (256,), (20,), terms=("stft", "mel"))
