"""Vector quantization with one codebook."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from codec.choose import choose
from codec.quantize.codebook import Codebook
from codec.quantize.distance import DISTANCES, nearest
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.initialize import INITIALIZERS
from codec.quantize.update import EMA, Update


class Quantization(NamedTuple):
    """What a quantizer returns.

    Attributes:
        quantized: In the shape of the input; in training mode, with the estimator's gradient.
        codes: int64; [batch, *positions], or [batch, num_quantizers, *positions] of a `ResidualVQ`.
        losses: Scalars by name: "commitment", and "codebook" where the codebook learns by gradient. Means over the
            rows that are not masked (and over the stages); their weights are the caller's.
    """

    quantized: Tensor
    codes: Tensor
    losses: dict[str, Tensor]


class VectorQuantize(nn.Module):
    """Replace each vector by its nearest code vector (van den Oord et al. 2017, arXiv 1711.00937).

    The maths runs in float32, whatever autocast says. A masked position takes part in nothing: no loss, no
    learning, no initialization.

    Args:
        dim: Size of the vectors.
        codebook_size: Number of codes.
        codebook_dim: Size of the code vectors, if it differs from `dim`: vectors are projected there and back
            (factorized codes, arXiv 2110.04627). 8 to 32 keeps large codebooks in use.
        distance: "euclidean" or "cosine"; see `codec.quantize.distance`.
        estimator: "straight_through", "rotation" or "gumbel_softmax"; see `codec.quantize.estimator`.
        initializer: "kmeans", "samples" or "uniform"; see `codec.quantize.initialize`. It runs on the first training
            batch.
        update: `EMA(...)`, `Gradient(...)` or `Frozen()`.
        temperature: Of the Gumbel-softmax; other estimators do not use it.
        channel_last: Whether vectors lie along the last axis, [batch, *positions, dim], rather than the second,
            [batch, dim, *positions].

    Raises:
        ValueError: An unknown name, or a size that is not positive.
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        *,
        codebook_dim: int | None = None,
        distance: str = "euclidean",
        estimator: str = "straight_through",
        initializer: str = "kmeans",
        update: Update | None = None,
        temperature: float = 1.0,
        channel_last: bool = False,
    ):
        super().__init__()
        codebook_dim = dim if codebook_dim is None else codebook_dim
        if min(dim, codebook_size, codebook_dim) < 1:
            raise ValueError(
                f"dim, codebook_size and codebook_dim must be positive; got {dim}, {codebook_size}, {codebook_dim}"
            )
        if not temperature > 0:
            raise ValueError(f"temperature must be positive; got {temperature}")
        self.dim = dim
        self.codebook_size = codebook_size
        self.temperature = temperature
        self.channel_last = channel_last
        self.distance = choose(DISTANCES, distance, "distance")
        self.estimator = choose(ESTIMATORS, estimator, "estimator")
        self.codebook = Codebook(
            codebook_size,
            codebook_dim,
            self.distance,
            choose(INITIALIZERS, initializer, "initializer"),
            update or EMA(),
        )
        projected = codebook_dim != dim
        self.project_in = nn.Linear(dim, codebook_dim) if projected else nn.Identity()
        self.project_out = nn.Linear(codebook_dim, dim) if projected else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Quantization:
        """Quantize; in training mode, learn as well.

        Args:
            x: [batch, dim, *positions], or [batch, *positions, dim] with `channel_last`.
            mask: True where a position is real and False where it is padding, [batch, *positions]. Default: all real.

        Raises:
            ValueError: `x` or `mask` is of another shape.
            RuntimeError: In eval mode, before the first training batch.
        """
        with torch.autocast(x.device.type, enabled=False):
            rows, positions = to_rows(x, self.dim, self.channel_last)
            row_mask = mask_rows(mask, positions)
            rows = clear_padding(rows, row_mask)
            result = self.quantize_rows(rows, rows, row_mask)
            quantized = from_rows(result.quantized, positions, self.channel_last).to(x.dtype)
            return Quantization(quantized, result.codes.view(positions), result.losses)

    def encode(self, x: Tensor) -> Tensor:
        """Codes of the nearest code vectors; never changes state.

        Args:
            x: [batch, dim, *positions], or [batch, *positions, dim] with `channel_last`.

        Returns:
            [batch, *positions], int64.

        Raises:
            ValueError: `x` is of another shape.
            RuntimeError: Before the first training batch.
        """
        with torch.autocast(x.device.type, enabled=False):
            rows, positions = to_rows(x, self.dim, self.channel_last)
            return self.encode_rows(rows).view(positions)

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors of codes: what `forward` returned with them in eval mode.

        Args:
            codes: [batch, *positions], int64.

        Returns:
            [batch, dim, *positions], or [batch, *positions, dim] with `channel_last`.

        Raises:
            ValueError: A code is not in the codebook.
            RuntimeError: Before the first training batch.
        """
        with torch.autocast(codes.device.type, enabled=False):
            rows = self.decode_rows(codes.reshape(-1))
            return from_rows(rows, codes.shape, self.channel_last)

    def quantize_rows(self, rows: Tensor, commitment_rows: Tensor, mask: Tensor | None) -> Quantization:
        """`forward` on rows.

        Args:
            rows: [n, dim], float32, finite in the padding too; the gradient of `quantized` goes there.
            commitment_rows: The same values; the gradient of the commitment loss goes there.
            mask: Rows that are real, [n], or None for all.
        """
        rows = self.project_in(rows)
        commitment_rows = rows if commitment_rows is rows else self.project_in(commitment_rows)
        real = rows if mask is None else rows[mask]
        if self.training:
            self.codebook.initialize(real.detach())
        # A clone, since the codebook changes below, before the backward pass needs what it was.
        vectors = self.codebook.vectors.clone()
        if self.training:
            codes, quantized = self.estimator(rows, vectors, self.distance, self.temperature)
            self.codebook.learn(real.detach(), codes if mask is None else codes[mask])
        else:
            codes = self._nearest(rows)
            quantized = vectors[codes]
        chosen = vectors[codes]
        losses = {"commitment": mean_square(commitment_rows - chosen.detach(), mask)}
        if self.codebook.update.by_gradient:
            losses["codebook"] = mean_square(chosen - rows.detach(), mask)
        return Quantization(self.project_out(quantized), codes, losses)

    def encode_rows(self, rows: Tensor) -> Tensor:
        """Codes of rows: [n, dim] -> [n]."""
        return self._nearest(self.project_in(rows))

    def decode_rows(self, codes: Tensor) -> Tensor:
        """Vectors of anyone's codes, checked: [n] -> [n, dim]."""
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(
                f"codes must be in [0, {self.codebook_size}); got {int(codes.min())} to {int(codes.max())}"
            )
        return self.look_up_rows(codes)

    def look_up_rows(self, codes: Tensor) -> Tensor:
        """Vectors of codes that are known to be in range: [n] -> [n, dim]."""
        return self.project_out(self._initialized_vectors()[codes])

    def _nearest(self, rows: Tensor) -> Tensor:
        return nearest(rows, self._initialized_vectors(), self.distance)

    def _initialized_vectors(self) -> Tensor:
        if not self.codebook.initialized:
            raise RuntimeError(
                "the codebook must be initialized before it encodes or decodes; train on a batch or load weights"
            )
        return self.codebook.vectors


def to_rows(x: Tensor, dim: int, channel_last: bool) -> tuple[Tensor, torch.Size]:
    """Flatten to float32 rows [n, dim]; also the shape [batch, *positions] that they had."""
    axis = -1 if channel_last else 1
    if x.ndim < 2 or x.shape[axis] != dim:
        raise ValueError(f"x must have size {dim} along axis {axis}; got shape {tuple(x.shape)}")
    x = x if channel_last else x.movedim(1, -1)
    return x.reshape(-1, dim).float(), x.shape[:-1]


def from_rows(rows: Tensor, positions: torch.Size, channel_last: bool) -> Tensor:
    """The inverse of `to_rows`."""
    x = rows.view(*positions, rows.shape[-1])
    return x if channel_last else x.movedim(-1, 1)


def mask_rows(mask: Tensor | None, positions: torch.Size) -> Tensor | None:
    """Flatten a mask of the shape `positions` to [n]."""
    if mask is None:
        return None
    if mask.shape != positions:
        raise ValueError(f"mask must have shape {tuple(positions)}; got {tuple(mask.shape)}")
    return mask.reshape(-1).bool()


def clear_padding(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Zero the rows [n, dim] that the mask leaves out: not even a NaN of theirs may reach a gradient."""
    return rows if mask is None else rows.masked_fill(~mask.unsqueeze(1), 0)


def mean_square(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the squares of the rows [n, dim] that the mask keeps; 0 if there are none."""
    # Left out, rather than multiplied by zero: the square of what stands in the padding may overflow.
    kept = rows if mask is None else rows[mask]
    return kept.square().sum() / max(1, kept.numel())
