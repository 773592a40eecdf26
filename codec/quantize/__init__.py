"""Vectors to codes and back: usable alone, with torch and einops."""

from codec.quantize.residual import ResidualVQ
from codec.quantize.update import EMA, Frozen, Gradient
from codec.quantize.vector import Quantization, VectorQuantize

__all__ = ["EMA", "Frozen", "Gradient", "Quantization", "ResidualVQ", "VectorQuantize"]
