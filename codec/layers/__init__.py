"""Parts of networks, each usable alone."""

from codec.layers.activation import ACTIVATIONS, Snake
from codec.layers.convnext import ConvNeXtBlock
from codec.layers.convolution import CausalConv1d, CausalConvTranspose1d, DropFirst
from codec.layers.mdct import MDCT, InverseMDCT
from codec.layers.recurrent import LSTM
from codec.layers.residual import Residual

__all__ = [
    "ACTIVATIONS",
    "LSTM",
    "MDCT",
    "CausalConv1d",
    "CausalConvTranspose1d",
    "ConvNeXtBlock",
    "DropFirst",
    "InverseMDCT",
    "Residual",
    "Snake",
]
