"""Causal convolutions: an output depends on its own input frame and those before it."""

import torch.nn.functional as F
from torch import Tensor, nn


class CausalConv1d(nn.Module):
    """Convolution over the current frame and the `kernel_size - 1` frames before it; zeros lie before the first.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Frames that an output sees.
        groups: As in `torch.nn.Conv1d`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, groups: int = 1):
        super().__init__()
        self.past = kernel_size - 1
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, frames] -> [batch, out_channels, frames]."""
        return self.conv(F.pad(x, (self.past, 0)))


class DropFirst(nn.Module):
    """Leave out the first frames: what a causal stack returned before it had seen the look-ahead.

    Args:
        frames: How many.
    """

    def __init__(self, frames: int):
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, frames] -> [batch, channels, frames - self.frames]."""
        return x[..., self.frames :]
