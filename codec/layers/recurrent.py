"""Recurrent layers over time: an output depends on all input frames up to its own."""

from dataclasses import dataclass

from einops import rearrange
from torch import Tensor, nn

# Frames after which an LSTM counts as having forgotten. With weights as they start, each frame leaves about half of
# what the cells held. Training may teach them to hold longer; 10 s at 50 frames a second leave room for that.
LSTM_MEMORY = 500


@dataclass
class Memory:
    """State of an LSTM.

    Attributes:
        hidden: And cells, both [num_layers, batch, dim], after the last frame; None before the first: zeros.
    """

    hidden: tuple[Tensor, Tensor] | None = None


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), causal; its state is zero before the first frame.

    Args:
        dim: Channels in and out.
        num_layers: LSTMs, one on top of the other.
    """

    def __init__(self, dim: int, num_layers: int):
        super().__init__()
        self.state: Memory | None = None
        self.lstm = nn.LSTM(dim, dim, num_layers)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, dim, frames] -> [batch, dim, frames]."""
        if x.shape[-1] == 0:
            return x
        hidden, after = self.lstm(rearrange(x, "b d t -> t b d"), None if self.state is None else self.state.hidden)
        if self.state is not None:
            self.state.hidden = (after[0].detach(), after[1].detach())
        return rearrange(hidden, "t b d -> b d t")

    def initial_state(self, batch_size: int) -> Memory:
        """Nothing seen."""
        return Memory()
