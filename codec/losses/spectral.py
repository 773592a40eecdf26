"""Distances between an estimate and a target, each relative to the size of the target.

Every loss is a ratio of two sums over the batch, so that weights keep their meaning whatever the level of a corpus,
and a silent example cannot blow up its share.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

# Magnitudes of spectra are those of an orthonormal transform: white noise of RMS r has magnitudes near r.
# Log-mel spectra are compared down to this magnitude, -80 dB of full scale.
MEL_FLOOR = 1e-4
# Bins above this magnitude, -70 dB, are compressed; below, a power would have an unbounded gradient.
COMPRESSION_FLOOR = 3e-4
# A batch below this mean absolute sample, -80 dB of full scale, counts as if it were as loud as that.
WAVEFORM_FLOOR = 1e-4


def waveform_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """L1 distance of samples, relative to the L1 norm of the target; shapes are equal."""
    return (estimate - target).abs().sum() / target.abs().sum().clamp_min(WAVEFORM_FLOOR * target.numel())


class SpectralLosses(NamedTuple):
    """Scalars: `log_mel`, the distance of log-mel spectra; `stft`, that of compressed complex spectra."""

    log_mel: Tensor
    stft: Tensor


class SpectralLoss(nn.Module):
    """Two distances from one set of spectra at several resolutions, averaged over the resolutions.

    `log_mel`: L1 distance of log-mel spectra, relative to the target's height above -80 dB. `stft`: L1 distance of
    complex spectra, real and imaginary parts, with magnitudes raised to `power` and phases kept (Braun & Tashev 2020,
    arXiv 2009.12286), relative to the target's L1 norm. Without the phase a short training does not learn the
    waveform; without the compression the few loud bins are all that counts.

    They are one module since they share the transforms, which cost more than the rest.

    Args:
        sample_rate: Hz.
        window_lengths: Samples of the Hann windows, one for each resolution; the hop is a quarter.
        num_mels: Mel bands of each resolution.
        power: Exponent on the magnitudes, in (0, 1].

    Raises:
        ValueError: As many bands as windows are not given, or a window is too short for its bands.
    """

    def __init__(
        self, sample_rate: int, window_lengths: tuple[int, ...], num_mels: tuple[int, ...], power: float = 0.3
    ):
        super().__init__()
        if len(window_lengths) != len(num_mels):
            raise ValueError(f"num_mels must have one entry a window length; got {num_mels} for {window_lengths}")
        self.window_lengths = window_lengths
        self.power = power
        for window_length, bands in zip(window_lengths, num_mels, strict=True):
            self.register_buffer(
                f"filters_{window_length}", _mel_filters(sample_rate, window_length, bands), persistent=False
            )
            window = torch.hann_window(window_length)
            self.register_buffer(f"window_{window_length}", window / window.norm(), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> SpectralLosses:
        """Both [batch, channels, time]; float32 whatever autocast says."""
        with torch.autocast(estimate.device.type, enabled=False):
            pairs = [self._at_resolution(estimate.float(), target.float(), n) for n in self.window_lengths]
        log_mel, stft = zip(*pairs, strict=True)
        return SpectralLosses(torch.stack(log_mel).mean(), torch.stack(stft).mean())

    def _at_resolution(self, estimate: Tensor, target: Tensor, window_length: int) -> tuple[Tensor, Tensor]:
        mel, real, imaginary = self._features(estimate, window_length)
        with torch.no_grad():
            target_mel, target_real, target_imaginary = self._features(target, window_length)
            mel_size = target_mel.sum().clamp_min(1)
            stft_size = (target_real.abs().sum() + target_imaginary.abs().sum()).clamp_min(1)
        distance = _l1(real, target_real) + _l1(imaginary, target_imaginary)
        return _l1(mel, target_mel) / mel_size, distance / stft_size

    def _features(self, waveform: Tensor, window_length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Log-mel spectrum above the floor, and real and imaginary parts of the compressed spectrum."""
        spectrum = torch.stft(
            rearrange(waveform, "b c t -> (b c) t"),
            window_length,
            window_length // 4,
            window=self.get_buffer(f"window_{window_length}"),
            return_complex=True,
            pad_mode="constant",
        )
        # Unbound, the backward pass of the parts is one stack; .real and .imag would each fill a complex tensor.
        real, imaginary = torch.view_as_real(spectrum).unbind(-1)
        energy = real * real + imaginary * imaginary
        magnitude = (energy + 1e-12).sqrt()
        mel = torch.einsum("bft,fm->bmt", magnitude, self.get_buffer(f"filters_{window_length}"))
        factor = (energy + COMPRESSION_FLOOR**2).pow((self.power - 1) / 2)
        return (mel / MEL_FLOOR).clamp_min(1).log(), real * factor, imaginary * factor


def _l1(estimate: Tensor, target: Tensor) -> Tensor:
    return F.l1_loss(estimate, target, reduction="sum")


def _mel_filters(sample_rate: int, window_length: int, bands: int) -> Tensor:
    """[bins, bands]; each band is a weighted mean of bins, so that one floor fits bands of any width."""
    # Imported here, since torchaudio does not load beside every build of torch, and only training needs it.
    from torchaudio.functional import melscale_fbanks

    triangles = melscale_fbanks(window_length // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate, mel_scale="slaney")
    if (triangles.sum(0) == 0).any():
        raise ValueError(f"num_mels must leave each band a bin; got {bands} for a window of {window_length} samples")
    return triangles / triangles.sum(0)
