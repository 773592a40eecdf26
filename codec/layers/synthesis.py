"""From frames to samples: overlap-add, and the inverse of a short-time Fourier transform (STFT) before it.

With N samples a hop, a frame has 2N samples n under a window w. Of the samples x from jN on, the STFT takes

    X[k] = sqrt(1 / N) sum_n w[n] x[jN + n] exp(-i pi k n / N),     k = 0 .. N.

Timing is that of `InverseMDCT`: the samples of a hop need its frame and the one before.
"""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from codec.layers.streaming import Past


class OverlapAdd(nn.Module):
    """Frames of two hops of samples to a waveform, causally: windowed, and added where they overlap.

    Before the first frame there is none, so the first hop of samples fades in.

    Args:
        hop_length: Samples between frames, half as many as in a frame.
        gain: What to divide by.
    """

    window: Tensor

    def __init__(self, hop_length: int, gain: float = 1.0):
        super().__init__()
        self.state: Past | None = None
        # A sine, as that of the MDCT: the squares of two that overlap add up to 1. So frames that hold a signal under
        # the same window (those of an STFT) add up to that signal; and frames that do not agree, as at the start of
        # training, add up to noise of one level, which windows of sum 1 would dim by half in the middle of each hop.
        n = torch.arange(2 * hop_length, dtype=torch.float64) + 0.5
        window = torch.sin(math.pi * n / (2 * hop_length)) / gain
        self.register_buffer("window", rearrange(window, "n -> n 1").float(), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """[batch, 2 * hop_length, frames] -> [batch, 1, frames * hop_length]."""
        first, second = (self.window * frames).chunk(2, dim=1)
        if self.state is None:
            before = F.pad(second, (1, 0))
        else:
            before = self.state.before(second)
            self.state.keep(before[..., -1:])
        return rearrange(first + before[..., :-1], "b n t -> b 1 (t n)")

    def initial_state(self, batch_size: int) -> Past:
        """The second half of a silent frame."""
        return Past(self.window.new_zeros(batch_size, self.window.shape[0] // 2, 1))


def inverse_stft_basis(hop_length: int) -> Tensor:
    """What real and imaginary parts add to a frame, [2 * (hop_length + 1) parts, 2 * hop_length samples], float32.

    Rows have the energy 1; of the frequencies 0 and N, those of real parts 1/2, those of imaginary ones 0.
    """
    n = torch.arange(2 * hop_length, dtype=torch.float64)
    k = torch.arange(hop_length + 1, dtype=torch.float64)
    scale = torch.full((hop_length + 1, 1), math.sqrt(1 / hop_length), dtype=torch.float64)
    # The other frequencies stand for their conjugates, too.
    scale[0] /= 2
    scale[-1] /= 2
    angles = math.pi / hop_length * torch.outer(k, n)
    return torch.cat([scale * angles.cos(), -scale * angles.sin()]).float()


class InverseSTFT(nn.Module):
    """Real and imaginary parts of an STFT to samples, causally; of float32 under autocast.

    Args:
        hop_length: Samples between frames.
        gain: What to divide by.
    """

    basis: Tensor

    def __init__(self, hop_length: int, gain: float = 1.0):
        super().__init__()
        self.register_buffer("basis", inverse_stft_basis(hop_length), persistent=False)
        self.overlap_add = OverlapAdd(hop_length, gain)

    def forward(self, parts: Tensor) -> Tensor:
        """[batch, 2 * (hop_length + 1), frames], the real parts first -> [batch, 1, frames * hop_length]."""
        with torch.autocast(parts.device.type, enabled=False):
            samples: Tensor = self.overlap_add(einsum(self.basis, parts.to(self.basis.dtype), "k n, b k t -> b n t"))
        return samples


class MagnitudePhase(nn.Module):
    """Log magnitudes and phases to real and imaginary parts, as in Vocos (Siuzdak 2023, arXiv 2306.00814).

    Phases are any real numbers, since the cosine and the sine wrap them. The maths runs in float32 whatever autocast
    says.

    Args:
        limit: Largest magnitude.
    """

    def __init__(self, limit: float):
        super().__init__()
        self.log_limit = math.log(limit)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 2 * frequencies, frames], the log magnitudes first -> the same shape, the real parts first."""
        with torch.autocast(x.device.type, enabled=False):
            log_magnitude, phase = x.float().chunk(2, dim=1)
            # Before `exp`, not after it: beyond an infinity the gradient would be NaN.
            magnitude = log_magnitude.clamp(max=self.log_limit).exp()
            return torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], dim=1).to(x.dtype)
