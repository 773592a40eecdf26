"""Where code vectors start.

An initializer is a function `(batch, codebook_size, distance, generator) -> vectors [codebook_size, dim]`. `batch`
gives rows that all ranks hold together; every rank gets the same vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codec.distributed import pick_own_rows, rank, sum_over_ranks, world_size
from codec.quantize.distance import Distance, nearest

# Fewer rows than this for each cluster and k-means learns the rows by heart: no residual is left for the next stage.
KMEANS_ROWS_PER_CLUSTER = 4


@dataclass(frozen=True)
class JoinedRows:
    """The rows of all ranks, of which this process holds a part.

    Attributes:
        rows: This rank's rows, [rows, dim].
        rows_per_rank: How many rows each rank holds, [world_size], or of each part of the batch, [parts, world_size];
            int64.
    """

    rows: Tensor
    rows_per_rank: Tensor

    @classmethod
    def join(cls, rows: Tensor) -> "JoinedRows":
        """The rows of all ranks, from those of this one; one collective."""
        return cls(rows, sum_over_ranks(own_row_counts([rows]))[0].long())

    @property
    def total(self) -> int:
        """Rows on all ranks together."""
        return int(self.rows_per_rank.sum())

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random rows, without repetition while there are enough; equal on all ranks, [count, dim]."""
        return sum_over_ranks(self.draw_own(count, generator))[0]

    def draw_own(self, count: int, generator: torch.Generator) -> Tensor:
        """This rank's part of `draw`, which the sum over the ranks completes, [count, dim]."""
        rounds = [torch.randperm(self.total, generator=generator) for _ in range(-(-count // self.total))]
        indices = torch.cat(rounds)[:count].to(self.rows.device)
        return pick_own_rows(self.rows, self.rows_per_rank, indices)


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
    # In one draw: halfway between a row and itself would be the same code vector again.
    rows = batch.draw(codebook_size, generator)
    return _fill(rows[:count], rows[count:], distance)


@dataclass(frozen=True)
class KMeans:
    """Lloyd's algorithm over the rows of all ranks. The best start; wants many rows for each code.

    With fewer than four rows a code, that many clusters are found as there are four rows for, and the other code
    vectors lie between rows and their clusters. A cluster that loses its last row takes a random one.

    Attributes:
        iterations: How often rows are assigned and clusters moved; each is one collective.

    Raises:
        ValueError: `iterations` is negative.
    """

    iterations: int = 10

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise ValueError(f"iterations must not be negative; got {self.iterations}")

    def __call__(self, batch: JoinedRows, codebook_size: int, distance: Distance, generator: torch.Generator) -> Tensor:
        clusters = max(1, min(codebook_size, batch.total // KMEANS_ROWS_PER_CLUSTER))
        vectors = batch.draw(clusters, generator)
        for _ in range(self.iterations):
            codes = nearest(batch.rows, vectors, distance)
            counts, sums = sum_over_ranks(*count_and_sum(batch.rows, codes, clusters))
            empty = counts == 0
            vectors = sums / counts.clamp_min(1).unsqueeze(1)
            if empty.any():
                vectors[empty] = batch.draw(int(empty.sum()), generator)
        if clusters == codebook_size:
            return vectors
        return _fill(vectors, batch.draw(codebook_size - clusters, generator), distance)


INITIALIZERS: dict[str, Initializer] = {"uniform": uniform, "samples": samples, "kmeans": KMeans()}


def own_row_counts(parts: Sequence[Tensor]) -> Tensor:
    """How many rows this rank holds of each part of the batch, at its place among zeros, [parts, world_size].

    The sum over ranks counts the rows of all.
    """
    counts = parts[0].new_zeros(len(parts), world_size())
    counts[:, rank()] = counts.new_tensor([part.shape[0] for part in parts])
    return counts


def count_and_sum(rows: Tensor, codes: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """How many rows chose each code, [codebook_size], and the sum of those rows, [codebook_size, dim]; float32."""
    counts = torch.bincount(codes, minlength=codebook_size).to(rows.dtype)
    sums = rows.new_zeros(codebook_size, rows.shape[1]).index_add_(0, codes, rows)
    return counts, sums


def _fill(vectors: Tensor, rows: Tensor, distance: Distance) -> Tensor:
    """Append code vectors halfway between rows and their nearest vectors."""
    # Halfway, since a code vector on the row itself would leave no residual, and the next stage nothing to learn.
    return torch.cat([vectors, (rows + vectors[nearest(rows, vectors, distance)]) / 2])
