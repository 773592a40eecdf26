"""Modified discrete cosine transform (Princen & Bradley 1986): a lapped transform with an exact inverse.

With N samples a hop, frame j weighs the 2N samples from jN on by a window w and returns N coefficients

    X[k] = sqrt(2 / N) sum_n w[n] x[jN + n] cos(pi / N (n + 1/2 + N/2) (k + 1/2)).

Frames overlap by half. The inverse adds the overlapping halves of two frames, in which the aliasing of one cancels
that of the other, since w[n]^2 + w[n + N]^2 = 1. The transform is orthogonal: coefficients have the energy of the
samples.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from codec.layers.streaming import Past


def mdct_basis(hop_length: int) -> Tensor:
    """Windowed cosines, [hop_length coefficients, 2 * hop_length samples], float32; the window is a sine."""
    n = torch.arange(2 * hop_length, dtype=torch.float64) + 0.5
    k = torch.arange(hop_length, dtype=torch.float64) + 0.5
    window = torch.sin(math.pi * n / (2 * hop_length))
    cosines = torch.cos(math.pi / hop_length * torch.outer(k, n + hop_length / 2))
    return (math.sqrt(2 / hop_length) * window * cosines).float()


class MDCT(nn.Module):
    """Samples to MDCT coefficients.

    Args:
        hop_length: Samples between frames, and coefficients of a frame.
        gain: Factor on the coefficients.
    """

    basis: Tensor

    def __init__(self, hop_length: int, gain: float = 1.0):
        super().__init__()
        self.state: Past | None = None
        self.hop_length = hop_length
        self.register_buffer("basis", gain * mdct_basis(hop_length), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        """[batch, 1, (frames + 1) * hop_length] -> [batch, hop_length, frames]."""
        if self.state is not None:
            waveform = self.state.before(waveform)
            frames = max(waveform.shape[-1] // self.hop_length - 1, 0)
            self.state.keep(waveform[..., frames * self.hop_length :])
            if frames == 0:
                return waveform.new_zeros(waveform.shape[0], self.hop_length, 0)
        # In float64: a product in float32 has other last digits for another number of frames, and a stream would more
        # often have another code than the whole. MPS knows no float64.
        precise = torch.float32 if waveform.device.type == "mps" else torch.float64
        samples = rearrange(waveform, "b 1 t -> b t").unfold(1, 2 * self.hop_length, self.hop_length)
        coefficients = samples.to(precise) @ self.basis.to(precise).T
        return rearrange(coefficients, "b t k -> b k t").to(waveform.dtype)

    def initial_state(self, batch_size: int) -> Past:
        """No samples."""
        return Past(self.basis.new_zeros(batch_size, 1, 0))


class InverseMDCT(nn.Module):
    """MDCT coefficients to samples, causally: the samples of a hop need its frame and the one before.

    Before the first frame there is none, so the first hop of samples fades in, with the aliasing that this leaves.
    Under autocast the samples are of float32: half precision would add noise to what is quiet.

    Args:
        hop_length: Samples between frames, and coefficients of a frame.
        gain: The factor that `MDCT` put on the coefficients.
    """

    basis: Tensor

    def __init__(self, hop_length: int, gain: float = 1.0):
        super().__init__()
        self.state: Past | None = None
        self.hop_length = hop_length
        self.register_buffer("basis", mdct_basis(hop_length) / gain, persistent=False)

    def forward(self, coefficients: Tensor) -> Tensor:
        """[batch, hop_length, frames] -> [batch, 1, frames * hop_length]."""
        frames = coefficients.shape[-1]
        if frames == 0:
            return coefficients.new_zeros(coefficients.shape[0], 1, 0)
        coefficients = coefficients.to(self.basis.dtype)
        if self.state is not None:
            coefficients = self.state.before(coefficients)
            self.state.keep(coefficients[..., -1:])
        with torch.autocast(coefficients.device.type, enabled=False):
            waveform = F.conv_transpose1d(coefficients, rearrange(self.basis, "k n -> k 1 n"), stride=self.hop_length)
        return waveform[..., -(frames + 1) * self.hop_length : -self.hop_length]

    def initial_state(self, batch_size: int) -> Past:
        """A frame of zeros, which adds nothing."""
        return Past(self.basis.new_zeros(batch_size, self.hop_length, 1))
