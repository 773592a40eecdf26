"""How codes are chosen in training, and how a gradient passes the choice.

An estimator is a function `(rows [n, dim], vectors [k, dim], distance, temperature) -> Estimate`. It works in
training only: encoding always takes the nearest code.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.quantize.distance import Distance, nearest


class Estimate(NamedTuple):
    """Codes and vectors of an estimator: codes [n], int64; quantized [n, dim], with gradient."""

    codes: Tensor
    quantized: Tensor


Estimator = Callable[[Tensor, Tensor, Distance, float], Estimate]


def straight_through(rows: Tensor, vectors: Tensor, distance: Distance, temperature: float) -> Estimate:
    """Nearest code vector forward, identity backward (van den Oord et al. 2017, arXiv 1711.00937).

    The default. The temperature has no effect.
    """
    codes = nearest(rows, vectors, distance)
    # Adding a zero that has the gradient, rather than `x + (q - x).detach()`, keeps the code vector to the last bit.
    return Estimate(codes, vectors[codes].detach() + (rows - rows.detach()))


def rotation(rows: Tensor, vectors: Tensor, distance: Distance, temperature: float) -> Estimate:
    """Nearest code vector q forward; backward as if q were a fixed rotation and scaling of x (arXiv 2410.06424, eq. 4).

    The gradient keeps its angle to the code vector, which spreads codes and often uses more of the codebook. The
    scale |q| / |x| makes the forward value the code vector. A row or code vector of (nearly) no length has no
    direction to rotate from: those rows are passed straight through. The temperature has no effect.
    """
    codes = nearest(rows, vectors, distance)
    quantized = vectors[codes].detach()
    x = rows.detach()
    x_norm, q_norm = x.norm(dim=1, keepdim=True), quantized.norm(dim=1, keepdim=True)
    directed = (x_norm > 1e-6) & (q_norm > 1e-6)
    e = x / x_norm.clamp_min(1e-6)
    q = quantized / q_norm.clamp_min(1e-6)
    r = F.normalize(e + q, dim=1)

    def project(direction: Tensor) -> Tensor:
        return (rows * direction).sum(1, keepdim=True)

    # R x = x - 2 (x.r) r + 2 (x.e) q: a reflection on r, and one that corrects its sign. Opposite vectors have no r;
    # normalize returns 0 there and what remains still maps x to q.
    rotated = (rows - 2 * project(r) * r + 2 * project(e) * q) * (q_norm / x_norm.clamp_min(1e-6))
    carrier = torch.where(directed, rotated, rows)
    return Estimate(codes, quantized + (carrier - carrier.detach()))


def gumbel_softmax(rows: Tensor, vectors: Tensor, distance: Distance, temperature: float) -> Estimate:
    """Mixture of all code vectors, weighted by softmax((noise - distance) / temperature) (arXiv 1611.01144).

    Explores codes early in training, and gives the codebook a gradient. The mixture differs from the code vector that
    decoding uses: lower the temperature as training goes on. Its codes are those of the largest weight, noise
    included.
    """
    distances = distance(rows, vectors)
    noise = -torch.empty_like(distances).exponential_().clamp_min(1e-20).log()
    weights = F.softmax((noise - distances) / temperature, dim=1)
    return Estimate(weights.argmax(1), weights @ vectors)


ESTIMATORS: dict[str, Estimator] = {
    "straight_through": straight_through,
    "rotation": rotation,
    "gumbel_softmax": gumbel_softmax,
}
