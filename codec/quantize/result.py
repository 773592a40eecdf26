"""What quantizers return, to their callers and to each other."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from codec.quantize.codebook import Observation


class Quantization(NamedTuple):
    """What a quantizer returns.

    Attributes:
        quantized: In the shape of the input, zeros in the padding; in training mode, with the estimator's gradient.
        codes: int64, 0 in the padding. [batch, *positions] of a `VectorQuantize`, [batch, num_quantizers, *positions]
            of a `ResidualVQ`, [batch, groups, num_quantizers, *positions] of a `GroupedResidualVQ`; with several heads
            there is an axis of them before the positions.
        losses: Scalars by name, means over the real positions (and over heads and stages); their weights are the
            caller's. "commitment" always; "codebook" where the codebook learns by gradient; "cross_entropy" where
            target codes were given; and those of the regularizers, "orthogonal" and "diversity".
    """

    quantized: Tensor
    codes: Tensor
    losses: dict[str, Tensor]


class Targets(NamedTuple):
    """Given codes: rows [n, dim], and the codes [n, heads] that they should have."""

    rows: Tensor
    codes: Tensor


class RowQuantization(NamedTuple):
    """What quantizing rows gives.

    Attributes:
        quantized: [n, dim]; what the next stage of a stack subtracts.
        output: The same values, with the gradient of a synchronous update as well. Subtracted, that would be taken back
            by the next stage.
        codes: [n, heads].
        losses: As in `Quantization`.
        observations: What there is to learn from.
    """

    quantized: Tensor
    output: Tensor
    codes: Tensor
    losses: dict[str, Tensor]
    observations: list[Observation]


def mean_losses(losses: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each loss over the parts that have it."""
    names = dict.fromkeys(name for part in losses for name in part)
    return {name: torch.stack([part[name] for part in losses if name in part]).mean() for name in names}
