"""ConvNeXt block over time (Liu et al. 2022, arXiv 2201.03545; for audio as in Vocos, arXiv 2306.00814)."""

import torch
from einops import rearrange
from torch import Tensor, nn

from codec.layers.convolution import CausalConv1d


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then an MLP over channels, added to the input.

    Only the branch is normalized, and over channels alone: the input passes unchanged, and no frame depends on the
    loudness of another.

    Args:
        dim: Channels.
        expansion: Channels inside the MLP, as a multiple of `dim`.
        kernel_size: Frames that the depthwise convolution sees, the current one and those before it.
        scale: Initial value of the learned factor on the branch, one for each channel. Small: the block starts near
            the identity.
    """

    def __init__(self, dim: int, expansion: int = 3, kernel_size: int = 7, scale: float = 0.1):
        super().__init__()
        self.depthwise = CausalConv1d(dim, dim, kernel_size, groups=dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, expansion * dim),
            nn.GELU(),
            nn.Linear(expansion * dim, dim),
        )
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, dim, frames] -> [batch, dim, frames]."""
        branch = self.mlp(rearrange(self.depthwise(x), "b d t -> b t d")) * self.scale
        return x + rearrange(branch, "b t d -> b d t")
