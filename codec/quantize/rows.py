"""Between tensors of any number of position axes and rows [n, dim], one for each real position."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Positions:
    """Where rows come from, and go back to.

    Attributes:
        shape: [batch, *positions].
        channel_last: Whether vectors lie along the last axis rather than the second.
        real: Indices of the positions that are not padding, [n]; None if none is.
    """

    shape: torch.Size
    channel_last: bool
    real: Tensor | None = None

    def select(self, flat: Tensor) -> Tensor:
        """The entries of the real positions: [all positions, ...] -> [n, ...]."""
        return flat if self.real is None else flat[self.real]

    def spread(self, rows: Tensor) -> Tensor:
        """Rows of the real positions among zeros: [n, ...] -> [all positions, ...]."""
        if self.real is None:
            return rows
        return rows.new_zeros(self.shape.numel(), *rows.shape[1:]).index_put((self.real,), rows)

    def vectors(self, rows: Tensor) -> Tensor:
        """Rows [n, dim] -> the shape they came from; zeros in the padding."""
        x = self.spread(rows).view(*self.shape, rows.shape[1])
        return x if self.channel_last else x.movedim(-1, 1)

    def codes(self, codes: Tensor) -> Tensor:
        """Codes [n, *parts] -> [batch, *parts, *positions]; 0 in the padding."""
        parts = codes.ndim - 1
        spread = self.spread(codes).view(*self.shape, *codes.shape[1:])
        return spread.movedim(tuple(range(-parts, 0)), tuple(range(1, parts + 1)))

    def code_rows(self, codes: Tensor) -> Tensor:
        """The inverse of `codes`, for real positions."""
        parts = codes.ndim - len(self.shape)
        last = codes.movedim(tuple(range(1, parts + 1)), tuple(range(-parts, 0)))
        return self.select(last.reshape(self.shape.numel(), *last.shape[len(self.shape) :]))

    def examples(self) -> Tensor:
        """Which example of the batch each row is of, [n], on the CPU."""
        indices = torch.arange(self.shape[0]).repeat_interleave(self.shape[1:].numel())
        return indices if self.real is None else indices[self.real.cpu()]


def keeping_type(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `nn.Module._apply` does to each tensor, but that floating-point ones keep their type.

    A model that is cast to half precision keeps its codebooks: rounded, and compared in half precision, many of its
    codes would be others.
    """

    def apply(tensor: Tensor) -> Tensor:
        applied = function(tensor)
        return applied if applied.dtype == tensor.dtype else tensor.to(applied.device)

    return apply


def to_rows(
    x: Tensor, dim: int, channel_last: bool, mask: Tensor | None = None, lengths: Tensor | None = None
) -> tuple[Tensor, Positions]:
    """Flatten to float32 rows, leaving the padding out.

    Args:
        x: [batch, dim, *positions], or [batch, *positions, dim] with `channel_last`.
        dim: Size of the vectors.
        channel_last: Where they lie.
        mask: True where a position is real, [batch, *positions]. Default: all real.
        lengths: How many first positions of each example are real, [batch], with one position axis; or `mask`.

    Returns:
        Rows [n, dim], and where they belong.

    Raises:
        ValueError: A shape does not fit, or both `mask` and `lengths` are given.
    """
    axis = -1 if channel_last else 1
    if x.ndim < 2 or x.shape[axis] != dim:
        raise ValueError(f"x must have size {dim} along axis {axis}; got shape {tuple(x.shape)}")
    x = x if channel_last else x.movedim(1, -1)
    shape = x.shape[:-1]
    if lengths is not None:
        mask = _mask_of_lengths(lengths, shape, mask)
    positions = Positions(shape, channel_last, None if mask is None else _real(mask, shape))
    # Contiguous, since matrix products of the same rows in another layout are rounded in another way.
    return positions.select(x.reshape(-1, dim)).float().contiguous(), positions


def _mask_of_lengths(lengths: Tensor, shape: torch.Size, mask: Tensor | None) -> Tensor:
    if mask is not None:
        raise ValueError("mask and lengths must not both be given; they say the same")
    if len(shape) != 2 or lengths.shape != shape[:1]:
        raise ValueError(
            f"lengths must be one an example, of x with one position axis; got shape {tuple(lengths.shape)} "
            f"for positions {tuple(shape)}"
        )
    return torch.arange(shape[1], device=lengths.device) < lengths.unsqueeze(1)


def _real(mask: Tensor, shape: torch.Size) -> Tensor:
    if mask.shape != shape:
        raise ValueError(f"mask must have shape {tuple(shape)}; got {tuple(mask.shape)}")
    return mask.reshape(-1).nonzero().squeeze(1)
