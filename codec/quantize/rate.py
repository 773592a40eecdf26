"""What a code costs: the bits that it takes once codes are entropy-coded, in squared distance.

An entropy-constrained quantizer takes the code that minimizes |x - c|^2 + lambda * bits(c) (Chou, Lookabaugh & Gray
1989, "Entropy-constrained vector quantization"). Of the many codes of a high-dimensional stage that are nearly as near
as the nearest, it takes one that is used much.

Here it does so where it encodes. In training, where the choice of today is the cost of tomorrow, fewer and fewer codes
would be used.
"""

from torch import Tensor

# Share of the uses that is spread over all codes, so that the bits of one that is never used are finite.
SPREAD = 1e-3


def code_costs(vectors: Tensor, usage: Tensor, rate_weight: float) -> Tensor:
    """The cost of each code, [k], to be added to squared distances.

    Args:
        vectors: [k, dim].
        usage: Share of the rows that take each code, [k].
        rate_weight: lambda, where 1 is what a bit of this codebook is worth on average: the squared distance that it
            takes from its rows, the variance of the code vectors in use, by the entropy of their use. So one weight
            fits each stage of a stack, whatever the stages before have left.
    """
    shares = (usage / usage.sum()).lerp(usage.new_full((), 1 / len(usage)), SPREAD)
    bits = -shares.log2()
    mean = shares @ vectors
    variance = shares @ (vectors - mean).square().sum(1)
    return rate_weight * variance / (shares @ bits).clamp_min(1e-6) * bits
