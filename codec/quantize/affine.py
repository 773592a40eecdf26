"""Affine reparameterization: code vectors that follow the mean and spread of what they quantize."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

# Of a variance: a dimension in which nothing varies has no scale, and this one stands in.
SMALLEST = 1e-10


@dataclass(frozen=True)
class Affine:
    """All code vectors are moved and scaled together, to the moments of the data (arXiv 2305.08842).

    A code vector is used as (c - mean of codebook) * spread of data / spread of codebook + mean of data, dimension by
    dimension: also codes that nobody chooses follow an encoder that drifts. For low-dimensional codebooks behind
    encoders that move, where codes die faster than they are replaced. Not for few codes of many dimensions: code
    vectors get the spread of the data itself, while those of k-means spread less.

    Attributes:
        batch_decay: Weight of the past in the moving moments of the data, in (0, 1).
        codebook_decay: The same, of the codebook.

    Raises:
        ValueError: A decay is out of range.
    """

    batch_decay: float = 0.99
    codebook_decay: float = 0.9

    def __post_init__(self) -> None:
        if not (0 < self.batch_decay < 1 and 0 < self.codebook_decay < 1):
            raise ValueError(
                f"batch_decay and codebook_decay must be in (0, 1); got {self.batch_decay}, {self.codebook_decay}"
            )


class AffineMap(nn.Module):
    """From stored vectors to code vectors, and back; and the moments that it is made of.

    Args:
        settings: How fast the moments move.
        dim: Size of a vector.
    """

    batch_mean: Tensor
    batch_variance: Tensor
    codebook_mean: Tensor
    codebook_variance: Tensor

    def __init__(self, settings: Affine, dim: int):
        super().__init__()
        self.settings = settings
        for name in ("batch", "codebook"):
            self.register_buffer(f"{name}_mean", torch.zeros(dim))
            self.register_buffer(f"{name}_variance", torch.ones(dim))

    def forward(self, vectors: Tensor) -> Tensor:
        """Stored vectors -> code vectors, [k, dim]."""
        return (vectors - self.codebook_mean) * self._scale() + self.batch_mean

    def inverse(self, vectors: Tensor) -> Tensor:
        """Code vectors -> stored vectors, [k, dim]."""
        return (vectors - self.batch_mean) / self._scale() + self.codebook_mean

    def inverse_sums(self, share: Tensor, sums: Tensor) -> Tensor:
        """Sums of rows -> sums of the same rows after `inverse`.

        Args:
            share: How many rows are in each sum, [k], in any unit.
            sums: [k, dim], in the same unit.
        """
        share = share.unsqueeze(1)
        return (sums - share * self.batch_mean) / self._scale() + share * self.codebook_mean

    def normalize(self, vectors: Tensor) -> Tensor:
        """Stored vectors of moments 0 and 1 that give the same code vectors, [k, dim]; the moments become those.

        Between the scale that is stored and the one that is taken out again, nothing else holds either: left alone,
        they may grow from step to step until they overflow.
        """
        normalized = (vectors - self.codebook_mean) / self.codebook_variance.clamp_min(SMALLEST).sqrt()
        self.codebook_mean.zero_()
        self.codebook_variance.fill_(1)
        return normalized

    def start(self, batch_mean: Tensor, batch_variance: Tensor, vectors: Tensor) -> None:
        """Set all moments: those of the data [dim] each, and of the stored vectors [k, dim]."""
        self._move(batch_mean, batch_variance, vectors, 0.0, 0.0)

    def follow(self, batch_mean: Tensor, batch_variance: Tensor, vectors: Tensor) -> None:
        """Move the moments on by a step; arguments as in `start`."""
        self._move(batch_mean, batch_variance, vectors, self.settings.batch_decay, self.settings.codebook_decay)

    def _move(self, mean: Tensor, variance: Tensor, vectors: Tensor, batch_decay: float, codebook_decay: float) -> None:
        self.batch_mean.lerp_(mean, 1 - batch_decay)
        self.batch_variance.lerp_(variance, 1 - batch_decay)
        self.codebook_mean.lerp_(vectors.mean(0), 1 - codebook_decay)
        self.codebook_variance.lerp_(vectors.var(0, correction=0), 1 - codebook_decay)

    def _scale(self) -> Tensor:
        return (self.batch_variance.clamp_min(SMALLEST) / self.codebook_variance.clamp_min(SMALLEST)).sqrt()
