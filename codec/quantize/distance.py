"""How far a vector is from a code vector.

A distance is a function `(rows [n, dim], vectors [k, dim]) -> [n, k]`; the nearest code has the smallest value.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Distance = Callable[[Tensor, Tensor], Tensor]

# The distance matrix of one block of rows: large enough for full speed, small enough to stay in the cache.
BLOCK_ELEMENTS = 1 << 20


def euclidean(rows: Tensor, vectors: Tensor) -> Tensor:
    """Squared euclidean distance, expanded to |x|^2 - 2 x.c + |c|^2 so that it is one matrix product.

    The usual choice: code vectors carry direction and size.

    Args:
        rows: [n, dim], float32. In bfloat16 the cancellation in the expanded form picks wrong codes.
        vectors: [k, dim], float32.

    Returns:
        Squared distances, [n, k]. Rounding can make one that is nearly zero slightly negative.
    """
    squares = rearrange(vectors.square().sum(1), "k -> 1 k")
    return torch.addmm(squares, rows, vectors.T, alpha=-2) + rearrange(rows.square().sum(1), "n -> n 1")


def cosine(rows: Tensor, vectors: Tensor) -> Tensor:
    """One minus the cosine similarity: codes are looked up by direction alone (as in DAC, arXiv 2306.06546).

    For low-dimensional codebooks; the code vector that is returned keeps its own size.

    Args:
        rows: [n, dim]. A zero row has the distance 1 to every code vector.
        vectors: [k, dim].

    Returns:
        Distances in [0, 2], [n, k].
    """
    return 1 - F.normalize(rows, dim=1) @ F.normalize(vectors, dim=1).T


DISTANCES: dict[str, Distance] = {"euclidean": euclidean, "cosine": cosine}


@torch.no_grad()
def nearest(rows: Tensor, vectors: Tensor, distance: Distance) -> Tensor:
    """The code of the nearest code vector of each row; ties go to the lowest code.

    Works through the rows in blocks, so that memory stays near one block of the distance matrix.

    Args:
        rows: [n, dim].
        vectors: [k, dim].
        distance: Smallest is nearest.

    Returns:
        Codes, [n], int64.
    """
    block = max(1, BLOCK_ELEMENTS // vectors.shape[0])
    if rows.shape[0] <= block:
        return distance(rows, vectors).argmin(1)
    return torch.cat([distance(part, vectors).argmin(1) for part in rows.split(block)])
