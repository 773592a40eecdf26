"""Causal convolutions: an output depends on its own input frame and those before it."""

import torch.nn.functional as F
from torch import Tensor, nn


class CausalConv1d(nn.Module):
    """Convolution over the current frame and those before it; zeros lie before the first.

    With a stride, `stride` frames in are one frame out, and the current frame is the last of them.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Frames that an output sees, the current one among them.
        groups: As in `torch.nn.Conv1d`.
        dilation: Frames from one that an output sees to the next.
        stride: Frames in for a frame out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        groups: int = 1,
        *,
        dilation: int = 1,
        stride: int = 1,
    ):
        super().__init__()
        self.past = (kernel_size - 1) * dilation + 1 - stride
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, dilation=dilation, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, frames * stride] -> [batch, out_channels, frames]."""
        return self.conv(F.pad(x, (self.past, 0)))


class CausalConvTranspose1d(nn.Module):
    """Transposed convolution without the outputs after the last frame, which are left over from it and those before.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Frames out that a frame in adds to, its own `stride` ones and those after them.
        stride: Frames out for a frame in, at most `kernel_size`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, frames] -> [batch, out_channels, frames * stride]."""
        return self.conv(x)[..., : x.shape[-1] * self.stride]


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
