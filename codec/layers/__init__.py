"""Parts of networks, each usable alone."""

from codec.layers.activation import ACTIVATIONS, Snake
from codec.layers.convnext import ConvNeXtBlock
from codec.layers.convolution import CausalConv1d, CausalConvTranspose1d, DropFirst, PadFirst
from codec.layers.mdct import MDCT, InverseMDCT
from codec.layers.recurrent import LSTM, LSTM_MEMORY
from codec.layers.residual import Residual
from codec.layers.streaming import Stateful, streaming

__all__ = [
    "ACTIVATIONS",
    "LSTM",
    "LSTM_MEMORY",
    "MDCT",
    "CausalConv1d",
    "CausalConvTranspose1d",
    "ConvNeXtBlock",
    "DropFirst",
    "InverseMDCT",
    "PadFirst",
    "Residual",
    "Snake",
    "Stateful",
    "streaming",
]
