"""Recurrent layers over time: an output depends on all input frames up to its own."""

from einops import rearrange
from torch import Tensor, nn


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), causal; its state is zero before the first frame.

    Args:
        dim: Channels in and out.
        num_layers: LSTMs, one on top of the other.
    """

    def __init__(self, dim: int, num_layers: int):
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, num_layers)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, dim, frames] -> [batch, dim, frames]."""
        hidden, _ = self.lstm(rearrange(x, "b d t -> t b d"))
        return rearrange(hidden, "t b d -> b d t")
