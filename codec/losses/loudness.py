"""Distance of loudness in critical bands: how much of a difference is heard, rather than how large it is.

The model of hearing is that of PESQ (ITU-T P.862; Rix et al. 2001), in the parts that have a gradient, as in
Martín-Doñas et al. 2018 ("A deep learning loss function based on the perceptual evaluation of the speech quality"):
short-time power in critical bands, Zwicker's law of loudness, a dead zone for what is masked, and asymmetry, since what
was added to a signal disturbs more than what is missing. Time alignment and equalization are left out: a codec has no
delay and no microphone to forgive.

Loudness knows no phase. Beside this loss another has to tell the waveform.
"""

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

# Samples of this RMS, -26 dB of full scale as speech is recorded, are played at 79 dB SPL, where PESQ has its listener.
RECORDED_RMS = 0.05
PLAYED_DB = 79.0
# Width of a band, Bark: half a critical band, as in PESQ.
BAND_WIDTH = 0.5
# Share of the fainter of two loudnesses below which their difference is masked.
DEAD_ZONE = 0.25
# A band whose power, above this floor (about 17 dB SPL), is raised 2.5-fold or more has been added to: 2.5^1.2 is 3.
ADDED_FLOOR = 50.0
ADDED_RANGE = (3.0, 12.0)
ADDED_EXPONENT = 1.2
# A target whose mean specific loudness is below this counts as if it were as loud: read speech has 100 to 200 times as
# much.
LOUDNESS_FLOOR = 0.1


class LoudnessLoss(nn.Module):
    """Distance of loudness, relative to that of the target: mean over examples.

    Args:
        sample_rate: Hz.
        window_length: Samples of the Hann window; the hop is half of it. PESQ has 32 ms.
        asymmetry: Weight of what was added to the target, beside all differences.
    """

    window: Tensor
    filters: Tensor
    threshold: Tensor
    exponent: Tensor
    width: Tensor

    def __init__(self, sample_rate: int, window_length: int | None = None, asymmetry: float = 1.0):
        super().__init__()
        self.window_length = window_length or round(0.032 * sample_rate)
        self.asymmetry = asymmetry
        hertz = torch.arange(self.window_length // 2 + 1) * (sample_rate / self.window_length)
        bands = (bark(hertz) / BAND_WIDTH).long()
        filters = (bands[:, None] == bands.unique()).float()  # bands narrower than a bin have none
        centres = (hertz @ filters) / filters.sum(0)
        # Calibrated for a window of unit energy: the mean power of its bins is that of the samples.
        gain = 10 ** (PLAYED_DB / 10) / RECORDED_RMS**2 / (self.window_length / 2)
        window = torch.hann_window(self.window_length)
        self.register_buffer("window", window / window.norm(), persistent=False)
        self.register_buffer("filters", gain * filters, persistent=False)
        self.register_buffer("threshold", hearing_threshold(centres), persistent=False)
        self.register_buffer("exponent", loudness_exponent(bark(centres)), persistent=False)
        # In Bark: bins, times the slope of `bark`.
        width = filters.sum(0) / (centres.square() + 650**2).sqrt()
        self.register_buffer("width", width / width.sum(), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """A scalar; 0 for equal signals, 1 or somewhat more for an estimate that is silent.

        Args:
            estimate: [batch, channels, time]; float32 whatever autocast says.
            target: Likewise; has no gradient.
        """
        with torch.autocast(estimate.device.type, enabled=False):
            power = self._band_power(estimate.float())
            with torch.no_grad():
                target_power = self._band_power(target.float())
                target_loudness = self._loudness(target_power)
            loudness = self._loudness(power)
            masked = DEAD_ZONE * torch.minimum(loudness.detach(), target_loudness)
            audible = ((loudness - target_loudness).abs() - masked).clamp_min(0)
            # Within a frame the widest differences count most. The small number keeps the root's gradient finite.
            difference = ((audible.square() @ self.width) + 1e-6).sqrt() - 1e-3
            added = (audible * _added(power.detach(), target_power)) @ self.width
            distance = reduce(difference + self.asymmetry * added, "b c t -> b", "mean")
            size = reduce(target_loudness @ self.width, "b c t -> b", "mean")
            return (distance / size.clamp_min(LOUDNESS_FLOOR)).mean()

    def _band_power(self, waveform: Tensor) -> Tensor:
        """Relative to 0 dB SPL, [batch, channels, frames, bands]."""
        spectrum = torch.stft(
            rearrange(waveform, "b c t -> (b c) t"),
            self.window_length,
            self.window_length // 2,
            window=self.window,
            return_complex=True,
            pad_mode="constant",
        )
        real, imaginary = torch.view_as_real(spectrum).unbind(-1)
        energy = rearrange(real.square() + imaginary.square(), "(b c) f t -> b c t f", b=waveform.shape[0])
        return energy @ self.filters

    def _loudness(self, power: Tensor) -> Tensor:
        """Specific loudness, of no unit; 0 below the threshold of hearing (Zwicker & Fastl 1990, eq. 8.6)."""
        above = 0.5 + 0.5 * (power / self.threshold).clamp_min(1)
        # A power by way of the logarithm is faster on a CPU.
        return (2 * self.threshold) ** self.exponent * ((above.log() * self.exponent).exp() - 1)


def bark(hertz: Tensor) -> Tensor:
    """Critical-band rate, Bark (Schroeder et al. 1979)."""
    return 7 * torch.asinh(hertz / 650)


def hearing_threshold(hertz: Tensor) -> Tensor:
    """Power of the faintest tone that is heard, relative to 0 dB SPL (Terhardt 1979); no more than 60 dB."""
    kilohertz = hertz.clamp_min(20) / 1000
    level = 3.64 * kilohertz**-0.8 - 6.5 * torch.exp(-0.6 * (kilohertz - 3.3) ** 2) + 1e-3 * kilohertz**4
    return 10 ** (level.clamp_max(60) / 10)


def loudness_exponent(bark: Tensor) -> Tensor:
    """Of loudness as a power of intensity: 0.23 (Zwicker), up to a ninth more below 4 Bark, as in PESQ."""
    return 0.23 * (6 / (bark.clamp_max(4) + 2)).clamp_max(2) ** 0.15


def _added(power: Tensor, target_power: Tensor) -> Tensor:
    """How much more an added difference counts, 3 to 12; 0 where little was added."""
    low, high = ADDED_RANGE
    factor = ((power + ADDED_FLOOR) / (target_power + ADDED_FLOOR)) ** ADDED_EXPONENT
    return torch.where(factor < low, 0.0, factor.clamp_max(high))
