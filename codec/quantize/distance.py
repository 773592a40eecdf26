"""How far a vector is from a code vector, and which code vector is nearest."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

# Distances of one block of rows: enough for the full speed of a matrix product, few enough to stay in the cache.
BLOCK_ELEMENTS = 1 << 21
# Codes of which the minimum is taken at once. A minimum without its place is about 18 times as fast as one with it, so
# that finding first the group and then the place in it takes 0.4 of the time of argmin (2400 x 1024, two cores).
GROUP = 64
# Shorter vectors have no direction.
SHORTEST = 1e-6


class Ranking(NamedTuple):
    """A form linear in the row that orders codes as their distances do: `rows @ weights + bias`, smallest nearest.

    Attributes:
        weights: [dim, k].
        bias: [k]; None for zeros.
    """

    weights: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Distance:
    """A distance between rows and code vectors.

    Attributes:
        measure: `(rows [n, dim], vectors [k, dim]) -> [n, k]`, differentiable; the nearest code has the smallest value.
        rank: `vectors [k, dim] -> Ranking`: what the measure comes down to where only the order of the codes counts.
        unit: Whether quantizers scale rows and code vectors to length one before they use them.
        squared: Whether the measure is the squared length of the difference.
    """

    measure: Callable[[Tensor, Tensor], Tensor]
    rank: Callable[[Tensor], Ranking]
    unit: bool = False
    squared: bool = False


def euclidean(rows: Tensor, vectors: Tensor) -> Tensor:
    """Squared euclidean distance, expanded to |x|^2 - 2 x.c + |c|^2 so that it is one matrix product.

    Args:
        rows: [n, dim], float32. In bfloat16 the cancellation in the expanded form picks wrong codes.
        vectors: [k, dim], float32.

    Returns:
        Squared distances, [n, k]. Rounding can make one that is nearly zero slightly negative.
    """
    # Seen from amid the code vectors, so that latents far from the origin lose no digits in the cancellation.
    mean = vectors.detach().mean(0)
    rows, vectors = rows - mean, vectors - mean
    squares = rearrange(vectors.square().sum(1), "k -> 1 k")
    return torch.addmm(squares, rows, vectors.T, alpha=-2) + rearrange(rows.square().sum(1), "n -> n 1")


def rank_euclidean(vectors: Tensor) -> Ranking:
    """|c|^2 - 2 x.c, since |x|^2 is the same for all codes; written around the mean code vector m.

    It differs from -2 x.(c - m) + |c - m|^2 + 2 m.(c - m) by a constant. Latents far from the origin then lose no
    digits: the products are small where the code vectors lie close together.
    """
    mean = vectors.mean(0)
    centred = vectors - mean
    return Ranking(-2 * centred.T, centred.square().sum(1) + 2 * centred @ mean)


def cosine(rows: Tensor, vectors: Tensor) -> Tensor:
    """One minus the cosine similarity.

    Args:
        rows: [n, dim]. A zero row has the distance 1 to every code vector.
        vectors: [k, dim].

    Returns:
        Distances in [0, 2], [n, k].
    """
    return 1 - direction(rows) @ direction(vectors).T


def rank_cosine(vectors: Tensor) -> Ranking:
    """The negative similarity; the length of the row is the same for all codes."""
    return Ranking(-direction(vectors).T, None)


def direction(vectors: Tensor) -> Tensor:
    """Vectors scaled to length one, [..., dim]; one too short to have a direction becomes zero, with zero gradient."""
    return _Direction.apply(vectors)


class _Direction(torch.autograd.Function):
    """x / |x|. In one formula, and from x alone, forward and backward take a third of the time."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        lengths = vectors.norm(dim=-1, keepdim=True)
        # The gradient of x / max(|x|, tiny) at zero is 1 / tiny, which ends a training run at the first silent frame.
        scales = torch.where(lengths > SHORTEST, 1 / lengths.clamp_min(SHORTEST), 0.0)
        ctx.save_for_backward(vectors, scales)
        return vectors * scales

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # With u = x / |x|: (g - u (g.u)) / |x|.
        vectors, scales = ctx.saved_tensors
        along = (gradients[0] * vectors).sum(-1, keepdim=True)
        return (gradients[0] * scales).addcmul_(vectors, along * scales**3, value=-1)


# euclidean: the usual choice; code vectors carry direction and size.
# cosine: rows look up their code by direction alone, and get the code vector as it is, of any length (as in DAC,
#   arXiv 2306.06546). For low-dimensional codebooks of a wide range of levels.
# unit_cosine: rows and code vectors lie on the unit sphere (arXiv 2110.04627). For inputs whose length carries no
#   meaning; a residual stack of them cannot get small.
DISTANCES: dict[str, Distance] = {
    "euclidean": Distance(euclidean, rank_euclidean, squared=True),
    "cosine": Distance(cosine, rank_cosine),
    "unit_cosine": Distance(cosine, rank_cosine, unit=True),
}


def blocks(rows: Tensor, codebook_size: int) -> tuple[Tensor, ...]:
    """Rows [n, ...] in parts of about equal size whose distance matrices are small; one empty part if there is none."""
    most = max(1, BLOCK_ELEMENTS // codebook_size)
    count = max(1, -(-rows.shape[0] // most))
    return rows.split(max(1, -(-rows.shape[0] // count)))


def nearest(rows: Tensor, vectors: Tensor, distance: Distance) -> Tensor:
    """The code of the nearest code vector of each row; ties go to the lowest code.

    Works through the rows in blocks, so that memory stays near one block of the distance matrix.

    Args:
        rows: [n, dim], float32.
        vectors: [k, dim], float32.
        distance: By which they are compared.

    Returns:
        Codes, [n], int64.
    """
    return nearest_few(rows, vectors, distance, 1).squeeze(1)


@torch.no_grad()
def nearest_few(rows: Tensor, vectors: Tensor, distance: Distance, count: int) -> Tensor:
    """The codes of the `count` nearest code vectors of each row, nearest first.

    Args:
        rows: [n, dim], float32.
        vectors: [k, dim], float32.
        distance: By which they are compared.
        count: From 1 to k.

    Returns:
        Codes, [n, count], int64.
    """
    weights, bias = distance.rank(vectors)
    # Without a bias the length of a row counts for nothing.
    if distance.unit and bias is not None:
        rows = direction(rows)
    # As an operator of its own, torch.compile takes the loop over blocks as it is. A call of it takes 17 us more.
    search = _search_operator if torch.compiler.is_compiling() else _search
    return search(rows, weights, bias, count)


def _search(rows: Tensor, weights: Tensor, bias: Tensor | None, count: int) -> Tensor:
    parts = blocks(rows, weights.shape[1])
    if bias is None:
        bias = weights.new_zeros(weights.shape[1])  # on a CPU, addmm takes 0.85 of the time of mm
    codes = torch.empty(rows.shape[0], count, dtype=torch.int64, device=rows.device)
    # One buffer for all blocks: fresh memory for each would cost as much time as the matrix product.
    buffer = rows.new_empty(parts[0].shape[0], weights.shape[1])
    with full_precision():
        for part, part_codes in zip(parts, codes.split([part.shape[0] for part in parts]), strict=True):
            scores = torch.addmm(bias, part, weights, out=buffer[: part.shape[0]])
            part_codes.copy_(_argmin(scores) if count == 1 else smallest(scores, count))
    return codes


_search_operator = torch.library.custom_op("rvq_codec::search", _search, mutates_args=())


@_search_operator.register_fake
def _(rows: Tensor, weights: Tensor, bias: Tensor | None, count: int) -> Tensor:
    return rows.new_empty(rows.shape[0], count, dtype=torch.int64)


@contextmanager
def full_precision() -> Iterator[None]:
    """Whatever a training script allows: in TF32, with 10 bits of mantissa, near code vectors change places."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def smallest(scores: Tensor, count: int) -> Tensor:
    """Where the few smallest of each row are, smallest first; which of equal ones is not said.

    As `topk`, in a fifth of its time on a CPU: the smallest are all in the groups of the smallest minima.

    Args:
        scores: [n, k].
        count: From 1 to k.

    Returns:
        Columns, [n, count], int64.
    """
    rows, columns = scores.shape
    if columns % GROUP or columns < 2 * count * GROUP:
        return scores.topk(count, largest=False).indices
    groups = scores.view(-1, GROUP)
    best = groups.amin(1).view(rows, columns // GROUP).topk(count, largest=False, sorted=False).indices
    first = torch.arange(0, rows * columns // GROUP, columns // GROUP, device=scores.device)
    members = groups.index_select(0, (best + first.unsqueeze(1)).flatten()).view(rows, count * GROUP)
    places = members.topk(count, largest=False).indices
    return best.gather(1, places // GROUP) * GROUP + places % GROUP


def _argmin(scores: Tensor) -> Tensor:
    """As `scores.argmin(1, keepdim=True)`: the first of several smallest."""
    rows, codebook_size = scores.shape
    if scores.device.type != "cpu" or codebook_size % GROUP or codebook_size < 4 * GROUP:
        return scores.argmin(1, keepdim=True)
    groups = scores.view(rows, codebook_size // GROUP, GROUP)
    first = groups.amin(2).argmin(1)
    place = groups[torch.arange(rows), first].argmin(1)
    return (first * GROUP + place).unsqueeze(1)
