"""Parts of networks, each usable alone."""

from codec.layers.activation import ACTIVATIONS, Snake
from codec.layers.companding import Compress, Expand
from codec.layers.convnext import ConvNeXtBlock
from codec.layers.convolution import CausalConv1d, CausalConvTranspose1d, DropFirst, PadFirst
from codec.layers.mdct import MDCT, InverseMDCT
from codec.layers.recurrent import LSTM, LSTM_MEMORY
from codec.layers.residual import Residual
from codec.layers.streaming import Stateful, streaming
from codec.layers.synthesis import InverseSTFT, MagnitudePhase, OverlapAdd

__all__ = [
    "ACTIVATIONS",
    "LSTM",
    "LSTM_MEMORY",
    "MDCT",
    "CausalConv1d",
    "CausalConvTranspose1d",
    "Compress",
    "ConvNeXtBlock",
    "DropFirst",
    "Expand",
    "InverseMDCT",
    "InverseSTFT",
    "MagnitudePhase",
    "OverlapAdd",
    "PadFirst",
    "Residual",
    "Snake",
    "Stateful",
    "streaming",
]
