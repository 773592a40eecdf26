"""Residual connections."""

from torch import Tensor, nn


class Residual(nn.Module):
    """Add what a branch makes of the input to the input (He et al. 2015, arXiv 1512.03385).

    Args:
        branch: Returns the shape that it is given.
    """

    def __init__(self, branch: nn.Module):
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape; returns that shape."""
        return x + self.branch(x)
