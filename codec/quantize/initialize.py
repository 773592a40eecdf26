"""Where code vectors start.

An initializer is a function `(batch, codebook_size, distance, generator) -> vectors [codebook_size, dim]`. `batch`
gives rows that all ranks hold together; every rank gets the same vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.distributed import pick_rows, rank, sum_over_ranks, world_size
from codec.quantize.distance import Distance, nearest

KMEANS_ITERATIONS = 10
# Fewer rows than this for each cluster and k-means learns the rows by heart: no residual is left for the next stage.
KMEANS_ROWS_PER_CLUSTER = 4


@dataclass(frozen=True)
class JoinedRows:
    """The rows of all ranks, of which this process holds a part.

    Attributes:
        rows: This rank's rows, [rows, dim].
        rows_per_rank: How many rows each rank holds, [world_size], int64.
    """

    rows: Tensor
    rows_per_rank: Tensor

    @classmethod
    def join(cls, rows: Tensor) -> "JoinedRows":
        """The rows of all ranks, from those of this one; one collective."""
        return cls(rows, sum_over_ranks(own_row_count(rows))[0].long())

    @property
    def total(self) -> int:
        """Rows on all ranks together."""
        return int(self.rows_per_rank.sum())

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random rows, without repetition while there are enough; equal on all ranks, [count, dim]."""
        rounds = [torch.randperm(self.total, generator=generator) for _ in range(-(-count // self.total))]
        indices = torch.cat(rounds)[:count].to(self.rows.device)
        return pick_rows(self.rows, self.rows_per_rank, indices)


Initializer = Callable[[JoinedRows, int, Distance, torch.Generator], Tensor]


def uniform(batch: JoinedRows, codebook_size: int, distance: Distance, generator: torch.Generator) -> Tensor:
    """Uniform in (-1/K, 1/K), without a look at the data (van den Oord et al. 2017).

    For codebooks learned by gradient, where the codebook loss moves the vectors to the data.
    """
    random = torch.rand(codebook_size, batch.rows.shape[1], generator=generator)
    return ((2 * random - 1) / codebook_size).to(batch.rows.device)


def samples(batch: JoinedRows, codebook_size: int, distance: Distance, generator: torch.Generator) -> Tensor:
    """Random rows of the first batch. Cheap, and follows the density of the data.

    With fewer than two rows a code, half of the rows are taken, and the other code vectors lie between rows and those.
    """
    # A row that became a code vector of the stage before is zero here. Without a look at the rows, all stages would
    # draw the same ones, and the codebooks after the first be zeros.
    batch = JoinedRows.join(batch.rows[batch.rows.any(dim=1)])
    if batch.total == 0:
        return batch.rows.new_zeros(codebook_size, batch.rows.shape[1])
    count = min(codebook_size, max(1, batch.total // 2))
    return _fill(batch, batch.draw(count, generator), codebook_size, distance, generator)


def kmeans(batch: JoinedRows, codebook_size: int, distance: Distance, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm over the rows of all ranks. The best start; wants many rows for each code.

    With fewer than four rows a code, that many clusters are found as there are four rows for, and the other code
    vectors lie between rows and their clusters.
    """
    clusters = max(1, min(codebook_size, batch.total // KMEANS_ROWS_PER_CLUSTER))
    vectors = batch.draw(clusters, generator)
    for _ in range(KMEANS_ITERATIONS):
        codes = nearest(batch.rows, vectors, distance)
        counts, sums = sum_over_ranks(*count_and_sum(batch.rows, codes, clusters))
        empty = counts == 0
        vectors = sums / counts.clamp_min(1).unsqueeze(1)
        if empty.any():
            vectors[empty] = batch.draw(int(empty.sum()), generator)
    return _fill(batch, vectors, codebook_size, distance, generator)


INITIALIZERS: dict[str, Initializer] = {"uniform": uniform, "samples": samples, "kmeans": kmeans}


def own_row_count(rows: Tensor) -> Tensor:
    """How many rows this rank holds, at its place among zeros, [world_size]: the sum over ranks counts them all."""
    counts = rows.new_zeros(world_size())
    counts[rank()] = rows.shape[0]
    return counts


def count_and_sum(rows: Tensor, codes: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """How many rows chose each code, [codebook_size], and the sum of those rows, [codebook_size, dim]; float32."""
    counts = torch.bincount(codes, minlength=codebook_size).to(rows.dtype)
    sums = rows.new_zeros(codebook_size, rows.shape[1]).index_add_(0, codes, rows)
    return counts, sums


def _fill(
    batch: JoinedRows, vectors: Tensor, codebook_size: int, distance: Distance, generator: torch.Generator
) -> Tensor:
    """Append code vectors halfway between random rows and their nearest vectors, until there are enough."""
    missing = codebook_size - vectors.shape[0]
    if missing == 0:
        return vectors
    # Halfway, since a code vector on the row itself would leave no residual, and the next stage nothing to learn.
    rows = batch.draw(missing, generator)
    return torch.cat([vectors, (rows + vectors[nearest(rows, vectors, distance)]) / 2])
