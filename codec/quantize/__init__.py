"""Vectors to codes and back: usable alone, with torch and einops."""

from codec.quantize.affine import Affine
from codec.quantize.grouped import GroupedResidualVQ
from codec.quantize.initialize import KMeans
from codec.quantize.loss import Diversity, Orthogonal
from codec.quantize.residual import ResidualVQ
from codec.quantize.result import Quantization
from codec.quantize.update import EMA, Frozen, Gradient, InPlace
from codec.quantize.usage import Usage, UsageReport
from codec.quantize.vector import VectorQuantize

__all__ = [
    "EMA",
    "Affine",
    "Diversity",
    "Frozen",
    "Gradient",
    "GroupedResidualVQ",
    "InPlace",
    "KMeans",
    "Orthogonal",
    "Quantization",
    "ResidualVQ",
    "Usage",
    "UsageReport",
    "VectorQuantize",
]
