"""Losses of a quantizer: what draws rows to their code vectors, and what spreads code vectors out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from codec.quantize.distance import Distance, blocks, direction

Commitment = Callable[[Tensor, Tensor, Tensor, Distance], Tensor]


def mean_square(rows: Tensor, vectors: Tensor, codes: Tensor, distance: Distance) -> Tensor:
    """Mean squared difference between rows and their code vectors (van den Oord et al. 2017, eq. 3). The default.

    Args:
        rows: [n, dim].
        vectors: [k, dim].
        codes: [n].
        distance: Not used.

    Returns:
        A scalar; 0 without rows.
    """
    return _MeanSquare.apply(rows, vectors, codes)


class _MeanSquare(torch.autograd.Function):
    """Looks the code vectors up again in the backward pass, rather than keeping those of all stages of a stack."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, vectors: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(rows, vectors, codes)
        # Not the mean: that of no rows, on a rank whose batch is padding, is NaN.
        return F.embedding(codes, vectors).sub_(rows).square_().sum() / max(1, rows.numel())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, vectors, codes = ctx.saved_tensors
        to_rows = F.embedding(codes, vectors).sub_(rows).mul_(-2 / max(1, rows.numel()) * gradients[0])
        to_vectors = None
        if ctx.needs_input_grad[1]:
            to_vectors = torch.zeros_like(vectors).index_add_(0, codes, to_rows, alpha=-1)
        return to_rows if ctx.needs_input_grad[0] else None, to_vectors, None


def cross_entropy(rows: Tensor, vectors: Tensor, codes: Tensor, distance: Distance) -> Tensor:
    """Cross-entropy of softmax(-distance) against codes: rows also move away from the code vectors they did not choose.

    For codes that should be chosen with a margin, or that are given from outside. In nats; its size depends on the
    scale of the latents, unlike cosine distances.

    Args:
        rows: [n, dim].
        vectors: [k, dim].
        codes: [n].
        distance: Its negative gives the logits.

    Returns:
        A scalar; 0 without rows.
    """

    def block(rows: Tensor, codes: Tensor) -> Tensor:
        return F.cross_entropy(-distance.measure(rows, vectors), codes, reduction="sum")

    return _sum_over_blocks(block, vectors.shape[0], rows, codes) / max(1, rows.shape[0])


COMMITMENTS: dict[str, Commitment] = {"mse": mean_square, "cross_entropy": cross_entropy}


class Regularizer(Protocol):
    """A loss on the codebook as a whole.

    Attributes:
        name: Of the loss in the result.
        of_rows: Whether rows get a gradient, too; else code vectors alone, which must then learn by gradient.
    """

    name: ClassVar[str]
    of_rows: ClassVar[bool]

    def __call__(self, rows: Tensor, vectors: Tensor, codes: Tensor, distance: Distance) -> Tensor:
        """The loss of rows [n, dim] that chose codes [n] of code vectors [k, dim]; a scalar."""
        ...


@dataclass(frozen=True)
class Orthogonal:
    """Mean squared cosine similarity between different code vectors in use (arXiv 2112.00384).

    For codebooks learned by gradient whose code vectors crowd together. Unused codes are left out, since they would
    push those in use aside.

    Attributes:
        max_codes: At most so many codes, drawn at random: cost and memory grow with the square.

    Raises:
        ValueError: `max_codes` is less than 2.
    """

    name: ClassVar[str] = "orthogonal"
    of_rows: ClassVar[bool] = False
    max_codes: int = 1024

    def __post_init__(self) -> None:
        if self.max_codes < 2:
            raise ValueError(f"max_codes must be at least 2; got {self.max_codes}")

    def __call__(self, rows: Tensor, vectors: Tensor, codes: Tensor, distance: Distance) -> Tensor:
        active = codes.unique()
        if active.numel() > self.max_codes:
            active = active[torch.randperm(active.numel(), device=active.device)[: self.max_codes]]
        chosen = direction(vectors[active])
        similarities = chosen @ chosen.T
        # |C C^T - I|^2 / n^2 of the paper: a unit vector's similarity with itself is 1 and leaves nothing.
        identity = torch.eye(active.numel(), device=vectors.device)
        return (similarities - identity).square().sum() / max(1, active.numel()) ** 2


@dataclass(frozen=True)
class Diversity:
    """Entropy that the mean of softmax(-distance / temperature) over the rows lacks (wav2vec 2.0, arXiv 2006.11477).

    In nats: the logarithm of the number of codes minus the entropy of that mean; 0 where all codes are equally likely.
    For encoders whose latents sit on few codes however often the others are replaced. Of this rank's rows.

    Attributes:
        temperature: Of the softmax, positive; near the distance between neighbouring code vectors.

    Raises:
        ValueError: `temperature` is not positive.
    """

    name: ClassVar[str] = "diversity"
    of_rows: ClassVar[bool] = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive; got {self.temperature}")

    def __call__(self, rows: Tensor, vectors: Tensor, codes: Tensor, distance: Distance) -> Tensor:
        if rows.shape[0] == 0:
            return rows.sum()

        def block(rows: Tensor) -> Tensor:
            return F.softmax(-distance.measure(rows, vectors) / self.temperature, dim=1).sum(0)

        mean = _sum_over_blocks(block, vectors.shape[0], rows) / rows.shape[0]
        # Clamped, since the gradient of p log p is infinite at a probability of 0.
        return math.log(vectors.shape[0]) + (mean * mean.clamp_min(1e-30).log()).sum()


def _sum_over_blocks(function: Callable[..., Tensor], codebook_size: int, *rows: Tensor) -> Tensor:
    """The sum of a function over blocks of rows, of which one at a time has its distance matrix in memory.

    In the backward pass too: each block is computed once more there.
    """
    parts = zip(*(blocks(tensor, codebook_size) for tensor in rows), strict=True)
    sums = [checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.stack(sums).sum(0)
