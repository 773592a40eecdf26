"""How codes are chosen in training, and how a gradient passes the choice.

Estimators work in training only: encoding always takes the nearest code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from codec.quantize.distance import Distance, blocks, direction, nearest
from codec.quantize.gradient import carry


class Estimate(NamedTuple):
    """Codes and vectors of an estimator: codes [n], int64; quantized [n, dim], with gradient."""

    codes: Tensor
    quantized: Tensor


@dataclass(frozen=True)
class Estimator:
    """A way to choose codes in training.

    Attributes:
        estimate: `(rows [n, dim], vectors [k, dim], distance, temperature) -> Estimate`.
        tempered: Whether it uses the temperature, a scalar tensor.
    """

    estimate: Callable[[Tensor, Tensor, Distance, Tensor], Estimate]
    tempered: bool = False


def straight_through(rows: Tensor, vectors: Tensor, distance: Distance, temperature: Tensor) -> Estimate:
    """Nearest code vector forward, identity backward (van den Oord et al. 2017, arXiv 1711.00937).

    The default, and the one to compare with.
    """
    codes = nearest(rows, vectors, distance)
    return Estimate(codes, carry(rows, F.embedding(codes, vectors)))


def rotation(rows: Tensor, vectors: Tensor, distance: Distance, temperature: Tensor) -> Estimate:
    """Nearest code vector q forward; backward as if q were a fixed rotation and scaling of x (arXiv 2410.06424, eq. 4).

    The gradient keeps its angle to the code vector, which spreads codes and often uses more of the codebook: try it
    where codebooks are large or poorly used. The scale |q| / |x| makes the forward value the code vector. A row or
    code vector of (nearly) no length has no direction to rotate from: those rows are passed straight through.
    """
    codes = nearest(rows, vectors, distance)
    quantized = F.embedding(codes, vectors).detach()
    x = rows.detach()
    e, q = direction(x), direction(quantized)
    r = direction(e + q)
    x_length, q_length = x.norm(dim=1, keepdim=True), quantized.norm(dim=1, keepdim=True)

    def project(axis: Tensor) -> Tensor:
        return (rows * axis).sum(1, keepdim=True)

    # R x = x - 2 (x.r) r + 2 (x.e) q: a reflection on r, and one that corrects its sign. Opposite vectors have no r;
    # it is 0 there and what remains still maps x to q.
    rotated = (rows - 2 * project(r) * r + 2 * project(e) * q) * (q_length / x_length.clamp_min(1e-6))
    directed = e.any(1, keepdim=True) & q.any(1, keepdim=True)
    return Estimate(codes, carry(torch.where(directed, rotated, rows), quantized))


def gumbel_softmax(rows: Tensor, vectors: Tensor, distance: Distance, temperature: Tensor) -> Estimate:
    """Mixture of all code vectors, weighted by softmax((noise - distance) / temperature) (arXiv 1611.01144).

    Explores codes early in training, and gives the codebook a gradient. The mixture differs from the code vector that
    decoding uses: lower the temperature as training goes on. Its codes are those of the largest weight, noise
    included.
    """
    codes, weights = _gumbel(rows, vectors, distance, temperature)
    return Estimate(codes, weights @ vectors)


def gumbel_softmax_hard(rows: Tensor, vectors: Tensor, distance: Distance, temperature: Tensor) -> Estimate:
    """The code vector of the largest Gumbel-softmax weight forward, the mixture's gradient backward (arXiv 1611.01144).

    As `gumbel_softmax`, for decoders that should see nothing but code vectors in training. Its gradient is biased: less
    at a lower temperature, where it varies more.
    """
    codes, weights = _gumbel(rows, vectors, distance, temperature)
    return Estimate(codes, F.embedding(codes, vectors) + _zero_with_gradient(weights) @ vectors.detach())


def stochastic(rows: Tensor, vectors: Tensor, distance: Distance, temperature: Tensor) -> Estimate:
    """A code drawn from softmax(-distance / temperature), passed straight through.

    Explores as the Gumbel-softmax does, without a distance matrix in the backward pass; also for codes that a language
    model should see in some variety. At a temperature near 0 it is `straight_through`.
    """
    codes = _draw(rows, vectors, distance, temperature)
    return Estimate(codes, carry(rows, F.embedding(codes, vectors)))


def reinmax(rows: Tensor, vectors: Tensor, distance: Distance, temperature: Tensor) -> Estimate:
    """A code drawn from softmax(-distance), with a second-order accurate gradient (ReinMax, arXiv 2304.08612).

    For codes that a network should learn to choose at random, where the bias of the Gumbel-softmax gradient hurts. The
    temperature smooths the gradient alone; the authors recommend 1 or more.
    """
    logits = -distance.measure(rows, vectors)
    codes = (logits + _gumbel_noise(logits)).argmax(1)
    # The mean of the drawn one-hot and the tempered probabilities, without writing the one-hot.
    middle = (logits.detach() / temperature).softmax(1).div_(2)
    middle[torch.arange(codes.shape[0], device=codes.device), codes] += 0.5
    # Values of log(middle), gradients of the logits.
    middle = (middle.clamp_min(1e-30).log() + _zero_with_gradient(logits)).softmax(1)
    weights = 2 * middle - logits.softmax(1) / 2
    return Estimate(codes, F.embedding(codes, vectors) + _zero_with_gradient(weights) @ vectors.detach())


ESTIMATORS: dict[str, Estimator] = {
    "straight_through": Estimator(straight_through),
    "rotation": Estimator(rotation),
    "gumbel_softmax": Estimator(gumbel_softmax, tempered=True),
    "gumbel_softmax_hard": Estimator(gumbel_softmax_hard, tempered=True),
    "stochastic": Estimator(stochastic, tempered=True),
    "reinmax": Estimator(reinmax, tempered=True),
}


def _zero_with_gradient(x: Tensor) -> Tensor:
    return x - x.detach()


def _gumbel(rows: Tensor, vectors: Tensor, distance: Distance, temperature: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [n], and weights [n, k] of the mixture, whose largest are theirs."""
    logits = -distance.measure(rows, vectors)
    noisy = logits + _gumbel_noise(logits)
    return noisy.argmax(1), F.softmax(noisy / temperature, dim=1)


@torch.no_grad()
def _draw(rows: Tensor, vectors: Tensor, distance: Distance, temperature: Tensor) -> Tensor:
    """Codes drawn from softmax(-distance / temperature), [n]: the largest of the logits with Gumbel noise."""
    codes = []
    for block in blocks(rows, vectors.shape[0]):
        logits = -distance.measure(block, vectors) / temperature
        codes.append((logits + _gumbel_noise(logits)).argmax(1))
    return torch.cat(codes)


def _gumbel_noise(like: Tensor) -> Tensor:
    return -torch.empty_like(like).exponential_().clamp_min(1e-20).log()
