"""What a code costs: the bits that it takes once codes are entropy-coded, in squared distance.

In an entropy-constrained quantizer a row takes the code that minimizes |x - c|^2 + lambda * bits(c) (Chou, Lookabaugh &
Gray 1989, "Entropy-constrained vector quantization"). Of the many codes of a high-dimensional stage that are nearly as
near as the nearest, it takes the one that is used most.

Training takes the nearest code all the same: where the choice of today is the price of tomorrow, fewer and fewer codes
are used.
"""

from dataclasses import replace

from torch import Tensor

from codec.quantize.distance import Distance, Ranking

# Share of the uses that is spread over all codes, so that one that is never used has a price.
SPREAD = 1e-3


def code_costs(vectors: Tensor, usage: Tensor, rate_weight: float) -> Tensor:
    """The price of each code, [k], to be added to squared distances.

    Args:
        vectors: [k, dim].
        usage: Share of the rows that take each code, [k].
        rate_weight: Price of a bit, where 1 is what bits are worth on average: the squared distance that the codebook
            takes from its rows, the variance of the code vectors in use, by the entropy of their use. So the price
            fits each stage of a stack, whatever it is left with.
    """
    shares = (usage / usage.sum()).lerp(usage.new_full((), 1 / len(usage)), SPREAD)
    bits = -shares.log2()
    mean = shares @ vectors
    variance = shares @ (vectors - mean).square().sum(1)
    return rate_weight * variance / (shares @ bits).clamp_min(1e-6) * bits


def with_costs(distance: Distance, costs: Tensor) -> Distance:
    """A squared distance whose nearest code is the one of least distance and cost; `measure` is as it was.

    Args:
        distance: With a bias in its ranking.
        costs: [k].
    """

    def rank(vectors: Tensor) -> Ranking:
        weights, bias = distance.rank(vectors)
        return Ranking(weights, costs if bias is None else bias + costs)

    return replace(distance, rank=rank)
