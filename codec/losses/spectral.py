"""Distances between an estimate and a target, each relative to the size of the target.

Every loss is a mean over the examples of a batch, each compared with its own target. So a loss of a batch is the mean
of those of its parts, if they are of equal size: of ranks, of accumulated micro-batches. A ratio of sums over the
batch would not be, and its loud examples would be all that counts. What keeps a nearly silent example from blowing up
is a floor on the size of its target.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from codec.choose import choose

# Magnitudes of spectra are those of an orthonormal transform: white noise of RMS r has magnitudes near r.
# Logarithms of spectra are compared down to this magnitude, -80 dB of full scale.
LOG_FLOOR = 1e-4
# Bins above this magnitude, -70 dB, are compressed; below, a power would have an unbounded gradient.
COMPRESSION_FLOOR = 3e-4
# A target whose mean sample or magnitude is below this, -54 dB of full scale, counts as if it were as loud as that: the
# noise of a quiet room. One second of read speech has 15 times as much.
SIZE_FLOOR = 2e-3
# The same for the mean logarithm of spectra, above LOG_FLOOR: 8.7 dB. Speech has 3 to 4, silence 0.
HEIGHT_FLOOR = 1.0


def waveform_loss(estimate: Tensor, target: Tensor) -> Tensor:
    """L1 distance of samples, relative to the L1 norm of the target: mean over the examples.

    Both [batch, channels, time]; float32 whatever their type.
    """
    estimate, target = estimate.float(), target.float()
    return (mean_size(estimate - target) / mean_size(target).clamp_min(SIZE_FLOOR)).mean()


def mean_size(x: Tensor) -> Tensor:
    """Mean absolute value of each example of [batch, ...], [batch]."""
    # Divided after the sum: the gradient of a mean is a tensor of the size of x, that of a sum a view. The axes are not
    # flattened, since spectra are not contiguous. A norm would take 3 times as long forward.
    return reduce(x.abs(), "b ... -> b", "sum") / x[0].numel()


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Short-time spectra, and what the terms make of them, which is computed when a term first asks for it.

    Attributes:
        real: [batch, channels, bins, frames].
        imaginary: Likewise.
        power: Exponent of the compression.
        filters: Mel bands, [bins, bands]; empty where no term wants them.
    """

    real: Tensor
    imaginary: Tensor
    power: float
    filters: Tensor

    @cached_property
    def energy(self) -> Tensor:
        """Squared magnitudes."""
        return self.real * self.real + self.imaginary * self.imaginary

    @cached_property
    def magnitude(self) -> Tensor:
        """With a gradient that is finite at 0."""
        return (self.energy + 1e-12).sqrt()

    def compressed(self) -> tuple[Tensor, Tensor]:
        """Real and imaginary part, with magnitudes raised to the power and phases kept."""
        # A power by way of the logarithm: on a CPU pow takes 3 times as long, forward and backward.
        factor = ((self.energy + COMPRESSION_FLOOR**2).log() * ((self.power - 1) / 2)).exp()
        return self.real * factor, self.imaginary * factor

    def mel(self) -> Tensor:
        """Magnitudes of mel bands, [batch, channels, bands, frames]."""
        return torch.einsum("bcft,fm->bcmt", self.magnitude, self.filters)


@dataclass(frozen=True)
class Term:
    """A distance of spectra.

    Attributes:
        measure: `(estimate, target) -> distances [batch]`, each relative to the size of the target.
        mel: Whether it wants mel bands.
    """

    measure: Callable[[Spectrum, Spectrum], Tensor]
    mel: bool = False


def log_mel(estimate: Spectrum, target: Spectrum) -> Tensor:
    """L1 distance of log-mel spectra, relative to the target's mean height above -80 dB."""
    return _distance_of_heights(estimate.mel(), target.mel())


def stft(estimate: Spectrum, target: Spectrum) -> Tensor:
    """L1 distance of compressed complex spectra, real and imaginary parts, relative to the target's L1 norm.

    Braun & Tashev 2020, arXiv 2009.12286. Without the phase a short training does not learn the waveform; without the
    compression the few loud bins are all that counts.
    """
    (real, imaginary), (target_real, target_imaginary) = estimate.compressed(), target.compressed()
    distance = mean_size(real - target_real) + mean_size(imaginary - target_imaginary)
    size = mean_size(target_real) + mean_size(target_imaginary)
    # Compressed white noise has |real| + |imaginary| near its RMS to that power, 15 % above to be exact.
    return distance / size.clamp_min(SIZE_FLOOR**target.power)


def magnitude(estimate: Spectrum, target: Spectrum) -> Tensor:
    """Spectral convergence: Frobenius norm of the difference of magnitudes, relative to that of the target.

    Arik et al. 2018, arXiv 1808.06719; Parallel WaveGAN, arXiv 1910.11480. Loud bins are what counts.
    """
    axes = (1, 2, 3)
    distance = torch.linalg.vector_norm(estimate.magnitude - target.magnitude, dim=axes)
    size = torch.linalg.vector_norm(target.magnitude, dim=axes)
    return distance / size.clamp_min(SIZE_FLOOR * target.magnitude[0].numel() ** 0.5)


def log_magnitude(estimate: Spectrum, target: Spectrum) -> Tensor:
    """L1 distance of log magnitudes, relative to the target's mean height above -80 dB.

    As in Parallel WaveGAN, arXiv 1910.11480, but for the relation to the target. Loud and quiet bins count alike.
    """
    return _distance_of_heights(estimate.magnitude, target.magnitude)


TERMS: dict[str, Term] = {
    "log_mel": Term(log_mel, mel=True),
    "stft": Term(stft),
    "magnitude": Term(magnitude),
    "log_magnitude": Term(log_magnitude),
}


class SpectralLoss(nn.Module):
    """Distances from one set of spectra at several resolutions, averaged over the resolutions.

    They are one module since they share the transforms, which cost more than the rest.

    Args:
        sample_rate: Hz.
        window_lengths: Samples of the Hann windows, one for each resolution; the hop is a quarter.
        num_mels: Mel bands of each resolution; of no use without a term that wants them.
        power: Exponent on the magnitudes of the term "stft", in (0, 1].
        terms: Names of TERMS; what none of them needs is not computed.

    Raises:
        ValueError: A term is unknown, as many bands as windows are not given, or a window is too short for its bands.
    """

    def __init__(
        self,
        sample_rate: int,
        window_lengths: tuple[int, ...],
        num_mels: tuple[int, ...],
        power: float = 0.3,
        terms: tuple[str, ...] = ("log_mel", "stft"),
    ):
        super().__init__()
        self.window_lengths = window_lengths
        self.power = power
        self.terms = {name: choose(TERMS, name, "spectral term") for name in terms}
        if not any(term.mel for term in self.terms.values()):
            num_mels = (0,) * len(window_lengths)
        if len(window_lengths) != len(num_mels):
            raise ValueError(f"num_mels must have one entry a window length; got {num_mels} for {window_lengths}")
        for window_length, bands in zip(window_lengths, num_mels, strict=True):
            filters = _mel_filters(sample_rate, window_length, bands) if bands else torch.empty(0)
            window = torch.hann_window(window_length)
            self.register_buffer(f"filters_{window_length}", filters, persistent=False)
            self.register_buffer(f"window_{window_length}", window / window.norm(), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Each term's distance, a scalar: mean over examples and resolutions.

        Args:
            estimate: [batch, channels, time]; float32 whatever autocast says.
            target: Likewise; has no gradient.
        """
        with torch.autocast(estimate.device.type, enabled=False):
            rows = [self._at_resolution(estimate.float(), target.detach().float(), n) for n in self.window_lengths]
        return {name: torch.stack([row[name] for row in rows]).mean() for name in self.terms}

    def _at_resolution(self, estimate: Tensor, target: Tensor, window_length: int) -> dict[str, Tensor]:
        spectra = self._spectrum(estimate, window_length), self._spectrum(target, window_length)
        return {name: term.measure(*spectra).mean() for name, term in self.terms.items()}

    def _spectrum(self, waveform: Tensor, window_length: int) -> Spectrum:
        spectrum = torch.stft(
            rearrange(waveform, "b c t -> (b c) t"),
            window_length,
            window_length // 4,
            window=self.get_buffer(f"window_{window_length}"),
            return_complex=True,
            pad_mode="constant",
        )
        # Unbound, the backward pass of the parts is one stack; .real and .imag would each fill a complex tensor.
        parts = rearrange(torch.view_as_real(spectrum), "(b c) f t z -> b c f t z", b=waveform.shape[0])
        real, imaginary = parts.unbind(-1)
        return Spectrum(real, imaginary, self.power, self.get_buffer(f"filters_{window_length}"))


def _distance_of_heights(estimate: Tensor, target: Tensor) -> Tensor:
    """L1 distance of the logarithms above the floor, relative to their mean in the target, [batch]."""
    height, target_height = ((x / LOG_FLOOR).clamp_min(1).log() for x in (estimate, target))
    return mean_size(height - target_height) / mean_size(target_height).clamp_min(HEIGHT_FLOOR)


def _mel_filters(sample_rate: int, window_length: int, bands: int) -> Tensor:
    """[bins, bands]; each band is a weighted mean of bins, so that one floor fits bands of any width."""
    # Imported here, since torchaudio does not load beside every build of torch, and only training needs it.
    from torchaudio.functional import melscale_fbanks

    triangles = melscale_fbanks(window_length // 2 + 1, 0.0, sample_rate / 2, bands, sample_rate, mel_scale="slaney")
    if (triangles.sum(0) == 0).any():
        raise ValueError(f"num_mels must leave each band a bin; got {bands} for a window of {window_length} samples")
    return triangles / triangles.sum(0)
