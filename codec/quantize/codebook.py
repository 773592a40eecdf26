"""The state of a quantizer: code vectors and how often each is used."""

import torch
from torch import Tensor, nn

from codec.distributed import sum_over_ranks
from codec.quantize.distance import Distance
from codec.quantize.initialize import Initializer, JoinedRows, count_and_sum, own_row_count
from codec.quantize.update import Update


class Codebook(nn.Module):
    """Code vectors that start from the first batch, learn from each, and are replaced where nobody uses them.

    All state is in the state dict. Ranks hold equal codebooks, those of one rank on the joined batch: every decision
    is made on sums over the ranks, and random choices are seeded by the number of steps.

    Args:
        codebook_size: Number of codes.
        dim: Size of a code vector.
        distance: By which rows choose their codes.
        initializer: Where code vectors start.
        update: How they learn.
    """

    vectors: Tensor
    usage: Tensor
    initialized: Tensor
    steps: Tensor

    def __init__(self, codebook_size: int, dim: int, distance: Distance, initializer: Initializer, update: Update):
        super().__init__()
        self.codebook_size = codebook_size
        self.distance = distance
        self.initializer = initializer
        self.update = update
        vectors = torch.zeros(codebook_size, dim)
        if update.by_gradient:
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)
        self.register_buffer("usage", torch.full((codebook_size,), 1 / codebook_size))
        self.register_buffer("initialized", torch.tensor(False))
        self.register_buffer("steps", torch.tensor(0))

    @torch.no_grad()
    def initialize(self, rows: Tensor) -> None:
        """Place the code vectors, on the first batch that has rows; later calls do nothing.

        Args:
            rows: This rank's rows, [rows, dim].
        """
        if self.initialized:
            return
        batch = JoinedRows.join(rows)
        if batch.total > 0:
            self.vectors.copy_(self.initializer(batch, self.codebook_size, self.distance, self._generator()))
            self.initialized.fill_(True)

    @torch.no_grad()
    def learn(self, rows: Tensor, codes: Tensor) -> None:
        """Take in which rows chose which codes. One collective, and one more on a step that replaces dead codes.

        Args:
            rows: This rank's rows, [rows, dim].
            codes: Their codes, [rows].
        """
        counts, sums, rows_per_rank = sum_over_ranks(
            *count_and_sum(rows, codes, self.codebook_size), own_row_count(rows)
        )
        total = rows_per_rank.sum()
        if total == 0:  # every rank's batch is padding
            return
        share, sums = counts / total, sums / total
        self.vectors.copy_(self.update.move(self.vectors, self.usage, share, sums))
        self.usage.copy_(torch.lerp(share, self.usage, self.update.decay))
        self.steps.add_(1)
        self._revive(JoinedRows(rows, rows_per_rank.long()))

    def _revive(self, batch: JoinedRows) -> None:
        dead = (self.usage < self.update.dead_ratio / self.codebook_size).nonzero().squeeze(1)
        # No row serves two codes: they would tie, and one of them be dead again.
        dead = dead[: batch.total]
        if dead.numel() == 0:
            return
        self.vectors[dead] = batch.draw(dead.numel(), self._generator())
        self.usage[dead] = 1 / self.codebook_size

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(int(self.steps))
