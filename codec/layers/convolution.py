"""Causal convolutions: an output depends on its own input frame and those before it."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from codec.layers.streaming import Past


class CausalConv1d(nn.Module):
    """Convolution over the current frame and those before it; zeros lie before the first.

    With a stride, `stride` frames in are one frame out, and the current frame is the last of them. In streaming, the
    frames of a stride that is not whole wait for the others.

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
        self.state: Past | None = None
        self.stride = stride
        # Negative if the stride jumps over frames.
        self.past = (kernel_size - 1) * dilation + 1 - stride
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, dilation=dilation, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, frames * stride] -> [batch, out_channels, frames]."""
        if self.state is None:
            return self.conv(F.pad(x, (self.past, 0)))
        x = self.state.before(x)
        frames = (x.shape[-1] - max(self.past, 0)) // self.stride
        self.state.keep(x[..., frames * self.stride :])
        if frames == 0:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
        return self.conv(F.pad(x, (min(self.past, 0), 0)))

    def initial_state(self, batch_size: int) -> Past:
        """Zeros before the first frame."""
        return Past(self.conv.weight.new_zeros(batch_size, self.conv.in_channels, max(self.past, 0)))


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
        self.state: Past | None = None
        self.stride = stride
        # Frames before one that add to its outputs.
        self.past = (kernel_size - 1) // stride
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_channels, frames] -> [batch, out_channels, frames * stride]."""
        if self.state is None:
            return self.conv(x)[..., : x.shape[-1] * self.stride]
        frames = x.shape[-1]
        if frames == 0:
            return x.new_zeros(x.shape[0], self.conv.out_channels, 0)
        x = self.state.before(x)
        self.state.keep(x[..., frames:])
        return self.conv(x)[..., self.past * self.stride : x.shape[-1] * self.stride]

    def initial_state(self, batch_size: int) -> Past:
        """Zeros before the first frame, which add nothing."""
        return Past(self.conv.weight.new_zeros(batch_size, self.conv.in_channels, self.past))


@dataclass
class Edge:
    """State of layers that change the start of a stream.

    Attributes:
        frames: Of those that the layer drops or adds, how many are still to come.
    """

    frames: int


class PadFirst(nn.Module):
    """Put zeros before the first frame.

    Args:
        frames: How many.
    """

    def __init__(self, frames: int):
        super().__init__()
        self.state: Edge | None = None
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, frames] -> [batch, channels, self.frames + frames]."""
        if self.state is None:
            return F.pad(x, (self.frames, 0))
        x = F.pad(x, (self.state.frames, 0))
        self.state.frames = 0
        return x

    def initial_state(self, batch_size: int) -> Edge:
        """All zeros are still to come."""
        return Edge(self.frames)


class DropFirst(nn.Module):
    """Leave out the first frames: what a causal stack returned before it had seen the look-ahead.

    Args:
        frames: How many.
    """

    def __init__(self, frames: int):
        super().__init__()
        self.state: Edge | None = None
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, frames] -> [batch, channels, frames - self.frames]."""
        if self.state is None:
            return x[..., self.frames :]
        dropped = min(self.state.frames, x.shape[-1])
        self.state.frames -= dropped
        return x[..., dropped:]

    def initial_state(self, batch_size: int) -> Edge:
        """All frames are still to come."""
        return Edge(self.frames)
