"""Parts of networks, each usable alone."""

from codec.layers.convnext import ConvNeXtBlock
from codec.layers.convolution import CausalConv1d, DropFirst
from codec.layers.mdct import MDCT, InverseMDCT

__all__ = ["MDCT", "CausalConv1d", "ConvNeXtBlock", "DropFirst", "InverseMDCT"]
